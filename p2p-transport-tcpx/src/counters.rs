//! What channels, connections and NICs have done, readable from any thread without stopping the data path.
//!
//! The owner of a transport counts in plain integers and copies them out now and then (at most a millisecond
//! late while it is polled). A reader sees each number as it was at some copy; two numbers may be of two.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_transport::{ConnId, NicId};

/// What one direction of one channel, or a sum of such, has done.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Messages that ended.
    pub messages: u64,
    /// Bytes of those, as far as known.
    pub bytes: u64,
    /// Posts that the plugin did not take at once.
    pub retries: u64,
    /// Calls of the plugin's `test`.
    pub polls: u64,
    /// Receives whose scattered pages were put in place.
    pub unpacks: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.retries += other.retries;
        self.polls += other.polls;
        self.unpacks += other.unpacks;
    }
}

impl From<tcpx_core::Counters> for Tally {
    fn from(counters: tcpx_core::Counters) -> Self {
        Self {
            messages: counters.completed,
            bytes: counters.bytes,
            retries: counters.not_taken,
            polls: counters.tests,
            unpacks: counters.unpacked,
        }
    }
}

/// Both directions of something.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// What was sent.
    pub sent: Tally,
    /// What was received.
    pub received: Tally,
}

/// A connection at one moment.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct ConnCounters {
    /// The connection.
    pub conn: ConnId,
    /// Its NIC.
    pub nic: NicId,
    /// Each of its channels.
    pub channels: Vec<Traffic>,
    /// How long an operation has waited because its channel's window was full.
    pub window_full: Duration,
}

impl ConnCounters {
    /// All channels together.
    pub fn total(&self) -> Traffic {
        let mut total = Traffic::default();
        for channel in &self.channels {
            total.sent.add(channel.sent);
            total.received.add(channel.received);
        }
        total
    }
}

/// A NIC at one moment.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NicCounters {
    /// What was sent.
    pub sent: Tally,
    /// What was received.
    pub received: Tally,
    /// How long operations of its connections have waited because a window was full, added up.
    pub window_full: Duration,
}

impl NicCounters {
    fn add(&mut self, conn: &ConnCounters) {
        let total = conn.total();
        self.sent.add(total.sent);
        self.received.add(total.received);
        self.window_full += conn.window_full;
    }
}

/// Reads the counters of a transport, from any thread, also after the transport is gone.
#[derive(Clone, Debug)]
pub struct Counters {
    board: Arc<Mutex<Board>>,
}

#[derive(Debug, Default)]
struct Board {
    live: Vec<Arc<Sheet>>,
    /// Sums of the connections that are gone, by NIC.
    gone: Vec<NicCounters>,
}

/// What the owner of a connection writes.
#[derive(Debug)]
pub(crate) struct Sheet {
    conn: ConnId,
    nic: NicId,
    channels: Vec<[Cells; 2]>,
    window_full_nanos: AtomicU64,
}

/// A tally that others read.
#[derive(Debug, Default)]
struct Cells([AtomicU64; 5]);

impl Cells {
    fn store(&self, tally: Tally) {
        let Tally { messages, bytes, retries, polls, unpacks } = tally;
        for (cell, value) in self.0.iter().zip([messages, bytes, retries, polls, unpacks]) {
            cell.store(value, Relaxed);
        }
    }

    fn load(&self) -> Tally {
        let [messages, bytes, retries, polls, unpacks] = [0, 1, 2, 3, 4].map(|at| self.0[at].load(Relaxed));
        Tally { messages, bytes, retries, polls, unpacks }
    }
}

impl Sheet {
    pub(crate) fn write(&self, channel: usize, sent: Tally, received: Tally) {
        if let Some([out, into]) = self.channels.get(channel) {
            out.store(sent);
            into.store(received);
        }
    }

    pub(crate) fn write_window_full(&self, time: Duration) {
        self.window_full_nanos.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> ConnCounters {
        let traffic = |[out, into]: &[Cells; 2]| Traffic { sent: out.load(), received: into.load() };
        ConnCounters {
            conn: self.conn,
            nic: self.nic,
            channels: self.channels.iter().map(traffic).collect(),
            window_full: Duration::from_nanos(self.window_full_nanos.load(Relaxed)),
        }
    }
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self { board: Arc::default() }
    }

    /// Begins to count for a connection.
    pub(crate) fn open(&self, conn: ConnId, nic: NicId, channels: usize) -> Arc<Sheet> {
        let channels = (0..channels).map(|_| Default::default()).collect();
        let sheet = Arc::new(Sheet { conn, nic, channels, window_full_nanos: AtomicU64::new(0) });
        self.board().live.push(sheet.clone());
        sheet
    }

    /// A connection is gone; what it did stays in the sums of its NIC.
    pub(crate) fn close(&self, sheet: &Arc<Sheet>) {
        let mut board = self.board();
        board.live.retain(|live| !Arc::ptr_eq(live, sheet));
        let nic = usize::from(sheet.nic.0);
        if board.gone.len() <= nic {
            board.gone.resize(nic + 1, NicCounters::default());
        }
        board.gone[nic].add(&sheet.read());
    }

    /// The connections that are open.
    pub fn conns(&self) -> Vec<ConnCounters> {
        self.board().live.iter().map(|sheet| sheet.read()).collect()
    }

    /// Everything that went over a NIC, over connections that are gone as well.
    pub fn nic(&self, nic: NicId) -> NicCounters {
        let board = self.board();
        let mut sum = board.gone.get(usize::from(nic.0)).copied().unwrap_or_default();
        for sheet in board.live.iter().filter(|sheet| sheet.nic == nic) {
            sum.add(&sheet.read());
        }
        sum
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
