//! Open comms. Each carries data one way and is driven through a [`Channel`](crate::Channel).

use p2p_memory::Memory;

use crate::api::comm::Comm;
use crate::api::delivery::DeviceHandlePlace;
use crate::api::registration::RegistrationId;
use crate::error::{Error, RegisterError};

/// The sending end of a connection. It may move between threads and is used by one at a time.
///
/// Dropping it deregisters its memory, closes it, and frees the memory, in this order. What was not yet
/// sent is lost then: wait until the receiver has said that everything arrived.
pub struct SendComm {
    pub(crate) comm: Comm,
}

/// The receiving end of a connection. It may move between threads and is used by one at a time.
///
/// Dropping it deregisters its memory, closes it, and frees the memory, in this order.
pub struct RecvComm {
    pub(crate) comm: Comm,
    pub(crate) device_handle: DeviceHandlePlace,
}

macro_rules! common {
    ($name:ident) => {
        impl $name {
            /// Takes `memory` over and registers it; the comm keeps it until [`deregister`](Self::deregister)
            /// or its own end.
            ///
            /// Host memory may start anywhere, best at the start of a page, as a
            /// [`HostBuffer`](p2p_memory::HostBuffer) does. CUDA memory must start and end at a multiple of
            /// 4 KiB.
            ///
            /// # Errors
            ///
            /// [`RegisterError`] with the memory: empty, unaligned, too large for the table's version, a kind
            /// the device cannot use, or refused by the plugin.
            pub fn register(&mut self, memory: Box<dyn Memory>) -> Result<RegistrationId, RegisterError> {
                self.comm.register(memory)
            }

            /// Gives memory back.
            ///
            /// # Errors
            ///
            /// [`Misuse`](crate::Misuse) if the registration is stale or still used; then, and when the
            /// plugin refuses, it stays as it is.
            pub fn deregister(&mut self, id: RegistrationId) -> Result<Box<dyn Memory>, Error> {
                self.comm.deregister(id)
            }

            /// Registrations it holds.
            pub fn registered(&self) -> usize {
                self.comm.registered()
            }

            /// Name of the device.
            pub const fn device(&self) -> &'static str {
                self.comm.place().device
            }

            /// Longest message, in bytes.
            pub const fn max_message(&self) -> usize {
                self.comm.place().max_message
            }

            /// A line about sockets, lanes and peer, where the plugin has one.
            pub fn describe(&self) -> Option<String> {
                self.comm.describe()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("device", &self.device()).finish_non_exhaustive()
            }
        }
    };
}

common!(SendComm);
common!(RecvComm);
