//! Two endpoints send a message to each other. Both lie in one process here; on two hosts each has one of them, and
//! the address of the door travels by whatever way there is.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use p2p_endpoint::endpoint::Endpoint;
use p2p_endpoint::engine::{Part, Request};
use p2p_memory::SharedHost;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let (here, there) = (Endpoint::open()?, Endpoint::open()?);
    let port = there.door().ok_or("an endpoint listens")?.port();
    let link = here.connect(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
    let peer = there.accept(PATIENCE)?.ok_or("somebody came")?;

    let text = b"a message of any length";
    let (from, to) = (SharedHost::new(4096)?, SharedHost::new(4096)?);
    from.copy_in(0, text)?;
    let (sends, receives) = (here.reg(Box::new(from))?, there.reg(Box::new(to.clone()))?);

    // The receiver says how much it has room for, and learns how long the message is.
    let room = Part { mr: receives, offset: 0, len: 4096 };
    let receive = there.start(peer.link, &[room], Request::Recv)?;
    let message = Part { mr: sends, offset: 0, len: text.len() as u64 };
    let sent = here.run(link, &[message], Request::Send, PATIENCE)?;
    println!("sent: {sent:?}; received: {:?}", there.wait(receive, PATIENCE));

    let mut arrived = vec![0; text.len()];
    to.copy_out(0, &mut arrived)?;
    assert_eq!(arrived, text);
    Ok(())
}
