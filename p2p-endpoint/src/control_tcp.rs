//! Control streams over TCP: one epoll, sockets that never block, and no thread.
//!
//! **Whoever comes** waits at its door until it is accepted. A stream whose peer has said nothing yet is a
//! stranger: by default nobody is told of it before its first byte, as in our protocol whoever connects speaks
//! first. Each door has a bounded number of strangers, and of streams that wait to be accepted; the oldest makes
//! room for the newest, and a stranger leaves after a while anyway. So ten thousand that connect and say nothing
//! cost a bounded number of descriptors, and a peer that speaks comes in.
//!
//! **Without descriptors**, strangers are turned away first. Where that does not help, the door is left alone for
//! [`PAUSE`], so that nobody who sleeps on it wakes for nothing.
//!
//! **Closing** a stream sends what was taken and then the end. The socket is kept, and what still comes is read
//! and dropped, until the peer ends it too or a bound has passed: closed at once, with bytes unread or on their
//! way, the kernel would break the stream off and take the last word back.
//!
//! **Silence** is the endpoint's matter, which asks for signs of life. The kernel's own bounds are options here.
//!
//! Time is what [`Control::poll`] is given. Bounds of what began between two polls count from the later one.

mod deadlines;
mod door;
mod source;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use p2p_transport::{Control, ControlEvent, DoorId, Error, ErrorKind, Now, Received, Slab, StreamId};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use deadlines::Deadlines;
use door::{Door, Heard};
use source::{DOOR, HELD, HeldId, STREAM, Source, unwatch, watch};
use stream::{State, Stream};

/// Events that one look takes from the kernel.
const EVENTS: usize = 64;
/// Closed streams that wait for their peer's end, at most.
const MOST_LEAVING: usize = 64;
/// How long a door is left alone after it failed to take a stream in.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Bounds of control streams over TCP.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Time in which a connect ends.
    pub connect_timeout: Duration,
    /// Time that a closed stream waits for its peer's end.
    pub close_timeout: Duration,
    /// Time after which a stranger is turned away. `None`: there are no strangers, and streams are told of when
    /// they come, before their peer has said anything.
    pub first_word: Option<Duration>,
    /// Strangers of a door, and streams of a door that wait to be accepted: so many of each at most.
    pub most_waiting: usize,
    /// Time after which the kernel gives up a stream whose bytes nobody takes, or on which probes find nobody.
    ///
    /// Keep it well above the time for which a peer may have reason not to read: the kernel does not tell a peer
    /// that is dead from one that is alive and has no room.
    pub unacknowledged: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            first_word: Some(Duration::from_secs(10)),
            most_waiting: 256,
            unacknowledged: Duration::from_secs(60),
        }
    }
}

/// What a [`TcpControl`] has done so far.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TcpCounts {
    /// Streams that came in.
    pub came: u64,
    /// Streams that were dropped before anybody accepted them: silent for too long, or to make room.
    pub turned_away: u64,
    /// Times that a door was left alone because no stream could be taken in.
    pub pauses: u64,
}

/// Control streams over TCP. See the module documentation.
///
/// Dropping it ends its streams, as closing each of them does, but waits for nobody.
#[derive(Debug)]
pub struct TcpControl {
    options: TcpOptions,
    epoll: OwnedFd,
    doors: Slab<DoorId, Door>,
    streams: Slab<StreamId, Stream>,
    /// Sockets that are nobody's: strangers, and closed streams.
    held: Slab<HeldId, Held>,
    connecting: Deadlines<StreamId>,
    leaving: Deadlines<HeldId>,
    /// What has something to tell, each once.
    queue: VecDeque<Source>,
    counts: TcpCounts,
    /// The process that made it: a forked child ends nothing.
    process: u32,
}

#[derive(Debug)]
struct Held {
    socket: TcpStream,
    /// The door of a stranger; `None` for a closed stream.
    door: Option<DoorId>,
}

impl TcpControl {
    /// Without doors and streams.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn new(options: TcpOptions) -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| {
            failed("open", &errno.into(), "control streams cannot be watched, the system refuses an epoll")
        })?;
        Ok(Self {
            connecting: Deadlines::new(options.connect_timeout),
            leaving: Deadlines::new(options.close_timeout),
            options,
            epoll,
            doors: Slab::new(),
            streams: Slab::new(),
            held: Slab::new(),
            queue: VecDeque::new(),
            counts: TcpCounts::default(),
            process: std::process::id(),
        })
    }

    /// What was done so far.
    pub const fn counts(&self) -> TcpCounts {
        self.counts
    }

    /// Ends what took too long.
    fn expire(&mut self, now: Now) {
        self.connecting.begin(now);
        while let Some(id) = self.connecting.pop_expired(now) {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.give_up(self.options.connect_timeout);
            }
            self.enqueue(id);
        }
        self.leaving.begin(now);
        while let Some(id) = self.leaving.pop_expired(now) {
            self.let_go(id);
        }
        for index in 0..self.doors.positions() {
            let Some(id) = self.doors.id_at(index) else { continue };
            self.expire_door(id, now);
        }
    }

    fn expire_door(&mut self, id: DoorId, now: Now) {
        let Some(door) = self.doors.get_mut(id) else { return };
        if door.paused_until.is_some_and(|until| until <= now) {
            door.paused_until =
                watch(&self.epoll, &door.listener, Source::Door(id), DOOR).err().map(|_| now.after(PAUSE));
        }
        while let Some(stranger) = self.doors.get_mut(id).and_then(|door| door.strangers.pop_expired(now)) {
            self.turn_away(stranger);
        }
    }

    /// Takes in what the kernel has to say; true if there may be more.
    fn look(&mut self, now: Now) -> bool {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&zero)) else { return true };
        for event in &*events {
            match Source::of(event.data) {
                Some(Source::Door(id)) => self.admit(id, now),
                Some(Source::Stream(id)) => self.stirred(id, event.flags),
                Some(Source::Held(id)) => self.hear(id),
                None => {}
            }
        }
        events.len() == EVENTS
    }

    fn stirred(&mut self, id: StreamId, flags: EventFlags) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let connecting = stream.is_connecting();
        stream.stirred(flags);
        if connecting && !stream.is_connecting() {
            self.connecting.remove(id);
        }
        self.enqueue(id);
    }

    /// A stranger spoke or left; or something came for a stream that is closed here.
    fn hear(&mut self, id: HeldId) {
        let Some(held) = self.held.get(id) else { return };
        let Some(at) = held.door else {
            if stream::is_over(&held.socket) {
                self.leaving.remove(id);
                self.let_go(id);
            }
            return;
        };
        let heard = door::heard(&held.socket);
        if let (Heard::Word | Heard::End, Some(door)) = (&heard, self.doors.get_mut(at)) {
            door.strangers.remove(id);
        }
        match heard {
            Heard::Nothing => {}
            Heard::End => self.turn_away(id),
            Heard::Word => {
                if let Some(held) = self.held.remove(id) {
                    unwatch(&self.epoll, &held.socket);
                    self.bring(at, held.socket);
                }
            }
        }
    }

    /// Tells as much as there is room for; true if something is left.
    fn tell(&mut self, room: usize, sink: &mut dyn FnMut(ControlEvent)) -> bool {
        let mut told = 0;
        while let Some(source) = self.queue.front().copied() {
            if told == room {
                return true;
            }
            if let Some(event) = self.next_of(source) {
                told += 1;
                sink(event);
            } else {
                self.queue.pop_front();
            }
        }
        false
    }

    /// What is to be told of one; if nothing, it may be queued again.
    fn next_of(&mut self, source: Source) -> Option<ControlEvent> {
        match source {
            Source::Door(id) => {
                let door = self.doors.get_mut(id)?;
                let knocked = std::mem::take(&mut door.knocked);
                door.queued = knocked;
                knocked.then_some(ControlEvent::Knocked(id))
            }
            Source::Stream(id) => {
                let stream = self.streams.get_mut(id)?;
                let event = stream.tells.next();
                stream.queued = event.is_some();
                event.map(|event| event(id))
            }
            Source::Held(_) => None,
        }
    }

    /// Sees to it that what is to be told of a stream is told.
    fn enqueue(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.tells.any() && !std::mem::replace(&mut stream.queued, true) {
            self.queue.push_back(Source::Stream(id));
        }
    }

    /// When something ends or goes on by itself.
    fn next_deadline(&self) -> Option<Now> {
        let doors = self.doors.iter();
        let doors = doors.flat_map(|(_, door)| [door.paused_until, door.strangers.next()]).flatten();
        doors.chain(self.connecting.next()).chain(self.leaving.next()).min()
    }

    /// Ends a stranger, who is in no list any more.
    fn turn_away(&mut self, id: HeldId) {
        self.counts.turned_away += 1;
        self.let_go(id);
    }

    fn let_go(&mut self, id: HeldId) {
        if let Some(held) = self.held.remove(id) {
            unwatch(&self.epoll, &held.socket);
        }
    }

    /// Ends a socket, and keeps it until its peer has ended it too.
    fn see_off(&mut self, socket: TcpStream) {
        if stream::end(&socket) {
            return;
        }
        let id = self.held.insert(Held { socket, door: None });
        let Some(held) = self.held.get(id) else { return };
        if watch(&self.epoll, &held.socket, Source::Held(id), HELD).is_err() {
            return drop(self.held.remove(id));
        }
        self.leaving.push(id);
        if self.leaving.len() > MOST_LEAVING
            && let Some(oldest) = self.leaving.pop_oldest()
        {
            self.let_go(oldest);
        }
    }
}

impl Control for TcpControl {
    fn listen(&mut self, at: SocketAddr) -> Result<DoorId, Error> {
        let bound = self.options.first_word.unwrap_or_default();
        let door = Door::open(at, bound)
            .map_err(|error| failed("listen", &error, &format!("cannot listen at {at}")))?;
        let id = self.doors.insert(door);
        let door = self.doors.get(id).ok_or_else(|| Error::stale("listen", "door"))?;
        if let Err(error) = watch(&self.epoll, &door.listener, Source::Door(id), DOOR) {
            self.doors.remove(id);
            return Err(failed("listen", &error, &format!("cannot watch the door at {at}")));
        }
        Ok(id)
    }

    fn local(&self, door: DoorId) -> Option<SocketAddr> {
        self.doors.get(door).map(|door| door.at)
    }

    fn accept(&mut self, door: DoorId) -> Option<StreamId> {
        let socket = self.doors.get_mut(door)?.came.pop_front()?;
        let id = self.streams.insert(Stream::accepted(socket, self.options.unacknowledged));
        self.follow(id);
        Some(id)
    }

    fn shut(&mut self, door: DoorId) {
        let Some(mut closed) = self.doors.remove(door) else { return };
        if closed.paused_until.is_none() {
            unwatch(&self.epoll, &closed.listener);
        }
        while let Some(stranger) = closed.strangers.pop_oldest() {
            self.let_go(stranger);
        }
    }

    fn connect(&mut self, to: SocketAddr) -> Result<StreamId, Error> {
        if to.port() == 0 || to.ip().is_unspecified() {
            let text = format!("{to} is no address of a peer: take the one that the peer tells");
            return Err(Error::misuse("connect", text));
        }
        let stream = Stream::connecting(to, self.options.unacknowledged)
            .map_err(|error| failed("connect", &error, &format!("cannot connect to {to}")))?;
        let connecting = stream.is_connecting();
        let id = self.streams.insert(stream);
        self.follow(id);
        if connecting {
            self.connecting.push(id);
        }
        Ok(id)
    }

    fn ends(&self, stream: StreamId) -> Option<(SocketAddr, SocketAddr)> {
        self.streams.get(stream)?.ends()
    }

    fn send(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let Some(known) = self.streams.get_mut(stream) else { return 0 };
        let sent = known.send(bytes);
        self.enqueue(stream);
        sent
    }

    fn receive(&mut self, stream: StreamId, into: &mut [u8]) -> Received {
        let Some(known) = self.streams.get_mut(stream) else { return Received::Ended };
        let received = known.receive(into);
        self.enqueue(stream);
        received
    }

    fn look_again(&mut self, stream: StreamId) -> bool {
        self.streams.get_mut(stream).is_some_and(Stream::look_again)
    }

    fn why(&self, stream: StreamId) -> Option<&Error> {
        self.streams.get(stream)?.why()
    }

    fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(stream) else { return };
        unwatch(&self.epoll, &closed.socket);
        match closed.state {
            State::Open { .. } => self.see_off(closed.socket),
            State::Connecting => self.connecting.remove(stream),
            State::Broken(_) => {}
        }
    }

    fn poll(&mut self, now: Now, room: usize, sink: &mut dyn FnMut(ControlEvent)) -> Option<Now> {
        self.expire(now);
        let more = self.look(now);
        let untold = self.tell(room, sink);
        if more || untold { Some(now) } else { self.next_deadline() }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }
}

impl TcpControl {
    /// Hears of a new stream from here on, what is there already included.
    fn follow(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if let Err(error) = watch(&self.epoll, &stream.socket, Source::Stream(id), STREAM) {
            stream.fail("poll", &error);
        }
        self.enqueue(id);
    }
}

impl Drop for TcpControl {
    fn drop(&mut self) {
        // The descriptors of a forked child are copies, and the streams are its parent's.
        if self.process != std::process::id() {
            return;
        }
        for (_, stream) in self.streams.iter() {
            unwatch(&self.epoll, &stream.socket);
            if matches!(stream.state, State::Open { .. }) {
                stream::end(&stream.socket);
            }
        }
        for (_, held) in self.held.iter() {
            unwatch(&self.epoll, &held.socket);
        }
        for (_, door) in self.doors.iter().filter(|(_, door)| door.paused_until.is_none()) {
            unwatch(&self.epoll, &door.listener);
        }
    }
}

/// An error of the system, with what is to be thrown away.
fn failed(during: &'static str, error: &io::Error, text: &str) -> Error {
    let (kind, advice) = match Errno::from_io_error(error) {
        Some(Errno::MFILE) => (ErrorKind::Exhausted, ": raise this process's limit (`ulimit -n`)"),
        Some(Errno::NFILE) => (ErrorKind::Exhausted, ": raise this host's limit (`fs.file-max`)"),
        Some(Errno::ADDRINUSE) => (ErrorKind::Exhausted, ": choose another port, or 0 for any"),
        Some(Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC) => (ErrorKind::Exhausted, ": free memory"),
        Some(Errno::ADDRNOTAVAIL) => (ErrorKind::Misuse, ": it is no address of this host"),
        Some(Errno::ACCESS | Errno::PERM) => (ErrorKind::Misuse, ": this user may not"),
        Some(Errno::AFNOSUPPORT) => (ErrorKind::Unsupported, ": this host has no such addresses"),
        _ => (ErrorKind::Conn, ""),
    };
    let made = Error::new(kind, during, format!("{text} ({error}){advice}"));
    match error.raw_os_error() {
        Some(code) => made.with_code(code),
        None => made,
    }
}
