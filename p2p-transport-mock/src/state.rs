//! Everything a world consists of, and the heap of what will happen.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use p2p_transport::{
    ConnId, Error, Limits, ListenerId, NicId, Outcome, Rail, Regions, RemoteSlice, Slab, Slice,
};

use crate::Random;
use crate::audit::Audit;
use crate::control::Streams;
use crate::fault::{Script, Strikes};
use crate::lane::{Kind, Lane};
use crate::planted::Planted;
use crate::settings::{NicModel, Personality, Settings};
use crate::trace::Trace;

/// Virtual nanoseconds.
pub(crate) type Nanos = u64;

pub(crate) const fn nanos(duration: Duration) -> Nanos {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// After so many steps, the users of all memory are counted: a check that walks all operations.
const MEMORY_STEPS: u64 = 16;

/// Code of an error whose cause is that the peer closed.
pub(crate) const CODE_CLOSED: i32 = 1;
/// Code of an error whose cause is that the connection broke.
pub(crate) const CODE_BROKEN: i32 = 2;
/// Code of an error whose cause is that nobody answered, or refused.
pub(crate) const CODE_REFUSED: i32 = 3;

/// A message of which the place may be used again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flying {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// A NIC may take up the next segment.
    Transmit {
        node: usize,
        nic: usize,
    },
    /// A segment's last byte is at the receiver's NIC.
    Arrive {
        message: Flying,
        bytes: u32,
        last: bool,
    },
    /// The receiver's NIC has taken a message in.
    Landed {
        message: Flying,
    },
    /// A message's bytes may be seen.
    Visible {
        message: Flying,
    },
    /// The peer has to answer a read.
    ReadAt {
        message: Flying,
    },
    /// An operation ends.
    Finish {
        link: usize,
        side: usize,
        kind: Kind,
        slot: u16,
        serial: u64,
        outcome: Outcome,
    },
    /// A test's bug: the bytes of a completed operation come late.
    Late {
        message: Flying,
    },
    Knock {
        link: usize,
    },
    Established {
        link: usize,
        side: usize,
    },
    Deadline {
        end: usize,
        conn: ConnId,
    },
    Refused {
        link: usize,
    },
    Flush {
        link: usize,
        side: usize,
    },
    Fin {
        link: usize,
        side: usize,
    },
    Bye {
        link: usize,
        side: usize,
    },
    Linger {
        link: usize,
        side: usize,
    },
    Lost {
        link: usize,
        side: usize,
    },
    Fault {
        index: usize,
    },
    Wake,
    StreamKnock {
        stream: usize,
    },
    StreamOpened {
        stream: usize,
    },
    StreamBytes {
        stream: usize,
        side: usize,
        bytes: usize,
        data: u64,
    },
    StreamEnd {
        stream: usize,
        side: usize,
    },
    StreamBroken {
        stream: usize,
        side: usize,
    },
}

struct Scheduled {
    at: Nanos,
    sequence: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[derive(Debug)]
pub(crate) struct NicState {
    pub(crate) model: NicModel,
    /// Connections that may have something to send, each once.
    pub(crate) flows: VecDeque<(usize, usize)>,
    /// What is being sent: the message, bytes of the segment, and whether it is the last one.
    pub(crate) current: Option<(Flying, u32, bool)>,
    pub(crate) busy: bool,
    /// When the receiving half is free.
    pub(crate) receives_from: Nanos,
    pub(crate) delay: Spell,
    pub(crate) jitter: Spell,
    pub(crate) slow: Spell,
}

/// Something that holds for a while, with its measure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spell {
    pub(crate) until: Nanos,
    pub(crate) measure: u64,
}

#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) nics: Vec<NicState>,
    pub(crate) short: Spell,
    pub(crate) disorder: Spell,
    pub(crate) late: Spell,
    pub(crate) refusals: u16,
    pub(crate) failed_visibility: bool,
    pub(crate) split_control: Spell,
    pub(crate) late_control: Spell,
}

/// A report that waits for a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    Connected { conn: ConnId, link: usize, side: usize },
    Completed { link: usize, side: usize, kind: Kind, slot: u16, serial: u64 },
    Notified { conn: ConnId, value: u32 },
    Closed { conn: ConnId },
}

/// Where a connection id leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Accepted, and nobody has come yet.
    Waiting {
        address: usize,
    },
    Linked {
        link: usize,
        side: usize,
    },
}

pub(crate) struct Export {
    pub(crate) link: usize,
    pub(crate) side: usize,
    pub(crate) slice: Slice,
    pub(crate) key: u64,
    pub(crate) live: bool,
}

/// What one transport has.
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) regions: Regions<()>,
    pub(crate) conns: Slab<ConnId, (Place, Option<Error>)>,
    pub(crate) listeners: Slab<ListenerId, usize>,
    pub(crate) reports: VecDeque<(Nanos, Report)>,
    pub(crate) exports: Vec<Export>,
    pub(crate) dropped: bool,
}

/// A place to connect to.
pub(crate) struct AddressState {
    pub(crate) end: usize,
    pub(crate) rail: Rail,
    pub(crate) nonce: u32,
    pub(crate) state: AddressUse,
    pub(crate) knocked: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AddressUse {
    Listening(ListenerId),
    Accepting(ConnId),
    Used,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SideState {
    Connecting,
    Open,
    /// The owner closed; operations still end by themselves.
    Closing,
    /// All operations have ended; messages of before are still delivered.
    Flushed,
    /// The peer closed; its messages are still delivered.
    PeerClosed,
    /// `Closed` is queued.
    Closed,
}

pub(crate) struct Side {
    pub(crate) end: usize,
    pub(crate) node: usize,
    pub(crate) nic: usize,
    pub(crate) channels: u16,
    pub(crate) conn: ConnId,
    pub(crate) state: SideState,
    pub(crate) limits: Limits,
    pub(crate) lanes: [Lane; 3],
    /// Messages of the peer, in order, that no receive has met.
    pub(crate) inbound: VecDeque<u32>,
    /// Messages that this end sent and that are neither delivered nor dropped.
    pub(crate) undelivered: u32,
    /// Of them: started, and no receive has met them.
    pub(crate) unmatched: u32,
    pub(crate) unmatched_bytes: u64,
    pub(crate) in_flows: bool,
    /// The message whose segments are being sent.
    pub(crate) sending: Option<Flying>,
    /// Answers to the peer's reads.
    pub(crate) answers: VecDeque<Flying>,
    pub(crate) turn: u8,
    pub(crate) last_arrival: Nanos,
    pub(crate) last_visible: [Nanos; 2],
    pub(crate) last_finish: Nanos,
    pub(crate) closed_by_owner: bool,
}

pub(crate) struct Link {
    /// One side until it is accepted.
    pub(crate) sides: Vec<Side>,
    pub(crate) address: usize,
    pub(crate) dead: bool,
    pub(crate) audit: [crate::audit::Ledger; 2],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Carried {
    Send,
    Write { to: RemoteSlice, notify: Option<u32> },
    Read { from: RemoteSlice },
}

pub(crate) struct Message {
    pub(crate) generation: u32,
    pub(crate) live: bool,
    pub(crate) link: usize,
    /// The side that sends the bytes.
    pub(crate) from: usize,
    /// The side whose operation it is.
    pub(crate) owner: usize,
    pub(crate) slot: u16,
    pub(crate) serial: u64,
    pub(crate) carried: Carried,
    /// Its place in the order of messages.
    pub(crate) ordinal: u64,
    pub(crate) len: u32,
    pub(crate) sent: u32,
    pub(crate) bytes: Vec<u8>,
    /// Its send was reported as done.
    pub(crate) done: bool,
    pub(crate) arrived: bool,
    pub(crate) landed: bool,
    /// The receive it met, and that one's serial.
    pub(crate) met: Option<(u16, u64)>,
}

/// A whole world.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) now: Nanos,
    sequence: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) random: Random,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) ends: Vec<End>,
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<AddressState>,
    pub(crate) messages: Vec<Message>,
    pub(crate) free_messages: Vec<u32>,
    pub(crate) streams: Streams,
    pub(crate) script: Script,
    pub(crate) strikes: Strikes,
    pub(crate) arrived: u64,
    pub(crate) audit: Audit,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    pub(crate) work: u64,
    pub(crate) planted: Option<Planted>,
}

impl State {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            settings,
            now: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            random: Random::new(seed),
            nodes: Vec::new(),
            ends: Vec::new(),
            links: Vec::new(),
            addresses: Vec::new(),
            messages: Vec::new(),
            free_messages: Vec::new(),
            streams: Streams::default(),
            script: Script::default(),
            strikes: Strikes::default(),
            arrived: 0,
            audit: Audit::default(),
            trace: Trace::default(),
            steps: 0,
            work: 0,
            planted: None,
        }
    }

    /// Whether a test has switched this bug on. Always false outside of tests.
    pub(crate) fn is_planted(&self, bug: Planted) -> bool {
        cfg!(test) && self.planted == Some(bug)
    }

    /// As [`is_planted`](Self::is_planted), and this time it shows: once in `n` times.
    pub(crate) fn strikes_planted(&mut self, bug: Planted, n: u64) -> bool {
        self.is_planted(bug) && self.random.one_in(n)
    }

    pub(crate) fn at(&mut self, at: Nanos, what: What) {
        self.sequence += 1;
        self.heap.push(Reverse(Scheduled { at: at.max(self.now), sequence: self.sequence, what }));
    }

    pub(crate) fn after(&mut self, wait: Nanos, what: What) {
        self.at(self.now.saturating_add(wait), what);
    }

    pub(crate) fn next_time(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(scheduled)| scheduled.at)
    }

    /// The next event happens. False if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some(Reverse(Scheduled { at, sequence, what })) = self.heap.pop() else { return false };
        self.now = at;
        self.steps += 1;
        self.trace.add(at, sequence, &what);
        self.happen(what);
        self.check();
        if self.steps.is_multiple_of(MEMORY_STEPS) {
            self.check_memory();
        }
        true
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Transmit { node, nic } => self.transmit(node, nic),
            What::Arrive { message, bytes, last } => self.arrive(message, bytes, last),
            What::Landed { message } => self.landed(message),
            What::Visible { message } => self.visible(message),
            What::ReadAt { message } => self.read_at(message),
            What::Finish { link, side, kind, slot, serial, outcome } => {
                self.finish(link, side, kind, slot, serial, outcome);
            }
            What::Late { message } => self.late(message),
            What::Knock { link } => self.knock(link),
            What::Established { link, side } => self.established(link, side),
            What::Deadline { end, conn } => self.deadline(end, conn),
            What::Refused { link } => self.refused(link),
            What::Flush { link, side } => self.flush(link, side),
            What::Fin { link, side } => self.fin(link, side),
            What::Bye { link, side } => self.closed(link, side, None),
            What::Linger { link, side } => self.linger(link, side),
            What::Lost { link, side } => self.lost(link, side),
            What::Fault { index } => self.scripted(index),
            What::Wake => {}
            What::StreamKnock { stream } => self.stream_knock(stream),
            What::StreamOpened { stream } => self.stream_opened(stream),
            What::StreamBytes { stream, side, bytes, data } => self.stream_bytes(stream, side, bytes, data),
            What::StreamEnd { stream, side } => self.stream_end(stream, side),
            What::StreamBroken { stream, side } => self.stream_broken(stream, side),
        }
    }

    pub(crate) fn report(&mut self, end: usize, report: Report) {
        let now = self.now;
        if let Some(end) = self.ends.get_mut(end).filter(|end| !end.dropped) {
            end.reports.push_back((now, report));
        }
    }

    pub(crate) fn rdma(&self) -> bool {
        self.settings.personality == Personality::Rdma
    }

    pub(crate) fn nic_count(&self, end: usize) -> usize {
        self.nodes[self.ends[end].node].nics.len()
    }

    pub(crate) fn nic(&self, end: usize, nic: NicId) -> Option<usize> {
        (usize::from(nic.0) < self.nic_count(end)).then_some(usize::from(nic.0))
    }

    /// Latency of a NIC, without what faults add.
    pub(crate) fn latency(&self, node: usize, nic: usize) -> Nanos {
        nanos(self.nodes[node].nics[nic].model.latency)
    }
}
