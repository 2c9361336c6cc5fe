//! Frames of an evil peer: well-formed, mostly about what there is, so that they come further than the first check.

use bytes::Bytes;
use p2p_proto::frame::{
    Chunk, Frame, Kind, LONGEST_TRANSFER, MOST_RANGES, Owner, Refusal, Repeat, Run, Verdict,
};
use p2p_proto::id::{RailIndex, RegionKey, TransferId};

use super::program::Program;

/// Lengths that are likely: of transfers, ranges and messages.
const LENGTHS: [u64; 8] = [1, 10, 64, 100, 300, 4096, 70_000, 1 << 20];

/// What the evil peer has said, and what it knows.
#[derive(Clone, Debug)]
pub(crate) struct Evil {
    /// Opens memory of its victim.
    pub(crate) key: RegionKey,
    /// Transfers that it began.
    pub(crate) begun: u64,
    /// Transfers that its victim began, about.
    pub(crate) victims: u64,
    /// Messages that it announced, by rail.
    pub(crate) announced: [u64; 4],
    /// Bytes of the transfer that it began last, and how many of them it announced.
    pub(crate) total: u64,
    pub(crate) covered: u64,
}

impl Evil {
    pub(crate) const fn new(key: RegionKey, victims: u64) -> Self {
        Self { key, begun: 0, victims, announced: [0; 4], total: 0, covered: 0 }
    }

    /// The next frame of the program. It can be encoded.
    pub(crate) fn frame(&mut self, program: &mut Program<'_>) -> Frame {
        match program.below(16) {
            0 | 1 => self.begin(program),
            2 | 3 => {
                let transfer = self.own(program);
                let ranges = self.ranges(program);
                Frame::Ranges { transfer, runs: vec![Run { key: self.key_of(program), ranges }] }
            }
            4 | 5 => {
                let (owner, transfer) = self.of_either(program);
                let count = 1 + program.below(3);
                let part = |_| {
                    let length = length(program).max(1);
                    Repeat { length, count: 1 + u32::from(program.below(3)) }
                };
                Frame::Shape { owner, transfer, parts: (0..count).map(part).collect() }
            }
            6..=9 => self.chunks(program),
            10 | 11 => {
                let (owner, transfer) = self.of_either(program);
                let verdict = match program.below(6) {
                    0..=2 => Verdict::Landed,
                    3 => Verdict::Refused(Refusal::TooLong),
                    4 => Verdict::RailLost(RailIndex(program.below(4))),
                    _ => Verdict::MemoryGone,
                };
                Frame::Fin { owner, transfer, verdict }
            }
            12 | 13 => {
                let after = (program.below(2) == 1).then(|| self.own(program));
                let more = program.below(4) == 0;
                let bytes = Bytes::from(vec![program.byte(); 1 + usize::from(program.byte()) * 100]);
                Frame::Notify { after, more, bytes }
            }
            14 => match program.below(2) {
                0 => Frame::Ping { number: program.number(1) },
                _ => Frame::Pong { number: program.number(1) },
            },
            _ => match program.below(8) {
                0 => Frame::Goodbye { why: "evil".to_owned() },
                _ => Frame::Ping { number: 2 },
            },
        }
    }

    fn begin(&mut self, program: &mut Program<'_>) -> Frame {
        let transfer = program.number(self.begun.saturating_add(1));
        self.begun = self.begun.max(transfer);
        let kind = [Kind::Write, Kind::Read, Kind::Send][usize::from(program.below(3))];
        let total = length(program).min(LONGEST_TRANSFER);
        (self.total, self.covered) = (total, 0);
        let likely = if kind == Kind::Send { 0 } else { u64::from(total > 0) };
        let ranges = program.number(likely).min(u64::from(MOST_RANGES)) as u32;
        let counter = (kind == Kind::Write && program.below(4) == 0).then(|| u32::from(program.byte()));
        Frame::Begin { transfer: TransferId(transfer), kind, total, ranges, counter }
    }

    fn ranges(&self, program: &mut Program<'_>) -> Vec<(u64, u64)> {
        let count = 1 + program.below(3);
        let mut left = self.total;
        let mut ranges = Vec::new();
        for nth in (0..count).rev() {
            let likely = if nth == 0 { left } else { left / 2 };
            let length = program.number(likely).max(1);
            left = left.saturating_sub(length);
            ranges.push((program.number(0), length));
        }
        ranges
    }

    fn chunks(&mut self, program: &mut Program<'_>) -> Frame {
        let rail = program.below(4).min(program.below(4));
        let known = self.announced[usize::from(rail)];
        let before = program.number(known);
        let count = 1 + program.below(4);
        self.announced[usize::from(rail)] = known + u64::from(count);
        let chunks = (0..count).map(|_| {
            let (owner, transfer) = self.of_either(program);
            let start = program.number(self.covered);
            let left = self.total.saturating_sub(self.covered).min(8 << 10);
            let likely = [left, 64][usize::from(program.below(2))];
            let length = program.number(likely).max(1);
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.covered = start.saturating_add(length.into());
            Chunk { owner, transfer, start, length }
        });
        let chunks = chunks.collect();
        Frame::Chunks { rail: RailIndex(rail), before, chunks }
    }

    fn own(&self, program: &mut Program<'_>) -> TransferId {
        TransferId(program.number(self.begun).max(1))
    }

    fn of_either(&self, program: &mut Program<'_>) -> (Owner, TransferId) {
        match program.below(4) {
            0 => {
                let likely = 1 + u64::from(program.byte()) % self.victims.max(1);
                (Owner::Hearer, TransferId(program.number(likely).max(1)))
            }
            _ => (Owner::Speaker, self.own(program)),
        }
    }

    fn key_of(&self, program: &mut Program<'_>) -> RegionKey {
        let RegionKey { index, generation, secret } = self.key;
        match program.below(16) {
            0 => RegionKey { index: program.number(0) as u32, generation, secret },
            1 => RegionKey { index, generation: program.number(0) as u32, secret },
            2 => RegionKey { index, generation, secret: program.number(secret) },
            _ => self.key,
        }
    }
}

fn length(program: &mut Program<'_>) -> u64 {
    let likely = LENGTHS[usize::from(program.below(8))];
    program.number(likely)
}
