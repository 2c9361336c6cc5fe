//! A listener: one `accept` to its end, and only then `closeListen`.

use core::ffi::c_int;
use std::sync::Arc;

use tcpx_sys::{Code, HANDLE_BYTES};

use super::comm::{Comm, Place, count_leak};
use super::delivery::DeviceHandlePlace;
use super::{Calls, Raw, Side};
use crate::gate::Gate;

/// Where a listener is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// `accept` was never called.
    Fresh,
    /// `accept` said pending: the plugin works on the listener.
    Accepting,
    /// `accept` gave its last answer.
    Over,
}

/// An open listener.
pub(crate) struct Listener {
    calls: Arc<dyn Calls>,
    raw: Raw,
    /// `Some` until the comm takes it.
    device_handle: Option<DeviceHandlePlace>,
    stage: Stage,
    /// Whether the plugin survives `closeListen` while it accepts.
    closes_any_time: bool,
}

/// A handle as `listen` writes it.
#[repr(C, align(8))]
struct Aligned([u8; HANDLE_BYTES]);

impl Listener {
    /// `listen` on a device that the plugin has; the caller holds the gate.
    pub(crate) fn open(
        calls: Arc<dyn Calls>,
        device: c_int,
        closes_any_time: bool,
    ) -> Result<([u8; HANDLE_BYTES], Self), Code> {
        let mut handle = Aligned([0; HANDLE_BYTES]);
        // SAFETY: the device is one of the plugin's (the caller has it from `devices`), and the handle has 128
        // writable bytes.
        let (code, raw) = unsafe { calls.listen(device, handle.0.as_mut_ptr().cast()) };
        let raw = raw.filter(|_| code.is_success()).ok_or(code)?;
        let device_handle = Some(DeviceHandlePlace::new());
        Ok((handle.0, Self { calls, raw, device_handle, stage: Stage::Fresh, closes_any_time }))
    }

    /// One call of `accept`. The caller stops after an answer other than pending, unless it knows that the
    /// plugin has not given its last one.
    pub(crate) fn accept(&mut self) -> (Code, Option<Accepted>) {
        let Some(device_handle) = &self.device_handle else { return (Code::INVALID_USAGE, None) };
        // SAFETY: the listener is open and not over; the device handle is zeroed, lives as long as the
        // listener, and then as long as the comm.
        let (code, comm) = unsafe { self.calls.accept(self.raw, device_handle.as_ptr()) };
        self.stage = Stage::Accepting;
        let comm = comm.filter(|_| code.is_success());
        let device_handle = if comm.is_some() { self.device_handle.take() } else { None };
        (code, comm.zip(device_handle).map(|(raw, device_handle)| Accepted { raw, device_handle }))
    }

    /// The last answer of `accept` was its last.
    pub(crate) const fn is_over(&mut self) {
        self.stage = Stage::Over;
    }

    /// Makes a comm of what `accept` gave.
    pub(crate) fn comm(
        &self,
        accepted: Accepted,
        place: Place,
        gate: Arc<Gate>,
    ) -> (Comm, DeviceHandlePlace) {
        let comm = Comm::new(self.calls.clone(), accepted.raw, Side::Recv, place, gate);
        (comm, accepted.device_handle)
    }
}

/// An accepted comm that nobody owns yet.
pub(crate) struct Accepted {
    raw: Raw,
    device_handle: DeviceHandlePlace,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.stage == Stage::Accepting && !self.closes_any_time {
            tracing::warn!(
                "a listener was given up while the plugin accepts on it; it is leaked, because closing it would \
                 crash the plugin"
            );
            count_leak();
            if let Some(device_handle) = self.device_handle.take() {
                device_handle.leak();
            }
            return;
        }
        // SAFETY: the listener is open, no accept works on it (or the plugin allows that), and nothing uses
        // it after this.
        let code = unsafe { self.calls.close_listen(self.raw) };
        if !code.is_success() {
            tracing::warn!(%code, "closeListen failed");
        }
    }
}
