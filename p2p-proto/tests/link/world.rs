//! Two ends of a link, their memory, the rails and the control stream between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use p2p_proto::id::{LocalRegion, RailIndex, TransferId};
use p2p_proto::list::LocalRange;
use p2p_proto::peer::{Caps, Happened, Landing, Outcome, Peer, Side};
use p2p_proto::stripe::RailLimits;

use crate::memory::Memory;
use crate::random::Random;

/// One end.
pub(crate) struct End {
    pub(crate) peer: Peer,
    pub(crate) memory: Memory,
    /// Control bytes on their way to this end.
    pub(crate) inbox: VecDeque<u8>,
    pub(crate) happened: Vec<Happened>,
    /// Regions of each transfer that is not over.
    pub(crate) live: Vec<(TransferId, Vec<LocalRegion>)>,
    /// Rails that this end has lost.
    pub(crate) lost: Vec<bool>,
}

/// A message that one end has with its transport.
struct Message {
    token: u64,
    parts: Vec<LocalRange>,
    length: u32,
    /// Of a send that was taken over before a receive was there.
    taken: Option<Vec<u8>>,
}

/// One direction of one rail.
#[derive(Default)]
struct Wire {
    sends: VecDeque<Message>,
    recvs: VecDeque<Message>,
    /// Ended and not reported: token, regions, of the end that sends and of the one that receives.
    sent: Vec<Message>,
    received: Vec<Message>,
    dead: bool,
}

pub(crate) struct World {
    pub(crate) ends: [End; 2],
    pub(crate) random: Random,
    pub(crate) now: Duration,
    pub(crate) limits: [Vec<RailLimits>; 2],
    /// By rail, then by the end that sends.
    wires: Vec<[Wire; 2]>,
    /// Bytes and messages that moved.
    moved: u64,
    /// Whether the control stream is there.
    pub(crate) stream: bool,
    /// By the number that a notification begins with: what must be in place when it is heard.
    pub(crate) promises: BTreeMap<u32, Promise>,
}

/// Bytes that are in memory of an end.
#[derive(Clone)]
pub(crate) struct Promise {
    pub(crate) end: usize,
    pub(crate) ranges: Vec<LocalRange>,
    pub(crate) bytes: Vec<u8>,
}

impl World {
    pub(crate) fn new(seed: u64, limits: [Vec<RailLimits>; 2], caps: [Caps; 2]) -> Self {
        let rails = limits[0].len();
        let end = |which: usize| End {
            peer: Peer::new(limits[which].clone(), caps[which]),
            memory: Memory::default(),
            inbox: VecDeque::new(),
            happened: Vec::new(),
            live: Vec::new(),
            lost: vec![false; rails],
        };
        Self {
            ends: [end(0), end(1)],
            random: Random::new(seed),
            now: Duration::ZERO,
            wires: (0..rails).map(|_| [Wire::default(), Wire::default()]).collect(),
            limits,
            moved: 0,
            stream: true,
            promises: BTreeMap::new(),
        }
    }

    /// One small thing that could happen next.
    pub(crate) fn step(&mut self) {
        self.now += Duration::from_nanos(self.random.below(20_000));
        let end = self.random.below(2) as usize;
        let rail = self.random.below(self.wires.len() as u64) as usize;
        match self.random.below(9) {
            0 | 1 => {
                let count = if self.random.chance(3) { 1 + self.random.below(5) } else { 1 << 20 };
                self.say(end, count as usize);
            }
            2 | 3 => {
                let count = if self.random.chance(3) { 1 + self.random.below(40) } else { 1 << 20 };
                self.hear(end, count as usize);
            }
            4 => self.post(end, rail, Side::Send, 3),
            5 => self.post(end, rail, Side::Recv, 3),
            6 => {
                self.carry(rail, end);
            }
            7 => {
                self.report(rail, end);
            }
            _ => self.ends[end].peer.drive(self.now),
        }
        self.take_over(rail, end);
        self.collect(end);
    }

    /// Everything that can happen, until nothing does.
    pub(crate) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..100_000 {
            let before = self.moved;
            self.now += Duration::from_micros(50);
            for end in 0..2 {
                self.ends[end].peer.drive(self.now);
                self.say(end, usize::MAX);
                self.hear(end, 4096);
                for rail in 0..self.wires.len() {
                    self.post(end, rail, Side::Recv, u64::MAX);
                    self.post(end, rail, Side::Send, u64::MAX);
                    while self.carry(rail, end) {}
                    while self.report(rail, end) {}
                }
                self.collect(end);
            }
            quiet = if self.moved == before { quiet + 1 } else { 0 };
            if quiet > 3 {
                return;
            }
        }
        panic!("it moves without end");
    }

    pub(crate) fn say(&mut self, end: usize, count: usize) {
        let [one, two] = &mut self.ends;
        let (from, to) = if end == 0 { (one, two) } else { (two, one) };
        let count = count.min(from.peer.control().len());
        if self.stream {
            to.inbox.extend(&from.peer.control()[..count]);
        }
        from.peer.control_sent(count);
        self.moved += count as u64;
    }

    pub(crate) fn hear(&mut self, end: usize, count: usize) {
        let End { peer, inbox, memory, .. } = &mut self.ends[end];
        if peer.wants_control() {
            let count = count.min(inbox.len());
            let bytes: Vec<u8> = inbox.drain(..count).collect();
            self.moved += count as u64;
            peer.receive(self.now, &bytes, memory).expect("the other end keeps to the protocol");
        }
    }

    pub(crate) fn post(&mut self, end: usize, rail: usize, side: Side, most: u64) {
        let most = if most > 100 { most } else { self.random.below(most + 1) };
        let limits = self.limits[end][rail];
        let index = RailIndex(rail as u8);
        for _ in 0..most {
            let wire = &mut self.wires[rail][if side == Side::Send { end } else { 1 - end }];
            let Some(post) = self.ends[end].peer.next_post(index, side) else { return };
            let (queue, done, window) = match side {
                Side::Send => (&mut wire.sends, &wire.sent, limits.max_sends),
                Side::Recv => (&mut wire.recvs, &wire.received, limits.max_recvs),
            };
            let in_flight = queue.iter().filter(|message| message.taken.is_none()).count() + done.len();
            assert!(in_flight < usize::from(window), "the window of {side:?} is exceeded");
            let length = post.parts.iter().map(|part| part.len).sum::<u64>() as u32 + post.scratch;
            assert!(length > 0 && length <= limits.max_message);
            assert!(post.parts.len() <= usize::from(limits.max_slices));
            assert!(post.parts.is_empty() == (post.scratch > 0));
            assert!(side == Side::Recv || post.scratch == 0);
            self.moved += 1;
            queue.push_back(Message { token: post.token, parts: post.parts.to_vec(), length, taken: None });
            self.ends[end].peer.posted(self.now, index, side);
        }
    }

    /// The transport at the end that sends takes a message over, before a receive is there.
    fn take_over(&mut self, rail: usize, from: usize) {
        let wire = &mut self.wires[rail][from];
        let early = self.random.chance(4) && !wire.dead;
        let waiting = wire.sends.iter_mut().find(|message| message.taken.is_none());
        if let Some(message) = waiting.filter(|_| early) {
            message.taken = Some(self.ends[from].memory.gather(&message.parts));
            let (token, length) = (message.token, message.length);
            wire.sent.push(Message { token, parts: message.parts.clone(), length, taken: None });
        }
    }

    /// The first send of a wire meets its first receive.
    pub(crate) fn carry(&mut self, rail: usize, from: usize) -> bool {
        let wire = &mut self.wires[rail][from];
        if wire.dead || wire.sends.is_empty() || wire.recvs.is_empty() {
            return false;
        }
        let (Some(send), Some(recv)) = (wire.sends.pop_front(), wire.recvs.pop_front()) else { return false };
        assert_eq!(send.length, recv.length, "a message meets the receive of another one");
        let bytes = match &send.taken {
            Some(bytes) => bytes.clone(),
            None => self.ends[from].memory.gather(&send.parts),
        };
        if !recv.parts.is_empty() {
            self.ends[1 - from].memory.scatter(&recv.parts, &bytes);
        }
        if send.taken.is_none() {
            wire.sent.push(send);
        }
        wire.received.push(recv);
        self.moved += 1;
        true
    }

    /// Something that has ended on a wire is reported, in any order.
    pub(crate) fn report(&mut self, rail: usize, from: usize) -> bool {
        let wire = &mut self.wires[rail][from];
        let (ended, end) = if self.random.chance(2) && !wire.sent.is_empty() || wire.received.is_empty() {
            (&mut wire.sent, from)
        } else {
            (&mut wire.received, 1 - from)
        };
        if ended.is_empty() {
            return false;
        }
        let message = ended.swap_remove(self.random.below(ended.len() as u64) as usize);
        self.ends[end].peer.ended(self.now, message.token, Landing::Done);
        self.moved += 1;
        // A second report of the same message changes nothing.
        if self.random.chance(16) {
            self.ends[end].peer.ended(self.now, message.token, Landing::Failed);
        }
        self.collect(end);
        true
    }

    /// One end loses a rail. What it has there ends well, badly, or is not reported.
    pub(crate) fn lose_rail(&mut self, end: usize, rail: usize) {
        if std::mem::replace(&mut self.ends[end].lost[rail], true) {
            return;
        }
        let silent = self.random.chance(3);
        let mut ends = Vec::new();
        for from in 0..2 {
            let wire = &mut self.wires[rail][from];
            wire.dead = true;
            let (open, done) = if from == end {
                (&mut wire.sends, &mut wire.sent)
            } else {
                (&mut wire.recvs, &mut wire.received)
            };
            let open = open.drain(..).filter(|message| message.taken.is_none());
            ends.extend(open.map(|message| (message.token, Landing::Lost)));
            let landing = if self.random.chance(2) { Landing::Done } else { Landing::Lost };
            ends.extend(done.drain(..).map(|message| (message.token, landing)));
        }
        while !silent && !ends.is_empty() {
            let (token, landing) = ends.swap_remove(self.random.below(ends.len() as u64) as usize);
            self.ends[end].peer.ended(self.now, token, landing);
            self.collect(end);
        }
        self.ends[end].peer.rail_lost(self.now, RailIndex(rail as u8));
        self.collect(end);
    }

    /// The control stream is gone, for one end at first.
    pub(crate) fn lose_stream(&mut self, end: usize) {
        self.stream = false;
        self.ends[end].peer.link_lost();
        self.collect(end);
    }

    /// Memory of an end is taken back.
    pub(crate) fn release(&mut self, end: usize, region: LocalRegion) {
        let End { peer, memory, .. } = &mut self.ends[end];
        memory.gone.push(region);
        peer.release(region);
        self.collect(end);
    }

    /// Takes what has happened at an end.
    pub(crate) fn collect(&mut self, end: usize) {
        while let Some(happened) = self.ends[end].peer.happened() {
            if let Happened::Ended { transfer, .. } = happened {
                let live = &mut self.ends[end].live;
                let place = live.iter().position(|(number, _)| *number == transfer).expect("it ends once");
                let (_, regions) = live.swap_remove(place);
                self.nothing_uses(end, &regions);
            }
            if let Happened::Notified(bytes) = &happened {
                self.keeps_promise(bytes);
            }
            self.ends[end].happened.push(happened);
        }
        let End { peer, memory, .. } = &self.ends[end];
        for region in memory.gone.iter().filter(|region| !peer.holds(**region)) {
            self.nothing_uses(end, &[*region]);
        }
    }

    fn keeps_promise(&self, notice: &[u8]) {
        let number = notice.first_chunk().map(|number| u32::from_le_bytes(*number));
        if let Some(promise) = number.and_then(|number| self.promises.get(&number)) {
            let there = self.ends[promise.end].memory.gather(&promise.ranges);
            assert!(
                there == promise.bytes,
                "a notification is heard before the bytes of its write are there"
            );
        }
    }

    /// The other end of what was lost at one end loses it, too.
    pub(crate) fn settle_faults(&mut self) {
        let over = [0, 1].map(|end| self.ends[end].peer.is_over());
        if over[0] || over[1] {
            self.stream = false;
            for end in 0..2 {
                self.ends[end].peer.link_lost();
                (0..self.wires.len()).for_each(|rail| self.lose_rail(end, rail));
            }
        }
        for rail in 0..self.wires.len() {
            if self.ends[0].lost[rail] || self.ends[1].lost[rail] {
                (0..2).for_each(|end| self.lose_rail(end, rail));
            }
        }
        // Losing the last rail at one end ends the link at both.
        if (0..2).any(|end| self.ends[end].peer.is_over()) {
            (0..2).for_each(|end| self.lose_stream(end));
        }
    }

    /// A transfer that is over has no message with the transport of its end.
    fn nothing_uses(&self, end: usize, regions: &[LocalRegion]) {
        for wires in &self.wires {
            for (from, wire) in wires.iter().enumerate() {
                let (open, done) =
                    if from == end { (&wire.sends, &wire.sent) } else { (&wire.recvs, &wire.received) };
                for message in open.iter().filter(|message| message.taken.is_none()).chain(done) {
                    let used = message.parts.iter().any(|part| regions.contains(&part.region));
                    assert!(!used, "a transfer is over while the transport uses its memory");
                }
            }
        }
    }

    /// How a transfer of an end ended, if it did.
    pub(crate) fn outcome(&self, end: usize, transfer: TransferId) -> Option<Outcome> {
        self.ends[end].happened.iter().find_map(|happened| match happened {
            Happened::Ended { transfer: ended, outcome } if *ended == transfer => Some(*outcome),
            Happened::Ended { .. }
            | Happened::Notified(_)
            | Happened::Counted(_)
            | Happened::RailBroken(_)
            | Happened::Goodbye(_)
            | Happened::Lost(_) => None,
        })
    }
}
