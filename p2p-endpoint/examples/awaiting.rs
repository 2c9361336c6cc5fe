//! Transfers in async code: any executor, no runtime of ours.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use p2p_endpoint::endpoint::Endpoint;
use p2p_endpoint::engine::{Part, Request};
use p2p_endpoint::exports::Access;
use p2p_memory::SharedHost;

const PATIENCE: Duration = Duration::from_secs(30);
const LENGTH: usize = 1 << 20;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let (here, there) = (Endpoint::open()?, Endpoint::open()?);
    let port = there.door().ok_or("an endpoint listens")?.port();
    let link = here.connect(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
    let opened = there.reg(Box::new(SharedHost::new(8 * LENGTH)?))?;
    let item = there.advertise(Part { mr: opened, offset: 0, len: (8 * LENGTH) as u64 }, Access::Both)?;
    let own = here.reg(Box::new(SharedHost::new(LENGTH)?))?;

    let outcomes = futures::executor::block_on(async {
        let mut reads = Vec::new();
        for index in 0..8 {
            let far = item.narrow(item.address() + index * LENGTH as u64, LENGTH as u64)?;
            let part = Part { mr: own, offset: 0, len: LENGTH as u64 };
            let id = here.start(link, &[part], Request::Read { from: &[far] })?;
            // Dropping an ending detaches its transfer, which goes on.
            reads.push(here.ending(id));
        }
        Ok::<_, Box<dyn Error>>(join_all(reads).await)
    })?;
    println!("{outcomes:?}");
    assert_eq!(outcomes.len(), 8);
    Ok(())
}
