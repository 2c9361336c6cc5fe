//! The one listening socket of a process, behind all listeners of all its transports.
//!
//! A stream that comes in says in its hello which listener it wants. Whichever transport looks first takes
//! it in and puts it into the mailbox of the transport it is for, whose bell then rings.
//!
//! **Strangers** cost a place among [`MOST_STRANGERS`] until they have said hello, or until
//! [`MANNERS`] has passed; the oldest makes room for the newest. A hello for a listener that is not there is
//! answered and forgotten. Of those that say the right key the **newest** is the visitor, as long as nobody has
//! taken an older one, because whoever connects again has given the older stream up.
//!
//! When no stream can be **admitted**, because the process has no descriptor left, say, the listening socket
//! stays readable. It is left alone for [`PAUSE`] then, so that nobody who sleeps on it wakes for nothing.
//!
//! A **forked** child opens a hub of its own, and leaves the one that it inherited alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::stream;
use super::wire::{Hello, Key, MAX_HELLO, Word};

/// Streams that have not said hello, at most.
const MOST_STRANGERS: usize = 64;
/// How long a stream may take to say hello.
const MANNERS: Duration = Duration::from_secs(10);
/// Streams taken in by one look.
const MOST_AT_ONCE: usize = 32;
/// Connections that the kernel holds for us.
const BACKLOG: i32 = 512;
/// How long the listening socket is left alone after it failed to admit a stream.
const PAUSE: Duration = Duration::from_millis(100);
/// How long nothing is said of such failures after one was told.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Rings when a stream for the transport that owns it has come.
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    fn ring(&self) {
        // A full counter rings already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Stops it from ringing.
    pub(crate) fn hush(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A stream that said hello to a listener.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) socket: TcpStream,
    pub(crate) hello: Hello,
    /// What it said after that.
    pub(crate) rest: Vec<u8>,
}

/// The process's listening socket; it stays open from the first listener to the end of the process.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Readable when there is something to take in.
    epoll: OwnedFd,
    port: u16,
    /// The process that opened it.
    process: u32,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    listener: TcpListener,
    /// Readable when a pause is over.
    timer: OwnedFd,
    /// The listening socket is left alone.
    paused: bool,
    /// When it was last said that no stream can be admitted.
    said: Option<Instant>,
    strangers: Vec<Stranger>,
    mailboxes: Vec<Mailbox>,
}

#[derive(Debug)]
struct Stranger {
    socket: TcpStream,
    said: Vec<u8>,
    since: Instant,
}

#[derive(Debug)]
struct Mailbox {
    key: Key,
    bell: Bell,
    visitor: Option<Visitor>,
}

/// A hub, and the one that was opened after it, by a forked child.
struct Generation {
    hub: Hub,
    next: Generations,
}

/// No lock: another thread may hold one in the moment of a fork, and the child would wait for it for ever.
type Generations = OnceLock<Box<Generation>>;

static HUBS: Generations = OnceLock::new();

impl Hub {
    /// The hub of this process, opened by the first caller.
    pub(crate) fn of_process() -> io::Result<&'static Self> {
        Self::of(&HUBS, std::process::id())
    }

    fn of(hubs: &'static Generations, process: u32) -> io::Result<&'static Self> {
        let (mut next, mut newest) = (hubs, None::<&Self>);
        loop {
            while let Some(generation) = next.get() {
                next = &generation.next;
                newest = Some(&generation.hub);
            }
            if let Some(hub) = newest.filter(|hub| hub.process == process) {
                return Ok(hub);
            }
            // Another thread may have been first.
            let _ = next.set(Box::new(Generation { hub: Self::open(process)?, next: OnceLock::new() }));
        }
    }

    fn open(process: u32) -> io::Result<Self> {
        let listener = listen()?;
        let port = listener.local_addr()?.port();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        watch(&epoll, &listener)?;
        watch(&epoll, &timer)?;
        let (strangers, mailboxes) = (Vec::new(), Vec::new());
        let inside = Inside { listener, timer, paused: false, said: None, strangers, mailboxes };
        Ok(Self { epoll, port, process, inside: Mutex::new(inside) })
    }

    /// The port it listens on, on every address of this host.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Opens a mailbox with a new key.
    pub(crate) fn subscribe(&self, bell: &Bell) -> io::Result<Key> {
        let key = random_key()?;
        self.inside().mailboxes.push(Mailbox { key, bell: bell.clone(), visitor: None });
        Ok(key)
    }

    /// Closes a mailbox, and whatever came for it.
    pub(crate) fn unsubscribe(&self, key: &Key) {
        // A child does not answer for its parent.
        if self.process != std::process::id() {
            return;
        }
        let mut inside = self.inside();
        let Some(at) = inside.mailboxes.iter().position(|mailbox| mailbox.key == *key) else { return };
        if let Some(visitor) = inside.mailboxes.swap_remove(at).visitor {
            refuse(&visitor.socket, NOT_HERE);
        }
    }

    /// Takes in what has come, for anybody.
    pub(crate) fn look(&self) {
        // The callers' clocks may begin at different times.
        let now = Instant::now();
        let mut inside = self.inside();
        inside.admit(&self.epoll, now);
        inside.hear(&self.epoll, now);
    }

    /// Takes the visitor of a mailbox, which is closed then.
    pub(crate) fn take(&self, key: &Key) -> Option<Visitor> {
        let mut inside = self.inside();
        let at = inside.mailboxes.iter().position(|box_| box_.key == *key && box_.visitor.is_some())?;
        inside.mailboxes.swap_remove(at).visitor
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Hub {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Inside {
    fn admit(&mut self, epoll: &OwnedFd, now: Instant) {
        if self.paused && !self.resume(epoll) {
            return;
        }
        for _ in 0..MOST_AT_ONCE {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_stream(&error) => continue,
                Err(error) => return self.pause(epoll, &error, now),
            };
            // It leaves again when it is turned away or, as a visitor, in `hear`.
            if let Err(error) = socket.set_nonblocking(true).and_then(|()| watch(epoll, &socket)) {
                self.say(&error, now);
                continue;
            }
            if self.strangers.len() == MOST_STRANGERS {
                turn_away(epoll, self.strangers.remove(0), "others came after it");
            }
            self.strangers.push(Stranger { socket, said: Vec::new(), since: now });
        }
    }

    /// Leaves the listening socket alone for a while.
    fn pause(&mut self, epoll: &OwnedFd, error: &io::Error, now: Instant) {
        self.say(error, now);
        self.paused = self.wind().is_ok() && epoll::delete(epoll, &self.listener).is_ok();
    }

    /// Watches the listening socket again if the pause is over.
    fn resume(&mut self, epoll: &OwnedFd) -> bool {
        if rustix::io::read(&self.timer, &mut [0; 8]).is_err() {
            return false;
        }
        match watch(epoll, &self.listener) {
            Ok(()) => self.paused = false,
            // Nothing else would bring it back.
            Err(_) => drop(self.wind()),
        }
        !self.paused
    }

    /// Makes the timer readable in a while.
    fn wind(&self) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE.subsec_nanos().into() };
        let once = Itimerspec { it_interval: zero, it_value: pause };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn say(&mut self, error: &io::Error, now: Instant) {
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < SAY_AGAIN) {
            return;
        }
        self.said = Some(now);
        let advice = match Errno::from_io_error(error) {
            Some(Errno::MFILE) => "this process has no descriptor left: raise its limit (`ulimit -n`)",
            Some(Errno::NFILE) => "this host has no descriptor left: raise `fs.file-max`",
            _ => "free memory of this host, or look at its kernel's log",
        };
        tracing::warn!("nobody can connect to this process for now ({error}): {advice}");
    }

    fn hear(&mut self, epoll: &OwnedFd, now: Instant) {
        let mut at = 0;
        while let Some(stranger) = self.strangers.get_mut(at) {
            match stranger.hear(now) {
                Heard::Nothing => at += 1,
                Heard::Enough(why) => turn_away(epoll, self.strangers.remove(at), &why),
                Heard::Hello(hello, length) => {
                    let Stranger { socket, mut said, .. } = self.strangers.remove(at);
                    let rest = said.split_off(length);
                    let _ = epoll::delete(epoll, &socket);
                    self.deliver(Visitor { socket, hello, rest });
                }
            }
        }
    }

    fn deliver(&mut self, visitor: Visitor) {
        let Some(mailbox) = self.mailboxes.iter_mut().find(|mailbox| mailbox.key == visitor.hello.key) else {
            return refuse(&visitor.socket, NOT_HERE);
        };
        if let Some(older) = mailbox.visitor.replace(visitor) {
            refuse(&older.socket, NOT_HERE);
        }
        mailbox.bell.ring();
    }
}

/// Whether an accept failed because of the stream that it was to bring, and the next one may go well.
fn is_of_one_stream(error: &io::Error) -> bool {
    let of_one =
        [Errno::INTR, Errno::CONNABORTED, Errno::PROTO, Errno::PERM, Errno::NETDOWN, Errno::NETUNREACH];
    Errno::from_io_error(error).is_some_and(|errno| of_one.contains(&errno) || errno == Errno::HOSTUNREACH)
}

fn watch(epoll: &OwnedFd, source: impl AsFd) -> io::Result<()> {
    Ok(epoll::add(epoll, source, EventData::new_u64(0), EventFlags::IN)?)
}

fn turn_away(epoll: &OwnedFd, stranger: Stranger, why: &str) {
    tracing::debug!(peer = ?stranger.socket.peer_addr().ok(), "a stream was turned away: {why}");
    let _ = epoll::delete(epoll, &stranger.socket);
    stranger.answer(why);
}

/// What a peer is told whose listener is not there. It tries its next address then.
pub(crate) const NOT_HERE: &str = "no such listener here: it was used, given up, or is in another process";

enum Heard {
    Nothing,
    Hello(Hello, usize),
    Enough(String),
}

impl Stranger {
    fn hear(&mut self, now: Instant) -> Heard {
        let mut bytes = [0; MAX_HELLO];
        loop {
            match Word::read_hello(&self.said) {
                Ok(Some((hello, length))) => return Heard::Hello(hello, length),
                Ok(None) => {}
                Err(error) => return Heard::Enough(error.to_string()),
            }
            match self.socket.read(&mut bytes) {
                Ok(0) => return Heard::Enough("it ended before it said hello".to_owned()),
                Ok(read) => self.said.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Heard::Enough(error.to_string()),
            }
        }
        if now.saturating_duration_since(self.since) > MANNERS {
            return Heard::Enough("it said no hello in time".to_owned());
        }
        Heard::Nothing
    }

    /// Whoever speaks our language is told why.
    fn answer(self, why: &str) {
        if self.said.get(5..9) == Some(b"UP2X") {
            refuse(&self.socket, why);
        } else {
            stream::end(&self.socket);
        }
    }
}

fn refuse(mut socket: &TcpStream, why: &str) {
    let mut bytes = Vec::new();
    Word::Refused(why.to_owned()).write(&mut bytes);
    // An empty socket takes so few bytes whole; if not, its end says enough.
    let _ = socket.write(&bytes);
    stream::end(socket);
}

/// On every address, of both families where the machine has both.
fn listen() -> io::Result<TcpListener> {
    let both = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_only_v6(false)?;
        bind(socket, (Ipv6Addr::UNSPECIFIED, 0).into())
    };
    let v4 = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        bind(socket, (Ipv4Addr::UNSPECIFIED, 0).into())
    };
    both().or_else(|_: io::Error| v4())
}

fn bind(socket: Socket, at: SocketAddr) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn random_key() -> io::Result<Key> {
    let mut key = Key::default();
    let mut filled = 0;
    while filled < key.len() {
        filled += rustix::rand::getrandom(&mut key[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn hub() -> Hub {
        Hub::open(std::process::id()).expect("a port")
    }

    /// Somebody who says hello to a listener.
    fn visit(hub: &Hub, key: Key) -> TcpStream {
        let mut visitor = TcpStream::connect(("127.0.0.1", hub.port())).expect("it listens");
        let hello = Hello { key, channels: 1, max_message: 1, plugin: String::new() };
        let mut bytes = Vec::new();
        Word::Hello(hello).write(&mut bytes);
        visitor.write_all(&bytes).expect("it is empty");
        visitor.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        visitor
    }

    /// Takes in until this rings.
    fn until_it_rings(hub: &Hub, bell: &Bell) {
        let begin = Instant::now();
        while !is_readable(bell) {
            hub.look();
            assert!(begin.elapsed() < Duration::from_secs(5), "the bell does not ring");
        }
        bell.hush();
    }

    fn is_readable(source: &impl AsFd) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(source, PollFlags::IN)], Some(&now)).expect("poll") == 1
    }

    fn heard(mut visitor: TcpStream) -> Option<Word> {
        let mut bytes = Vec::new();
        visitor.read_to_end(&mut bytes).expect("it ends");
        Word::read(&bytes).expect("our language").map(|(word, _)| word)
    }

    #[test]
    fn whoever_takes_in_a_visitor_rings_the_bell_of_the_one_it_is_for() {
        let hub = hub();
        let (bell, other) = (Bell::new().expect("a bell"), Bell::new().expect("a bell"));
        let key = hub.subscribe(&bell).expect("a key");
        let another = hub.subscribe(&other).expect("a key");
        let _visitor = visit(&hub, key);
        until_it_rings(&hub, &bell);
        assert!(!is_readable(&other));
        assert!(!is_readable(&hub), "nothing is left to take in");
        assert!(hub.take(&another).is_none());
        assert_eq!(hub.take(&key).expect("it came").hello.key, key);
    }

    #[test]
    fn the_newest_visitor_takes_the_place_of_one_that_nobody_took() {
        let hub = hub();
        let bell = Bell::new().expect("a bell");
        let key = hub.subscribe(&bell).expect("a key");
        let older = visit(&hub, key);
        until_it_rings(&hub, &bell);
        let newer = visit(&hub, key);
        until_it_rings(&hub, &bell);
        let taken = hub.take(&key).expect("it came");
        let port = |address: io::Result<SocketAddr>| address.expect("connected").port();
        assert_eq!(port(taken.socket.peer_addr()), port(newer.local_addr()));
        assert_eq!(heard(older), Some(Word::Refused(NOT_HERE.to_owned())));
        let late = visit(&hub, key);
        while !is_readable(&late) {
            hub.look();
        }
        assert_eq!(heard(late), Some(Word::Refused(NOT_HERE.to_owned())), "the first one was taken");
    }

    #[test]
    fn a_visitor_of_a_closed_mailbox_is_told() {
        let hub = hub();
        let bell = Bell::new().expect("a bell");
        let key = hub.subscribe(&bell).expect("a key");
        let visitor = visit(&hub, key);
        until_it_rings(&hub, &bell);
        hub.unsubscribe(&key);
        assert_eq!(heard(visitor), Some(Word::Refused(NOT_HERE.to_owned())));
    }

    #[test]
    fn a_forked_child_opens_its_own_hub_and_answers_for_no_other() {
        static HUBS: Generations = OnceLock::new();
        let parent = Hub::of(&HUBS, 1).expect("a port");
        assert!(std::ptr::eq(parent, Hub::of(&HUBS, 1).expect("a port")), "one for a process");
        let child = Hub::of(&HUBS, 2).expect("a port");
        assert_ne!(parent.port(), child.port());
        assert!(std::ptr::eq(child, Hub::of(&HUBS, 2).expect("a port")), "one for a process");
        let bell = Bell::new().expect("a bell");
        let key = child.subscribe(&bell).expect("a key");
        child.unsubscribe(&key);
        let _visitor = visit(child, key);
        until_it_rings(child, &bell);
    }

    #[test]
    fn who_says_no_hello_is_turned_away_in_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let _silent = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (socket, _) = listener.accept().expect("it comes");
        socket.set_nonblocking(true).expect("a socket");
        let since = Instant::now();
        let mut stranger = Stranger { socket, said: Vec::new(), since };
        assert!(matches!(stranger.hear(since + MANNERS), Heard::Nothing));
        let later = since + MANNERS + Duration::from_millis(1);
        assert!(matches!(stranger.hear(later), Heard::Enough(why) if why.contains("hello")));
    }
}
