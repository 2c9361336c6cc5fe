//! The receiving side: control messages are read as receives ask for them, and their chunks go to lanes.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use tcpx_sys::Code;

use crate::bounce::Bounce;
use crate::comm::{Comm, Side};
use crate::failure::Failure;
use crate::payload::{self, Moved};
use crate::request::{Request, Ring};
use crate::settings::{Mode, Settings};
use crate::task::{Span, TASKS, Task};
use crate::wire::{Announced, Assembly, Control, INLINE_BYTES};

/// Control bytes read ahead.
const IN_BYTES: usize = 2 * (INLINE_BYTES + Control::BYTES);

/// State of a receive comm.
#[derive(Debug)]
pub(crate) struct ReceiveSide {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes at the head of the socket that are in the buffer already.
    peeked: usize,
    /// Named where bytes are dropped; never written.
    unread: Box<[u8]>,
    assembly: Assembly,
    /// Bytes of an inline message still to come.
    inline_rest: Option<u32>,
    ended: bool,
    /// The end of the control stream was seen in this round (told once, in strict mode).
    end_is_news: bool,
    bounce: Option<Bounce>,
    lacks_device: bool,
    next_credit: u32,
}

impl ReceiveSide {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            buffer: vec![0; IN_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            peeked: 0,
            unread: vec![0; IN_BYTES].into_boxed_slice(),
            assembly: Assembly::default(),
            inline_rest: None,
            ended: false,
            end_is_news: false,
            bounce: (settings.mode == Mode::Unpack).then(|| Bounce::new(&settings.faults)),
            lacks_device: false,
            next_credit: 0,
        }
    }

    pub(crate) fn bounce(&mut self) -> Option<&mut Bounce> {
        self.bounce.as_mut()
    }

    /// Remembers that the caller gave no device handle, without which the real plugin cannot receive.
    pub(crate) fn without_device(&mut self) {
        self.lacks_device = true;
    }

    pub(crate) fn lacks_device(&self) -> bool {
        self.lacks_device
    }

    /// Takes what was looked at from the socket.
    pub(crate) fn take_peeked(&mut self, control: &OwnedFd) {
        while self.peeked > 0 {
            match payload::discard_control(control, &mut self.unread[..self.peeked]) {
                Moved::Bytes(n) => self.peeked -= n,
                // They are there; a socket that broke meanwhile says so at the next read.
                Moved::Blocked | Moved::Closed | Moved::Failed(_) => self.peeked = 0,
            }
        }
    }

    fn buffered(&self) -> usize {
        self.end - self.start
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }
}

/// What a step of the control stream came to.
enum Step {
    /// Something was taken in: go on.
    Moved,
    /// Nothing more at the moment.
    Stuck,
}

impl Comm {
    /// One bounded round: activates, reads control messages, gives their chunks to lanes.
    pub(crate) fn receive_progress(&mut self) -> Result<(), Failure> {
        self.check_usable()?;
        self.activate_receives()?;
        while self.ring.moving != self.ring.active {
            match self.step() {
                Ok(Step::Moved) => {}
                Ok(Step::Stuck) => break,
                Err(failure) => {
                    // What a peer said cannot be trusted any more: the connection ends, nothing else.
                    let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
                    return Err(self.fail(failure));
                }
            }
        }
        self.strict_end()
    }

    fn receiver(&mut self) -> Result<&mut ReceiveSide, Failure> {
        match &mut self.side {
            Side::Receive(side) => Ok(side),
            Side::Send(_) => Err(Failure::rule("a receive on a send comm")),
        }
    }

    fn activate_receives(&mut self) -> Result<(), Failure> {
        let (strict, recv_sync) = (self.runtime.settings.strict, self.runtime.settings.recv_sync);
        while self.ring.active != self.ring.posted {
            let sequence = self.ring.active;
            if recv_sync {
                let Side::Receive(side) = &mut self.side else { return Ok(()) };
                let credit = side.next_credit.to_le_bytes();
                let moved = payload::send_control(&self.control, &credit);
                match moved {
                    Moved::Bytes(4) => side.next_credit = side.next_credit.wrapping_add(1),
                    // Four bytes into an emptier buffer than that are never split; the end of the stream is
                    // told where it matters, when the receive finds no announcement.
                    Moved::Blocked | Moved::Closed | Moved::Failed(_) => break,
                    Moved::Bytes(n) => {
                        // The stream of credits is no longer one: nothing may follow half a credit.
                        let text = format!("{n} of 4 credit bytes sent");
                        return Err(self.fail(Failure::peer(Code::SYSTEM_ERROR, text)));
                    }
                }
            }
            self.ring.active = sequence.wrapping_add(1);
            self.shared.remaining[Ring::position(sequence)].0.store(1, Ordering::Release);
            if let Side::Receive(side) = &mut self.side
                && let Some(bounce) = &mut side.bounce
            {
                bounce.open_slot(self.ring.at(sequence));
            }
            if strict {
                break;
            }
        }
        Ok(())
    }

    /// Takes in one control message, a part of an inline one, or some bytes.
    fn step(&mut self) -> Result<Step, Failure> {
        let side = self.receiver()?;
        if side.inline_rest.is_some() {
            return self.step_inline();
        }
        let Some(bytes) = side.buffer[side.start..side.end].first_chunk::<{ Control::BYTES }>() else {
            return self.read_on();
        };
        let message = Control::decode(bytes);
        let sequence = self.ring.moving;
        let position = Ring::position(sequence);
        let Side::Receive(side) = &mut self.side else { return Ok(Step::Stuck) };
        let request = self.ring.at(sequence);
        if side.assembly.begins() {
            admit(request, message.total, self.runtime.settings.strict)?;
        }
        let refused =
            |why| Failure::peer(Code::REMOTE_ERROR, format!("a control message was refused: {why}"));
        let mut assembly = side.assembly;
        let announced = assembly.take(&message, self.sockets.len()).map_err(refused)?;
        match announced {
            Announced::Inline { size } => {
                if !place(side, request, size)? {
                    return Ok(Step::Stuck);
                }
                side.inline_rest = Some(size);
            }
            Announced::Chunk { socket, size, last, .. } => {
                if self.sockets[socket].queue.len() == TASKS {
                    self.shared.wants_room.swap(true, Ordering::AcqRel);
                    // A lane may have made room before it could see the flag.
                    if self.sockets[socket].queue.len() == TASKS {
                        return Ok(Step::Stuck);
                    }
                }
                if !place(side, request, size)? {
                    return Ok(Step::Stuck);
                }
                let span = request.take_span(size as usize);
                self.shared.remaining[position].0.fetch_add(1, Ordering::AcqRel);
                let queued = self.sockets[socket].dispatch(Task { request: position, span });
                debug_assert!(queued, "the socket had room and only this thread fills it");
                if last {
                    self.shared.remaining[position].0.fetch_sub(1, Ordering::AcqRel);
                    self.ring.moving = sequence.wrapping_add(1);
                }
            }
        }
        side.assembly = assembly;
        side.consume(Control::BYTES);
        Ok(Step::Moved)
    }

    /// Copies what has come of an inline message.
    fn step_inline(&mut self) -> Result<Step, Failure> {
        let sequence = self.ring.moving;
        let Side::Receive(side) = &mut self.side else { return Ok(Step::Stuck) };
        let rest = side.inline_rest.unwrap_or(0) as usize;
        let now = rest.min(side.buffered());
        if now == 0 && rest > 0 {
            return self.read_on();
        }
        let request = self.ring.at(sequence);
        let span = request.take_span(now);
        // SAFETY: `take_span` names bytes of the posted buffer that `admit` found to be there, or of bounce
        // pages reserved for them; only this thread writes inline bytes.
        unsafe { copy_into(&span, &side.buffer[side.start..side.start + now]) };
        side.consume(now);
        side.inline_rest = Some((rest - now) as u32);
        if rest == now {
            side.inline_rest = None;
            self.shared.remaining[Ring::position(sequence)].0.fetch_sub(1, Ordering::AcqRel);
            self.ring.moving = sequence.wrapping_add(1);
        }
        Ok(Step::Moved)
    }

    /// Reads control bytes, unless a receive is complete and only waits to be asked about: the caller hears of
    /// it first.
    fn read_on(&mut self) -> Result<Step, Failure> {
        let oldest = self.ring.done;
        let complete = oldest != self.ring.moving
            && self.shared.remaining[Ring::position(oldest)].0.load(Ordering::Acquire) == 0;
        if complete && !self.runtime.settings.strict { Ok(Step::Stuck) } else { self.fill() }
    }

    /// Reads control bytes. In strict mode it reads on, as the real plugin does, and so finds the end of the
    /// stream together with the last announcements.
    ///
    /// Bytes are looked at here and taken from the socket by the next call. A read that empties a socket
    /// on which nothing is ever sent makes the kernel send an acknowledgement before it returns, a microsecond
    /// between a message and its receiver; taken later, the acknowledgement goes out while the caller waits
    /// for something else. Half round trip of 64 bytes, measured: 4.0 us with one read, 2.4 us so.
    fn fill(&mut self) -> Result<Step, Failure> {
        let strict = self.runtime.settings.strict;
        let Side::Receive(side) = &mut self.side else { return Ok(Step::Stuck) };
        if side.ended {
            return Ok(Step::Stuck);
        }
        if side.start > 0 {
            side.buffer.copy_within(side.start..side.end, 0);
            side.end -= side.start;
            side.start = 0;
        }
        let had = side.end;
        while side.end < side.buffer.len() {
            side.take_peeked(&self.control);
            match payload::peek_control(&self.control, &mut side.buffer[side.end..]) {
                Moved::Bytes(n) => {
                    side.end += n;
                    side.peeked = n;
                }
                Moved::Blocked => break,
                Moved::Closed | Moved::Failed(_) => {
                    side.ended = true;
                    side.end_is_news = true;
                    break;
                }
            }
            if !strict {
                break;
            }
        }
        Ok(if side.end > had { Step::Moved } else { Step::Stuck })
    }

    /// In strict mode the end of the control stream is told while any receive waits for an announcement,
    /// also when an older one was asked about; and once when it came together with announcements.
    fn strict_end(&mut self) -> Result<(), Failure> {
        let strict = self.runtime.settings.strict;
        let waiting = self.ring.moving != self.ring.active;
        let side = self.receiver()?;
        let news = core::mem::take(&mut side.end_is_news);
        if strict && side.ended && (waiting || news) {
            return Err(self.sender_gone());
        }
        Ok(())
    }

    /// Asked about a receive while none transmits.
    pub(crate) fn receive_test_active(&mut self, sequence: u32) -> Result<Option<u32>, Failure> {
        let active = Ring::within(sequence, self.ring.moving, self.ring.active);
        if active && self.receiver()?.ended {
            return Err(self.sender_gone());
        }
        Ok(None)
    }

    fn sender_gone(&self) -> Failure {
        let text = format!(
            "the sender at {} closed the connection before it announced a message for this receive",
            self.peer.address
        );
        Failure::peer(Code::SYSTEM_ERROR, text)
    }

    /// The oldest receive has no task left: done.
    pub(crate) fn receive_finish(&mut self, sequence: u32) -> Result<Option<u32>, Failure> {
        let Side::Receive(side) = &mut self.side else { return Ok(None) };
        let request = self.ring.at(sequence);
        if let Some(bounce) = &mut side.bounce {
            bounce.publish(request);
        }
        request.size_pending = 0;
        let size = request.size;
        self.ring.done = sequence.wrapping_add(1);
        Ok(Some(size))
    }

    /// `irecvConsumed`: gives the slot of the oldest finished receive back.
    pub(crate) fn consumed(&mut self, sequence: u32) -> Result<(), Failure> {
        self.receiver()?;
        if self.ring.freed == self.ring.done || sequence != self.ring.freed {
            return Err(Failure::rule(
                "irecvConsumed of a receive that is not the oldest finished one of its comm",
            ));
        }
        if let Side::Receive(side) = &mut self.side
            && let Some(bounce) = &mut side.bounce
        {
            bounce.recycle(self.ring.at(sequence));
        }
        self.ring.freed = sequence.wrapping_add(1);
        Ok(())
    }
}

/// Takes the sender's length for the receive, if it fits.
fn admit(request: &mut Request, total: u32, strict: bool) -> Result<(), Failure> {
    let room = if strict { request.room } else { request.posted as usize };
    if total as usize > room {
        return Err(Failure::peer(
            Code::REMOTE_ERROR,
            format!(
                "the sender sent {total} bytes for a receive of {} bytes; nothing was written",
                request.posted
            ),
        ));
    }
    request.size = total;
    request.size_pending = total;
    Ok(())
}

/// Reserves bounce pages for `size` bytes, where there are any; false: none are free at the moment.
fn place(side: &mut ReceiveSide, request: &mut Request, size: u32) -> Result<bool, Failure> {
    match &mut side.bounce {
        Some(bounce) => bounce.place(request, size),
        None => Ok(true),
    }
}

/// # Safety
///
/// The span must be as long as `bytes`, writable, and its list alive.
unsafe fn copy_into(span: &Span, bytes: &[u8]) {
    let (mut rest, mut from) = (*span, bytes);
    while !from.is_empty() {
        // SAFETY: the caller keeps the list alive.
        let Some(piece) = (unsafe { rest.front() }) else { return };
        let length = piece.iov_len.min(from.len());
        // SAFETY: each piece of the span is writable for its length (the caller), and `from` is ours.
        unsafe { piece.iov_base.cast::<u8>().copy_from_nonoverlapping(from.as_ptr(), length) };
        from = &from[length..];
        // SAFETY: the caller keeps the list alive; `length` bytes of it were used.
        rest = unsafe { rest.advance(length) };
    }
}
