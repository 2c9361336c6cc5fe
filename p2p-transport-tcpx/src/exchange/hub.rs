//! The one listening socket of a process, behind all listeners of all its transports.
//!
//! A stream that comes in says in its hello which listener it wants. Whichever transport looks first takes
//! it in and puts it into the mailbox of the transport it is for, whose bell then rings.
//!
//! **Strangers** cost a place among [`MOST_STRANGERS`] until they have said hello, or until
//! [`MANNERS`] has passed; the oldest makes room for the newest. A hello for a listener that is not there is
//! answered and forgotten.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{Hello, Key, MAX_HELLO, Word};

/// Streams that have not said hello, at most.
const MOST_STRANGERS: usize = 64;
/// How long a stream may take to say hello.
const MANNERS: Duration = Duration::from_secs(10);
/// Streams taken in by one look.
const MOST_AT_ONCE: usize = 32;
/// Connections that the kernel holds for us.
const BACKLOG: i32 = 512;

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
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    listener: TcpListener,
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

static HUB: OnceLock<Hub> = OnceLock::new();

impl Hub {
    /// The hub of this process, opened by the first caller.
    pub(crate) fn of_process() -> io::Result<&'static Self> {
        if let Some(hub) = HUB.get() {
            return Ok(hub);
        }
        let hub = Self::open()?;
        Ok(HUB.get_or_init(|| hub))
    }

    fn open() -> io::Result<Self> {
        let listener = listen()?;
        let port = listener.local_addr()?.port();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(0), EventFlags::IN)?;
        let inside = Inside { listener, strangers: Vec::new(), mailboxes: Vec::new() };
        Ok(Self { epoll, port, inside: Mutex::new(inside) })
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
        self.inside().mailboxes.retain(|mailbox| mailbox.key != *key);
    }

    /// Takes in what has come, for anybody.
    pub(crate) fn look(&self, now: Instant) {
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
        for _ in 0..MOST_AT_ONCE {
            let Ok((socket, _)) = self.listener.accept() else { return };
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            // It leaves again by being closed or, as a visitor, in `hear`.
            if epoll::add(epoll, &socket, EventData::new_u64(1), EventFlags::IN).is_err() {
                continue;
            }
            if self.strangers.len() == MOST_STRANGERS {
                self.strangers.remove(0);
            }
            self.strangers.push(Stranger { socket, said: Vec::new(), since: now });
        }
    }

    fn hear(&mut self, epoll: &OwnedFd, now: Instant) {
        let mut at = 0;
        while let Some(stranger) = self.strangers.get_mut(at) {
            match stranger.hear(now) {
                Heard::Nothing => at += 1,
                Heard::Enough(why) => {
                    let stranger = self.strangers.remove(at);
                    tracing::debug!(peer = ?stranger.socket.peer_addr().ok(), "a stream was turned away: {why}");
                    stranger.answer(why);
                }
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
        let wanted = |mailbox: &&mut Mailbox| mailbox.key == visitor.hello.key && mailbox.visitor.is_none();
        if let Some(mailbox) = self.mailboxes.iter_mut().find(wanted) {
            mailbox.visitor = Some(visitor);
            mailbox.bell.ring();
        } else {
            refuse(visitor.socket, NOT_HERE);
        }
    }
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
    fn answer(self, why: String) {
        if self.said.get(5..9) == Some(b"UP2X") {
            refuse(self.socket, &why);
        }
    }
}

fn refuse(mut socket: TcpStream, why: &str) {
    let mut bytes = Vec::new();
    Word::Refused(why.to_owned()).write(&mut bytes);
    // An empty socket takes so few bytes whole; if not, its end says enough.
    let _ = socket.write(&bytes);
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
