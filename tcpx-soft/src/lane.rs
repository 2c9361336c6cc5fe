//! The I/O threads. A lane moves the bytes of the data sockets given to it and sleeps in the kernel when
//! it can move none.
//!
//! **Ownership.** A data socket belongs to one lane for life; [`handoff`](crate::handoff) says how the lane
//! hears of its work. Leaving is control plane: a locked list, answered by an acknowledgement, after which
//! the lane touches neither the socket nor any memory of its comm.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::handoff::{Inbox, Link, Linked};
use crate::payload::{self, IO_SLICES, IoSlice, Moved};
use crate::task::{Span, Task, TaskQueue};
use crate::turn::{SHORT, TURN, Turns};
use crate::waiter::Waiter;

/// Requests of a comm.
pub(crate) const REQUESTS: usize = 16;
/// Error number kept for a peer that closed its end.
pub(crate) const PEER_CLOSED: i32 = -1;

const NOT_ATTACHED: usize = usize::MAX;
const WAKE_KEY: u64 = u64::MAX;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How long a closing comm waits for its lanes. A lane never blocks, so it answers within one system call.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which way a data socket carries bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    Send,
    Receive,
}

/// What a comm and its lanes share.
#[derive(Debug)]
pub(crate) struct CommShared {
    /// Tasks of each request that are not finished, plus one while more may be queued.
    pub(crate) remaining: [Padded; REQUESTS],
    /// Set by the testing thread when a full task queue held it up.
    pub(crate) wants_room: AtomicBool,
    /// Who sleeps for this comm.
    pub(crate) waiter: OnceLock<Arc<Waiter>>,
    /// Fault: data socket 0 dies when it has carried this much.
    pub(crate) dies_at: Option<u64>,
    /// Fault: data socket 0 is served no more when it has carried this much.
    stalls_at: Option<u64>,
    left: Mutex<usize>,
    all_left: Condvar,
}

/// A counter on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Padded(pub(crate) AtomicU32);

impl CommShared {
    pub(crate) fn new(dies_at: Option<u64>, stalls_at: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            remaining: Default::default(),
            wants_room: AtomicBool::new(false),
            waiter: OnceLock::new(),
            dies_at,
            stalls_at,
            left: Mutex::new(0),
            all_left: Condvar::new(),
        })
    }

    /// Wakes whoever sleeps for this comm.
    pub(crate) fn signal(&self) {
        if let Some(waiter) = self.waiter.get() {
            waiter.signal();
        }
    }

    /// A task of `request` ended.
    fn finished(&self, request: usize) {
        let before = self.remaining[request].0.fetch_sub(1, Ordering::AcqRel);
        if before == 1 || self.wants_room.swap(false, Ordering::AcqRel) {
            self.signal();
        }
    }
}

/// One data socket.
#[derive(Debug)]
pub(crate) struct DataSocket {
    pub(crate) fd: OwnedFd,
    pub(crate) queue: TaskQueue,
    /// 0, [`PEER_CLOSED`] or a system error number; written once, by the lane.
    pub(crate) error: AtomicI32,
    /// Bytes moved by the lane.
    pub(crate) carried: AtomicU64,
    index: usize,
    direction: Direction,
    /// Whether the peer runs on this machine's cores.
    local: bool,
    shared: Arc<CommShared>,
    lane: Arc<Lane>,
    link: Link<Self>,
    /// The lane's own: position among its sockets.
    key: AtomicUsize,
}

impl DataSocket {
    pub(crate) fn new(
        fd: OwnedFd,
        index: usize,
        direction: Direction,
        local: bool,
        shared: &Arc<CommShared>,
        lane: &Arc<Lane>,
    ) -> Arc<Self> {
        Arc::new(Self {
            fd,
            queue: TaskQueue::new(),
            error: AtomicI32::new(0),
            carried: AtomicU64::new(0),
            index,
            direction,
            local,
            shared: shared.clone(),
            lane: lane.clone(),
            link: Link::new(),
            key: AtomicUsize::new(NOT_ATTACHED),
        })
    }

    /// Queues a task; false if the queue is full. Only the thread that tests the comm may call it.
    pub(crate) fn dispatch(self: &Arc<Self>, task: Task) -> bool {
        if !self.queue.push(task) {
            return false;
        }
        if self.lane.inbox.announce(self) {
            self.lane.rouse();
        }
        true
    }
}

impl Linked for DataSocket {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

/// One I/O thread's shared face.
#[derive(Debug)]
pub(crate) struct Lane {
    inbox: Inbox<DataSocket>,
    wake: OwnedFd,
    leavers: Mutex<Vec<Arc<DataSocket>>>,
    leaving: AtomicBool,
    stop: AtomicBool,
}

impl Lane {
    /// Starts a lane on `cores`, whatever the starting thread is pinned to; `when_local` narrows that while
    /// it serves a peer of this machine.
    pub(crate) fn start(name: String, cores: CpuSet, when_local: Option<CpuSet>) -> io::Result<Arc<Self>> {
        let lane = Arc::new(Self {
            inbox: Inbox::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            leavers: Mutex::new(Vec::new()),
            leaving: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &lane.wake, EventData::new_u64(WAKE_KEY), EventFlags::IN)?;
        let worker = Worker {
            lane: lane.clone(),
            epoll,
            entries: Vec::new(),
            runnable: Vec::new(),
            turns: Turns::default(),
            armed: 0,
            pieces: Vec::with_capacity(IO_SLICES),
            locals: 0,
            cores,
            when_local,
        };
        std::thread::Builder::new().name(name).spawn(move || {
            // Signals are the program's; its handlers must not run on a thread it does not know.
            let _ = SigSet::all().thread_block();
            pin(&worker.cores);
            worker.run();
        })?;
        Ok(lane)
    }

    /// Wakes the thread wherever it is: awake, it finds the counter at its next look.
    fn rouse(&self) {
        // A full counter means that it is awake already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn leavers(&self) -> MutexGuard<'_, Vec<Arc<DataSocket>>> {
        self.leavers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ends the thread once its sockets have left.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.rouse();
    }
}

/// Takes the sockets of a comm from their lanes. After `true`, no lane touches them or any memory of the
/// comm's tasks. `false`: a lane did not answer in time, and all of it must be leaked.
#[must_use]
pub(crate) fn leave(sockets: &[Arc<DataSocket>]) -> bool {
    let Some(first) = sockets.first() else { return true };
    let shared = &first.shared;
    for socket in sockets {
        socket.lane.leavers().push(socket.clone());
        socket.lane.leaving.store(true, Ordering::SeqCst);
        socket.lane.rouse();
    }
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    let mut left = shared.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    while *left < sockets.len() {
        let Some(rest) = deadline.checked_duration_since(Instant::now()) else { return false };
        left = match shared.all_left.wait_timeout(left, rest) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
    true
}

fn pin(cores: &CpuSet) {
    // Placement is a matter of speed only; a machine that forbids it still works.
    let _ = sched_setaffinity(None, cores);
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Idle,
    Runnable,
    /// For its turn.
    Waiting,
    Armed,
    Dead,
}

struct Entry {
    socket: Arc<DataSocket>,
    state: State,
    /// What is left of the oldest task, once begun.
    rest: Option<Span>,
    in_epoll: bool,
    /// Bytes that it may send out of turn: others waited long enough for it.
    free: usize,
}

impl Entry {
    /// Whether so many bytes are sent when it is its turn.
    fn takes_turns(&self, bytes: usize) -> bool {
        let sends_here = self.socket.local && self.socket.direction == Direction::Send;
        sends_here && bytes > SHORT && self.free == 0
    }
}

/// The thread's own side.
struct Worker {
    lane: Arc<Lane>,
    epoll: OwnedFd,
    entries: Vec<Option<Entry>>,
    runnable: Vec<usize>,
    turns: Turns,
    armed: usize,
    pieces: Vec<IoSlice>,
    locals: usize,
    cores: CpuSet,
    when_local: Option<CpuSet>,
}

// SAFETY: the pointers inside are the addresses of tasks' memory; the worker is moved to its thread once.
unsafe impl Send for Worker {}

impl Worker {
    fn run(mut self) {
        let mut visiting = Vec::new();
        loop {
            self.leave();
            self.take_inbox();
            if self.lane.stop.load(Ordering::SeqCst) && self.entries.iter().all(Option::is_none) {
                return;
            }
            let sleep = self.runnable.is_empty();
            let lane = &self.lane;
            let told = || lane.leaving.load(Ordering::SeqCst) || lane.stop.load(Ordering::SeqCst);
            if sleep && !lane.inbox.fall_asleep(told) {
                continue;
            }
            if sleep || self.armed > 0 {
                self.wait(sleep);
            }
            self.pass_over();
            core::mem::swap(&mut visiting, &mut self.runnable);
            for key in visiting.drain(..) {
                self.visit(key);
            }
        }
    }

    fn take_inbox(&mut self) {
        let lane = self.lane.clone();
        lane.inbox.drain(|socket| {
            let mut key = socket.key.load(Ordering::Relaxed);
            if key == NOT_ATTACHED {
                key = self.attach(socket);
            }
            if let Some(Some(entry)) = self.entries.get_mut(key)
                && entry.state == State::Idle
            {
                entry.state = State::Runnable;
                self.runnable.push(key);
            }
        });
    }

    fn attach(&mut self, socket: Arc<DataSocket>) -> usize {
        if socket.local {
            self.locals += 1;
            if let (1, Some(near)) = (self.locals, &self.when_local) {
                pin(near);
            }
        }
        let free = self.entries.iter().position(Option::is_none);
        let key = free.unwrap_or(self.entries.len());
        socket.key.store(key, Ordering::Relaxed);
        let entry = Some(Entry { socket, state: State::Idle, rest: None, in_epoll: false, free: 0 });
        match free {
            Some(key) => self.entries[key] = entry,
            None => self.entries.push(entry),
        }
        key
    }

    /// Lets go of the sockets whose comm closes.
    fn leave(&mut self) {
        if !self.lane.leaving.swap(false, Ordering::SeqCst) {
            return;
        }
        let leavers = core::mem::take(&mut *self.lane.leavers());
        // A socket may still lie in the inbox; its push came before its leaving.
        self.take_inbox();
        for socket in leavers {
            let key = socket.key.load(Ordering::Relaxed);
            if let Some(entry) = self.entries.get_mut(key).and_then(Option::take) {
                self.armed -= usize::from(entry.state == State::Armed);
                self.runnable.retain(|&other| other != key);
                let next = self.turns.end(key);
                self.begin_turn(next);
                if entry.in_epoll {
                    // It leaves by itself when its descriptor closes, at the latest.
                    let _ = epoll::delete(&self.epoll, &socket.fd);
                }
                if socket.local {
                    self.locals -= 1;
                    if self.locals == 0 && self.when_local.is_some() {
                        pin(&self.cores);
                    }
                }
            }
            let shared = socket.shared.clone();
            drop(socket);
            *shared.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
            shared.all_left.notify_all();
        }
    }

    /// Collects sockets that can move again, sleeping until there is news if told to.
    fn wait(&mut self, sleep: bool) {
        let mut events = [const { core::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        let patience = || {
            let left = self.turns.deadline()?.saturating_duration_since(Instant::now());
            Timespec::try_from(left).ok()
        };
        let timeout = if sleep { patience() } else { Some(NO_WAIT) };
        let found = epoll::wait(&self.epoll, &mut events, timeout.as_ref());
        if sleep {
            self.lane.inbox.wake_up();
        }
        let Ok((found, _)) = found else { return };
        for event in found {
            let key = event.data.u64();
            if key == WAKE_KEY {
                let _ = rustix::io::read(&self.lane.wake, &mut [0u8; 8]);
            } else if let Some(Some(entry)) = self.entries.get_mut(key as usize)
                && entry.state == State::Armed
            {
                entry.state = State::Runnable;
                self.armed -= 1;
                self.runnable.push(key as usize);
            }
        }
    }

    /// It is the turn of the socket at `key`, which has waited for it.
    fn begin_turn(&mut self, key: Option<usize>) {
        let Some(key) = key else { return };
        if let Some(Some(entry)) = self.entries.get_mut(key)
            && entry.state == State::Waiting
        {
            entry.state = State::Runnable;
            self.runnable.push(key);
        }
    }

    /// A socket that can send nothing for too long keeps the others waiting no more.
    fn pass_over(&mut self) {
        let Some(slow) = self.turns.overdue() else { return };
        if let Some(Some(entry)) = self.entries.get_mut(slow) {
            entry.free = TURN;
        }
        let next = self.turns.end(slow);
        self.begin_turn(next);
    }

    /// Makes one system call for the socket at `key` and decides what becomes of it.
    fn visit(&mut self, key: usize) {
        let Some(Some(entry)) = self.entries.get_mut(key) else { return };
        let Some(task) = entry.socket.queue.front() else {
            entry.state = State::Idle;
            if entry.socket.link.release(|| entry.socket.queue.front().is_some()) {
                entry.state = State::Runnable;
                self.runnable.push(key);
            }
            let next = self.turns.end(key);
            self.begin_turn(next);
            return;
        };
        let stalls = entry.socket.shared.stalls_at.filter(|_| entry.socket.index == 0);
        if stalls.is_some_and(|at| entry.socket.carried.load(Ordering::Relaxed) >= at) {
            entry.state = State::Dead;
            let next = self.turns.end(key);
            self.begin_turn(next);
            return;
        }
        let rest = entry.rest.unwrap_or(task.span);
        if entry.takes_turns(rest.length()) && !self.turns.take(key) {
            entry.state = State::Waiting;
            return;
        }
        match io(&entry.socket, &rest, &mut self.pieces) {
            Moved::Bytes(n) => {
                entry.socket.carried.fetch_add(n as u64, Ordering::Relaxed);
                if n == rest.length() {
                    entry.rest = None;
                    entry.socket.queue.pop();
                    entry.socket.shared.finished(task.request);
                } else {
                    // SAFETY: the task is unfinished, so its request, which owns the list, is alive.
                    entry.rest = Some(unsafe { rest.advance(n) });
                }
                entry.free = entry.free.saturating_sub(n);
                self.runnable.push(key);
                let next = self.turns.sent(key, n);
                self.begin_turn(next);
            }
            Moved::Blocked => {
                self.turns.blocked(key, Instant::now());
                self.arm(key);
            }
            Moved::Closed => self.die(key, PEER_CLOSED),
            Moved::Failed(error) => self.die(key, error),
        }
    }

    fn arm(&mut self, key: usize) {
        let Some(Some(entry)) = self.entries.get_mut(key) else { return };
        let ready = match entry.socket.direction {
            Direction::Send => EventFlags::OUT,
            Direction::Receive => EventFlags::IN,
        };
        let flags = ready | EventFlags::ONESHOT;
        let data = EventData::new_u64(key as u64);
        let result = match entry.in_epoll {
            true => epoll::modify(&self.epoll, &entry.socket.fd, data, flags),
            false => epoll::add(&self.epoll, &entry.socket.fd, data, flags),
        };
        match result {
            Ok(()) => {
                entry.in_epoll = true;
                entry.state = State::Armed;
                self.armed += 1;
            }
            Err(error) => self.die(key, error.raw_os_error()),
        }
    }

    fn die(&mut self, key: usize, error: i32) {
        let Some(Some(entry)) = self.entries.get_mut(key) else { return };
        entry.state = State::Dead;
        entry.socket.error.store(error, Ordering::Release);
        entry.socket.shared.signal();
        let next = self.turns.end(key);
        self.begin_turn(next);
    }
}

/// One non-blocking system call for `rest` of the oldest task of `socket`.
fn io(socket: &DataSocket, rest: &Span, pieces: &mut Vec<IoSlice>) -> Moved {
    let fd = socket.fd.as_raw_fd();
    let mut rest = *rest;
    if let Some(at) = socket.shared.dies_at.filter(|_| socket.index == 0) {
        let left = at.saturating_sub(socket.carried.load(Ordering::Relaxed));
        if left == 0 {
            // The fault: both ends see the stream end here.
            let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Both);
            return Moved::Closed;
        }
        rest = rest.first(left as usize);
    }
    match (rest, socket.direction) {
        // SAFETY: a queued task's memory is lent to the lane until the request is done or `leave` has
        // answered (rule of the interface, kept by the comm).
        (Span::Flat { at, length }, Direction::Send) => unsafe { payload::send(fd, at, length) },
        // SAFETY: as above, and the posted buffer is written by nobody else meanwhile.
        (Span::Flat { at, length }, Direction::Receive) => unsafe { payload::receive(fd, at, length) },
        (Span::List { .. }, direction) => {
            // SAFETY: the list belongs to the request of an unfinished task.
            unsafe { rest.pieces(pieces) };
            match direction {
                // SAFETY: as for a flat span.
                Direction::Send => unsafe { payload::send_slices(fd, pieces) },
                // SAFETY: as for a flat span.
                Direction::Receive => unsafe { payload::receive_slices(fd, pieces) },
            }
        }
    }
}
