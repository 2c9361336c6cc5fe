//! How sockets, threads and cores are arranged.

/// How the threads of a layout wait and where they run.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Drive {
    /// Blocking calls; the system places the threads.
    Blocking,
    /// Calls that never block, over and over.
    Spinning,
    /// Blocking calls; socket i has both its ends on the i-th of the layout's cores.
    Lanes,
}

/// One arrangement. Each socket has a thread of its own at each end.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Layout {
    /// Number of sockets.
    pub sockets: usize,
    /// How threads wait.
    pub drive: Drive,
    /// Most bytes given to one call.
    pub step: usize,
    /// Whether a receive takes what is there instead of waiting for all of its bytes.
    pub eager: bool,
    /// Bytes of the send buffer; the system's own, which grows to megabytes, if `None`.
    pub send_buffer: Option<usize>,
    /// Cores of the lanes, one for each socket; empty for the other drives.
    pub cores: Vec<usize>,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

impl Layout {
    /// Sockets whose threads the system places.
    pub const fn unpinned(sockets: usize, drive: Drive, step: usize) -> Self {
        Self {
            sockets,
            drive,
            step,
            eager: matches!(drive, Drive::Spinning),
            send_buffer: None,
            cores: Vec::new(),
        }
    }

    /// Lanes on these cores.
    pub fn lanes(cores: &[usize], step: usize) -> Self {
        Self { cores: cores.to_vec(), ..Self::unpinned(cores.len(), Drive::Lanes, step) }
    }

    /// The same, with receives that take what is there.
    #[must_use]
    pub const fn eager(mut self) -> Self {
        self.eager = true;
        self
    }

    /// The same, with a send buffer of this many bytes. What is queued then stays in the cache.
    #[must_use]
    pub const fn buffered(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// Everything worth trying on a machine where `cores` are allowed.
    ///
    /// Lanes need both ends on one machine, and threads that spin need a core each, or they take each
    /// other's. Small send buffers are for sockets of one machine: what is queued stays in the cache, and
    /// under bbr, which paces by what is outstanding, two lanes with 64 KiB are almost twice as fast as with the
    /// system's buffer.
    pub fn candidates(cores: &[usize], same_host: bool) -> Vec<Self> {
        let mut layouts = vec![
            Self::unpinned(1, Drive::Blocking, MIB),
            Self::unpinned(1, Drive::Spinning, 4 * MIB),
            Self::unpinned(2, Drive::Blocking, 4 * MIB),
            Self::unpinned(4, Drive::Blocking, 4 * MIB),
        ];
        if cores.len() >= 4 {
            layouts.push(Self::unpinned(2, Drive::Spinning, 4 * MIB));
        }
        if cores.len() >= 8 {
            layouts.push(Self::unpinned(4, Drive::Spinning, 4 * MIB));
        }
        if same_host {
            layouts.push(Self::unpinned(1, Drive::Spinning, 4 * MIB).buffered(256 * KIB));
            layouts.push(Self::unpinned(2, Drive::Blocking, 4 * MIB).buffered(256 * KIB));
            for count in [2, 4].into_iter().filter(|count| *count <= cores.len()) {
                let lanes = Self::lanes(&cores[..count], 16 * MIB);
                layouts.push(Self::lanes(&cores[..count], 4 * MIB));
                layouts.push(lanes.clone());
                layouts.push(lanes.clone().eager().buffered(256 * KIB));
                layouts.push(lanes.eager().buffered(64 * KIB));
            }
        }
        layouts
    }

    /// The core of socket `index`, if it has one.
    pub fn core(&self, index: usize) -> Option<usize> {
        self.cores.get(index).copied()
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let drive = match self.drive {
            Drive::Blocking if self.sockets == 1 => "socket, blocking",
            Drive::Blocking => "sockets, blocking",
            Drive::Spinning if self.sockets == 1 => "socket, spinning",
            Drive::Spinning => "sockets, spinning",
            Drive::Lanes => "lanes",
        };
        write!(f, "{} {drive}, {} MiB sends", self.sockets, self.step / MIB)?;
        if let Some(buffer) = self.send_buffer {
            write!(f, ", {} KiB buffer", buffer >> 10)?;
        }
        if self.eager && self.drive != Drive::Spinning { f.write_str(", eager") } else { Ok(()) }
    }
}

/// For each of `sockets`, its part of each message that fits into `set`.
pub(super) fn parts(set: &[u8], message: usize, sockets: usize) -> Vec<Vec<&[u8]>> {
    let mut of_socket: Vec<Vec<&[u8]>> = vec![Vec::new(); sockets];
    for message in set.chunks_exact(message) {
        let mut rest = message;
        for (index, parts) in of_socket.iter_mut().enumerate() {
            let (part, after) = rest.split_at(part_length(message.len(), sockets, index));
            parts.push(part);
            rest = after;
        }
    }
    of_socket
}

/// As [`parts`], for writing.
pub(super) fn parts_mut(set: &mut [u8], message: usize, sockets: usize) -> Vec<Vec<&mut [u8]>> {
    let mut of_socket: Vec<Vec<&mut [u8]>> = (0..sockets).map(|_| Vec::new()).collect();
    for message in set.chunks_exact_mut(message) {
        let length = message.len();
        let mut rest = message;
        for (index, parts) in of_socket.iter_mut().enumerate() {
            let (part, after) = rest.split_at_mut(part_length(length, sockets, index));
            parts.push(part);
            rest = after;
        }
    }
    of_socket
}

/// Equal parts of whole pages; the last one takes what is over.
fn part_length(message: usize, sockets: usize, index: usize) -> usize {
    let part = (message / sockets) & !4095;
    if index + 1 == sockets { message - part * index } else { part }
}

#[cfg(test)]
mod tests {
    use super::{Drive, Layout, parts, parts_mut};

    #[test]
    fn parts_are_the_messages_cut() {
        let mut set: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        for sockets in [1, 2, 3, 4] {
            let cut: Vec<Vec<Vec<u8>>> = parts(&set, 30_001, sockets)
                .into_iter()
                .map(|parts| parts.into_iter().map(<[u8]>::to_vec).collect())
                .collect();
            assert_eq!(cut.len(), sockets);
            for message in 0..3 {
                let whole: Vec<u8> = cut.iter().flat_map(|parts| parts[message].clone()).collect();
                assert_eq!(whole, set[message * 30_001..][..30_001]);
            }
            let written = parts_mut(&mut set, 30_001, sockets);
            assert!(written.iter().zip(&cut).all(|(one, other)| one == other));
        }
    }

    #[test]
    fn lanes_are_tried_only_on_one_machine_and_with_cores_enough() {
        let lanes = |cores: &[usize], same_host| {
            let layouts = Layout::candidates(cores, same_host);
            layouts.iter().filter(|layout| layout.drive == Drive::Lanes).count()
        };
        assert_eq!(lanes(&[0, 1], true), 4);
        assert_eq!(lanes(&[0, 1], false), 0);
        assert_eq!(lanes(&[5], true), 0);
        assert_eq!(lanes(&[0, 2, 4, 6], true), 8);
        let layouts = Layout::candidates(&[3, 7], true);
        let lane = layouts.iter().find(|layout| layout.drive == Drive::Lanes).expect("two cores");
        assert_eq!((lane.core(0), lane.core(1), lane.core(2)), (Some(3), Some(7), None));
        assert_eq!(lane.to_string(), "2 lanes, 4 MiB sends");
    }
}
