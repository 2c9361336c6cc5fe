//! The fastest plain TCP program we know to write: the baseline of every comparison.
//!
//! Two processes hold its two ends, joined by a control stream that the caller has opened. [`Sender`]
//! decides and asks; [`Receiver::serve`] does what the sender asks until the sender pauses. A message is
//! cut into one part for each socket; each socket has a thread at each end. A part is acknowledged on its
//! socket when it has arrived in full, and a message is over when all its parts are acknowledged. At most
//! [`Plan::in_flight`] messages are under way, over all sockets together.
//!
//! Which [`Layout`] is fastest depends on the machine, its state and the congestion control, so the sender
//! opens all that make sense and [`Sender::qualify`] picks the one to compare with.

mod lane;
mod layout;
mod ping_pong;
mod sockets;
mod talk;

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::working_set::WorkingSet;
use crate::{cores, cpu_time};
use lane::Flight;
use sockets::Opened;
use talk::{Report, Request, Talk};

pub use layout::{Drive, Layout};
pub use ping_pong::MESSAGE as PING_BYTES;
pub use sockets::IO_TIMEOUT;

/// What both ends have to agree on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Congestion control of the data sockets, set before anything is connected; `None` is the system's.
    pub congestion: Option<String>,
    /// Bytes that each end rotates over.
    pub working_set: usize,
    /// Messages under way at most.
    pub in_flight: usize,
    /// Whether both ends run on the same cores, so that a lane can have both its ends on one.
    pub same_host: bool,
}

/// What one round did.
#[derive(Clone, Debug)]
pub struct Round {
    /// Bytes of all messages.
    pub bytes: u64,
    /// From the first byte handed over until the last acknowledgement, seen by the sender.
    pub sender_time: Duration,
    /// From the request until the last byte, seen by the receiver.
    pub receiver_time: Duration,
    /// CPU time of the sender's process.
    pub sender_cpu: Duration,
    /// CPU time of the receiver's process.
    pub receiver_cpu: Duration,
}

impl Round {
    /// Throughput seen by the sender, in GB/s.
    pub fn gigabytes_per_second(&self) -> f64 {
        crate::statistics::gigabytes_per_second(self.bytes, self.sender_time)
    }
}

/// The end that sends, measures and decides.
#[derive(Debug)]
pub struct Sender {
    talk: Talk,
    opened: Vec<Opened>,
    set: WorkingSet,
    in_flight: usize,
    /// Messages sent so far by any layout; both ends rotate by it.
    next: u64,
}

/// The end that receives what the sender asks it to.
#[derive(Debug)]
pub struct Receiver {
    talk: Talk,
    opened: Vec<Opened>,
    set: WorkingSet,
    next: u64,
}

impl Receiver {
    /// Opens the receiving ends, on the address on which the control stream arrived.
    ///
    /// # Errors
    ///
    /// The congestion control is unknown or not allowed, the sender does not connect within
    /// [`IO_TIMEOUT`], or another error of the sockets.
    pub fn open(control: &TcpStream, plan: &Plan) -> io::Result<Self> {
        let mut talk = Talk::new(control)?;
        let layouts = talk.receive_layouts()?;
        let opened = sockets::accept(&mut talk, layouts, plan.congestion.as_deref())?;
        Ok(Self { talk, opened, set: WorkingSet::new(plan.working_set), next: 0 })
    }

    /// Does what the sender asks for until it pauses.
    ///
    /// # Errors
    ///
    /// The sender ended or was silent for [`IO_TIMEOUT`], or another error of the sockets.
    pub fn serve(&mut self) -> io::Result<()> {
        loop {
            match self.talk.request()? {
                Request::Pause => return Ok(()),
                Request::PingPong { messages } => self.echo(messages)?,
                Request::Round { layout, messages, message } => self.round(layout, messages, message)?,
            }
        }
    }

    fn round(&mut self, layout: usize, messages: u64, message: usize) -> io::Result<()> {
        let opened =
            self.opened.get(layout).ok_or_else(|| talk::broken("asked for a layout it did not open"))?;
        if message == 0 || message > self.set.bytes().len() {
            return Err(talk::broken("asked for a message larger than the working set"));
        }
        let cpu = cpu_time::process();
        let begin = Instant::now();
        let mut parts = layout::parts_mut(self.set.bytes_mut(), message, opened.sockets.len());
        let first = self.next;
        let talk = &mut self.talk;
        lane::all(
            opened,
            &mut parts,
            || talk.ready(),
            |_, socket, parts, layout| lane::receive(socket, parts, first, messages, layout),
        )?;
        let report = Report { time: begin.elapsed(), cpu: cpu_time::process().saturating_sub(cpu) };
        self.next += messages;
        self.talk.report(report)
    }

    fn echo(&mut self, messages: u64) -> io::Result<()> {
        let socket = sockets::first(&self.opened)?;
        self.talk.ready()?;
        ping_pong::echo(socket, messages)
    }
}

impl Sender {
    /// Opens the sending ends of every layout that makes sense on this machine.
    ///
    /// # Errors
    ///
    /// As [`Receiver::open`].
    pub fn open(control: &TcpStream, plan: &Plan) -> io::Result<Self> {
        Self::open_layouts(control, plan, &Layout::candidates(&cores::allowed()?, plan.same_host))
    }

    /// Opens the sending ends of these layouts.
    ///
    /// # Errors
    ///
    /// As [`Receiver::open`].
    pub fn open_layouts(control: &TcpStream, plan: &Plan, layouts: &[Layout]) -> io::Result<Self> {
        let mut talk = Talk::new(control)?;
        talk.send_layouts(layouts)?;
        let opened = sockets::connect(&mut talk, layouts.to_vec(), plan.congestion.as_deref())?;
        let set = WorkingSet::new(plan.working_set);
        Ok(Self { talk, opened, set, in_flight: plan.in_flight.max(1), next: 0 })
    }

    /// The layouts that were opened, in the order of their numbers.
    pub fn layouts(&self) -> Vec<Layout> {
        self.opened.iter().map(|opened| opened.layout.clone()).collect()
    }

    /// The congestion control that the data sockets have, read back from one of them.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub fn congestion(&self) -> io::Result<String> {
        Ok(rustix::net::sockopt::tcp_congestion(sockets::first(&self.opened)?)?)
    }

    /// Moves `messages` messages of `message` bytes over layout number `layout`.
    ///
    /// # Errors
    ///
    /// The receiver ended or was silent for [`IO_TIMEOUT`], or another error of the sockets.
    ///
    /// # Panics
    ///
    /// There is no such layout, or a message is empty or larger than the working set.
    pub fn round(&mut self, layout: usize, messages: u64, message: usize) -> io::Result<Round> {
        self.round_with(layout, messages, message, self.in_flight)
    }

    /// As [`round`](Self::round), with this many messages under way instead of those of the plan; at least one.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn round_with(
        &mut self,
        layout: usize,
        messages: u64,
        message: usize,
        in_flight: usize,
    ) -> io::Result<Round> {
        assert!(message > 0 && message <= self.set.bytes().len(), "{message} bytes do not fit");
        let opened = &self.opened[layout];
        self.talk.ask(&Request::Round { layout, messages, message })?;
        let mut parts = layout::parts(self.set.bytes(), message, opened.sockets.len());
        let flight = Flight::new(opened.sockets.len(), in_flight.max(1));
        let (first, talk) = (self.next, &mut self.talk);
        let mut start = None;
        let started = &mut start;
        lane::all(
            opened,
            &mut parts,
            || {
                talk.await_ready()?;
                *started = Some((Instant::now(), cpu_time::process()));
                Ok(())
            },
            |lane, socket, parts, layout| {
                flight.guard(|| lane::send(socket, parts, first, messages, layout, (&flight, lane)))
            },
        )?;
        let (begin, cpu) = start.ok_or_else(|| talk::broken("never got ready"))?;
        let (sender_time, sender_cpu) = (begin.elapsed(), cpu_time::process().saturating_sub(cpu));
        self.next += messages;
        let Report { time: receiver_time, cpu: receiver_cpu } = self.talk.read_report()?;
        let bytes = messages * message as u64;
        Ok(Round { bytes, sender_time, receiver_time, sender_cpu, receiver_cpu })
    }

    /// Tries every layout for about `time` each and gives their numbers, the fastest first, with GB/s.
    ///
    /// # Errors
    ///
    /// As [`round`](Self::round).
    ///
    /// # Panics
    ///
    /// As [`round`](Self::round).
    pub fn qualify(&mut self, message: usize, time: Duration) -> io::Result<Vec<(usize, f64)>> {
        self.qualify_with(message, self.in_flight as u64 + 1, self.in_flight, time)
    }

    /// As [`qualify`](Self::qualify), with this many messages in a round and under way instead of those of the plan.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn qualify_with(
        &mut self,
        message: usize,
        messages: u64,
        in_flight: usize,
        time: Duration,
    ) -> io::Result<Vec<(usize, f64)>> {
        let mut found = Vec::with_capacity(self.opened.len());
        for layout in 0..self.opened.len() {
            let mut best = 0.0_f64;
            let begin = Instant::now();
            // The first messages of fresh sockets are slow, so the fastest of several short rounds counts.
            while begin.elapsed() < time || best == 0.0 {
                let round = self.round_with(layout, messages, message, in_flight)?;
                best = best.max(round.gigabytes_per_second());
            }
            found.push((layout, best));
        }
        found.sort_by(|one, other| other.1.total_cmp(&one.1));
        Ok(found)
    }

    /// Round trips of `messages` messages of [`PING_BYTES`] bytes, both ends polling without blocking in the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// As [`round`](Self::round).
    pub fn ping_pong(&mut self, messages: u64) -> io::Result<crate::statistics::Latencies> {
        self.talk.ask(&Request::PingPong { messages })?;
        self.talk.await_ready()?;
        ping_pong::call(sockets::first(&self.opened)?, messages)
    }

    /// Lets the receiver return from [`Receiver::serve`].
    ///
    /// # Errors
    ///
    /// The control stream is broken.
    pub fn pause(&mut self) -> io::Result<()> {
        self.talk.ask(&Request::Pause)
    }
}

#[cfg(test)]
mod tests;
