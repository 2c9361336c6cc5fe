//! What `Traced` tells a subscriber. Alone in its process: whether anybody listens is known to all of it.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use p2p_transport::{Event, Events, Now, Token, Traced, Transport};
use support::{Loopback, RAIL};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event as Logged, Level, Metadata, Subscriber};

/// Counts events by level and by target.
#[derive(Clone, Default)]
struct Counter {
    trace: Arc<AtomicU64>,
    debug: Arc<AtomicU64>,
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "p2p::transport"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Logged<'_>) {
        let level = *event.metadata().level();
        let count = if level == Level::TRACE { &self.trace } else { &self.debug };
        count.fetch_add(1, Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn who_listens_hears_each_call_at_its_level() {
    let counter = Counter::default();
    tracing::subscriber::with_default(counter.clone(), || {
        let mut transport = Traced::new(Loopback::new(2, true));
        let (_, address) = transport.listen(RAIL).expect("listens");
        let conn = transport.connect(RAIL, &address).expect("connects");
        assert_eq!((counter.debug.load(Relaxed), counter.trace.load(Relaxed)), (2, 0));
        let _ = transport.send(conn, Token(1), &[]);
        assert!(!transport.cancel(conn, Token(1)));
        let _ = transport.poll(Now::default(), &mut Events::with_capacity(1));
        assert_eq!((counter.debug.load(Relaxed), counter.trace.load(Relaxed)), (2, 3));
        transport.close(conn).expect("open");
        let mut events = Events::with_capacity(1);
        let _ = transport.poll(Now::default(), &mut events);
        assert_eq!(events.as_slice(), [Event::Closed(conn)]);
        assert_eq!((counter.debug.load(Relaxed), counter.trace.load(Relaxed)), (4, 4));
    });
}
