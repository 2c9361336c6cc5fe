//! What a transport sleeps on: one epoll over the plugin's waiter, the exchange streams, and what comes in
//! for its listeners.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::exchange::hub::{Bell, Hub};
use crate::exchange::stream::Stream;

const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Sources that one look finds at most; the others are found by the next one.
const MOST: usize = 64;
/// Data of a stream is its connection's position plus this.
const STREAMS: u64 = 16;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Waiter,
    Bell,
    Hub,
    Stream(usize),
}

impl Source {
    const fn data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Waiter => 0,
            Self::Bell => 1,
            Self::Hub => 2,
            Self::Stream(conn) => STREAMS + conn as u64,
        })
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: Arc<OwnedFd>,
    bell: Bell,
    hub: Option<&'static Hub>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// Something came for a listener of this process.
    pub(crate) visitors: bool,
}

impl Watch {
    /// Watches the plugin's waiter, where it has one.
    pub(crate) fn new(waiter: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Bell::new()?;
        epoll::add(&epoll, &bell, Source::Bell.data(), EventFlags::IN)?;
        if let Some(waiter) = waiter {
            epoll::add(&epoll, waiter, Source::Waiter.data(), EventFlags::IN)?;
        }
        Ok(Self { epoll: Arc::new(epoll), bell, hub: None })
    }

    /// The process's hub, which is watched from the first call on.
    pub(crate) fn hub(&mut self) -> io::Result<(&'static Hub, &Bell)> {
        let hub = match self.hub {
            Some(hub) => hub,
            None => {
                let hub = Hub::of_process()?;
                epoll::add(&*self.epoll, hub, Source::Hub.data(), EventFlags::IN)?;
                *self.hub.insert(hub)
            }
        };
        Ok((hub, &self.bell))
    }

    /// The hub, if this transport ever listened.
    pub(crate) const fn known_hub(&self) -> Option<&'static Hub> {
        self.hub
    }

    /// Watches the exchange stream of a connection, until it is dropped.
    pub(crate) fn add(&self, stream: &Stream, conn: usize) -> io::Result<()> {
        epoll::add(&*self.epoll, stream, Source::Stream(conn).data(), EventFlags::IN)?;
        stream.is_watched_by(&self.epoll);
        Ok(())
    }

    /// Finds what is readable, without waiting; calls `each` with the connections whose streams are.
    pub(crate) fn look(&self, mut each: impl FnMut(usize)) -> Found {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; MOST];
        let mut found = Found::default();
        let Ok((ready, _)) = epoll::wait(&*self.epoll, &mut events, Some(&NO_WAIT)) else { return found };
        for event in ready.iter() {
            match event.data.u64() {
                0 => {}
                1 => {
                    self.bell.hush();
                    found.visitors = true;
                }
                2 => found.visitors = true,
                stream => each((stream - STREAMS) as usize),
            }
        }
        found
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn found(watch: &Watch) -> Vec<usize> {
        let mut found = Vec::new();
        watch.look(|conn| found.push(conn));
        found
    }

    #[test]
    fn a_dropped_stream_is_not_found_although_a_child_holds_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let mut other = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (socket, _) = listener.accept().expect("it comes");
        let stream = Stream::new(socket, Vec::new(), Duration::from_secs(5)).expect("a stream");
        let watch = Watch::new(None).expect("a watch");
        watch.add(&stream, 3).expect("watched");
        let _held = stream.as_fd().try_clone_to_owned().expect("a descriptor");
        other.write_all(b"x").expect("sent");
        while found(&watch).is_empty() {}
        assert_eq!(found(&watch), [3]);
        drop(stream);
        assert_eq!(found(&watch), [0; 0]);
        drop(other);
        assert_eq!(found(&watch), [0; 0]);
    }
}
