//! One exchange stream: words over a TCP connection that never blocks.
//!
//! The end of the stream is the sign of a dead peer: the kernel probes an idle one and gives up on bytes that
//! nobody acknowledges, both within the bound that the transport was made with.
//!
//! A process may **fork** without executing anything else, and the child then holds each descriptor too. So
//! the stream does not leave it to closing to tell the peer of the end, or to stop being watched; and a child
//! that drops what it inherited ends nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::epoll;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::wire::{WireError, Word};

/// Bytes read at once.
const READ_BYTES: usize = 8192;
/// Reads at most of what nobody wants any more.
const LAST_READS: usize = 64;

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The peer's process closed it, or ended.
    #[error("the peer closed the exchange stream")]
    Ended,
    /// The kernel gave it up.
    #[error("the exchange stream broke: {0}")]
    Broken(#[source] io::Error),
    /// The peer says what cannot be said.
    #[error("the peer on the exchange stream is not to be trusted: {0}")]
    Wire(#[from] WireError),
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    /// Received and not taken: less than a frame, and what was read with its end.
    input: Vec<u8>,
    /// Said and not sent.
    output: Vec<u8>,
    /// The peer sends nothing more; what it said is still taken.
    ended: bool,
    watched_by: OnceLock<Arc<OwnedFd>>,
    /// The process that made it.
    process: u32,
}

impl Stream {
    /// Starts to connect, from this address if there is one. It is open when [`is_open`](Self::is_open) says so.
    pub(crate) fn connect(to: SocketAddr, from: Option<IpAddr>, bound: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Self::new(socket.into(), Vec::new(), bound)
    }

    /// A stream that came in, and what was read from it already.
    pub(crate) fn new(socket: TcpStream, input: Vec<u8>, bound: Duration) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_nodelay(true)?;
        let probes = u32::try_from(bound.as_secs()).unwrap_or(u32::MAX).clamp(2, 60) - 1;
        let second = Duration::from_secs(1);
        let keepalive = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(probes);
        options.set_tcp_keepalive(&keepalive)?;
        options.set_tcp_user_timeout(Some(bound))?;
        let (watched_by, process) = (OnceLock::new(), std::process::id());
        Ok(Self { socket, input, output: Vec::new(), ended: false, watched_by, process })
    }

    /// Names the epoll that it leaves at its end.
    pub(crate) fn is_watched_by(&self, epoll: &Arc<OwnedFd>) {
        let _ = self.watched_by.set(epoll.clone());
    }

    /// Whether a connect has succeeded: `None` if it is still on its way.
    pub(crate) fn is_open(&self) -> Option<io::Result<()>> {
        match self.socket.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
        }
        match self.socket.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Where it leads.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// Queues a word and sends what the socket takes.
    pub(crate) fn say(&mut self, word: &Word) {
        word.write(&mut self.output);
        self.flush();
    }

    /// Whether something said has not been sent yet.
    pub(crate) const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what the socket takes. Errors show in [`next`](Self::next).
    pub(crate) fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(sent) if sent > 0 => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// The next word of the peer; `None` if there is none yet.
    pub(crate) fn next(&mut self) -> Result<Option<Word>, StreamError> {
        loop {
            if let Some((word, length)) = Word::read(&self.input)? {
                self.input.drain(..length);
                return Ok(Some(word));
            }
            if self.ended {
                return Err(StreamError::Ended);
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads once; false if there is nothing.
    fn fill(&mut self) -> Result<bool, StreamError> {
        let mut bytes = [0; READ_BYTES];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(read) => self.input.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // Sending on it fails so; what the peer said before may still be read.
            Err(error) => return Err(StreamError::Broken(error)),
        }
        Ok(true)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        if let Some(epoll) = self.watched_by.get() {
            let _ = epoll::delete(epoll, &self.socket);
        }
        self.flush();
        end(&self.socket);
    }
}

/// Ends a socket that does not block. What was sent on it still arrives: not even a forked child that holds
/// it keeps the end from the peer, and nothing is left unread, for which the kernel would break it off.
pub(crate) fn end(mut socket: &TcpStream) {
    if socket.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut bytes = [0; READ_BYTES];
    for _ in 0..LAST_READS {
        match socket.read(&mut bytes) {
            Ok(read) if read > 0 => {}
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let bound = Duration::from_secs(5);
        let stream = Stream::connect(listener.local_addr().expect("bound"), None, bound).expect("loopback");
        let (other, _) = listener.accept().expect("it comes");
        while stream.is_open().is_none() {}
        (stream, other)
    }

    fn wait(stream: &mut Stream) -> Result<Word, StreamError> {
        loop {
            if let Some(word) = stream.next()? {
                return Ok(word);
            }
        }
    }

    #[test]
    fn words_come_whole_however_they_are_cut() {
        let (mut stream, mut other) = pair();
        let words = [Word::Ready, Word::Refused("no".to_owned()), Word::Closing { sent: vec![1, 2] }];
        let mut bytes = Vec::new();
        words.iter().for_each(|word| word.write(&mut bytes));
        for byte in &bytes[..bytes.len() - 1] {
            other.write_all(&[*byte]).expect("sent");
        }
        assert_eq!(wait(&mut stream).expect("good"), words[0]);
        assert_eq!(wait(&mut stream).expect("good"), words[1]);
        assert!(matches!(stream.next(), Ok(None)), "one byte is missing");
        other.write_all(&bytes[bytes.len() - 1..]).expect("sent");
        drop(other);
        assert_eq!(wait(&mut stream).expect("good"), words[2]);
        assert!(matches!(wait(&mut stream), Err(StreamError::Ended)));
    }

    #[test]
    fn garbage_ends_it() {
        let (mut stream, mut other) = pair();
        other.write_all(&[0xff; 64]).expect("sent");
        assert!(matches!(wait(&mut stream), Err(StreamError::Wire(WireError::Length(_)))));
    }

    /// What a forked child holds of a stream.
    fn held_by_a_child(stream: &Stream) -> OwnedFd {
        stream.as_fd().try_clone_to_owned().expect("a descriptor")
    }

    #[test]
    fn the_peer_gets_the_last_word_and_the_end_although_a_child_holds_the_stream() {
        let (mut stream, mut other) = pair();
        let _held = held_by_a_child(&stream);
        other.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        stream.say(&Word::Received);
        drop(stream);
        let (mut said, mut expected) = (Vec::new(), Vec::new());
        Word::Received.write(&mut expected);
        other.read_to_end(&mut said).expect("the end comes");
        assert_eq!(said, expected);
    }

    #[test]
    fn what_was_sent_arrives_although_something_was_left_unread() {
        let (mut stream, mut other) = pair();
        let mut said = 0;
        while !stream.has_output() {
            let word = Word::Refused("x".repeat(1000));
            let mut bytes = Vec::new();
            word.write(&mut bytes);
            said += bytes.len();
            stream.say(&word);
        }
        said -= stream.output.len();
        stream.output.clear();
        other.write_all(b"unread").expect("sent");
        while stream.socket.peek(&mut [0; 6]).unwrap_or(0) < 6 {}
        drop(stream);
        other.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let mut heard = Vec::new();
        other.read_to_end(&mut heard).expect("it is not broken off");
        assert_eq!(heard.len(), said);
    }

    #[test]
    fn a_child_that_drops_it_does_not_end_it() {
        let (mut stream, other) = pair();
        let held = held_by_a_child(&stream);
        stream.process += 1;
        drop(stream);
        let mut held = TcpStream::from(held);
        held.write_all(b"alive").expect("it is open");
        let mut heard = [0; 5];
        (&other).read_exact(&mut heard).expect("it comes");
        assert_eq!(&heard, b"alive");
    }

    #[test]
    fn a_refused_connect_is_an_error() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let at = listener.local_addr().expect("bound");
        drop(listener);
        let result = match Stream::connect(at, None, Duration::from_secs(5)) {
            Ok(stream) => loop {
                if let Some(result) = stream.is_open() {
                    break result;
                }
            },
            Err(error) => Err(error),
        };
        assert_eq!(result.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    }
}
