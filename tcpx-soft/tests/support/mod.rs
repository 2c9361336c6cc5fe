//! A caller of any table version, in the raw words of the interface.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "one call in the signature of each version")]
#![allow(clippy::missing_panics_doc, clippy::new_without_default, reason = "test code")]

pub mod child;
pub mod drive;
pub mod peer;

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use tcpx_sys::device::DeviceHandle;
use tcpx_sys::properties::{PropertiesV7, PropertiesV8, PropertiesV9, PropertiesV11};
use tcpx_sys::{Table, log};

/// A raw pointer of the interface.
pub type Pointer = *mut c_void;

/// A table, called through the signatures of its own version.
#[derive(Clone, Copy)]
pub struct Net(pub Table);

/// Calls member `$member` of whichever version, with the arguments of versions 7, 8, 9, 10 and 11.
macro_rules! call {
    ($net:expr, $member:ident, ($($a7:expr),*), ($($a9:expr),*), ($($a10:expr),*), ($($a11:expr),*)) => {
        // SAFETY: the test passes what the interface asks for, or what the plugin must refuse.
        unsafe {
            match $net.0 {
                Table::V7(t) => (t.$member.expect("present"))($($a7),*),
                Table::V8(t) => (t.$member.expect("present"))($($a7),*),
                Table::V9(t) => (t.$member.expect("present"))($($a9),*),
                Table::V10(t) => (t.$member.expect("present"))($($a10),*),
                Table::V11(t) => (t.$member.expect("present"))($($a11),*),
            }
        }
    };
    ($net:expr, $member:ident, ($($a:expr),*)) => {
        call!($net, $member, ($($a),*), ($($a),*), ($($a),*), ($($a),*))
    };
}

impl Net {
    pub fn init(self) -> c_int {
        let mut context = null_mut();
        let logger = log::logger();
        call!(self, init, (logger), (logger), (logger, None), (&mut context, 1, null_mut(), logger, None))
    }
    pub fn devices(self) -> c_int {
        let mut n = -1;
        assert_eq!(call!(self, devices, (&mut n)), 0);
        n
    }
    /// Name, pointer support, device type, maxRecvs.
    pub fn properties(self, device: c_int) -> Result<(String, c_int, c_int, c_int), c_int> {
        macro_rules! read {
            ($t:expr, $type:ty, $($path:tt)*) => {{
                let mut p = std::mem::MaybeUninit::<$type>::uninit();
                // SAFETY: the struct of the table's version.
                let code = unsafe { ($t.get_properties.expect("present"))(device, p.as_mut_ptr()) };
                if code != 0 { return Err(code) }
                // SAFETY: the plugin filled every field.
                let p = unsafe { p.assume_init() }$($path)*;
                // SAFETY: the name lives as long as the process.
                let name = unsafe { std::ffi::CStr::from_ptr(p.name) };
                (name.to_string_lossy().into_owned(), p.ptr_support, p.net_device_type, p.max_recvs)
            }};
        }
        Ok(match self.0 {
            Table::V7(t) => read!(t, PropertiesV7,),
            Table::V8(t) => read!(t, PropertiesV8,),
            Table::V9(t) => read!(t, PropertiesV9,),
            Table::V10(t) => read!(t, PropertiesV9,),
            Table::V11(t) => read!(t, PropertiesV11, .v9),
        })
    }
    pub fn listen(self, device: c_int) -> ([u8; 128], Pointer) {
        let (mut handle, mut comm) = ([0u8; 128], null_mut());
        let h = handle.as_mut_ptr().cast();
        let code = call!(
            self,
            listen,
            (device, h, &mut comm),
            (device, h, &mut comm),
            (device, h, &mut comm),
            (null_mut(), device, h, &mut comm)
        );
        assert_eq!(code, 0, "listen");
        (handle, comm)
    }
    pub fn connect_once(self, device: c_int, handle: &mut [u8; 128]) -> (c_int, Pointer) {
        let (mut comm, mut inner) = (null_mut(), null_mut::<DeviceHandle>());
        let h: Pointer = handle.as_mut_ptr().cast();
        let code = call!(
            self,
            connect,
            (device, h, &mut comm, &mut inner),
            (device, h, &mut comm, &mut inner),
            (device, null_mut(), h, &mut comm, &mut inner),
            (null_mut(), device, h, &mut comm, &mut inner)
        );
        (code, comm)
    }
    pub fn accept_once(self, listener: Pointer, device: Option<&mut DeviceHandle>) -> (c_int, Pointer) {
        let mut comm = null_mut();
        let mut inner: *mut DeviceHandle = device.map_or(null_mut(), |d| d);
        let outer = if inner.is_null() { null_mut() } else { &raw mut inner };
        let code = call!(self, accept, (listener, &mut comm, outer));
        (code, comm)
    }
    /// Connects and accepts in one thread.
    pub fn pair(self, device: c_int, queue: &mut DeviceHandle) -> (Pointer, Pointer) {
        let (handle, listener) = self.listen(device);
        let (mut copy, mut send, mut receive): (_, Pointer, Pointer) = (handle, null_mut(), null_mut());
        let deadline = Instant::now() + Duration::from_secs(20);
        while send.is_null() || receive.is_null() {
            assert!(Instant::now() < deadline, "no connection within 20 s");
            if send.is_null() {
                let (code, comm) = self.connect_once(device, &mut copy);
                assert_eq!(code, 0, "connect");
                send = comm;
            }
            if receive.is_null() {
                let (code, comm) = self.accept_once(listener, Some(queue));
                assert_eq!(code, 0, "accept");
                receive = comm;
            }
        }
        assert_eq!(self.close_listen(listener), 0);
        (send, receive)
    }
    pub fn reg_mr(self, comm: Pointer, data: &[u8], kind: c_int) -> Result<Pointer, c_int> {
        let (mut handle, at) = (null_mut(), data.as_ptr().cast_mut().cast::<c_void>());
        let n = data.len();
        // SAFETY: memory of the test, alive until deregistered.
        let code = unsafe {
            match self.0 {
                Table::V7(t) => (t.reg_mr.expect("present"))(comm, at, n as c_int, kind, &mut handle),
                Table::V8(t) => (t.reg_mr.expect("present"))(comm, at, n, kind, &mut handle),
                Table::V9(t) => (t.reg_mr.expect("present"))(comm, at, n, kind, &mut handle),
                Table::V10(t) => (t.reg_mr.expect("present"))(comm, at, n, kind, &mut handle),
                Table::V11(t) => (t.reg_mr.expect("present"))(comm, at, n, kind, &mut handle),
            }
        };
        if code == 0 { Ok(handle) } else { Err(code) }
    }
    pub fn dereg_mr(self, comm: Pointer, handle: Pointer) -> c_int {
        call!(self, dereg_mr, (comm, handle))
    }
    /// The result code and the request; `hint` lies in `*request` before the call.
    pub fn isend(self, comm: Pointer, at: *const u8, n: usize, mh: Pointer, hint: usize) -> (c_int, Pointer) {
        let (mut r, at): (Pointer, Pointer) = (hint as Pointer, at.cast_mut().cast());
        // SAFETY: as the test wants it.
        let code = unsafe {
            match self.0 {
                Table::V7(t) => (t.isend.expect("present"))(comm, at, n as c_int, 7, mh, &mut r),
                Table::V8(t) => (t.isend.expect("present"))(comm, at, n as c_int, 7, mh, &mut r),
                Table::V9(t) => (t.isend.expect("present"))(comm, at, n, 7, mh, &mut r),
                Table::V10(t) => (t.isend.expect("present"))(comm, at, n, 7, mh, null_mut(), &mut r),
                Table::V11(t) => (t.isend.expect("present"))(comm, at, n, 7, mh, null_mut(), &mut r),
            }
        };
        (code, r)
    }
    pub fn irecv_n(
        self,
        comm: Pointer,
        count: c_int,
        at: *mut u8,
        n: usize,
        mh: Pointer,
        hint: usize,
    ) -> (c_int, Pointer) {
        let mut r: Pointer = hint as Pointer;
        let mut data: [Pointer; 2] = [at.cast(); 2];
        let mut mhs = [mh; 2];
        let mut ints = [n as c_int; 2];
        let mut sizes = [n; 2];
        let mut tags = [9; 2];
        let (d, m, t) = (data.as_mut_ptr(), mhs.as_mut_ptr(), tags.as_mut_ptr());
        let (i, s) = (ints.as_mut_ptr(), sizes.as_mut_ptr());
        // SAFETY: as the test wants it.
        let code = unsafe {
            match self.0 {
                Table::V7(x) => (x.irecv.expect("present"))(comm, count, d, i, t, m, &mut r),
                Table::V8(x) => (x.irecv.expect("present"))(comm, count, d, i, t, m, &mut r),
                Table::V9(x) => (x.irecv.expect("present"))(comm, count, d, s, t, m, &mut r),
                Table::V10(x) => (x.irecv.expect("present"))(comm, count, d, s, t, m, null_mut(), &mut r),
                Table::V11(x) => (x.irecv.expect("present"))(comm, count, d, s, t, m, null_mut(), &mut r),
            }
        };
        (code, r)
    }
    pub fn irecv(self, comm: Pointer, at: *mut u8, n: usize, mh: Pointer) -> (c_int, Pointer) {
        self.irecv_n(comm, 1, at, n, mh, 0)
    }
    /// Code, done, size; the size is -1 where the plugin left it alone.
    pub fn test(self, request: Pointer) -> (c_int, bool, c_int) {
        let (mut done, mut size) = (-1, -1);
        let code = call!(self, test, (request, &mut done, &mut size));
        (code, done == 1, size)
    }
    /// Tests until done; panics after ten seconds or on any error.
    pub fn finish(self, requests: &[Pointer], mut between: impl FnMut()) -> c_int {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut last = -1;
        for &request in requests {
            loop {
                let (code, done, size) = self.test(request);
                assert_eq!(code, 0, "test");
                if done {
                    last = size;
                    break;
                }
                assert!(Instant::now() < deadline, "not done within 10 s");
                between();
            }
        }
        last
    }
    pub fn consumed(self, comm: Pointer, request: Pointer) -> c_int {
        self.consumed_n(comm, 1, request)
    }
    pub fn consumed_n(self, comm: Pointer, n: c_int, request: Pointer) -> c_int {
        call!(self, irecv_consumed, (comm, n, request))
    }
    /// `test` without a place for the size.
    pub fn test_without_size(self, request: Pointer) -> (c_int, c_int) {
        let mut done = -1;
        let code = call!(self, test, (request, &mut done, null_mut()));
        (code, done)
    }
    pub fn iflush(self, comm: Pointer) -> (c_int, Pointer) {
        let mut request = 1 as Pointer;
        let code = call!(self, iflush, (comm, 1, null_mut(), null_mut(), null_mut(), &mut request));
        (code, request)
    }
    pub fn close_send(self, comm: Pointer) -> c_int {
        call!(self, close_send, (comm))
    }
    pub fn close_recv(self, comm: Pointer) -> c_int {
        call!(self, close_recv, (comm))
    }
    pub fn close_listen(self, listener: Pointer) -> c_int {
        call!(self, close_listen, (listener))
    }
    pub fn get_device_mr(self, comm: Pointer, handle: Pointer) -> (c_int, Pointer) {
        let mut pointer = 1 as Pointer;
        let code = call!(self, get_device_mr, (comm, handle, &mut pointer));
        (code, pointer)
    }
}

/// Bytes that depend on a seed and on their place.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
