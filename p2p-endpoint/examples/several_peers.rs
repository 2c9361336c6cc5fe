//! One endpoint and several peers, each of which reads its own part of one registered memory.

use std::error::Error;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use p2p_endpoint::endpoint::Endpoint;
use p2p_endpoint::engine::{Part, Request};
use p2p_endpoint::exports::Access;
use p2p_memory::SharedHost;

const PATIENCE: Duration = Duration::from_secs(30);
const PEERS: u64 = 4;
const SHARD: u64 = 256 << 10;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let weights = SharedHost::new((PEERS * SHARD) as usize)?;
    let server = Endpoint::open()?;
    let mr = server.reg(Box::new(weights))?;
    let item = server.advertise(Part { mr, offset: 0, len: PEERS * SHARD }, Access::Read)?;
    let port = server.door().ok_or("an endpoint listens")?.port();

    let peers: Vec<_> = (0..PEERS)
        .map(|rank| {
            thread::spawn(move || -> Result<(), String> {
                let text = |error: &dyn std::fmt::Display| error.to_string();
                let peer = Endpoint::open().map_err(|error| text(&error))?;
                let to = SocketAddr::from(([127, 0, 0, 1], port));
                let link = peer.connect(to, PATIENCE).map_err(|error| text(&error))?;
                let memory = SharedHost::new(SHARD as usize).map_err(|error| text(&error))?;
                let own = peer.reg(Box::new(memory)).map_err(|error| text(&error))?;
                let shard =
                    item.narrow(item.address() + rank * SHARD, SHARD).map_err(|error| text(&error))?;
                let part = Part { mr: own, offset: 0, len: SHARD };
                let read = peer.run(link, &[part], Request::Read { from: &[shard] }, PATIENCE);
                println!("rank {rank}: {:?}", read.map_err(|error| text(&error))?);
                Ok(())
            })
        })
        .collect();
    for peer in peers {
        peer.join().map_err(|_| "a peer panicked")??;
    }
    Ok(())
}
