//! Numbers that nobody can guess.

use rustix::rand::{GetRandomFlags, getrandom};

/// A number of the system's. Asked for where links come up and memory is opened, never on the data path.
pub(crate) fn unguessable() -> u64 {
    let mut bytes = [0_u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        // It fails only by being interrupted, or on a kernel without it, which nothing here runs on.
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!("the system gives no random numbers: {error}");
                break;
            }
        }
    }
    u64::from_ne_bytes(bytes)
}
