//! One connection.

use std::collections::VecDeque;
use std::io::{ErrorKind as Io, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use p2p_memory::HostView;
use p2p_transport::{
    ConnId, Error, ErrorKind, Event, Events, Limits, Now, Op, OpFault, Outcome, Regions, Slice, Stop, Token,
};

use crate::{BOUND, NIC, system};

const SLICES: usize = 6;
const WINDOW: u16 = 5;
const MAX_MESSAGE: u32 = 100_000;
/// Bytes received ahead of their receives; the rest waits in the kernel, and then at the peer.
const AHEAD: usize = 1 << 18;
const HEAD: usize = 4;

#[derive(Clone, Copy)]
struct Work {
    token: Token,
    slices: [Option<Slice>; SLICES],
    len: u32,
    /// Bytes moved, of a send those of its head included.
    moved: usize,
    sends: bool,
}

enum Stage {
    Accepting(UnixListener),
    /// The peer has to say a byte when it accepts.
    Connecting,
    Open,
    Over,
}

pub(crate) struct Pipe {
    id: ConnId,
    stage: Stage,
    stream: Option<UnixStream>,
    connected: bool,
    greeted: bool,
    deadline: Option<Now>,
    peer_gone: bool,
    why: Option<Error>,
    limits: Limits,
    sends: VecDeque<Work>,
    recvs: VecDeque<Work>,
    ended: VecDeque<(Work, Outcome)>,
    held: [u16; 2],
    ahead: VecDeque<u8>,
    /// Bytes of the message at the front of `ahead` that are still to come out, once its head did.
    message: Option<(u32, u32)>,
}

impl Pipe {
    fn new(id: ConnId, stage: Stage, stream: Option<UnixStream>) -> Self {
        let mut limits = Limits::new(MAX_MESSAGE, WINDOW, WINDOW);
        limits.max_slices = SLICES as u16;
        // What is refused at once overtakes what is under way.
        limits.fifo = false;
        let window = usize::from(WINDOW);
        Self {
            id,
            stage,
            stream,
            connected: false,
            greeted: false,
            deadline: None,
            peer_gone: false,
            why: None,
            limits,
            sends: VecDeque::with_capacity(window),
            recvs: VecDeque::with_capacity(window),
            ended: VecDeque::with_capacity(2 * window),
            held: [0; 2],
            ahead: VecDeque::with_capacity(AHEAD),
            message: None,
        }
    }

    pub(crate) fn accepting(id: ConnId, listener: UnixListener) -> Self {
        Self::new(id, Stage::Accepting(listener), None)
    }

    pub(crate) fn connecting(id: ConnId, stream: Result<UnixStream, Error>) -> Self {
        match stream {
            Ok(stream) => Self::new(id, Stage::Connecting, Some(stream)),
            Err(error) => {
                let mut pipe = Self::new(id, Stage::Over, None);
                pipe.why = Some(error);
                pipe
            }
        }
    }

    pub(crate) fn limits(&self) -> Option<&Limits> {
        self.connected.then_some(&self.limits)
    }

    pub(crate) const fn why(&self) -> Option<&Error> {
        self.why.as_ref()
    }

    pub(crate) fn into_why(self) -> Option<Error> {
        self.why
    }

    /// Whether everything but `Closed` was reported.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over) && self.ended.is_empty()
    }

    pub(crate) fn end(&mut self, why: Option<Error>) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        (self.stage, self.stream, self.why) = (Stage::Over, None, why);
        let lost = self.sends.drain(..).chain(self.recvs.drain(..));
        self.ended.extend(lost.map(|work| (work, Outcome::ConnLost)));
    }

    pub(crate) fn take(&mut self, regions: &mut Regions<()>, op: &Op<'_>) -> Option<Stop> {
        let sends = matches!(op, Op::Send { .. });
        match self.stage {
            Stage::Over => return Some(Stop::Closed),
            Stage::Accepting(_) | Stage::Connecting => return Some(Stop::Busy),
            Stage::Open => {}
        }
        if !self.connected || self.held[usize::from(sends)] == WINDOW {
            return Some(Stop::Busy);
        }
        self.held[usize::from(sends)] += 1;
        let mut work = Work { token: op.token(), slices: [None; SLICES], len: 0, moved: 0, sends };
        match regions.hold(NIC, op.slices(), self.limits.max_slices, MAX_MESSAGE) {
            Err(fault) => self.ended.push_back((work, Outcome::Failed(fault))),
            Ok(len) => {
                work.len = len;
                for (to, from) in work.slices.iter_mut().zip(op.slices()) {
                    *to = Some(*from);
                }
                if sends { &mut self.sends } else { &mut self.recvs }.push_back(work);
            }
        }
        None
    }

    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        // The receive at the front has started once the head of its message was read.
        let receiving = usize::from(self.message.is_some());
        for (list, started) in [(&mut self.sends, 0), (&mut self.recvs, receiving)] {
            let is = |work: &Work| work.token == token && work.moved == 0;
            let found = list.iter().rposition(is).filter(|at| *at >= started);
            if let Some(work) = found.and_then(|at| list.remove(at)) {
                self.ended.push_back((work, Outcome::Cancelled));
                return true;
            }
        }
        false
    }

    pub(crate) fn progress(&mut self, now: Now, regions: &Regions<()>, scratch: &mut [u8]) {
        match &self.stage {
            Stage::Over => return,
            Stage::Open => {}
            Stage::Accepting(listener) => match listener.accept() {
                Ok((mut stream, _)) => {
                    let ready = stream.set_nonblocking(true).and_then(|()| stream.write_all(&[1]));
                    match ready {
                        Ok(()) => (self.stage, self.stream) = (Stage::Open, Some(stream)),
                        Err(error) => self.end(Some(system("accept", error))),
                    }
                }
                Err(error) if error.kind() == Io::WouldBlock => {}
                Err(error) => self.end(Some(system("accept", error))),
            },
            Stage::Connecting => match self.stream.as_mut().map(|stream| stream.read(&mut scratch[..1])) {
                Some(Ok(1)) => self.stage = Stage::Open,
                Some(Err(error)) if error.kind() == Io::WouldBlock => {}
                _ => self.end(Some(Error::new(ErrorKind::Conn, "connect", "nobody accepts there"))),
            },
        }
        if matches!(self.stage, Stage::Open) {
            self.deadline = self.deadline.filter(|_| self.greeted && self.peer_gone);
            self.greeted = true;
            self.send(regions, scratch);
            self.receive(scratch);
            self.place(regions, scratch);
            if self.peer_gone && self.ahead.is_empty() && self.message.is_none() {
                self.end(Some(Error::new(ErrorKind::Conn, "poll", "the peer has gone")));
            }
        }
        let waits = !matches!(self.stage, Stage::Open) || self.peer_gone;
        if waits && now >= *self.deadline.get_or_insert(now.after(BOUND)) {
            self.end(Some(Error::new(ErrorKind::Conn, "poll", "the peer has not come, or has gone")));
        }
    }

    fn send(&mut self, regions: &Regions<()>, scratch: &mut [u8]) {
        let Some(stream) = self.stream.as_mut() else { return };
        while let Some(work) = self.sends.front_mut() {
            if work.moved < HEAD {
                // Of four bytes a pipe takes all or nothing in practice, but it need not.
                match stream.write(&work.len.to_le_bytes()[work.moved..]) {
                    Ok(count) => work.moved += count,
                    Err(_) => return,
                }
                continue;
            }
            let done = work.moved - HEAD;
            let count = gather(regions, work, done, scratch);
            if count > 0 {
                match stream.write(&scratch[..count]) {
                    Ok(count) => work.moved += count,
                    Err(_) => return,
                }
            }
            if work.moved - HEAD == work.len as usize {
                let outcome = Outcome::Done { len: work.len };
                self.ended.extend(self.sends.pop_front().map(|work| (work, outcome)));
            }
        }
    }

    fn receive(&mut self, scratch: &mut [u8]) {
        let Some(stream) = self.stream.as_mut() else { return };
        let room = (AHEAD - self.ahead.len()).min(scratch.len());
        if room == 0 || self.peer_gone {
            return;
        }
        match stream.read(&mut scratch[..room]) {
            Ok(0) => self.peer_gone = true,
            Ok(count) => self.ahead.extend(&scratch[..count]),
            Err(error) => self.peer_gone |= !matches!(error.kind(), Io::WouldBlock | Io::Interrupted),
        }
    }

    fn place(&mut self, regions: &Regions<()>, scratch: &mut [u8]) {
        while let Some(work) = self.recvs.front_mut() {
            if self.message.is_none() {
                if self.ahead.len() < HEAD {
                    break;
                }
                let mut head = [0; HEAD];
                take(&mut self.ahead, &mut head);
                let len = u32::from_le_bytes(head);
                self.message = Some((len, len));
            }
            let Some((len, left)) = self.message.as_mut() else { break };
            let count = scratch.len().min(*left as usize).min(self.ahead.len());
            let piece = &mut scratch[..count];
            take(&mut self.ahead, piece);
            if *len <= work.len {
                scatter(regions, work, work.moved, piece);
            }
            work.moved += count;
            *left -= count as u32;
            if *left > 0 && count == 0 {
                break;
            }
            if *left == 0 {
                let fits = *len <= work.len;
                let done = Outcome::Done { len: *len };
                let outcome = if fits { done } else { Outcome::Failed(OpFault::Truncated) };
                self.message = None;
                self.ended.extend(self.recvs.pop_front().map(|work| (work, outcome)));
            }
        }
        if self.peer_gone && self.message.is_some() && self.ahead.is_empty() {
            // Its end will never come.
            self.message = None;
        }
    }

    pub(crate) fn report(&mut self, regions: &mut Regions<()>, events: &mut Events) {
        if matches!(self.stage, Stage::Open) && !self.connected && events.room() > 0 {
            self.connected = events.push(Event::Connected(self.id)).is_ok();
        }
        while events.room() > 0 {
            let Some((work, outcome)) = self.ended.pop_front() else { break };
            self.held[usize::from(work.sends)] -= 1;
            for slice in work.slices.iter().flatten() {
                regions.release(&[*slice], Regions::ready);
            }
            let event = Event::Completed { conn: self.id, token: work.token, outcome };
            events.push(event).expect("there is room");
        }
    }
}

fn take(from: &mut VecDeque<u8>, into: &mut [u8]) {
    let count = into.len();
    for (byte, taken) in into.iter_mut().zip(from.drain(..count)) {
        *byte = taken;
    }
}

/// Calls `each` with what of the message lies from byte `skip` on: slice, offset in its region, bytes.
fn pieces(work: &Work, mut skip: usize, mut most: usize, mut each: impl FnMut(Slice, usize, usize)) -> usize {
    let mut done = 0;
    for slice in work.slices.iter().flatten() {
        let len = slice.len as usize;
        if skip >= len {
            skip -= len;
            continue;
        }
        let count = (len - skip).min(most);
        each(*slice, slice.offset as usize + skip, count);
        (skip, most, done) = (0, most - count, done + count);
    }
    done
}

fn view<'a>(regions: &'a Regions<()>, slice: Slice) -> HostView<'a> {
    HostView::of(regions.memory(slice.region).expect("held")).expect("checked when it was registered")
}

fn gather(regions: &Regions<()>, work: &Work, skip: usize, into: &mut [u8]) -> usize {
    let mut done = 0;
    pieces(work, skip, into.len(), |slice, at, count| {
        view(regions, slice).copy_out(at, &mut into[done..][..count]).expect("checked when submitted");
        done += count;
    })
}

fn scatter(regions: &Regions<()>, work: &Work, skip: usize, from: &[u8]) {
    let mut done = 0;
    pieces(work, skip, from.len(), |slice, at, count| {
        view(regions, slice).copy_in(at, &from[done..][..count]).expect("checked when submitted");
        done += count;
    });
}
