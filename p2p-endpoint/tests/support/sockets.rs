//! Endpoints of one process over the soft plugin and real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2p_endpoint::endpoint::{Endpoint, OpId, Progress, Status};
use p2p_endpoint::engine::{LinkId, Options, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use tcpx_core::config::{Config, FixedEnvironment};

use super::filled;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration with these variables, over plain TCP.
pub(crate) fn config(variables: &[(&'static str, &'static str)]) -> Config {
    let tcp = [("UCCL_P2P_TRANSPORT", "tcp")];
    let environment: FixedEnvironment = tcp.into_iter().chain(variables.iter().copied()).collect();
    Config::from_environment(&environment).expect("good values")
}

pub(crate) fn endpoint(progress: Progress, variables: &[(&'static str, &'static str)]) -> Endpoint {
    let config = config(variables);
    let mut options = Options::of(&config);
    options.door = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Endpoint::of(&config, options, progress).expect("an endpoint")
}

/// An endpoint and its end of a link.
pub(crate) struct End {
    pub(crate) endpoint: Endpoint,
    pub(crate) link: LinkId,
}

/// Both ends of a link.
pub(crate) fn link(progress: Progress, variables: [&[(&'static str, &'static str)]; 2]) -> [End; 2] {
    let here = endpoint(progress, variables[0]);
    let there = endpoint(progress, variables[1]);
    let door = there.door().expect("it listens");
    // Whoever has no thread has to be driven by somebody while the other one waits.
    let [here_link, there_link] = std::thread::scope(|scope| {
        let accepts = scope.spawn(|| there.accept(PATIENCE).expect("alive").expect("somebody came").link);
        let connected = here.connect(door, PATIENCE).expect("it answers");
        [connected, accepts.join().expect("accepted")]
    });
    [End { endpoint: here, link: here_link }, End { endpoint: there, link: there_link }]
}

/// Registered memory.
pub(crate) struct Area {
    pub(crate) memory: SharedHost,
    pub(crate) mr: MrId,
}

impl Area {
    pub(crate) fn part(&self, offset: u64, len: u64) -> Part {
        Part { mr: self.mr, offset, len }
    }

    pub(crate) fn whole(&self) -> Part {
        self.part(0, self.memory.len() as u64)
    }

    /// Whether it has the same bytes as another one.
    pub(crate) fn is(&self, other: &SharedHost) -> bool {
        let length = self.memory.len().min(other.len());
        super::bytes(&self.memory, 0, length) == super::bytes(other, 0, length)
    }
}

impl End {
    pub(crate) fn area(&self, length: usize, seed: u8) -> Area {
        let memory = filled(length, seed);
        let mr = self.endpoint.reg(Box::new(memory.clone())).expect("registered");
        Area { memory, mr }
    }

    pub(crate) fn item(&self, area: &Area) -> Item {
        self.endpoint.advertise(area.whole(), Access::Both).expect("advertised")
    }

    pub(crate) fn start(&self, part: Part, request: Request<'_>) -> OpId {
        self.endpoint.start(self.link, &[part], request).expect("started")
    }

    /// Waits for the end of an operation, which has to be done.
    pub(crate) fn done(&self, id: OpId, bytes: u64) {
        let ended = self.endpoint.wait(id, PATIENCE);
        assert_eq!(ended, Status::Ended(Outcome::Done { bytes }), "{:?}", self.endpoint.stalls());
    }

    pub(crate) fn run(&self, part: Part, request: Request<'_>) {
        self.done(self.start(part, request), part.len);
    }
}
