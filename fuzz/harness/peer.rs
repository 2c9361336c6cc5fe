//! The target `proto_peer`: one end of a link, whose peer says what it likes.
//!
//! The first byte says how what is heard is cut, as it is for the decoders. What follows is a program: frames and bytes
//! of the peer, calls of this end, and what becomes of messages. It is run twice, cut and whole, and both have to go the
//! same way.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use p2p_proto::frame::Refusal;
use p2p_proto::id::{LocalRegion, RailIndex, RegionKey, TransferId};
use p2p_proto::list::{List, LocalRange, RemoteRange};
use p2p_proto::peer::{Caps, Exports, Happened, Landing, Peer, Rejected, Side};
use p2p_proto::stripe::RailLimits;
use p2p_proto::wire::encode;

use super::frames::Evil;
use super::program::Program;

const KEY: RegionKey = RegionKey { index: 1, generation: 1, secret: 77 };
const RAILS: u8 = 3;
/// Bytes of a region that is opened to the peer, and of one that is not.
const OPEN: u64 = 1 << 21;
const OWN: u64 = 1 << 22;
/// Rounds of one input at most.
const MOST: usize = 2000;

struct Opened;

impl Exports for Opened {
    fn open(&self, key: RegionKey, offset: u64, len: u64, _write: bool) -> Result<LocalRange, Refusal> {
        if key != KEY {
            return Err(Refusal::UnknownKey);
        }
        let inside = offset.checked_add(len).is_some_and(|end| end <= OPEN);
        let range = LocalRange { region: LocalRegion(1), offset, len };
        if inside { Ok(range) } else { Err(Refusal::OutOfRange) }
    }
}

/// A run of the target.
pub(crate) fn run(input: &[u8]) {
    let Some((cut, program)) = input.split_first() else { return };
    let whole = Run::of(0, program);
    if *cut > 0 {
        assert!(Run::of(*cut, program) == whole, "it matters how the words of the peer are cut");
    }
}

/// One run, and what can be seen of it from outside.
#[derive(Default)]
struct Run {
    seen: Vec<String>,
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.seen == other.seen
    }
}

struct End {
    peer: Peer,
    now: Duration,
    /// Transfers of this end that have not ended.
    open: BTreeMap<TransferId, ()>,
    ended: u64,
    /// With the transport, oldest first.
    posted: Vec<(RailIndex, u64)>,
    lost: [bool; RAILS as usize],
    seen: Vec<String>,
}

impl Run {
    fn of(cut: u8, program: &[u8]) -> Self {
        let limits = RailLimits {
            max_message: 64 << 10,
            max_slices: 4,
            max_sends: 4,
            max_recvs: 4,
            peer_slices: 3,
            megabits: 1000,
        };
        let mut program = Program(program);
        let caps = Caps {
            own_transfers: 32,
            peer_transfers: 16,
            peer_ranges: 64,
            announced: 64,
            unread: 100_000,
            held: 100_000,
            control: 16 << 10,
            ..Caps::default()
        };
        let mut end = End {
            peer: Peer::new(vec![limits; usize::from(RAILS)], caps),
            now: Duration::ZERO,
            open: BTreeMap::new(),
            ended: 0,
            posted: Vec::new(),
            lost: [false; RAILS as usize],
            seen: Vec::new(),
        };
        let mut evil = Evil::new(KEY, 4);
        for _ in 0..MOST {
            if program.is_over() {
                break;
            }
            end.step(cut, &mut program, &mut evil);
        }
        end.finish();
        Self { seen: end.seen }
    }
}

impl End {
    fn step(&mut self, cut: u8, program: &mut Program<'_>, evil: &mut Evil) {
        match program.below(16) {
            0..=6 => {
                let mut bytes = BytesMut::new();
                encode(&evil.frame(program), &mut bytes);
                self.hear(cut, &bytes);
            }
            7 => {
                let count = usize::from(program.byte());
                let bytes = program.bytes(count);
                self.hear(cut, bytes);
            }
            8 | 9 => {
                self.call(program);
                evil.victims = self.ended + self.open.len() as u64;
            }
            10 | 11 => self.round(),
            12 | 13 => {
                let landing = match program.byte() {
                    0..=239 => Landing::Done,
                    240..=247 => Landing::Lost,
                    248..=255 => Landing::Failed,
                };
                if !self.posted.is_empty() {
                    let at = usize::from(program.byte()) % self.posted.len();
                    let (_, token) = self.posted.remove(at);
                    self.peer.ended(self.now, token, landing);
                }
            }
            14 => {
                let count = usize::from(program.byte()) * 256;
                self.peer.control_sent(count.min(self.peer.control().len()));
            }
            _ => self.trouble(program),
        }
        // Nothing is kept for a peer that does not listen, but so much.
        assert!(self.peer.control().len() < 1 << 21, "{} bytes wait to be sent", self.peer.control().len());
        self.take();
    }

    fn hear(&mut self, cut: u8, bytes: &[u8]) {
        let size = if cut == 0 { bytes.len().max(1) } else { cut.into() };
        let was_over = self.peer.is_over();
        for piece in bytes.chunks(size) {
            if let Err(breach) = self.peer.receive(self.now, piece, &Opened) {
                assert!(!was_over && self.peer.is_over() && !breach.text().is_empty());
                self.seen.push(format!("breach {breach}"));
            }
        }
    }

    fn call(&mut self, program: &mut Program<'_>) {
        let len = 1 + u64::from(program.byte()) * u64::from(program.byte());
        let (mut local, mut remote) = (List::new(), List::new());
        let pieces = u64::from(1 + program.below(3)).min(len);
        for piece in 0..pieces {
            let length = if piece + 1 == pieces { len - len / pieces * piece } else { len / pieces };
            let offset = piece * (OWN / 4);
            local.push(LocalRange { region: LocalRegion(0), offset, len: length }).expect("few");
            remote.push(RemoteRange { key: KEY, offset, len: length }).expect("few");
        }
        let begun = match program.below(6) {
            0 => self.peer.write(local, remote, None),
            1 => self.peer.read(local, remote),
            2 => self.peer.send(local),
            3 => self.peer.recv(local),
            4 => {
                let after = self.open.keys().next_back().copied().filter(|_| program.below(2) == 1);
                let bytes = Bytes::from(vec![1; len as usize]);
                let told = self.peer.notify(after, bytes);
                self.seen.push(format!("{told:?}"));
                return;
            }
            _ => {
                let at = usize::from(program.byte()) % self.open.len().max(1);
                if let Some(transfer) = self.open.keys().nth(at).copied() {
                    self.peer.abandon(transfer);
                }
                return;
            }
        };
        match begun {
            Ok(transfer) => assert!(self.open.insert(transfer, ()).is_none(), "{transfer:?} twice"),
            Err(Rejected::Full | Rejected::Over) => {}
            Err(other) => panic!("it refuses what it may not: {other}"),
        }
        self.seen.push(format!("{begun:?}"));
    }

    /// A round as the owner of a link makes it.
    fn round(&mut self) {
        self.now += Duration::from_micros(50);
        self.peer.drive(self.now);
        for rail in 0..RAILS {
            for side in [Side::Recv, Side::Send] {
                while let Some(post) = self.peer.next_post(RailIndex(rail), side) {
                    let length: u64 = post.parts.iter().map(|part| part.len).sum();
                    assert!(!self.lost[usize::from(rail)], "nothing is posted on a rail that is lost");
                    assert!(
                        length + u64::from(post.scratch) <= 64 << 10 && post.parts.len() <= 4,
                        "{post:?}"
                    );
                    assert!((length > 0) != (post.scratch > 0), "{post:?}");
                    for part in post.parts {
                        let whole = [OWN, OPEN][part.region.0 as usize];
                        assert!(part.offset + part.len <= whole, "{part:?} is outside of its region");
                    }
                    self.seen.push(format!("{rail} {side:?} {post:?}"));
                    self.posted.push((RailIndex(rail), post.token));
                    self.peer.posted(self.now, RailIndex(rail), side);
                }
            }
        }
    }

    fn trouble(&mut self, program: &mut Program<'_>) {
        match program.below(8) {
            0 => self.peer.release(LocalRegion(u32::from(program.below(2)))),
            1 => self.lose(program.below(RAILS)),
            2 => {
                self.now += Duration::from_millis(u64::from(program.byte()) * 10);
                self.peer.drive(self.now);
            }
            3 => self.peer.goodbye("no more"),
            4 => self.peer.keeps(usize::from(program.byte()) * 100),
            _ => {
                for transfer in self.open.keys() {
                    // In words, for people.
                    if let Some(waiting) = self.peer.waits_for(*transfer) {
                        assert!(!waiting.to_string().is_empty());
                    }
                }
            }
        }
    }

    /// The caller closes a rail, whose messages end by that.
    fn lose(&mut self, rail: u8) {
        self.lost[usize::from(rail)] = true;
        self.peer.rail_lost(self.now, RailIndex(rail));
        self.posted.retain(|(of, _)| of.0 != rail);
    }

    /// Takes what has happened: each transfer ends once.
    fn take(&mut self) {
        while let Some(happened) = self.peer.happened() {
            match &happened {
                Happened::Ended { transfer, .. } => {
                    assert!(self.open.remove(transfer).is_some(), "{transfer:?} ends twice");
                    self.ended += 1;
                }
                Happened::RailBroken(rail) => self.lose(rail.0),
                Happened::Notified(_) | Happened::Counted(_) | Happened::Goodbye(_) | Happened::Lost(_) => {}
            }
            self.seen.push(format!("{happened:?}"));
        }
        if self.peer.is_over() {
            assert!(!self.peer.wants_control());
        }
    }

    /// Whatever was, the link can be ended, and then nothing is left.
    fn finish(&mut self) {
        self.seen.push(format!("{:?}", self.peer.control()));
        self.peer.link_lost();
        self.take();
        for (_, token) in std::mem::take(&mut self.posted) {
            self.peer.ended(self.now, token, Landing::Lost);
        }
        self.take();
        assert!(self.open.is_empty(), "{:?} have not ended", self.open);
        assert!(![0, 1].into_iter().any(|region| self.peer.holds(LocalRegion(region))), "memory is held");
        self.round();
        assert!(self.posted.is_empty(), "nothing is posted when all is over");
    }
}
