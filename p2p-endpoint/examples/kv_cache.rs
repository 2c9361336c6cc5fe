//! A prefill worker pushes the pages of a KV cache into the memory of a decode worker, and tells it when they are
//! there. The decode worker does nothing for it but open its memory once.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use p2p_endpoint::endpoint::{Endpoint, Status};
use p2p_endpoint::engine::Part;
use p2p_endpoint::exports::{Access, Item};
use p2p_memory::SharedHost;

const PATIENCE: Duration = Duration::from_secs(30);
const PAGE: usize = 16 << 10;
const PAGES: usize = 1024;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let (prefill, decode) = (Endpoint::open()?, Endpoint::open()?);

    // The decode worker opens its cache, and ships 64 bytes and its address.
    let cache = SharedHost::new(PAGES * PAGE)?;
    let mr = decode.reg(Box::new(cache.clone()))?;
    let whole = Part { mr, offset: 0, len: (PAGES * PAGE) as u64 };
    let shipped = decode.advertise(whole, Access::Write)?.to_bytes();
    let door = decode.door().ok_or("an endpoint listens")?.port();

    // The prefill worker connects, once.
    let link = prefill.connect(SocketAddr::from(([127, 0, 0, 1], door)), PATIENCE)?;
    let item = Item::from_bytes(&shipped)?;
    let computed = SharedHost::new(PAGES * PAGE)?;
    computed.fill(0, PAGES * PAGE, 42)?;
    let own = prefill.reg(Box::new(computed))?;

    // A request's pages lie anywhere, here every third one goes to every fifth place: one transfer of 200 pages.
    let page = |index: usize| (index * PAGE) as u64;
    let from: Vec<Part> = (0..200).map(|k| Part { mr: own, offset: page(k * 3), len: PAGE as u64 }).collect();
    let into: Vec<Item> =
        (0..200).map(|k| item.narrow(item.address() + page(k * 5), PAGE as u64)).collect::<Result<_, _>>()?;
    let write = prefill.push(link, &from, &into, "request 7 is ready")?;

    // The decode worker hears of it when every byte is visible.
    let (_, told) = decode.notification(PATIENCE).ok_or("a notification")?;
    let mut bytes = vec![0; PAGE];
    cache.copy_out(199 * 5 * PAGE, &mut bytes)?;
    assert!(bytes.iter().all(|byte| *byte == 42));
    println!("{}: {:?}", String::from_utf8_lossy(&told), prefill.wait(write, PATIENCE));
    assert_ne!(prefill.poll(write), Status::Pending);
    Ok(())
}
