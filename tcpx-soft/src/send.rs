//! The sending side: messages are cut into chunks, chunks go to lanes, control messages announce them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tcpx_sys::Code;

use crate::comm::{Comm, Side};
use crate::failure::Failure;
use crate::lane::DataSocket;
use crate::payload::{self, Moved};
use crate::request::Ring;
use crate::task::{Span, TASKS, Task};
use crate::wire::{Control, INLINE_BYTES};

/// Control bytes kept back while the socket takes none.
const OUT_BYTES: usize = 64 << 10;
/// Largest chunk between two soft ends, in bytes.
const LARGEST_CHUNK: u32 = 16 << 20;
/// A message up to this size stays on one socket: two wake-ups cost more than they bring.
const SPLIT_BYTES: u32 = 256 << 10;
/// Tests without news between two looks at what the peer says on the control socket.
const TESTS_PER_LOOK: u32 = 16;
/// How long the rest of a control message may take towards a real peer, which never sees half of one.
const WHOLE_MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// What an oversize sender (a fault) sends beyond its message.
static EXCESS: [u8; 1 << 20] = [0xEE; 1 << 20];

/// State of a send comm.
#[derive(Debug)]
pub(crate) struct SendSide {
    out: Vec<u8>,
    out_start: usize,
    /// Control bytes made, and written, since the comm began.
    made: u64,
    written: u64,
    /// Bytes given to each data socket.
    dispatched: Vec<u64>,
    next_socket: usize,
    /// Sockets that carry a chunk of the message being cut, where one socket may carry only one.
    used: u8,
    credits: u64,
    credit_bytes: u64,
    looks: u32,
    messages: u64,
    peer_gone: bool,
}

impl SendSide {
    pub(crate) fn new(sockets: usize) -> Self {
        Self {
            out: Vec::with_capacity(OUT_BYTES),
            out_start: 0,
            made: 0,
            written: 0,
            dispatched: vec![0; sockets],
            next_socket: if sockets > 1 { 1 } else { 0 },
            used: 0,
            credits: 0,
            credit_bytes: 0,
            looks: 0,
            messages: 0,
            peer_gone: false,
        }
    }

    fn room(&self) -> usize {
        OUT_BYTES - (self.out.len() - self.out_start)
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.out_start > 0 && self.out.len() + bytes.len() > OUT_BYTES {
            self.out.drain(..self.out_start);
            self.out_start = 0;
        }
        self.out.extend_from_slice(bytes);
        self.made += bytes.len() as u64;
    }
}

impl Comm {
    fn sender(&mut self) -> Result<&mut SendSide, Failure> {
        match &mut self.side {
            Side::Send(side) => Ok(side),
            Side::Receive(_) => Err(Failure::rule("a send on a receive comm")),
        }
    }

    /// One bounded round: activates, cuts, announces.
    pub(crate) fn send_progress(&mut self) -> Result<(), Failure> {
        self.check_usable()?;
        if self.lacks_credit()? {
            self.look_at_peer()?;
        }
        self.activate_sends()?;
        while self.ring.moving != self.ring.active {
            if !self.cut()? {
                break;
            }
            self.ring.moving = self.ring.moving.wrapping_add(1);
        }
        self.flush()?;
        // What the kernel has needs nothing more from the peer: a small message costs one system call.
        if self.is_handed_over()? { Ok(()) } else { self.look_at_peer() }
    }

    /// Whether a posted send waits for the receiver's word.
    fn lacks_credit(&mut self) -> Result<bool, Failure> {
        let waits = self.runtime.settings.recv_sync && self.ring.active != self.ring.posted;
        Ok(waits && self.sender()?.credits == 0)
    }

    /// Whether everything posted is in the kernel's hands.
    fn is_handed_over(&mut self) -> Result<bool, Failure> {
        let side = self.sender()?;
        let told = side.written == side.made;
        let cut = self.ring.posted == self.ring.moving;
        Ok(told && cut && (self.ring.moving == self.ring.done || self.oldest_is_sent()))
    }

    fn activate_sends(&mut self) -> Result<(), Failure> {
        let settings = &self.runtime.settings;
        let (strict, recv_sync) = (settings.strict, settings.recv_sync);
        let silent_after = settings.faults.silent_after;
        while self.ring.active != self.ring.posted {
            let side = self.sender()?;
            let held_back = recv_sync && side.credits == 0;
            if held_back || silent_after.is_some_and(|most| side.messages >= most) {
                break;
            }
            side.credits -= u64::from(recv_sync);
            side.messages += 1;
            let sequence = self.ring.active;
            self.ring.active = sequence.wrapping_add(1);
            let excess = self.runtime.settings.faults.oversize;
            let request = self.ring.at(sequence);
            request.size = request.posted + excess;
            request.size_pending = request.size;
            // One more than its tasks, so that it cannot look done while it is being cut.
            self.shared.remaining[Ring::position(sequence)].0.store(1, Ordering::Release);
            if strict {
                break;
            }
        }
        Ok(())
    }

    /// Cuts the oldest active request as far as there is room; true when all of it is announced.
    fn cut(&mut self) -> Result<bool, Failure> {
        let sequence = self.ring.moving;
        let position = Ring::position(sequence);
        let (size, posted) = {
            let request = self.ring.at(sequence);
            (request.size, request.posted)
        };
        let soft = self.peer.soft;
        if size == 0 || (soft && size as usize <= INLINE_BYTES) {
            if !self.send_inline(sequence, size, posted)? {
                return Ok(false);
            }
        } else {
            let chunk = self.chunk(size);
            while self.ring.at(sequence).offset < size {
                let Some(socket) = self.pick_socket()? else {
                    self.shared.wants_room.swap(true, Ordering::AcqRel);
                    // A lane may have made room before it could see the flag.
                    let used = self.sender()?.used;
                    let waits = |(i, socket): (usize, &Arc<DataSocket>)| {
                        used & (1 << i) != 0 || socket.queue.len() == TASKS
                    };
                    if self.sockets.iter().enumerate().all(waits) {
                        return Ok(false);
                    }
                    continue;
                };
                if self.sender()?.room() < Control::BYTES {
                    return Ok(false);
                }
                let request = self.ring.at(sequence);
                let offset = request.offset;
                let span = if offset < posted {
                    request.take_span(chunk.min(posted - offset) as usize)
                } else {
                    let length = chunk.min(size - offset).min(EXCESS.len() as u32);
                    request.offset += length;
                    Span::Flat { at: EXCESS.as_ptr().cast_mut(), length: length as usize }
                };
                let length = span.length() as u32;
                self.shared.remaining[position].0.fetch_add(1, Ordering::AcqRel);
                let queued = self.sockets[socket].dispatch(Task { request: position, span });
                debug_assert!(queued, "the socket had room and only this thread fills it");
                let side = self.sender()?;
                side.dispatched[socket] += u64::from(length);
                if !soft {
                    side.used |= 1 << socket;
                }
                side.put(
                    &Control {
                        kind: Control::NORMAL,
                        index: socket as u16,
                        size: length,
                        offset,
                        total: size,
                    }
                    .encode(),
                );
            }
        }
        let side = self.sender()?;
        side.used = 0;
        let made = side.made;
        self.ring.at(sequence).control_end = made;
        self.shared.remaining[position].0.fetch_sub(1, Ordering::AcqRel);
        Ok(true)
    }

    /// Puts a whole message into the control stream; false without room for it.
    fn send_inline(&mut self, sequence: u32, size: u32, posted: u32) -> Result<bool, Failure> {
        if self.sender()?.room() < Control::BYTES + size as usize {
            return Ok(false);
        }
        let header = Control { kind: Control::INLINE, index: 0, size, offset: 0, total: size };
        let request = self.ring.at(sequence);
        let span = request.take_span(posted as usize);
        let Side::Send(side) = &mut self.side else { return Ok(false) };
        side.put(&header.encode());
        let mut append = |at: *const u8, length: usize| {
            // SAFETY: the range lies inside a posted send, whose memory is readable until it is done.
            side.put(unsafe { core::slice::from_raw_parts(at, length) });
        };
        match span {
            Span::Flat { length: 0, .. } => {}
            Span::Flat { at, length } => append(at, length),
            Span::List { .. } => {
                for piece in request.pieces.iter().filter(|piece| piece.iov_len > 0) {
                    append(piece.iov_base.cast(), piece.iov_len);
                }
            }
        }
        side.put(&EXCESS[..(size - posted) as usize]);
        Ok(true)
    }

    /// Chunk size for a message of `total` bytes.
    fn chunk(&self, total: u32) -> u32 {
        let even = total.div_ceil(self.sockets.len() as u32);
        if !self.peer.soft {
            // A real receiver loses bounce pages when a socket carries two chunks of one message.
            return if total <= SPLIT_BYTES { total } else { even };
        }
        match self.runtime.settings.chunk_bytes {
            Some(chunk) => chunk,
            None if total <= SPLIT_BYTES => total,
            None => even.clamp(SPLIT_BYTES / 2, LARGEST_CHUNK),
        }
    }

    /// The socket with the least to do among those with room. Towards a real peer no socket carries two
    /// chunks of a message, unless there are more chunks than sockets (an oversize sender, a fault).
    fn pick_socket(&mut self) -> Result<Option<usize>, Failure> {
        let n = self.sockets.len();
        let side = match &mut self.side {
            Side::Send(side) => side,
            Side::Receive(_) => return Err(Failure::rule("a send on a receive comm")),
        };
        if side.used.count_ones() as usize == n {
            side.used = 0;
        }
        let (start, used) = (side.next_socket, side.used);
        let backlog = |&i: &usize| side.dispatched[i] - self.sockets[i].carried.load(Ordering::Relaxed);
        let order = (0..n).map(|i| (start + i) % n);
        let best = order
            .filter(|&i| used & (1 << i) == 0 && self.sockets[i].queue.len() < TASKS)
            .min_by_key(backlog);
        if let Some(socket) = best {
            self.sender()?.next_socket = (socket + 1) % n;
        }
        Ok(best)
    }

    /// Writes what the control socket takes.
    fn flush(&mut self) -> Result<(), Failure> {
        let soft = self.peer.soft;
        loop {
            let Side::Send(side) = &mut self.side else { return Ok(()) };
            if side.out_start == side.out.len() {
                return Ok(());
            }
            let pending = &side.out[side.out_start..];
            // Towards a real peer as much as it reads at once, in whole messages.
            let length = if soft { pending.len() } else { pending.len().min(8 * Control::BYTES) };
            let moved = payload::send_control(&self.control, &pending[..length]);
            match moved {
                Moved::Bytes(n) => {
                    side.out_start += n;
                    side.written += n as u64;
                    if side.out_start == side.out.len() {
                        side.out.clear();
                        side.out_start = 0;
                    }
                    if !soft && n % Control::BYTES != 0 {
                        self.finish_message(Control::BYTES - n % Control::BYTES)?;
                    }
                }
                Moved::Blocked => return Ok(()),
                Moved::Closed => return Err(self.gone("closed the connection")),
                Moved::Failed(code) => {
                    let error = std::io::Error::from_raw_os_error(code);
                    return Err(self.gone(&format!("cannot be reached: {error}")));
                }
            }
        }
    }

    /// Writes the rest of a control message to a real peer, which would spin on half of one.
    fn finish_message(&mut self, mut rest: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + WHOLE_MESSAGE_TIMEOUT;
        while rest > 0 {
            let Side::Send(side) = &mut self.side else { return Ok(()) };
            let pending = &side.out[side.out_start..];
            let moved = payload::send_control(&self.control, &pending[..rest]);
            match moved {
                Moved::Bytes(n) => {
                    side.out_start += n;
                    side.written += n as u64;
                    rest -= n;
                }
                Moved::Blocked if Instant::now() < deadline => {
                    let pause = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                    // An interrupted sleep is as good as a full one.
                    let _ = poll(&mut [PollFd::new(&self.control, PollFlags::OUT)], Some(&pause));
                }
                Moved::Blocked => return Err(self.gone("took no control message for 1 s")),
                Moved::Closed | Moved::Failed(_) => return Err(self.gone("closed the connection")),
            }
        }
        Ok(())
    }

    /// Reads credits, and notices that the receiver is gone.
    fn look_at_peer(&mut self) -> Result<(), Failure> {
        let often = self.has_waiter() || self.lacks_credit()?;
        let side = self.sender()?;
        side.looks = side.looks.wrapping_add(1);
        if !often && !side.looks.is_multiple_of(TESTS_PER_LOOK) {
            return Ok(());
        }
        self.discard_credits();
        let side = self.sender()?;
        // Bytes that a lane still has to hand over are the lane's to judge: it may have handed them over by
        // now, and a receiver that has everything may go.
        let left = "closed the connection before everything was sent";
        if side.peer_gone && side.written < side.made {
            return Err(self.gone(left));
        }
        if self.peer_is_gone() && self.ring.posted != self.ring.moving && !self.oldest_is_sent() {
            // Told again with every test; older sends that get through meanwhile still answer.
            return Err(self.lost(left));
        }
        Ok(())
    }

    fn peer_is_gone(&self) -> bool {
        matches!(&self.side, Side::Send(side) if side.peer_gone)
    }

    /// Whether the oldest send only waits for being asked about.
    fn oldest_is_sent(&mut self) -> bool {
        let oldest = self.ring.done;
        let Side::Send(side) = &self.side else { return false };
        let written = side.written;
        oldest != self.ring.moving
            && self.shared.remaining[Ring::position(oldest)].0.load(Ordering::Acquire) == 0
            && self.ring.at(oldest).control_end <= written
    }

    /// Takes in everything the receiver said.
    pub(crate) fn discard_credits(&mut self) {
        let Side::Send(side) = &mut self.side else { return };
        let mut scratch = [0u8; 4096];
        loop {
            let moved = payload::receive_control(&self.control, &mut scratch);
            match moved {
                Moved::Bytes(n) => {
                    side.credit_bytes += n as u64;
                    side.credits += side.credit_bytes / 4;
                    side.credit_bytes %= 4;
                }
                Moved::Blocked => return,
                Moved::Closed | Moved::Failed(_) => {
                    side.peer_gone = true;
                    return;
                }
            }
        }
    }

    fn gone(&mut self, what: &str) -> Failure {
        let failure = self.lost(what);
        self.fail(failure)
    }

    fn lost(&self, what: &str) -> Failure {
        Failure::peer(Code::SYSTEM_ERROR, format!("the receiver at {} {what}", self.peer.address))
    }

    /// The oldest send has no task left: done once its control bytes are written.
    pub(crate) fn send_finish(&mut self, sequence: u32) -> Result<Option<u32>, Failure> {
        let written = self.sender()?.written;
        let request = self.ring.at(sequence);
        if written < request.control_end {
            return Ok(None);
        }
        request.size_pending = 0;
        let size = request.posted;
        self.ring.done = sequence.wrapping_add(1);
        self.ring.freed = self.ring.done;
        Ok(Some(size))
    }
}
