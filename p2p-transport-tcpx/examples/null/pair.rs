//! Two transports of this process, connected over a plugin that does nothing.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_memory::HostBuffer;
use p2p_transport::{
    ConnId, Event, Events, Next, NicId, Now, Op, Outcome, Rail, RegionId, Slice, Token, Transport,
};
use p2p_transport_tcpx::{Options, Tcpx};
use tcpx_core::config::{Config, FixedEnvironment};
use tcpx_core::{Plugin, Source};

#[path = "../../../tcpx-core/tests/support/null.rs"]
mod null;

const PATIENCE: Duration = Duration::from_secs(30);

/// One end of a connection on which every operation is done as soon as it is asked for.
pub(crate) struct End {
    pub(crate) transport: Tcpx,
    pub(crate) conn: ConnId,
    pub(crate) region: RegionId,
    events: Events,
    /// Stands still, so that nothing is done now and then.
    now: Now,
    /// The other end, which must live.
    _peer: Tcpx,
}

impl End {
    pub(crate) fn new(channels: u16) -> Result<Self, Box<dyn Error>> {
        let config = Config::from_environment(&FixedEnvironment::default())?;
        let plugin = Plugin::open(Source::Static(null::plugin()), &config)?;
        let origin = Instant::now();
        let make = |plugin: &Arc<Plugin>| Tcpx::new(plugin.clone(), &config, Options::of(&config, origin));
        let (mut transport, mut peer) = (make(&plugin)?, make(&plugin)?);
        let rail = Rail { nic: NicId(0), device: None, channels };
        let (listener, address) = peer.listen(rail)?;
        peer.accept(listener)?;
        let conn = transport.connect(rail, &address)?;
        let mut events = Events::with_capacity(64);
        let mut connected = false;
        while !connected {
            let now = Now(origin.elapsed());
            if now.0 > PATIENCE {
                return Err("the two ends do not connect".into());
            }
            let _: [Next; 2] = [&mut transport, &mut peer].map(|end| end.poll(now, &mut events));
            // Ids of the two ends look alike; each is connected once.
            connected =
                events.as_slice().iter().filter(|event| matches!(event, Event::Connected(_))).count() == 2;
        }
        let region =
            transport.register(NicId(0), Box::new(HostBuffer::new(1 << 20)?)).map_err(|no| no.error)?;
        let now = Now(origin.elapsed());
        let _: Vec<Event> = events.drain().collect();
        // Whatever happens now and then has happened at this time.
        let _ = transport.poll(now, &mut events);
        Ok(Self { transport, conn, region, events, now, _peer: peer })
    }

    pub(crate) const fn slice(&self, offset: u64, len: u32) -> Slice {
        Slice { region: self.region, offset, len }
    }

    /// Submits operations and polls until all have ended. Returns how many ended well.
    pub(crate) fn cycle(&mut self, ops: &[Op<'_>]) -> usize {
        if self.transport.submit(self.conn, ops).count != ops.len() {
            return 0;
        }
        self.finish(ops.len())
    }

    fn finish(&mut self, count: usize) -> usize {
        let mut ended = 0;
        let mut well = 0;
        while ended < count {
            let _ = self.transport.poll(self.now, &mut self.events);
            for event in self.events.drain() {
                if let Event::Completed { outcome, .. } = event {
                    ended += 1;
                    well += usize::from(matches!(outcome, Outcome::Done { .. }));
                }
            }
        }
        well
    }

    /// A cycle of one operation: a send where the number is even, else a receive.
    pub(crate) fn one(&mut self, number: u64) -> bool {
        let slices = [self.slice(64, 1024)];
        let token = Token(number);
        let op = match number % 2 {
            0 => Op::Send { token, from: &slices },
            _ => Op::Recv { token, into: &slices },
        };
        self.cycle(&[op]) == 1
    }
}
