//! Moving message bytes between user memory and a socket, never blocking, never signalling.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Bytes one system call moves at most: large enough that its cost vanishes, small enough that sockets
/// sharing a lane take turns.
pub(crate) const QUANTUM: usize = 4 << 20;
/// Slices one system call takes at most (`IOV_MAX`).
pub(crate) const IO_SLICES: usize = 1024;

/// One piece of user memory.
pub(crate) type IoSlice = libc::iovec;

/// What a call did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moved {
    /// That many bytes, at least one.
    Bytes(usize),
    /// The socket can take or give nothing at the moment.
    Blocked,
    /// The peer closed the stream.
    Closed,
    /// The socket is broken, with the system's error number.
    Failed(i32),
}

/// Sends up to [`QUANTUM`] of `length` bytes.
///
/// # Safety
///
/// `from` must be readable for `length` bytes during the call.
pub(crate) unsafe fn send(fd: RawFd, from: *const u8, length: usize) -> Moved {
    let length = length.min(QUANTUM);
    // SAFETY: the caller vouches for the memory; a stale descriptor would be an error, not undefined.
    let n = unsafe { libc::send(fd, from.cast(), length, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    moved(n)
}

/// Receives up to [`QUANTUM`] of `length` bytes.
///
/// # Safety
///
/// `into` must be writable for `length` bytes during the call, with nobody else using them.
pub(crate) unsafe fn receive(fd: RawFd, into: *mut u8, length: usize) -> Moved {
    let length = length.min(QUANTUM);
    // SAFETY: the caller vouches for the memory.
    let n = unsafe { libc::recv(fd, into.cast(), length, libc::MSG_DONTWAIT) };
    moved(n)
}

/// Sends from slices, at most [`IO_SLICES`] of them.
///
/// # Safety
///
/// Each slice must be readable for its length during the call.
pub(crate) unsafe fn send_slices(fd: RawFd, slices: &mut [IoSlice]) -> Moved {
    let message = header(slices);
    // SAFETY: the header points to `slices`, which outlives the call; the caller vouches for their memory.
    let n = unsafe { libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    moved(n)
}

/// Receives into slices, at most [`IO_SLICES`] of them.
///
/// # Safety
///
/// Each slice must be writable for its length during the call, with nobody else using it.
pub(crate) unsafe fn receive_slices(fd: RawFd, slices: &mut [IoSlice]) -> Moved {
    let mut message = header(slices);
    // SAFETY: the header points to `slices`, which outlives the call; the caller vouches for their memory.
    let n = unsafe { libc::recvmsg(fd, &mut message, libc::MSG_DONTWAIT) };
    moved(n)
}

/// Sends control bytes. Control streams are polled in tight loops, so these calls go to the system without the
/// C library, whose own are cancellation points and pay for it in programs with threads.
pub(crate) fn send_control(socket: &OwnedFd, bytes: &[u8]) -> Moved {
    result(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
}

/// Receives control bytes.
pub(crate) fn receive_control(socket: &OwnedFd, into: &mut [u8]) -> Moved {
    result(rustix::net::recv(socket, into, RecvFlags::DONTWAIT).map(|(_, n)| n))
}

/// As [`receive_control`], but leaves the bytes in the socket.
pub(crate) fn peek_control(socket: &OwnedFd, into: &mut [u8]) -> Moved {
    result(rustix::net::recv(socket, into, RecvFlags::DONTWAIT | RecvFlags::PEEK).map(|(_, n)| n))
}

/// Takes up to as many bytes as `room` has from the socket; TCP drops them without writing to `room`.
pub(crate) fn discard_control(socket: &OwnedFd, room: &mut [u8]) -> Moved {
    result(rustix::net::recv(socket, room, RecvFlags::DONTWAIT | RecvFlags::TRUNC).map(|(_, n)| n))
}

fn result(result: rustix::io::Result<usize>) -> Moved {
    match result {
        Ok(0) => Moved::Closed,
        Ok(n) => Moved::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Blocked,
        Err(Errno::CONNRESET | Errno::PIPE) => Moved::Closed,
        Err(error) => Moved::Failed(error.raw_os_error()),
    }
}

fn header(slices: &mut [IoSlice]) -> libc::msghdr {
    libc::msghdr {
        msg_name: core::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: slices.as_mut_ptr(),
        msg_iovlen: slices.len(),
        msg_control: core::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn moved(n: isize) -> Moved {
    if n > 0 {
        return Moved::Bytes(n as usize);
    }
    if n == 0 {
        return Moved::Closed;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Moved::Blocked,
        Some(libc::ECONNRESET | libc::EPIPE) => Moved::Closed,
        Some(code) => Moved::Failed(code),
        None => Moved::Failed(0),
    }
}
