//! What a backend gives to the suite.

use std::time::Duration;

use p2p_memory::SharedHost;
use p2p_transport::{Memory, MemoryKind, NicId, Now, Rail, Transport};

use crate::Law;

/// A backend under test: makes its transports, its memory and its time.
///
/// Only [`ends`](Self::ends), [`step`](Self::step) and [`bounds`](Self::bounds) have to be written. The suite
/// calls everything from one thread, and uses the transports of one call of `ends` until it calls it again.
pub trait Harness {
    /// Two new transports that can reach each other, with nothing connected and nothing registered: number 0
    /// listens in most laws, number 1 connects.
    ///
    /// A deterministic backend takes its randomness from `seed` and nowhere else. Time may begin anew.
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2];

    /// Lets time pass, and returns it. Virtual time goes to the next thing that happens, or a little further;
    /// real time goes by itself, and the harness may yield or sleep some microseconds. Called once before the
    /// transports are polled in turn.
    fn step(&mut self) -> Now;

    /// How long things may take, and how large they may be made.
    fn bounds(&self) -> Bounds;

    /// The rail that transport `end` (0 or 1) listens and connects on.
    fn rail(&self, end: usize) -> Rail {
        let _ = end;
        Rail { nic: NicId(0), device: None, channels: 1 }
    }

    /// The kind of memory that [`memory`](Self::memory) makes.
    fn kind(&self) -> MemoryKind {
        MemoryKind::Host
    }

    /// Zeroed memory of `length` bytes, a multiple of what the transport's
    /// [`region_align`](Transport::region_align) asks for, and how the test sees it. Host memory at the start
    /// of a page unless overridden.
    fn memory(&mut self, length: usize) -> (Box<dyn Memory>, Box<dyn Probe>) {
        let shared = SharedHost::new(length).expect("host memory for a test");
        (Box::new(shared.clone()), Box::new(shared))
    }

    /// Makes something bad happen to the transports of the last call of `ends`. False if it cannot: what
    /// depends on it is left out then, and listed as such; a peer that cannot be killed is only dropped.
    fn inject(&mut self, fault: HarnessFault) -> bool {
        let _ = fault;
        false
    }

    /// Why a law does not apply to this backend: it is reported with this reason, never left out silently.
    /// Only the laws that [`Law::may_be_left_out`] names may have one, and none that the backend could take.
    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        let _ = law;
        None
    }

    /// Whether the same seed gives the same events at the same steps (law 22).
    fn deterministic(&self) -> bool {
        false
    }

    /// Operations, copies and system calls that the backend has made until now. Where they are not counted,
    /// law 12 checks only how many events a poll reports, and what it leaves out is listed.
    fn work_done(&self) -> Option<u64> {
        None
    }

    /// Owners of memory that the transports leaked on purpose until now, because a device might still reach
    /// it (law 19).
    fn leaked(&self) -> usize {
        0
    }

    /// How many seeds each law is run with; a real backend wants few.
    fn seeds(&self) -> u64 {
        4
    }
}

/// How a test sees memory that a transport owns.
pub trait Probe {
    /// Copies bytes out, from `offset` until `target` is full.
    fn read(&self, offset: usize, target: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, source: &[u8]);
    /// Owners of the memory besides this probe: 1 while the box given to a transport lives (more where the
    /// backend shares it), 0 once it was dropped.
    fn held(&self) -> usize;
}

impl Probe for SharedHost {
    fn read(&self, offset: usize, target: &mut [u8]) {
        self.copy_out(offset, target).expect("the test reads inside the memory");
    }

    fn write(&self, offset: usize, source: &[u8]) {
        self.copy_in(offset, source).expect("the test writes inside the memory");
    }

    fn held(&self) -> usize {
        self.owners() - 1
    }
}

/// What a harness may be able to do to its transports.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HarnessFault {
    /// Transport `end` says nothing from here on, as if its process or host were gone. The suite drops it
    /// right afterwards.
    KillPeer {
        /// Which.
        end: usize,
    },
    /// The connections between the two are cut; both live on.
    CutLink,
    /// The next registration of transport `end` fails.
    FailRegistration {
        /// Which.
        end: usize,
    },
}

/// How long things may take on the harness's clock, and how large they may be made.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From `connect` and `accept` to `Connected` or `Closed`.
    pub connect: Duration,
    /// From `close` to `Closed`.
    pub close: Duration,
    /// From the death of a peer to `Closed`.
    pub death: Duration,
    /// From the last submission of a run without faults to its last completion, and to any event that needs
    /// no peer.
    pub progress: Duration,
    /// Steps after which a law that still waits has failed, whatever the clock says.
    pub steps: u64,
    /// Steps that are watched where a law says that nothing more happens.
    pub quiet_steps: u32,
    /// Longest message that a law may send, in bytes; less where the connection's limit is.
    pub largest_message: u32,
    /// What [`work_done`](Harness::work_done) may grow by in one poll, and in one submission or cancellation
    /// for each operation in it.
    pub work_per_call: u64,
}

impl Default for Bounds {
    /// Generous for a busy machine: 10 seconds for each thing, messages up to 8 MiB.
    fn default() -> Self {
        let long = Duration::from_secs(10);
        Self {
            connect: long,
            close: long,
            death: long,
            progress: long * 3,
            steps: 20_000_000,
            quiet_steps: 200,
            largest_message: 8 << 20,
            work_per_call: 64,
        }
    }
}
