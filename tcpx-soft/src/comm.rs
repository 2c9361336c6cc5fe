//! What send and receive comms share: making one, posting, waiters, the line about it, closing.

use core::ffi::{c_int, c_void};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tcpx_sys::extension;

use crate::dial;
use crate::failure::Failure;
use crate::lane::{CommShared, DataSocket, Direction, Lane, PEER_CLOSED, REQUESTS, leave};
use crate::log;
use crate::payload::IoSlice;
use crate::receive::ReceiveSide;
use crate::registration::Registration;
use crate::request::{Request, Ring};
use crate::runtime::{Lanes, Runtime};
use crate::send::SendSide;
use crate::settings::Mode;
use crate::waiter::Waiter;

/// Most slices of one message: 64 MiB in pages of 16 KiB.
pub(crate) const MAX_SLICES: usize = 4096;

/// Send buffer of a data socket to a peer of this machine, in bytes. What waits in it stays in the cache, and
/// bbr, which paces by what is outstanding, is not slowed by megabytes of it. Measured on loopback with lanes
/// under bbr / cubic, GB/s: the system's buffer 4.7 / 8.3, 1 MiB 4.7 / 8.3, 256 KiB 9.4 / 9.4, 128 KiB
/// 9.1 / 9.1, 64 KiB 8.0 / 8.2. Towards another machine the system's own sizing is right.
const LOCAL_SEND_BUFFER: usize = 256 << 10;

const MAGIC: u64 = 0x7463_7078_2d63_6f6d;

/// An established connection, as the handshake leaves it.
#[derive(Debug)]
pub(crate) struct Established {
    /// The control socket, non-blocking.
    pub(crate) control: OwnedFd,
    /// The data sockets in index order, non-blocking.
    pub(crate) data: Vec<OwnedFd>,
    /// Who is at the other end.
    pub(crate) peer: Peer,
}

/// The other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// It speaks the agreed additions of the soft plugin.
    pub(crate) soft: bool,
    /// It runs on this machine's cores.
    pub(crate) local: bool,
}

/// One direction of a connection. Data-path calls come from one thread at a time.
#[derive(Debug)]
pub(crate) struct Comm {
    magic: u64,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) shared: Arc<CommShared>,
    pub(crate) control: OwnedFd,
    pub(crate) sockets: Vec<Arc<DataSocket>>,
    pub(crate) peer: Peer,
    pub(crate) ring: Ring,
    pub(crate) side: Side,
    /// Set when the comm is unusable; every later call says so again.
    broken: Option<tcpx_sys::Code>,
    own_lanes: Vec<Arc<Lane>>,
    posts: u64,
}

/// The direction's own state.
#[derive(Debug)]
pub(crate) enum Side {
    Send(SendSide),
    Receive(Box<ReceiveSide>),
}

impl Comm {
    /// Makes a comm on NIC `nic` from an established connection.
    pub(crate) fn new(
        runtime: &Arc<Runtime>,
        nic: usize,
        direction: Direction,
        established: Established,
    ) -> Result<Box<Self>, Failure> {
        let Established { control, data, peer } = established;
        let dies_at = match direction {
            Direction::Send => runtime.settings.faults.data_socket_dies_at,
            Direction::Receive => None,
        };
        let shared = CommShared::new(dies_at, runtime.settings.faults.lane_stalls_at);
        let Lanes { lanes, own } = runtime
            .lanes(nic, direction)
            .map_err(|error| Failure::system("starting an I/O thread", error))?;
        if direction == Direction::Send && peer.local {
            for fd in &data {
                // A matter of speed: the system's own buffer works as well.
                let _ = dial::set_send_buffer(fd, LOCAL_SEND_BUFFER);
            }
        }
        let socket = |(index, fd): (usize, OwnedFd)| {
            DataSocket::new(fd, index, direction, peer.local, &shared, &lanes[index % lanes.len()])
        };
        let sockets: Vec<_> = data.into_iter().enumerate().map(socket).collect();
        let side = match direction {
            Direction::Send => Side::Send(SendSide::new(sockets.len())),
            Direction::Receive => Side::Receive(Box::new(ReceiveSide::new(&runtime.settings))),
        };
        let comm = Box::new(Self {
            magic: MAGIC,
            runtime: runtime.clone(),
            shared,
            control,
            sockets,
            peer,
            ring: Ring::new(c_int::from(direction == Direction::Receive)),
            side,
            broken: None,
            own_lanes: if own { lanes } else { Vec::new() },
            posts: 0,
        });
        log::info(&comm.describe());
        Ok(comm)
    }

    /// The comm behind a pointer of the interface.
    ///
    /// # Safety
    ///
    /// `comm` must be null or a live comm of this plugin, not in use by another thread.
    pub(crate) unsafe fn from_pointer<'a>(comm: *mut c_void) -> Result<&'a mut Self, Failure> {
        if comm.is_null() {
            return Err(Failure::rule("a call on a comm that is null"));
        }
        // SAFETY: not null; live and unshared by the caller's promise.
        let comm = unsafe { &mut *comm.cast::<Self>() };
        if comm.magic != MAGIC {
            return Err(Failure::rule("a call on something that is no comm of this plugin"));
        }
        Ok(comm)
    }

    /// Remembers that the comm is unusable.
    pub(crate) fn fail(&mut self, failure: Failure) -> Failure {
        self.broken = Some(failure.code);
        failure
    }

    pub(crate) fn check_usable(&self) -> Result<(), Failure> {
        match self.broken {
            Some(code) => Err(Failure::peer(code, "the comm failed before; close it")),
            None => Ok(()),
        }
    }

    /// Posts one flat buffer; null: not taken at the moment.
    ///
    /// # Safety
    ///
    /// `handle` must be null or live, and the memory must stay valid until the request is done.
    pub(crate) unsafe fn post(
        &mut self,
        data: *mut c_void,
        length: usize,
        handle: *mut c_void,
    ) -> Result<*mut Request, Failure> {
        // SAFETY: passed on from the caller.
        let registration = unsafe { Registration::check(handle, data, length) }?;
        let length = self.checked_length(length)?;
        let Some(sequence) = self.next_sequence()? else { return Ok(core::ptr::null_mut()) };
        let request = self.ring.at(sequence);
        request.begin(data, length, registration.kind);
        request.room = registration.bytes_from(data);
        Ok(self.ring.pointer(sequence))
    }

    /// Posts one message of several slices.
    ///
    /// # Safety
    ///
    /// As [`post`](Self::post), for every slice.
    pub(crate) unsafe fn post_slices(
        &mut self,
        slices: &[extension::Slice],
    ) -> Result<*mut Request, Failure> {
        if slices.len() > MAX_SLICES {
            return Err(Failure::rule(format!("{} slices; {MAX_SLICES} are possible", slices.len())));
        }
        if self.receives() && self.runtime.settings.mode == Mode::Unpack {
            return Err(Failure::rule("irecv_slices on a device that unpacks; its list scatters"));
        }
        let mut total = 0usize;
        for slice in slices {
            // SAFETY: passed on from the caller.
            unsafe { Registration::check(slice.mhandle, slice.address, slice.length) }?;
            total = total.saturating_add(slice.length);
        }
        let total = self.checked_length(total)?;
        let Some(sequence) = self.next_sequence()? else { return Ok(core::ptr::null_mut()) };
        let request = self.ring.at(sequence);
        request.begin(core::ptr::null_mut(), total, tcpx_sys::PTR_HOST);
        request.room = total as usize;
        request.scattered = true;
        request.pieces.reserve_exact(MAX_SLICES);
        let piece = |slice: &extension::Slice| IoSlice { iov_base: slice.address, iov_len: slice.length };
        request.pieces.extend(slices.iter().map(piece));
        Ok(self.ring.pointer(sequence))
    }

    pub(crate) fn receives(&self) -> bool {
        matches!(self.side, Side::Receive(_))
    }

    fn checked_length(&self, length: usize) -> Result<u32, Failure> {
        let extra = self.runtime.settings.faults.oversize;
        let fits = u32::try_from(length).ok().filter(|n| n.checked_add(extra).is_some());
        fits.ok_or_else(|| Failure::rule(format!("a message of {length} bytes; the wire carries 4 GiB - 1")))
    }

    /// The pointer that the caller gets, which every request leads back to.
    pub(crate) fn into_pointer(self: Box<Self>) -> *mut c_void {
        let comm = Box::into_raw(self);
        // SAFETY: the pointer was a box a moment ago, and nobody else has it yet.
        let ring = unsafe { &mut (*comm).ring };
        ring.lead_to(comm);
        comm.cast()
    }

    /// Takes the next slot of the ring; `None`: not at the moment.
    fn next_sequence(&mut self) -> Result<Option<u32>, Failure> {
        self.check_usable()?;
        let size = self.runtime.settings.faults.ring_size.unwrap_or(REQUESTS as u32);
        if self.ring.outstanding() >= size {
            let text = format!("unable to allocate requests: {size} are outstanding on this comm");
            return Err(Failure::rule(text));
        }
        self.posts += 1;
        let every = self.runtime.settings.faults.null_request_every;
        if every.is_some_and(|n| self.posts.is_multiple_of(n)) {
            return Ok(None);
        }
        let sequence = self.ring.posted;
        self.ring.posted = sequence.wrapping_add(1);
        self.ring.at(sequence).sequence = sequence;
        Ok(Some(sequence))
    }

    /// `test`: progress of the whole comm, then the answer about the request with this sequence number.
    /// The number is the true size of a message that is done.
    pub(crate) fn test(&mut self, sequence: u32) -> Result<Option<u32>, Failure> {
        let progress = match self.side {
            Side::Send(_) => self.send_progress(),
            Side::Receive(_) => self.receive_progress(),
        };
        let ring = &self.ring;
        if ring.moving != ring.done && sequence != ring.done {
            return Err(Failure::rule("test of a request that is not the oldest one transmitting"));
        }
        if Ring::within(sequence, ring.freed, ring.done) {
            return Err(Failure::rule("test of a request that was done before"));
        }
        progress?;
        if ring.moving == ring.done {
            return match self.side {
                Side::Send(_) => Ok(None),
                Side::Receive(_) => self.receive_test_active(sequence),
            };
        }
        if self.shared.remaining[Ring::position(sequence)].0.load(Ordering::Acquire) > 0 {
            return self.check_data_sockets().map(|()| None);
        }
        match self.side {
            Side::Send(_) => self.send_finish(sequence),
            Side::Receive(_) => self.receive_finish(sequence),
        }
    }

    /// An error once a data socket has ended while the oldest request needs more of it.
    fn check_data_sockets(&self) -> Result<(), Failure> {
        for (index, socket) in self.sockets.iter().enumerate() {
            let error = socket.error.load(Ordering::Acquire);
            if error != 0 {
                let why = match error {
                    PEER_CLOSED => "the peer closed it".to_owned(),
                    code => std::io::Error::from_raw_os_error(code).to_string(),
                };
                return Err(Failure::peer(
                    tcpx_sys::Code::SYSTEM_ERROR,
                    format!("data socket {index} to {} ended inside a message: {why}", self.peer.address),
                ));
            }
        }
        Ok(())
    }

    /// Lets a thread sleep for this comm.
    pub(crate) fn attach(&self, waiter: &Arc<Waiter>) -> Result<(), Failure> {
        let system = |error| Failure::system("watching a control socket", error);
        if self.shared.waiter.set(waiter.clone()).is_err() {
            return Err(Failure::rule("the comm has a waiter already"));
        }
        waiter.watch(self.control.as_fd()).map_err(system)?;
        Ok(())
    }

    /// Whether somebody sleeps for this comm, so that tests are rare.
    pub(crate) fn has_waiter(&self) -> bool {
        self.shared.waiter.get().is_some()
    }

    /// One line: direction, peer, sockets, lanes, congestion control.
    pub(crate) fn describe(&self) -> String {
        let direction = if self.receives() { "receives from" } else { "sends to" };
        let kind = if self.peer.soft { "soft plugin" } else { "TCPX plugin" };
        let place = if self.peer.local { "this machine" } else { "another machine" };
        let lanes = match self.own_lanes.len() {
            0 => format!("{} shared lanes", self.runtime.lane_count()),
            n => format!("{n} threads of its own"),
        };
        let congestion = self.sockets.first().map(|socket| dial::congestion(socket.fd.as_fd()));
        let chunk = match self.runtime.settings.chunk_bytes {
            Some(bytes) if self.peer.soft => format!("chunks of {bytes} bytes"),
            None if self.peer.soft => "chunks by message size".to_owned(),
            _ => "one chunk per socket".to_owned(),
        };
        format!(
            "{direction} {} ({kind}, {place}): {} data sockets on {lanes}, {chunk}, {}",
            self.peer.address,
            self.sockets.len(),
            congestion.flatten().unwrap_or_else(|| "unknown congestion control".to_owned()),
        )
    }

    /// Closes the comm. No lane touches its memory afterwards; what is unsent is abandoned.
    pub(crate) fn close(mut self: Box<Self>) -> Result<(), Failure> {
        self.magic = 0;
        let left = leave(&self.sockets);
        for lane in &self.own_lanes {
            lane.stop();
        }
        if !left {
            // A lane might still read the lists of this comm's requests: they stay.
            std::mem::forget(self);
            return Err(Failure::rule("an I/O thread did not let go within 10 s; the comm is leaked"));
        }
        // Unread bytes would turn the close into a reset, which may destroy what is on its way.
        self.discard_credits();
        if let Side::Receive(side) = &mut self.side {
            side.take_peeked(&self.control);
        }
        Ok(())
    }
}

/// What `isend` and `irecv` answer.
pub(crate) fn as_request(request: *mut Request) -> *mut c_void {
    request.cast()
}
