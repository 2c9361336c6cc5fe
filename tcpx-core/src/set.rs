//! Many channels driven by one thread.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::api::registration::Slice;
use crate::api::waiter::Waiter;
use crate::channel::{Channel, Completion, Counters, Post, Release};
use crate::error::{Error, Fault, Misuse, PostError};
use crate::plugin::Plugin;
use std::os::fd::BorrowedFd;

/// Longest sleep without a round, because deadlines of channels are found in rounds.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// A channel of a set. A stale id is refused and never names another channel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ChannelId {
    index: u32,
    generation: u32,
}

/// What a round found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// An operation ended.
    Completed(Completion),
    /// The comm is lost; said once for each channel.
    Failed(Fault),
}

/// How far a round came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Round {
    /// Events handed out.
    pub events: usize,
    /// Channels looked at: those that had work.
    pub visited: usize,
    /// Channels that still have work.
    pub busy: usize,
}

/// How to sleep after a round that found nothing.
#[derive(Debug)]
pub enum Sleep<'a> {
    /// Something moved meanwhile; make another round.
    Not,
    /// Until this descriptor is readable, and at most 100 ms.
    On(BorrowedFd<'a>),
    /// Only polling shows anything: the plugin has nothing to sleep on.
    Poll,
    /// No channel has work: until the next post.
    Idle,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    channel: Option<Channel>,
    /// The channel's fault was handed out.
    told: bool,
}

/// Channels of one plugin with one owner.
///
/// A round visits each channel that has work once; idle channels cost nothing. Where the plugin has the
/// extension, the set can sleep until something may have moved.
///
/// **Sleeping without losing a wake-up.** What moves after the waiter was armed makes its descriptor
/// readable. So: arm, make one more round, and sleep only if that round found nothing.
/// [`prepare_sleep`](Self::prepare_sleep) does the first two, [`wait`](Self::wait) all three.
pub struct ChannelSet {
    plugin: Arc<Plugin>,
    places: Vec<Place>,
    /// One bit for each place: it has work.
    work: Vec<u64>,
    /// After the channels: a comm leaves its waiter when it is closed.
    waiter: Option<Waiter>,
}

impl ChannelSet {
    /// An empty set for channels of `plugin`.
    ///
    /// # Errors
    ///
    /// [`Error::Waiter`] if the plugin has waiters and gives none.
    pub fn new(plugin: Arc<Plugin>) -> Result<Self, Error> {
        let waiter = Waiter::open(plugin.calls()).transpose();
        let waiter = waiter.map_err(|code| waiter_error("opening it", code))?;
        Ok(Self { plugin, places: Vec::new(), work: Vec::new(), waiter })
    }

    /// Takes a channel in.
    ///
    /// # Errors
    ///
    /// [`Misuse::ForeignChannel`] for a channel of another plugin, [`Error::Waiter`] if it cannot be waited
    /// for; the channel is closed then.
    pub fn insert(&mut self, channel: Channel) -> Result<ChannelId, Error> {
        if !Arc::ptr_eq(self.plugin.calls(), channel.comm().shared_calls()) {
            return Err(Misuse::ForeignChannel.into());
        }
        if let Some(waiter) = &self.waiter {
            let code = waiter.attach(channel.comm());
            if !code.is_success() {
                return Err(waiter_error("attaching a comm", code));
            }
        }
        let free = self.places.iter().position(|place| place.channel.is_none());
        let index = free.unwrap_or(self.places.len());
        if free.is_none() {
            self.places.push(Place::default());
            self.work.resize(self.places.len().div_ceil(64), 0);
        }
        let busy = channel.has_work();
        let place = &mut self.places[index];
        place.channel = Some(channel);
        place.told = false;
        let id = ChannelId { index: index as u32, generation: place.generation };
        if busy {
            self.mark(id);
        }
        Ok(id)
    }

    /// Takes a channel out, with everything that is under way on it.
    ///
    /// # Errors
    ///
    /// [`Misuse::StaleChannel`].
    pub fn remove(&mut self, id: ChannelId) -> Result<Channel, Misuse> {
        let channel = self.place(id)?.channel.take().ok_or(Misuse::StaleChannel)?;
        self.place(id)?.generation = id.generation.wrapping_add(1);
        self.clear(id.index as usize);
        Ok(channel)
    }

    /// A channel, for instance to register memory on it. What is posted on it here is visited by rounds as
    /// well.
    ///
    /// # Errors
    ///
    /// [`Misuse::StaleChannel`].
    pub fn channel(&mut self, id: ChannelId) -> Result<&mut Channel, Misuse> {
        // The caller may post; a visit for nothing costs one look.
        self.place(id)?;
        self.mark(id);
        self.place(id)?.channel.as_mut().ok_or(Misuse::StaleChannel)
    }

    /// What a channel has done; `None` for a stale id.
    pub fn counters(&self, id: ChannelId) -> Option<Counters> {
        let place = self.places.get(id.index as usize).filter(|place| place.generation == id.generation)?;
        place.channel.as_ref().map(Channel::counters)
    }

    /// What a channel's plugin says about its sockets; `None` for a stale id, or where it says nothing.
    pub fn describe(&self, id: ChannelId) -> Option<String> {
        let place = self.places.get(id.index as usize).filter(|place| place.generation == id.generation)?;
        place.channel.as_ref()?.describe()
    }

    /// Channels in the set.
    pub fn len(&self) -> usize {
        self.places.iter().filter(|place| place.channel.is_some()).count()
    }

    /// Whether there is no channel in the set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Posts a message; see [`Channel::post_slices`].
    ///
    /// # Errors
    ///
    /// As there; also [`Misuse::StaleChannel`].
    pub fn post(
        &mut self,
        id: ChannelId,
        token: u64,
        slices: &[Slice],
        now: Instant,
    ) -> Result<Post, PostError> {
        let channel = self.place(id)?.channel.as_mut().ok_or(Misuse::StaleChannel)?;
        let post = channel.post_slices(token, slices, now);
        // Also after an error: a fault is reported by the next round.
        self.mark(id);
        post
    }

    /// Posts a message, making rounds over all channels while its window is full, until `deadline`. What
    /// ends meanwhile goes to `sink`. Reads the clock and may sleep.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post), and [`Error::Waiter`]. [`Post::Full`] or [`Post::Busy`] after the deadline.
    pub fn post_within(
        &mut self,
        id: ChannelId,
        token: u64,
        slices: &[Slice],
        deadline: Instant,
        mut sink: impl FnMut(ChannelId, Event),
    ) -> Result<Post, Error> {
        loop {
            let now = Instant::now();
            let post = self.post(id, token, slices, now).map_err(|error| match error {
                PostError::Misuse(misuse) => Error::from(misuse),
                PostError::Fault(fault) => fault.into(),
            })?;
            if now >= deadline {
                return Ok(post);
            }
            match post {
                Post::Accepted => return Ok(post),
                Post::Full => {
                    self.wait(deadline, &mut sink)?;
                }
                // What has to move before the plugin takes it need not end anything.
                Post::Busy => {
                    self.round(now, &mut sink);
                    thread::yield_now();
                }
            }
        }
    }

    /// Visits every channel that has work once: asks about its oldest operation, and releases it if it ended. An
    /// operation that ended reaches its caller before the plugin looks for more, which may take system calls.
    pub fn round(&mut self, now: Instant, mut sink: impl FnMut(ChannelId, Event)) -> Round {
        let mut round = Round::default();
        for word in 0..self.work.len() {
            let mut left = self.work[word];
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                let index = word * 64 + bit;
                round.visited += 1;
                if self.visit(index, now, &mut round, &mut sink) {
                    round.busy += 1;
                } else {
                    self.clear(index);
                }
            }
        }
        round
    }

    /// Whether the channel has work left.
    fn visit(
        &mut self,
        index: usize,
        now: Instant,
        round: &mut Round,
        sink: &mut impl FnMut(ChannelId, Event),
    ) -> bool {
        let place = &mut self.places[index];
        let id = ChannelId { index: index as u32, generation: place.generation };
        let Some(channel) = &mut place.channel else { return false };
        channel.progress_oldest(now);
        // At most the window's content: nothing is posted meanwhile.
        loop {
            let event = match channel.release() {
                Release::Released(completion) => Event::Completed(completion),
                Release::NotYet => return channel.has_work(),
                Release::Failed(_) if place.told => return false,
                Release::Failed(fault) => {
                    place.told = true;
                    Event::Failed(fault)
                }
            };
            round.events += 1;
            sink(id, event);
        }
    }

    /// Arms the waiter and makes one more round: the two steps before sleeping. The caller sleeps on what it
    /// is given, together with descriptors of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Waiter`].
    pub fn prepare_sleep(
        &mut self,
        now: Instant,
        sink: impl FnMut(ChannelId, Event),
    ) -> Result<Sleep<'_>, Error> {
        if let Some(waiter) = &self.waiter {
            let code = waiter.arm();
            if !code.is_success() {
                return Err(waiter_error("arming it", code));
            }
        }
        let Round { events, busy, .. } = self.round(now, sink);
        Ok(match &self.waiter {
            _ if events > 0 => Sleep::Not,
            _ if busy == 0 => Sleep::Idle,
            Some(waiter) => Sleep::On(waiter.file()),
            None => Sleep::Poll,
        })
    }

    /// Makes rounds until one finds something, no channel has work, or `deadline` passes. Reads the clock.
    /// Sleeps where the plugin has waiters, and yields the processor between rounds where it has none.
    ///
    /// # Errors
    ///
    /// [`Error::Waiter`].
    pub fn wait(
        &mut self,
        deadline: Instant,
        mut sink: impl FnMut(ChannelId, Event),
    ) -> Result<Round, Error> {
        loop {
            let now = Instant::now();
            let round = self.round(now, &mut sink);
            if round.events > 0 || round.busy == 0 || now >= deadline {
                return Ok(round);
            }
            let mut events = 0;
            let counted = |id: ChannelId, event: Event| {
                events += 1;
                sink(id, event);
            };
            match self.prepare_sleep(now, counted)? {
                Sleep::On(file) => sleep_on(file, deadline.saturating_duration_since(now))?,
                Sleep::Poll => thread::yield_now(),
                Sleep::Not | Sleep::Idle => {}
            }
            if events > 0 {
                let busy = self.work.iter().map(|word| word.count_ones() as usize).sum();
                return Ok(Round { events, busy, ..round });
            }
        }
    }

    /// The descriptor that becomes readable when something may have moved since the last
    /// [`prepare_sleep`](Self::prepare_sleep); `None` where only polling shows anything.
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.waiter.as_ref().map(Waiter::file)
    }

    fn place(&mut self, id: ChannelId) -> Result<&mut Place, Misuse> {
        let place = self.places.get_mut(id.index as usize);
        place.filter(|place| place.generation == id.generation).ok_or(Misuse::StaleChannel)
    }

    fn mark(&mut self, id: ChannelId) {
        self.work[id.index as usize / 64] |= 1 << (id.index % 64);
    }

    fn clear(&mut self, index: usize) {
        self.work[index / 64] &= !(1 << (index % 64));
    }
}

impl std::fmt::Debug for ChannelSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelSet")
            .field("plugin", &self.plugin)
            .field("channels", &self.len())
            .field("sleeps", &self.waiter.is_some())
            .finish_non_exhaustive()
    }
}

fn waiter_error(what: &str, code: impl std::fmt::Display) -> Error {
    Error::Waiter { reason: format!("{what} answered {code}") }
}

fn sleep_on(file: BorrowedFd<'_>, left: Duration) -> Result<(), Error> {
    let time = left.min(LONGEST_SLEEP);
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&time)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Error::Waiter { reason: format!("poll: {error}") }),
    }
}
