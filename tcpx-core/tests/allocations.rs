//! Nothing is allocated on the data path after a short warm-up. One test, because the allocator counts for
//! the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use p2p_memory::HostBuffer;
use tcpx_core::config::{Config, FixedEnvironment};
use tcpx_core::{Channel, ChannelSet, Event, Plugin, Post, Slice, Source};

#[path = "support/null.rs"]
mod null;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller; the memory came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn post_test_and_release_allocate_nothing_after_warm_up() {
    let config = Config::from_environment(&FixedEnvironment::default()).unwrap();
    let plugin = Plugin::open(Source::Static(null::plugin()), &config).unwrap();
    let now = Instant::now();
    let deadline = now + Duration::from_secs(60);
    let mut set = ChannelSet::new(plugin.clone()).unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (handle, listening) = plugin.listen(0, deadline).unwrap();
        let sender = plugin.connect(0, &handle, deadline).unwrap().wait().unwrap();
        let mut channels = [
            Channel::sending(sender, 12).unwrap(),
            Channel::receiving(listening.wait().unwrap(), 16).unwrap(),
        ];
        for channel in &mut channels {
            let registration = channel.register(Box::new(HostBuffer::new(4096).unwrap())).unwrap();
            ids.push((registration, None));
        }
        let from = ids.len() - 2;
        for (channel, place) in channels.into_iter().zip(&mut ids[from..]) {
            place.1 = Some(set.insert(channel).unwrap());
        }
    }
    let mut completed = 0;
    let mut rounds = |count: u64| {
        for token in 0..count {
            for &(registration, id) in &ids {
                let slice = Slice { registration, offset: 0, length: 4096 };
                let post = set.post(id.unwrap(), token, &[slice], now).unwrap();
                assert_eq!(post, Post::Accepted);
            }
            set.round(now, |_, event| {
                assert!(matches!(event, Event::Completed(_)));
                completed += 1;
            });
        }
    };
    rounds(10);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    rounds(10_000);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
    assert_eq!(completed, 10_010 * 6);
}
