//! Moving whole sequences of messages through a table, and counting what a process holds.

use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tcpx_sys::device::DeviceHandle;
use tcpx_sys::log::{Level, Record, Sink, Subsystems};
use tcpx_sys::{PTR_HOST, Version};

use super::{Net, Pointer, pattern};

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A bound that says what was waited for.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn new() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    pub fn check(&self, what: &str) {
        assert!(Instant::now() < self.0, "{what}: not within {PATIENCE:?}");
    }
}

/// Calls `attempt` until it answers.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::new();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        deadline.check(what);
        std::thread::yield_now();
    }
}

/// The newest table, initialised.
pub fn start() -> Net {
    let (net, code) = try_start();
    assert_eq!(code, 0, "init: {:?}", log());
    net
}

/// The newest table and what its `init` said.
pub fn try_start() -> (Net, i32) {
    collect_log();
    let net = Net(tcpx_soft::plugin_of(Version::V11).table);
    (net, net.init())
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn collect_log() {
    fn wants(_: Level, _: Subsystems) -> bool {
        true
    }
    fn take(record: Record<'_>) {
        LOG.lock().expect("log").push(String::from_utf8_lossy(record.text).into_owned());
    }
    // The first of this process stays.
    let _ = tcpx_sys::log::install(Sink { wants, take });
}

/// Every line the plugin has said.
pub fn log() -> Vec<String> {
    LOG.lock().expect("log").clone()
}

/// Asserts that no line speaks of a panic.
pub fn no_panic() {
    let lines = log();
    assert!(!lines.iter().any(|line| line.contains("panic")), "{lines:#?}");
}

/// Accepts until there is a comm or an error.
pub fn accept(net: Net, listener: Pointer, queue: &mut DeviceHandle) -> Result<Pointer, i32> {
    until("accept", || match net.accept_once(listener, Some(queue)) {
        (0, comm) if comm.is_null() => None,
        (0, comm) => Some(Ok(comm)),
        (code, _) => Some(Err(code)),
    })
}

/// Connects until there is a comm or an error.
pub fn connect(net: Net, handle: &mut [u8; 128]) -> Result<Pointer, i32> {
    until("connect", || match net.connect_once(0, handle) {
        (0, comm) if comm.is_null() => None,
        (0, comm) => Some(Ok(comm)),
        (code, _) => Some(Err(code)),
    })
}

/// Registered memory of a test.
#[derive(Debug)]
pub struct Memory {
    pub bytes: Vec<u8>,
    pub handle: Pointer,
}

impl Memory {
    pub fn new(net: Net, comm: Pointer, bytes: Vec<u8>) -> Self {
        assert!(!bytes.is_empty());
        let handle = net.reg_mr(comm, &bytes, PTR_HOST).expect("registration");
        Self { bytes, handle }
    }

    pub fn zeroed(net: Net, comm: Pointer, length: usize) -> Self {
        Self::new(net, comm, vec![0; length])
    }

    pub fn patterned(net: Net, comm: Pointer, seed: u64, length: usize) -> Self {
        Self::new(net, comm, pattern(seed, length))
    }
}

/// Posts a receive over all of `into`.
pub fn post_receive(net: Net, comm: Pointer, into: &mut Memory) -> Pointer {
    let (code, request) = net.irecv(comm, into.bytes.as_mut_ptr(), into.bytes.len(), into.handle);
    assert_eq!(code, 0, "irecv: {:?}", log().last());
    assert!(!request.is_null());
    request
}

/// Posts a send of all of `from`.
pub fn post_send(net: Net, comm: Pointer, from: &Memory) -> Pointer {
    post_send_of(net, comm, from, from.bytes.len())
}

/// Posts a send of the first `length` bytes of `from`.
pub fn post_send_of(net: Net, comm: Pointer, from: &Memory, length: usize) -> Pointer {
    let (code, request) = net.isend(comm, from.bytes.as_ptr(), length, from.handle, 0);
    assert_eq!(code, 0, "isend: {:?}", log().last());
    assert!(!request.is_null());
    request
}

/// Tests until done; the size told.
pub fn finish(net: Net, request: Pointer, what: &str) -> i32 {
    until(what, || match net.test(request) {
        (0, true, size) => Some(size),
        (0, false, _) => None,
        (code, ..) => panic!("{what}: test answered {code}: {:?}", log().last()),
    })
}

/// Tests until an error.
pub fn error_of(net: Net, request: Pointer, what: &str) -> i32 {
    until(what, || match net.test(request) {
        (0, true, _) => panic!("{what}: done, but an error was expected"),
        (0, false, _) => None,
        (code, done, _) => {
            assert!(!done, "{what}: an error and done");
            Some(code)
        }
    })
}

/// Sends and receives interleaved in one thread; both ends are optional.
pub struct Exchange<'a> {
    pub net: Net,
    pub send: Option<(Pointer, &'a [Vec<u8>])>,
    pub receive: Option<(Pointer, &'a [Vec<u8>])>,
    pub window: usize,
}

impl Exchange<'_> {
    /// Runs to the end, checking all bytes of every message and one byte behind it.
    pub fn run(&self) {
        let net = self.net;
        let sends = self.send.map_or(&[][..], |(_, all)| all);
        let receives = self.receive.map_or(&[][..], |(_, all)| all);
        let (mut sending, mut receiving) = (Vec::new(), Vec::new());
        let (mut next_send, mut next_receive) = (0, 0);
        let mut deadline = Deadline::new();
        while next_send < sends.len()
            || next_receive < receives.len()
            || !sending.is_empty()
            || !receiving.is_empty()
        {
            deadline.check("an exchange that moves");
            if let Some((comm, all)) = self.receive {
                while receiving.len() < self.window && next_receive < all.len() {
                    let mut into = Memory::new(net, comm, vec![0xA5; all[next_receive].len() + 1]);
                    let (code, request) =
                        net.irecv(comm, into.bytes.as_mut_ptr(), into.bytes.len(), into.handle);
                    assert_eq!(code, 0);
                    receiving.push((request, into, next_receive));
                    next_receive += 1;
                }
                if let Some((request, ..)) = receiving.first() {
                    let (code, done, size) = net.test(*request);
                    assert_eq!(code, 0, "test of a receive: {:?}", log().last());
                    if done {
                        let (request, into, which) = receiving.remove(0);
                        let expected = &all[which];
                        if size >= 0 {
                            assert_eq!(size as usize, expected.len(), "size of message {which}");
                        }
                        assert!(into.bytes[..expected.len()] == expected[..], "bytes of message {which}");
                        assert_eq!(into.bytes[expected.len()], 0xA5, "a byte behind message {which}");
                        assert_eq!(net.consumed(comm, request), 0);
                        net.dereg_mr(comm, into.handle);
                        deadline = Deadline::new();
                    }
                }
            }
            if let Some((comm, all)) = self.send {
                while sending.len() < self.window && next_send < all.len() {
                    let mut bytes = all[next_send].clone();
                    bytes.push(0);
                    let from = Memory::new(net, comm, bytes);
                    let request = post_send_of(net, comm, &from, all[next_send].len());
                    sending.push((request, from));
                    next_send += 1;
                }
                if let Some((request, _)) = sending.first() {
                    let (code, done, _) = net.test(*request);
                    assert_eq!(code, 0, "test of a send: {:?}", log().last());
                    if done {
                        let (_, from) = sending.remove(0);
                        net.dereg_mr(comm, from.handle);
                        deadline = Deadline::new();
                    }
                }
            }
            std::thread::yield_now();
        }
    }
}

/// Soft to soft, both ends in this thread.
pub fn exchange(net: Net, (send, receive): (Pointer, Pointer), messages: &[Vec<u8>]) {
    Exchange { net, send: Some((send, messages)), receive: Some((receive, messages)), window: 12 }.run();
}

/// A pair of comms on device 0.
pub fn pair(net: Net) -> (Pointer, Pointer) {
    net.pair(0, &mut DeviceHandle::zeroed())
}

/// Closes both.
pub fn close(net: Net, (send, receive): (Pointer, Pointer)) {
    assert_eq!(net.close_send(send), 0);
    assert_eq!(net.close_recv(receive), 0);
}

/// A small generator with a printed seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// From `SEED`, or from the clock; the seed is printed, so that a failure can be replayed.
    pub fn seeded() -> Self {
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        };
        let seed = given.unwrap_or_else(clock);
        println!("SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Mixed sizes: empty, tiny, about the inline limit, and up to `most`.
    pub fn size(&mut self, most: usize) -> usize {
        match self.below(10) {
            0 => 0,
            1..=3 => self.below(300),
            4..=6 => 16_384 - 40 + self.below(80),
            _ => self.below(most + 1),
        }
        .min(most)
    }

    pub fn messages(&mut self, count: usize, most: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                let (seed, size) = (self.next(), self.size(most));
                pattern(seed, size)
            })
            .collect()
    }
}

/// Open file descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Threads of this process.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("proc").count()
}

/// Resident memory of this process, in bytes.
pub fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages = statm.split(' ').nth(1).and_then(|text| text.parse::<usize>().ok()).expect("statm");
    pages * 4096
}

/// Waits until this process holds at most that many descriptors and threads.
pub fn level(files: usize, tasks: usize) {
    until(&format!("back to {files} descriptors and {tasks} threads"), || {
        (descriptors() <= files && threads() <= tasks).then_some(())
    });
}

/// Whether a stream has ended, in order or by a reset, within the patience of the test.
pub fn ended(mut stream: &TcpStream) -> bool {
    use std::io::Read;
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut scratch = [0; 4096];
    loop {
        match stream.read(&mut scratch) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
