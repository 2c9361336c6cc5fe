//! A stream of messages from one end to the other, each with bytes of its own, cut differently at both ends.

use p2p_transport::{Outcome, Slice};

use crate::random::pattern;
use crate::rig::{Rig, Side, require};

/// What a byte has that nobody may write.
pub(crate) const CANARY: u8 = 0xc5;

/// How the messages of a flow are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) messages: usize,
    pub(crate) longest: usize,
    /// Several slices, with gaps between them.
    pub(crate) cut: bool,
    /// Some receives are longer than their message, where lengths are checked.
    pub(crate) slack: bool,
}

/// A message: its bytes, and where they come from and belong.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) from: Vec<Slice>,
    pub(crate) into: Vec<Slice>,
    pub(crate) posted: usize,
    pub(crate) send: Option<usize>,
    pub(crate) recv: Option<usize>,
}

pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) source: usize,
    pub(crate) target: usize,
    pub(crate) messages: Vec<Message>,
    checks_length: bool,
    sent: usize,
    posted: usize,
}

impl Flow {
    #[track_caller]
    pub(crate) fn new(rig: &mut Rig<'_>, from: usize, style: Style) -> Self {
        let limits = [rig.limits(from), rig.limits(1 - from)];
        let checks_length = limits[1].checks_length;
        let longest = rig.longest(style.longest);
        let mut plans = Vec::new();
        let mut sizes = [1_usize; 2];
        for number in 0..style.messages {
            let length = match rig.random.below(8) {
                0 => 0,
                1 => longest,
                _ => rig.random.below(longest + 1),
            };
            let slack = if style.slack && checks_length { rig.random.below(20) } else { 0 };
            let posted = (length + slack).min(longest);
            let mut cuts = [Vec::new(), Vec::new()];
            for (which, total) in [(0, length), (1, posted)] {
                let most = if style.cut { usize::from(limits[which].max_slices).min(6) } else { 1 };
                let mut left = total;
                let count = 1 + rig.random.below(most);
                for part in 0..count {
                    let length = if part + 1 == count { left } else { rig.random.below(left + 1) };
                    left -= length;
                    sizes[which] += rig.random.below(9);
                    cuts[which].push((sizes[which], length));
                    sizes[which] += length;
                }
                sizes[which] += 1;
            }
            plans.push((number, length, posted, cuts));
        }
        let source = rig.buffer(from, sizes[0] + 16);
        let target = rig.buffer(1 - from, sizes[1] + 16);
        for buffer in [source, target] {
            let buffer = &rig.buffers[buffer];
            buffer.probe.write(0, &vec![CANARY; buffer.length]);
        }
        let mut messages = Vec::new();
        for (number, length, posted, [gather, scatter]) in plans {
            let bytes = pattern(rig.seed, (from * 100_000 + number) as u64, length);
            let mut written = 0;
            for &(offset, length) in &gather {
                rig.buffers[source].probe.write(offset, &bytes[written..written + length]);
                written += length;
            }
            let slices = |buffer: usize, cuts: &[(usize, usize)]| {
                cuts.iter().map(|&(offset, length)| rig.buffers[buffer].slice(offset, length)).collect()
            };
            let (from, into) = (slices(source, &gather), slices(target, &scatter));
            messages.push(Message { bytes, from, into, posted, send: None, recv: None });
        }
        Self { from, source, target, messages, checks_length, sent: 0, posted: 0 }
    }

    /// Submits some of what is left, in batches of random size.
    #[track_caller]
    pub(crate) fn pump(&mut self, rig: &mut Rig<'_>) {
        self.pump_sends(rig);
        self.pump_recvs(rig);
    }

    #[track_caller]
    pub(crate) fn pump_sends(&mut self, rig: &mut Rig<'_>) {
        let until = (self.sent + rig.random.below(6)).min(self.messages.len());
        let mut batch = Vec::new();
        for message in &self.messages[self.sent..until] {
            batch.push((Side::Send, rig.token(), message.from.clone()));
        }
        let (accepted, first) = rig.batch(self.from, &batch);
        for number in 0..accepted.count {
            self.messages[self.sent + number].send = Some(first + number);
        }
        self.sent += accepted.count;
    }

    #[track_caller]
    pub(crate) fn pump_recvs(&mut self, rig: &mut Rig<'_>) {
        let until = (self.posted + rig.random.below(6)).min(self.messages.len());
        let mut batch = Vec::new();
        for message in &self.messages[self.posted..until] {
            batch.push((Side::Recv, rig.token(), message.into.clone()));
        }
        let (accepted, first) = rig.batch(1 - self.from, &batch);
        for number in 0..accepted.count {
            self.messages[self.posted + number].recv = Some(first + number);
        }
        self.posted += accepted.count;
    }

    /// Whether all messages were submitted at both ends.
    pub(crate) fn is_submitted(&self) -> bool {
        self.sent == self.messages.len() && self.posted == self.messages.len()
    }

    /// Whether all messages have completed at both ends.
    pub(crate) fn is_done(&self, rig: &Rig<'_>) -> bool {
        let ended = |work: Option<usize>| work.is_some_and(|work| rig.outcome(work).is_some());
        self.messages.iter().all(|message| ended(message.send) && ended(message.recv))
    }

    /// The message that this operation is of.
    pub(crate) fn number_of(&self, work: usize) -> Option<usize> {
        self.messages.iter().position(|message| message.send == Some(work) || message.recv == Some(work))
    }

    /// Checks a completed operation: `Done` with the right length and, of a receive, the right bytes in place.
    #[track_caller]
    pub(crate) fn check(&self, rig: &Rig<'_>, work: usize) {
        let Some(number) = self.number_of(work) else { return };
        let message = &self.messages[number];
        let is_recv = message.recv == Some(work);
        let length = if is_recv && !self.checks_length { message.posted } else { message.bytes.len() };
        let (came, expected) = (rig.outcome(work), Outcome::Done { len: length as u32 });
        require!(rig, came == Some(expected), "message {number}: expected {expected:?}, and {came:?} came");
        if is_recv {
            self.check_bytes(rig, number);
        }
    }

    /// Checks that the bytes of a message are where they belong.
    #[track_caller]
    pub(crate) fn check_bytes(&self, rig: &Rig<'_>, number: usize) {
        let message = &self.messages[number];
        let came: Vec<u8> = message
            .into
            .iter()
            .flat_map(|slice| rig.buffers[self.target].bytes(slice.offset as usize, slice.len as usize))
            .collect();
        let wrong = (0..message.bytes.len()).find(|&at| came[at] != message.bytes[at]);
        let (from, into) = (&message.from, &message.into);
        require!(
            rig,
            wrong.is_none(),
            "message {number} of {} bytes: expected its bytes, and byte {wrong:?} differs (from {from:?} into {into:?})",
            message.bytes.len()
        );
    }

    /// Checks that no byte outside the slices differs from the canary, and nothing of the source changed.
    #[track_caller]
    pub(crate) fn check_outside(&self, rig: &Rig<'_>) {
        for (buffer, is_target) in [(self.source, false), (self.target, true)] {
            let came = rig.buffers[buffer].bytes(0, rig.buffers[buffer].length);
            let mut expected = vec![CANARY; came.len()];
            for message in &self.messages {
                let mut done = 0;
                for slice in if is_target { &message.into } else { &message.from } {
                    let range = slice.offset as usize..slice.offset as usize + slice.len as usize;
                    let bytes = if is_target {
                        &came[range.clone()]
                    } else {
                        &message.bytes[done..done + range.len()]
                    };
                    expected[range.clone()].copy_from_slice(bytes);
                    done += range.len();
                }
            }
            let wrong = (0..came.len()).find(|&at| came[at] != expected[at]);
            let which = if is_target { "target" } else { "source" };
            require!(
                rig,
                wrong.is_none(),
                "expected no byte of the {which} outside the slices to change: {wrong:?}"
            );
        }
    }
}

/// Runs flows to their end; `watch` sees each completed operation at once.
#[track_caller]
pub(crate) fn run(
    rig: &mut Rig<'_>,
    flows: &mut [Flow],
    mut watch: impl FnMut(&mut Rig<'_>, &[Flow], usize),
) {
    let bound = rig.bounds.progress;
    rig.until_with("all messages are through", bound, |rig| {
        for flow in &mut *flows {
            flow.pump(rig);
        }
        rig.pass_time();
        for end in 0..2 {
            for work in rig.poll(end) {
                watch(rig, flows, work);
            }
        }
        flows.iter().all(|flow| flow.is_submitted() && flow.is_done(rig))
    });
}
