//! The world moves bytes, in virtual time that adds up.

use p2p_memory::SharedHost;
use p2p_transport::{ConnId, Event, Events, NicId, Outcome, Rail, RegionId, Slice, Token, Transport};
use p2p_transport_mock::{MockTransport, NicModel, Settings, World};

struct Pair {
    world: World,
    ends: [MockTransport; 2],
}

impl Pair {
    fn new(settings: Settings, nics: &[NicModel]) -> Self {
        let world = World::new(1, settings);
        let ends = [0, 1].map(|_| world.add_node(nics).transport());
        Self { world, ends }
    }

    fn connect(&mut self, nic: u16) -> [ConnId; 2] {
        let rail = Rail { nic: NicId(nic), device: None, channels: 1 };
        let (listener, address) = self.ends[1].listen(rail).expect("a NIC that is there");
        let second = self.ends[1].accept(listener).expect("a fresh listener");
        let first = self.ends[0].connect(rail, &address).expect("a good address");
        let events = self.run();
        assert!(events.contains(&(0, Event::Connected(first))), "{events:?}");
        assert!(events.contains(&(1, Event::Connected(second))), "{events:?}");
        [first, second]
    }

    /// Until no operation is under way; whose events there were.
    fn run(&mut self) -> Vec<(usize, Event)> {
        let mut seen = Vec::new();
        loop {
            for (end, transport) in self.ends.iter_mut().enumerate() {
                let mut events = Events::with_capacity(1);
                loop {
                    let _ = transport.poll(self.world.now(), &mut events);
                    match events.drain().next() {
                        Some(event) => seen.push((end, event)),
                        None => break,
                    }
                }
            }
            if !self.world.step() {
                assert_eq!(self.world.findings(), [""; 0]);
                return seen;
            }
        }
    }

    fn region(&mut self, end: usize, nic: u16, length: usize) -> (RegionId, SharedHost) {
        let memory = SharedHost::new(length).expect("little memory");
        let region = self.ends[end].register(NicId(nic), Box::new(memory.clone())).expect("registered");
        (region, memory)
    }
}

const fn slice(region: RegionId, offset: u64, len: u32) -> Slice {
    Slice { region, offset, len }
}

#[test]
fn a_message_is_scattered_where_it_belongs() {
    for settings in [Settings::plugin(), Settings::rdma()] {
        let mut pair = Pair::new(settings, &[NicModel::FAST]);
        let [first, second] = pair.connect(0);
        let (source, bytes) = pair.region(0, 0, 100);
        let (target, seen) = pair.region(1, 0, 100);
        bytes.copy_in(10, b"hello world").expect("inside");
        let into = [slice(target, 0, 3), slice(target, 50, 20)];
        assert_eq!(pair.ends[1].recv(second, Token(7), &into).count, 1);
        assert_eq!(pair.ends[0].send(first, Token(8), &[slice(source, 10, 11)]).count, 1);
        let events = pair.run();
        let done = |conn, token| Event::Completed { conn, token, outcome: Outcome::Done { len: 11 } };
        assert!(events.contains(&(0, done(first, Token(8)))), "{events:?}");
        assert!(events.contains(&(1, done(second, Token(7)))), "{events:?}");
        let mut read = [0; 100];
        seen.copy_out(0, &mut read).expect("inside");
        assert_eq!((&read[..3], &read[50..58]), (&b"hel"[..], &b"lo world"[..]));
    }
}

/// Bytes per second of messages over these NICs, from the first submit to the last completion.
fn speed(settings: Settings, nics: &[NicModel]) -> f64 {
    const LENGTH: u32 = 4 << 20;
    const EACH: u64 = 10;
    let mut pair = Pair::new(settings, nics);
    let mut conns = Vec::new();
    for nic in 0..nics.len() as u16 {
        let conn = pair.connect(nic);
        conns.push((conn, pair.region(0, nic, LENGTH as usize).0, pair.region(1, nic, LENGTH as usize).0));
    }
    let begin = pair.world.now().0;
    for ([first, second], source, target) in conns {
        for token in 0..EACH {
            assert_eq!(pair.ends[1].recv(second, Token(token), &[slice(target, 0, LENGTH)]).count, 1);
            assert_eq!(pair.ends[0].send(first, Token(token), &[slice(source, 0, LENGTH)]).count, 1);
        }
    }
    let events = pair.run();
    assert_eq!(events.len() as u64, 2 * EACH * nics.len() as u64);
    let seconds = (pair.world.now().0 - begin).as_secs_f64();
    (u64::from(LENGTH) * EACH * nics.len() as u64) as f64 / seconds
}

#[test]
fn nics_add_up_and_a_slow_one_is_slow() {
    let slow = NicModel { bytes_per_second: 5_000_000_000, ..NicModel::FAST };
    for settings in [Settings::plugin(), Settings::rdma()] {
        let one = speed(settings.clone(), &[NicModel::FAST]);
        assert!((24e9..=25e9).contains(&one), "{one}");
        let four = speed(settings.clone(), &[NicModel::FAST; 4]);
        assert!((96e9..=100e9).contains(&four), "{four}");
        let other = speed(settings, &[slow]);
        assert!((4.8e9..=5e9).contains(&other), "{other}");
    }
}
