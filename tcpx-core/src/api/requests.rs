//! A comm and its window: requests are tested and consumed oldest first, and in no other way.

use tcpx_sys::Code;
use tcpx_sys::extension;

use super::comm::Comm;
use super::delivery::Piece;
use super::registration::{Resolved, Slice};
use super::{Made, Raw, Side, Tested};
use crate::error::Misuse;
use crate::verdict::{self, Progress};
use crate::window::Window;

/// Requests a plugin holds per comm.
pub(crate) const RING: usize = 16;

/// The slices of a message: one is the rule and needs no list.
enum Slices {
    One(Slice),
    Many(Vec<Slice>),
}

impl Slices {
    fn as_slice(&self) -> &[Slice] {
        match self {
            Self::One(slice) => core::slice::from_ref(slice),
            Self::Many(slices) => slices,
        }
    }
}

/// A request and what its poster keeps with it.
struct Request<T> {
    raw: Raw,
    slices: Slices,
    value: T,
}

/// What became of a post.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The plugin was asked and answered this; whether it took the request.
    Answered(Code, bool),
    /// The window is full; the plugin was not asked.
    Full,
}

/// See the module documentation.
pub(crate) struct Requests<T> {
    window: Window<Request<T>, RING>,
    comm: Comm,
    max_slices: usize,
    /// `test` gave an answer after which it must not be asked again.
    lost: bool,
    /// Lists of released messages, to be used again: at most one for each slot.
    spare: Vec<Vec<Slice>>,
    /// The list in the plugin's form, used for the length of one call.
    staging: Vec<extension::Slice>,
}

// SAFETY: `staging` holds addresses only for the length of a call; it is empty between calls.
unsafe impl<T: Send> Send for Requests<T> {}

impl<T> Requests<T> {
    /// `limit` requests at most, of which the plugin holds [`RING`].
    pub(crate) fn new(comm: Comm, limit: usize) -> Result<Self, Misuse> {
        let Some(window) = Window::new().with_limit(limit) else {
            return Err(Misuse::Window { given: limit, max: RING });
        };
        let max_slices = comm.calls().max_slices();
        Ok(Self {
            window,
            comm,
            max_slices,
            lost: false,
            spare: Vec::with_capacity(RING),
            staging: Vec::new(),
        })
    }

    pub(crate) const fn comm(&self) -> &Comm {
        &self.comm
    }

    pub(crate) const fn comm_mut(&mut self) -> &mut Comm {
        &mut self.comm
    }

    pub(crate) const fn in_flight(&self) -> usize {
        self.window.in_flight()
    }

    pub(crate) const fn held(&self) -> usize {
        self.window.held()
    }

    pub(crate) const fn free(&self) -> usize {
        self.window.free()
    }

    pub(crate) const fn limit(&self) -> usize {
        self.window.limit()
    }

    pub(crate) const fn max_slices(&self) -> usize {
        self.max_slices
    }

    /// Allows one slice for each message, whatever the plugin says of itself.
    pub(crate) const fn take_one_slice(&mut self) {
        self.max_slices = 1;
    }

    /// Values of all requests, oldest first.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = &T> {
        self.window.outstanding().map(|request| &request.value)
    }

    /// Posts one message; `value` is given the message's length in bytes.
    pub(crate) fn post(
        &mut self,
        slices: &[Slice],
        value: impl FnOnce(usize) -> T,
    ) -> Result<Outcome, Misuse> {
        let length = self.check(slices)?;
        if self.window.free() == 0 {
            return Ok(Outcome::Full);
        }
        let (code, raw) = match slices {
            &[slice] => self.post_one(slice)?,
            slices => self.post_many(slices)?,
        };
        let Some(raw) = raw.filter(|_| code.is_success()) else {
            return Ok(Outcome::Answered(code, false));
        };
        let slices = self.keep(slices);
        // There is room (checked above), so the window takes it.
        let _ = self.window.post(Request { raw, slices, value: value(length) });
        Ok(Outcome::Answered(code, true))
    }

    /// The length of the message. Its slices are checked against their registrations when resolved.
    fn check(&self, slices: &[Slice]) -> Result<usize, Misuse> {
        if slices.is_empty() {
            return Err(Misuse::NoSlices);
        }
        if slices.len() > self.max_slices {
            return Err(Misuse::TooManySlices { given: slices.len(), max: self.max_slices });
        }
        let length = slices.iter().fold(0_usize, |sum, slice| sum.saturating_add(slice.length));
        let max = self.comm.place().max_message;
        if length > max {
            return Err(Misuse::TooLong { length, max });
        }
        Ok(length)
    }

    fn post_one(&self, slice: Slice) -> Result<Made, Misuse> {
        let Resolved { address, handle } = self.comm.registrations().resolve(slice)?;
        let (calls, raw, data) = (self.comm.calls(), self.comm.raw(), address.as_ptr().cast());
        Ok(match self.comm.side() {
            // SAFETY: the comm is open and this thread's (not Sync); the range lies inside the live
            // registration `handle` of this comm (resolved), which cannot be given back before the request
            // is released.
            Side::Send => unsafe { calls.isend(raw, data, slice.length, handle) },
            // SAFETY: as above.
            Side::Recv => unsafe { calls.irecv(raw, data, slice.length, handle) },
        })
    }

    fn post_many(&mut self, slices: &[Slice]) -> Result<Made, Misuse> {
        self.staging.clear();
        for &slice in slices {
            let Resolved { address, handle } = self.comm.registrations().resolve(slice)?;
            let (address, mhandle) = (address.as_ptr().cast(), handle.as_ptr());
            self.staging.push(extension::Slice { address, length: slice.length, mhandle });
        }
        let (calls, raw) = (self.comm.calls(), self.comm.raw());
        let made = match self.comm.side() {
            // SAFETY: as in `post_one`, for each slice; there are at most `max_slices` (checked).
            Side::Send => unsafe { calls.isend_slices(raw, &self.staging) },
            // SAFETY: as above.
            Side::Recv => unsafe { calls.irecv_slices(raw, &self.staging) },
        };
        self.staging.clear();
        Ok(made)
    }

    fn keep(&mut self, slices: &[Slice]) -> Slices {
        for slice in slices {
            self.comm.registrations_mut().add_user(slice.registration);
        }
        match slices {
            &[slice] => Slices::One(slice),
            slices => {
                let mut list = self.spare.pop().unwrap_or_default();
                list.extend_from_slice(slices);
                Slices::Many(list)
            }
        }
    }

    /// Tests the oldest request in flight. If it is done it is held from here on, and never tested again; after
    /// an answer that loses the comm nothing is.
    pub(crate) fn test_oldest(&mut self) -> Option<(Tested, Progress)> {
        if self.lost {
            return None;
        }
        let request = self.window.oldest_in_flight()?;
        // SAFETY: the comm is open and this thread's; the request is the oldest in flight of it, made by
        // `post`, and not reported done before (it would be held, or the comm lost).
        let tested = unsafe { self.comm.calls().test(request.raw) };
        let progress = verdict::test(tested.code, tested.done);
        match progress {
            Progress::Done => {
                // There is one: it was tested.
                let _ = self.window.finish_oldest();
            }
            Progress::Lost(_) => self.lost = true,
            Progress::NoNews | Progress::PeerEnded => {}
        }
        Some((tested, progress))
    }

    /// The value of the request that `test_oldest` reported done last: the newest one held.
    pub(crate) fn newest_held(&mut self) -> Option<&mut T> {
        self.window.newest_held().map(|request| &mut request.value)
    }

    /// The value of the oldest request held.
    pub(crate) fn oldest_held(&mut self) -> Option<&mut T> {
        self.window.oldest_held().map(|request| &mut request.value)
    }

    /// Whether the newest request held is one into CUDA memory.
    pub(super) fn newest_is_in_cuda_memory(&mut self) -> bool {
        let Some(request) = self.window.newest_held() else { return false };
        let registrations = self.comm.registrations();
        request.slices.as_slice().iter().any(|slice| registrations.is_cuda(slice.registration))
    }

    /// Where the newest request held wants its bytes.
    pub(super) fn pieces(&mut self, pieces: &mut Vec<Piece>) {
        pieces.clear();
        let Some(request) = self.window.newest_held() else { return };
        for &slice in request.slices.as_slice() {
            // The registration is live as long as the request, and the slice was checked when posted.
            if let Ok(Resolved { address, .. }) = self.comm.registrations().resolve(slice) {
                pieces.push(Piece { address, length: slice.length });
            }
        }
    }

    /// Frees the oldest request held; a receive is consumed, which is done exactly once.
    pub(crate) fn release_oldest(&mut self) -> Option<(Code, T)> {
        let Request { raw, slices, value } = self.window.release_oldest()?;
        let code = match self.comm.side() {
            Side::Send => None,
            // SAFETY: the comm is open and this thread's; the request is its oldest finished receive, and
            // has just left the window, so that this is the one time.
            Side::Recv => unsafe { self.comm.calls().consumed(self.comm.raw(), raw) },
        };
        for slice in slices.as_slice() {
            self.comm.registrations_mut().remove_user(slice.registration);
        }
        if let Slices::Many(mut list) = slices {
            list.clear();
            self.spare.push(list);
        }
        Some((code.unwrap_or(Code::SUCCESS), value))
    }
}
