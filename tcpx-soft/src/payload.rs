//! Moving message bytes between user memory and a socket, never blocking, never signalling.

use std::io;
use std::os::fd::RawFd;

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

/// As [`receive`], but leaves the bytes in the socket.
///
/// # Safety
///
/// `into` must be writable for `length` bytes during the call, with nobody else using them.
pub(crate) unsafe fn peek(fd: RawFd, into: *mut u8, length: usize) -> Moved {
    // SAFETY: the caller vouches for the memory.
    let n = unsafe { libc::recv(fd, into.cast(), length, libc::MSG_DONTWAIT | libc::MSG_PEEK) };
    moved(n)
}

/// Takes up to `length` bytes from the socket without copying them anywhere.
pub(crate) fn discard(fd: RawFd, length: usize) -> Moved {
    // SAFETY: with MSG_TRUNC a TCP socket drops the bytes and writes nothing, so no memory is needed.
    let n = unsafe { libc::recv(fd, core::ptr::null_mut(), length, libc::MSG_DONTWAIT | libc::MSG_TRUNC) };
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
