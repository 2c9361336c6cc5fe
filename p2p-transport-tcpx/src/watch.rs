//! What a transport sleeps on: one epoll over the plugin's waiter, the exchange streams, and what comes in
//! for its listeners.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::exchange::hub::{Bell, Hub};

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
    epoll: OwnedFd,
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
        Ok(Self { epoll, bell, hub: None })
    }

    /// The process's hub, which is watched from the first call on.
    pub(crate) fn hub(&mut self) -> io::Result<(&'static Hub, &Bell)> {
        let hub = match self.hub {
            Some(hub) => hub,
            None => {
                let hub = Hub::of_process()?;
                epoll::add(&self.epoll, hub, Source::Hub.data(), EventFlags::IN)?;
                *self.hub.insert(hub)
            }
        };
        Ok((hub, &self.bell))
    }

    /// The hub, if this transport ever listened.
    pub(crate) const fn known_hub(&self) -> Option<&'static Hub> {
        self.hub
    }

    /// Watches the exchange stream of a connection, until it is closed.
    pub(crate) fn add(&self, stream: &impl AsFd, conn: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, stream, Source::Stream(conn).data(), EventFlags::IN)?)
    }

    /// Finds what is readable, without waiting; calls `each` with the connections whose streams are.
    pub(crate) fn look(&self, mut each: impl FnMut(usize)) -> Found {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; MOST];
        let mut found = Found::default();
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&NO_WAIT)) else { return found };
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
