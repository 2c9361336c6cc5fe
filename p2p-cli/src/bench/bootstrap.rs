//! The stream over which the ends find each other and agree: frames of a length and JSON.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Doing, Failure};

/// Longest frame; a wrong program on the port must not make this one allocate what it says.
const LONGEST: u32 = 1 << 20;
/// Longest silence of a peer that works: a pass takes seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long who comes to the server may take for the first word.
const MANNERS: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(50);

/// The stream to the other end.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
}

/// The server's port, taken.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

impl Door {
    /// Takes the port on `address`, or on all addresses.
    pub(crate) fn open(address: Option<IpAddr>, port: u16) -> Result<Self, Failure> {
        let all = || {
            let every = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            // A machine without IPv6.
            match TcpListener::bind(every) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                }
                bound => bound,
            }
        };
        let listener = address.map_or_else(all, |address| TcpListener::bind((address, port)));
        let listener = listener.map_err(|error| cannot_bind(address, port, &error))?;
        let address = listener.local_addr().doing("asking for the bootstrap address")?;
        listener.set_nonblocking(true).doing("preparing the bootstrap port")?;
        Ok(Self { listener, address })
    }

    /// Its number.
    pub(super) const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits for the client, which is who says a first word that is one. Who else comes, such as a scan of
    /// ports, is sent away.
    pub(crate) fn accept<T: DeserializeOwned>(self, patience: Duration) -> Result<(Peer, T), Failure> {
        let mut strangers = Strangers::default();
        let came = self.come(Instant::now() + patience, &mut strangers)?;
        came.ok_or_else(|| {
            Failure::peer(format!(
                "no client came to {} within {} s{strangers}; start one with --role client --peer <this host>, or \
                 allow more time with UCCL_TCPX_CONNECT_TIMEOUT_SECONDS",
                self.address,
                patience.as_secs()
            ))
        })
    }

    /// The next who comes and says a first word that is one. `None` after the deadline.
    pub(crate) fn come<T: DeserializeOwned>(
        &self,
        deadline: Instant,
        strangers: &mut Strangers,
    ) -> Result<Option<(Peer, T)>, Failure> {
        loop {
            match self.listener.accept() {
                Ok((stream, from)) => match Peer::welcome(stream, deadline.min(Instant::now() + MANNERS)) {
                    Ok(found) => return Ok(Some(found)),
                    Err(failure) => {
                        strangers.last = Some(format!("{from} came and was sent away: {failure}"))
                    }
                },
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::ConnectionAborted]
                        .contains(&error.kind()) => {}
                Err(error) => return Err(error).doing("waiting for the other processes"),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Who came to a door and was sent away.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    last: Option<String>,
}

impl fmt::Display for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.last.as_ref().map_or(Ok(()), |stranger| write!(f, " ({stranger})"))
    }
}

/// What is wrong with the address or the port.
fn cannot_bind(address: Option<IpAddr>, port: u16, error: &io::Error) -> Failure {
    let place = address.map_or_else(String::new, |address| format!(" of {address}"));
    let mend = if error.kind() == io::ErrorKind::AddrInUse {
        "end what uses it, or choose another with UCCL_TCPX_BOOTSTRAP_PORT_BASE"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "this user may not take it, so choose a higher one with UCCL_TCPX_BOOTSTRAP_PORT_BASE"
    } else if address.is_some() {
        "give --listen an address that this machine has (ip address lists them), or leave it out"
    } else {
        "see whether this machine has a network"
    };
    Failure::new(format!("bootstrap port {port}{place} cannot be taken: {error}; {mend}"))
}

impl Peer {
    /// Connects to the server, again and again until `patience` ends: it may still be starting.
    pub(crate) fn find(host: &str, port: u16, patience: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        // A name that is unknown now is a wrong one, which waiting does not mend.
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|error| {
                Failure::new(format!(
                    "--peer {host}: {error}; give a host name or address that this machine knows"
                ))
            })?
            .collect();
        loop {
            let error = match Self::try_once(&addresses, deadline) {
                Ok(stream) => return Self::new(stream),
                Err(error) => error,
            };
            if Instant::now() + RETRY >= deadline {
                return Err(Failure::peer(format!(
                    "no server at {host} port {port} within {} s ({error}); start one there with --role server, or \
                     allow more time with UCCL_TCPX_CONNECT_TIMEOUT_SECONDS",
                    patience.as_secs()
                )));
            }
            thread::sleep(RETRY);
        }
    }

    fn try_once(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now()).max(POLL);
            match TcpStream::connect_timeout(address, left) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Hears the first word of who came.
    fn welcome<T: DeserializeOwned>(stream: TcpStream, deadline: Instant) -> Result<(Self, T), Failure> {
        stream.set_nonblocking(false).doing("preparing the bootstrap stream")?;
        let peer = Self::new(stream)?;
        let word = hear(&mut Until { stream: &peer.stream, deadline })?;
        peer.stream.set_read_timeout(Some(SILENCE)).doing("preparing the bootstrap stream")?;
        Ok((peer, word))
    }

    fn new(stream: TcpStream) -> Result<Self, Failure> {
        stream.set_nodelay(true).doing("preparing the bootstrap stream")?;
        stream.set_read_timeout(Some(SILENCE)).doing("preparing the bootstrap stream")?;
        stream.set_write_timeout(Some(SILENCE)).doing("preparing the bootstrap stream")?;
        Ok(Self { stream })
    }

    /// The stream itself, for the plain TCP baseline, which speaks on it while nobody else does.
    pub(crate) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// How long the other end may be silent from here on.
    pub(crate) fn set_silence(&self, time: Duration) -> Result<(), Failure> {
        self.stream.set_read_timeout(Some(time)).doing("preparing the bootstrap stream")
    }

    pub(crate) fn say(&mut self, word: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_vec(word).map_err(|error| Failure::new(format!("writing a frame: {error}")))?;
        let mut frame = (text.len() as u32).to_le_bytes().to_vec();
        frame.extend(text);
        self.stream.write_all(&frame).doing("writing to it")
    }

    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        hear(&mut self.stream)
    }
}

/// Reads until a time, however little each read brings.
struct Until<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(bytes)
    }
}

fn hear<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, Failure> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).doing("waiting for its word")?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(Failure::peer(strange("it announces a frame of impossible length")));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).doing("waiting for the rest of its word")?;
    serde_json::from_slice(&text).map_err(|error| Failure::peer(strange(&error.to_string())))
}

fn strange(why: &str) -> String {
    format!("what answers at the bootstrap port is no p2p bench of this version: {why}")
}

#[cfg(test)]
mod tests {
    use super::{Door, MANNERS, Peer};
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpStream};
    use std::thread;
    use std::time::{Duration, Instant};

    const HERE: Option<std::net::IpAddr> = Some(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn door() -> (Door, u16) {
        let door = Door::open(HERE, 0).expect("any port");
        let port = door.address.port();
        (door, port)
    }

    #[test]
    fn words_arrive_as_they_were_said() {
        let (door, port) = door();
        let there = thread::spawn(move || {
            let mut peer = Peer::find("127.0.0.1", port, Duration::from_secs(5)).expect("it listens");
            peer.say(&(7, "text")).expect("it hears");
            peer.hear::<Vec<u8>>().expect("it answers")
        });
        let (mut peer, word) = door.accept::<(u8, String)>(Duration::from_secs(5)).expect("it comes");
        assert_eq!(word, (7, "text".to_owned()));
        peer.say(&[1, 2, 3]).expect("it hears");
        assert_eq!(there.join().expect("no panic"), [1, 2, 3]);
    }

    #[test]
    fn a_busy_port_is_named_with_its_mend() {
        let (_door, port) = door();
        let text = Door::open(HERE, port).expect_err("taken").to_string();
        assert!(text.contains(&port.to_string()) && text.contains("UCCL_TCPX_BOOTSTRAP_PORT_BASE"), "{text}");
    }

    #[test]
    fn who_never_comes_is_waited_for_only_so_long() {
        let (door, port) = door();
        let text = door.accept::<u8>(Duration::from_millis(20)).expect_err("nobody").to_string();
        assert!(text.contains("no client came"), "{text}");
        let text = Peer::find("127.0.0.1", port, Duration::from_millis(100)).expect_err("nobody").to_string();
        assert!(text.contains("no server at 127.0.0.1"), "{text}");
    }

    #[test]
    fn a_stranger_is_refused_without_allocating_what_it_says() {
        let (door, port) = door();
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        let text = door.accept::<u8>(Duration::from_millis(200)).expect_err("no frame").to_string();
        assert!(text.contains("no client came") && text.contains("no p2p bench"), "{text}");
    }

    #[test]
    fn strangers_do_not_keep_the_client_out() {
        let (door, port) = door();
        let come = || TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        drop(come());
        let mut wrong = come();
        wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        let _silent = come();
        let there = thread::spawn(move || {
            let mut peer = Peer::find("127.0.0.1", port, Duration::from_secs(5)).expect("it listens");
            peer.say(&7).expect("it hears");
            peer.hear::<u8>().expect("it answers")
        });
        let (mut peer, word) = door.accept::<u8>(Duration::from_secs(60)).expect("it comes");
        assert_eq!(word, 7);
        peer.say(&8).expect("it hears");
        assert_eq!(there.join().expect("no panic"), 8);
    }

    #[test]
    fn who_drips_is_not_heard_for_longer() {
        let (door, port) = door();
        let dripping = thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.write_all(&200_u32.to_le_bytes()).expect("sent");
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let begin = Instant::now();
        door.accept::<Vec<u8>>(Duration::from_millis(300)).expect_err("no word");
        assert!(begin.elapsed() < MANNERS, "{:?}", begin.elapsed());
        dripping.join().expect("no panic");
    }

    #[test]
    fn an_address_of_another_machine_is_what_is_said_to_be_wrong() {
        let text = Door::open(Some(Ipv4Addr::new(192, 0, 2, 1).into()), 0).expect_err("not here").to_string();
        assert!(
            text.contains("192.0.2.1") && text.contains("--listen") && !text.contains("end what"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_host_is_not_tried_again() {
        let begin = Instant::now();
        let text =
            Peer::find("nonexistent.invalid", 1, Duration::from_secs(300)).expect_err("unknown").to_string();
        assert!(text.contains("--peer nonexistent.invalid"), "{text}");
        assert!(begin.elapsed() < Duration::from_secs(100), "{:?}", begin.elapsed());
    }
}
