//! Endpoints that any thread may use: what is asked of an [`Engine`], in calls that wait with a bound, in calls that
//! do not wait, and in futures.

mod bed;
mod drive;
mod future;
mod open;
mod remote;
mod reports;
mod shared;
mod slots;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_memory::Memory;
use p2p_proto::hello::Facts;
use p2p_proto::peer::Outcome;
use p2p_transport::{Control, Error, ErrorKind, Rail, Transport};

pub use future::Ending;
pub use slots::{OpId, Status};

use crate::affinity::{self, Moved, Placement};
use crate::counters::EndpointCounters;
use crate::engine::{Engine, LinkId, OpToken, Options, Part, Request, Stall};
use crate::exports::{Access, Item};
use crate::random::Unguessable;
use crate::registry::MrId;
use shared::Shared;

/// Operations of an endpoint at once, unless it was told otherwise.
const SLOTS: u32 = 4096;

/// An endpoint: a handle that can be cloned and used by any thread. The last one that goes ends its links.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// That made it. A forked child has no progress thread, and its streams are its parent's.
    process: u32,
    thread: Option<JoinHandle<()>>,
    placement: Option<Placement>,
    close_timeout: Duration,
    stall_after: Duration,
}

/// Who came.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The link to it.
    pub link: LinkId,
    /// What it says of itself.
    pub peer: Facts,
    /// The address of its end of the control stream.
    pub address: Option<SocketAddr>,
}

/// Who drives an endpoint while nobody waits for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// A thread of its own.
    Thread,
    /// Nobody: things move only while somebody waits, or calls [`Endpoint::turn`].
    Caller,
}

impl Endpoint {
    /// An endpoint over this transport and these control streams.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`]; [`Device`](ErrorKind::Device) if the system gives no thread or descriptor;
    /// [`Misuse`](ErrorKind::Misuse) if the progress thread shall run on no core that this process may use.
    pub fn new(
        transport: Box<dyn Transport>,
        control: Box<dyn Control>,
        mut options: Options,
        progress: Progress,
    ) -> Result<Self, Error> {
        let (close_timeout, stall_after) = (options.close_timeout, options.stall_after);
        let placement = match progress {
            Progress::Thread => Some(placed(transport.as_ref(), &mut options)?),
            Progress::Caller => None,
        };
        // What is allocated from here on lies near the thread, which is started there.
        let moved = match &placement {
            Some(Placement::On(cores, _)) => Moved::to(cores)
                .inspect_err(|error| tracing::warn!("the progress thread runs anywhere: {error}"))
                .ok(),
            Some(Placement::Anywhere(_)) | None => None,
        };
        let device = |error: std::io::Error| {
            Error::new(ErrorKind::Device, "open", format!("making an endpoint: {error}")).with_source(error)
        };
        let mut random = Unguessable::new().map_err(|error| device(error.into()))?;
        let engine = Engine::new(transport, control, options, Box::new(move || random.next()))?;
        let shared = Arc::new(Shared::new(engine, SLOTS, Instant::now()).map_err(device)?);
        let thread = match progress {
            Progress::Caller => None,
            Progress::Thread => {
                let shared = shared.clone();
                let named = std::thread::Builder::new().name("p2p-progress".to_owned());
                Some(named.spawn(move || shared.drive_safely(close_timeout)).map_err(device)?)
            }
        };
        drop(moved);
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                process: std::process::id(),
                thread,
                placement,
                close_timeout,
                stall_after,
            }),
        })
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// What peers learn of this endpoint.
    pub fn facts(&self) -> Facts {
        self.shared().look(|engine| engine.facts().clone())
    }

    /// Where its progress thread runs, and why; `None` without one. [`threads`](crate::affinity::threads) lists those of
    /// the whole process.
    pub fn placement(&self) -> Option<&Placement> {
        self.inner.placement.as_ref()
    }

    /// Where peers knock, with the real port; the address may be that of all interfaces.
    pub fn door(&self) -> Option<SocketAddr> {
        self.shared().look(Engine::door)
    }

    /// Moves what can be moved, for at most `time`: for endpoints that nobody else drives.
    pub fn turn(&self, time: Duration) {
        let _: Option<()> = self.shared().wait(time, || None);
    }

    /// Connects to the endpoint whose door is there.
    ///
    /// # Errors
    ///
    /// [`Conn`](ErrorKind::Conn) if it does not come up: nobody listens, it is no endpoint, it refuses, or the time
    /// is over; the text says which.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<LinkId, Error> {
        self.shared().check()?;
        let link = self.shared().with(|engine| {
            let link = engine.connect(to)?;
            self.shared().reports().opening.insert(link, None);
            Ok(link)
        })?;
        let found = self
            .shared()
            .wait(timeout, || self.shared().reports().opening.get_mut(&link).and_then(Option::take));
        // It may have come up, or ended, at this moment.
        let last = self.shared().reports().opening.remove(&link).flatten();
        match found.or(last) {
            Some(came) => came.map(|()| link),
            None => {
                self.shared().check()?;
                let missing = self.shared().look(|engine| engine.missing(link));
                let _ = self.close(link);
                let missing = missing.unwrap_or_else(|| "it was closed here".to_owned());
                let text = format!("no link to {to} within {} s: {missing}", timeout.as_secs_f32());
                Err(Error::new(ErrorKind::Conn, "connect", text))
            }
        }
    }

    /// The next peer that has connected. `None` after the time, or if [`stop_accept`](Self::stop_accept) says so.
    ///
    /// # Errors
    ///
    /// [`Device`](ErrorKind::Device) if the endpoint cannot be used any more.
    pub fn accept(&self, timeout: Duration) -> Result<Option<Accepted>, Error> {
        let Some(entered) = self.shared().reports().stops.enter() else { return Ok(None) };
        let accepted = self.accept_since(entered, timeout);
        let has_peer = matches!(accepted, Ok(Some(_)));
        self.shared().reports().stops.leave(entered, has_peer);
        accepted
    }

    fn accept_since(&self, entered: u64, timeout: Duration) -> Result<Option<Accepted>, Error> {
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            let found = self.shared().wait(left, || {
                let mut reports = self.shared().reports();
                match reports.accepted.pop_front() {
                    Some(link) => Some(Some(link)),
                    None if reports.stops.has_come(entered) => Some(None),
                    None => None,
                }
            });
            self.shared().check()?;
            let Some(link) = found.flatten() else { return Ok(None) };
            let accepted = self.shared().look(|engine| {
                let peer = engine.peer(link)?.clone();
                Some(Accepted { link, peer, address: engine.peer_address(link) })
            });
            // One that ended meanwhile is nobody: the next one is waited for.
            if accepted.is_some() {
                return Ok(accepted);
            }
        }
    }

    /// Makes every [`accept`](Self::accept) that waits return at once; if none does, the next one, so that it does not
    /// matter which of the two comes first.
    pub fn stop_accept(&self) {
        self.shared().reports().stops.say();
        self.shared().wake_all();
    }

    /// Ends a link; what is under way on it ends [`LinkLost`](Outcome::LinkLost).
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) for a stale id.
    pub fn close(&self, link: LinkId) -> Result<(), Error> {
        self.shared().with(|engine| engine.close(link))
    }

    /// Whether a link is up.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.shared().look(|engine| engine.is_up(link))
    }

    /// Why a link ended; see [`Engine::why`].
    pub fn why(&self, link: LinkId) -> Option<Error> {
        self.shared().look(|engine| engine.why(link).cloned())
    }

    /// What carries each rail of a link, in lines for people.
    pub fn describe(&self, link: LinkId) -> Vec<String> {
        self.shared().look(|engine| engine.describe(link))
    }

    /// Transfers of this end that were started longer ago than [`Options::stall_after`] and have not ended, with what
    /// each waits for; with zero there, all that have not ended.
    pub fn stalls(&self) -> Vec<Stall> {
        let (now, after) = (self.shared().now(), self.inner.stall_after);
        self.shared().look(|engine| engine.stalled(now, after))
    }

    /// What it has done so far.
    pub fn counters(&self) -> EndpointCounters {
        self.shared().look(Engine::counters)
    }

    /// Registers memory; see [`Engine::reg`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reg(&self, memory: Box<dyn Memory>) -> Result<MrId, Error> {
        self.shared().check()?;
        self.shared().with(|engine| engine.reg(memory))
    }

    /// Takes a registration back; see [`Engine::dereg`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn dereg(&self, mr: MrId) -> Result<(), Error> {
        self.shared().with(|engine| engine.dereg(mr))
    }

    /// Opens a part of registered memory to peers; see [`Engine::advertise`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn advertise(&self, part: Part, access: Access) -> Result<Item, Error> {
        self.shared().with(|engine| engine.advertise(part, access))
    }

    /// Starts a transfer and does not wait. Ask [`poll`](Self::poll) or [`wait`](Self::wait) for its end, or await
    /// [`ending`](Self::ending); one of them has to be done once, or [`detach`](Self::detach).
    ///
    /// # Errors
    ///
    /// As [`Engine::start`]; [`Exhausted`](ErrorKind::Exhausted) also if the ends of too many operations were not
    /// asked for.
    pub fn start(&self, link: LinkId, parts: &[Part], request: Request<'_>) -> Result<OpId, Error> {
        self.begin(|engine, token| engine.start(link, token, parts, request).map(drop))
    }

    /// Gives an operation a slot, and lets the engine begin it.
    fn begin(&self, start: impl FnOnce(&mut Engine, OpToken) -> Result<(), Error>) -> Result<OpId, Error> {
        self.shared().check()?;
        let full = || {
            let text =
                format!("{} operations have not ended, or nobody asked how", self.shared().slots.capacity());
            Error::new(ErrorKind::Exhausted, "start", text)
        };
        let id = self.shared().slots.take().ok_or_else(full)?;
        match self.shared().with(|engine| start(engine, OpToken(id.to_number()))) {
            Ok(()) => Ok(id),
            Err(error) => {
                // It did not begin: its slot is free again.
                drop(self.shared().slots.end(id, Outcome::LinkLost));
                self.detach(id);
                Err(error)
            }
        }
    }

    /// Starts a write, and a notification of at most 1 MiB that the peer gets when all of it is visible there.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start). If it is the notification that there is no room for, the write goes on, detached.
    pub fn push(
        &self,
        link: LinkId,
        parts: &[Part],
        into: &[Item],
        notification: impl Into<Bytes>,
    ) -> Result<OpId, Error> {
        let bytes = notification.into();
        let write = Request::Write { into, counter: None };
        let mut notified = Ok(());
        let id = self.begin(|engine, token| {
            let transfer = engine.start(link, token, parts, write)?;
            notified = engine.notify(link, Some(transfer), bytes);
            Ok(())
        })?;
        notified.map(|()| id).inspect_err(|_| self.detach(id))
    }

    /// How an operation stands. Its end is told once.
    pub fn poll(&self, id: OpId) -> Status {
        self.shared().slots.poll(id)
    }

    /// Waits for the end of an operation. [`Status::Pending`] after the time: it goes on.
    ///
    /// When it has ended, however it did, its memory is the caller's again. The exception is a transport that does not let
    /// go of the memory of a lost link within [`Options::close_timeout`]: that is logged as an error, and the memory is
    /// refused to new transfers until it has.
    pub fn wait(&self, id: OpId, timeout: Duration) -> Status {
        let ended = self.shared().wait(timeout, || match self.poll(id) {
            Status::Pending => None,
            status @ (Status::Ended(_) | Status::Unknown) => Some(status),
        });
        ended.unwrap_or_else(|| self.poll(id))
    }

    /// Nobody will ask for its end. The operation goes on.
    pub fn detach(&self, id: OpId) {
        self.shared().slots.detach(id);
    }

    /// The end of an operation, to be awaited. Dropping it detaches the operation, which goes on. One future can wait
    /// for an operation: another of the same id resolves to `None` at once.
    pub fn ending(&self, id: OpId) -> Ending {
        let id = self.shared().slots.claim(id).then_some(id);
        Ending::new(self.inner.shared.clone(), id)
    }

    /// Starts a transfer and waits for its end. `None` if the time is over: then it is detached, and goes on.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn run(
        &self,
        link: LinkId,
        parts: &[Part],
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Option<Outcome>, Error> {
        let id = self.start(link, parts, request)?;
        match self.wait(id, timeout) {
            Status::Ended(outcome) => Ok(Some(outcome)),
            Status::Pending | Status::Unknown => {
                self.detach(id);
                Ok(None)
            }
        }
    }

    /// Sends a notification of at most 1 MiB.
    ///
    /// # Errors
    ///
    /// As [`Engine::notify`].
    pub fn notify(&self, link: LinkId, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.shared().check()?;
        let bytes = bytes.into();
        self.shared().with(|engine| engine.notify(link, None, bytes))
    }

    /// The next notification that came, and from whom; `None` after the time.
    pub fn notification(&self, timeout: Duration) -> Option<(LinkId, Bytes)> {
        let (link, bytes, room) =
            self.shared().wait(timeout, || self.shared().reports().next_notification())?;
        if let Some(unread) = room {
            self.shared().with(|engine| engine.keeps(link, unread));
        }
        Some((link, bytes))
    }

    /// How often writes of this peer have counted with this counter.
    pub fn counter(&self, link: LinkId, counter: u32) -> u64 {
        // Behind the round that is being made: whoever knows that a write is done finds it counted.
        self.shared().look(|_| self.shared().reports().counter(link, counter))
    }
}

/// Where the thread that drives these rails belongs. The rails are chosen by then.
fn placed(transport: &dyn Transport, options: &mut Options) -> Result<Placement, Error> {
    if options.rails.is_empty() {
        options.rails = transport.rails(options.device)?;
    }
    let node = |rail: &Rail| {
        let nic = transport.nics().iter().find(|nic| nic.id == rail.nic);
        nic.and_then(|nic| nic.numa_node)
    };
    let nodes: Vec<Option<u16>> = options.rails.iter().map(node).collect();
    let near = |node| affinity::of_node(Path::new("/"), node);
    let placement = options.affinity.place(&nodes, &affinity::allowed(), near)?;
    match &placement {
        Placement::On(cores, why) => {
            tracing::info!("the progress thread runs on cores {}: {why}", affinity::in_words(cores));
        }
        Placement::Anywhere(why) => tracing::info!("the progress thread runs on any core: {why}"),
    }
    Ok(placement)
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("door", &self.door()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // Whatever is let go here is taken from the parent, and threads that are not there cannot be waited for.
            std::mem::forget(self.shared.clone());
            return;
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            if thread.thread().id() == std::thread::current().id() {
                // It let go in what it woke, and cannot wait for itself: it ends the links on its way out.
                self.shared.is_orphan.store(true, Ordering::SeqCst);
                return;
            }
            self.shared.wake_up();
            // It leaves after one round; a panic of it was reported.
            let _ = thread.join();
        }
        self.shared.finish(self.close_timeout);
    }
}
