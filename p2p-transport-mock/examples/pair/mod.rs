//! Two connected ends of a world.

use std::error::Error;

use p2p_memory::HostBuffer;
use p2p_transport::{ConnId, Event, Events, NicId, Outcome, Rail, RegionId, Slice, Token, Transport};
use p2p_transport_mock::{MockTransport, NicModel, Settings, World};

const REGION: usize = 1 << 20;

/// One connection.
pub(crate) struct Pair {
    world: World,
    ends: [MockTransport; 2],
    conns: [ConnId; 2],
    regions: [RegionId; 2],
    events: Events,
}

impl Pair {
    pub(crate) fn new(settings: Settings) -> Result<Self, Box<dyn Error>> {
        let world = World::new(1, settings);
        let mut ends = [0, 1].map(|_| world.add_node(&[NicModel::FAST]).transport());
        let rail = Rail { nic: NicId(0), device: None, channels: 1 };
        let [first, second] = &mut ends;
        let (listener, address) = second.listen(rail)?;
        let conns = [first.connect(rail, &address)?, second.accept(listener)?];
        let region = |end: &mut MockTransport| -> Result<RegionId, Box<dyn Error>> {
            let memory = Box::new(HostBuffer::new(REGION)?);
            Ok(end.register(NicId(0), memory).map_err(|refused| refused.error)?)
        };
        let regions = [region(first)?, region(second)?];
        let mut pair = Self { world, ends, conns, regions, events: Events::with_capacity(64) };
        let is_connected = |event: &Event| matches!(event, Event::Connected(_));
        if pair.until(2, is_connected) { Ok(pair) } else { Err("the two ends do not connect".into()) }
    }

    /// Moves one message of `len` bytes. False if it did not arrive.
    pub(crate) fn message(&mut self, len: u32) -> bool {
        let [from, into] = self.regions.map(|region| [Slice { region, offset: 64, len }]);
        let [first, second] = &mut self.ends;
        let received = second.recv(self.conns[1], Token(1), &into).count;
        let sent = first.send(self.conns[0], Token(1), &from).count;
        let done = |event: &Event| matches!(event, Event::Completed { outcome: Outcome::Done { len: found }, .. } if *found == len);
        received == 1 && sent == 1 && self.until(2, done)
    }

    /// Polls and lets time pass until so many events were as they should be. False if one was not, or if
    /// nothing happens any more.
    fn until(&mut self, count: usize, is_right: impl Fn(&Event) -> bool) -> bool {
        let mut found = 0;
        while found < count {
            for end in &mut self.ends {
                let _ = end.poll(self.world.now(), &mut self.events);
            }
            let before = found;
            for event in self.events.drain() {
                if !is_right(&event) {
                    return false;
                }
                found += 1;
            }
            if found == before && !self.world.step() {
                return false;
            }
        }
        true
    }
}
