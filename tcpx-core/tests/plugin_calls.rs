//! Calls of a plugin as `tracing` events. One test, because the subscriber is the process's.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use tcpx_core::CALLS_TARGET;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[path = "support/pair.rs"]
mod pair;

/// Keeps the fields of each call.
struct Keeper;

type Fields = BTreeMap<&'static str, String>;

static CALLS: Mutex<Vec<Fields>> = Mutex::new(Vec::new());

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == CALLS_TARGET
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        assert_eq!(*event.metadata().level(), Level::TRACE);
        let mut kept = Kept(Fields::new());
        event.record(&mut kept);
        CALLS.lock().unwrap().push(kept.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Kept(Fields);

impl Visit for Kept {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// Calls of that name, all of which were successful.
fn calls<'a>(all: &'a [Fields], name: &str) -> Vec<&'a Fields> {
    let of: Vec<_> = all.iter().filter(|fields| fields["call"] == name).collect();
    assert!(!of.is_empty() && of.iter().all(|fields| fields["code"] == "0"), "{name}: {of:?}");
    of
}

#[test]
fn every_call_is_told_with_its_code_and_what_was_done_and_how_much() {
    tracing::subscriber::set_global_default(Keeper).unwrap();
    let plugin = pair::open();
    let (mut sender, mut receiver) = pair::channels(&plugin);
    let (_, from) = pair::filled(&mut sender, &[7; 5000]);
    let (_, into) = pair::memory(&mut receiver, 8000);
    pair::post(&mut receiver, 1, into);
    pair::post(&mut sender, 2, from);
    assert_eq!(pair::next(&mut receiver, &mut sender), pair::done(1, 5000));
    assert_eq!(pair::next(&mut sender, &mut receiver), pair::done(2, 5000));
    drop((sender, receiver));
    let all = std::mem::take(&mut *CALLS.lock().unwrap());
    let once = ["init", "listen", "isend", "irecv", "irecvConsumed", "closeListen", "closeSend", "closeRecv"];
    for name in once {
        assert_eq!(calls(&all, name).len(), 1, "{name}: {all:#?}");
    }
    let (send, receive) = (calls(&all, "isend")[0], calls(&all, "irecv")[0]);
    assert_eq!((&send["size"][..], &receive["size"][..]), ("5000", "8000"));
    for posted in [send, receive] {
        let tests = calls(&all, "test");
        let of = tests.into_iter().filter(|test| test["request"] == posted["request"]);
        let done: Vec<_> = of.filter(|test| test["done"] == "true").collect();
        assert!(done.len() == 1 && done[0]["size"] == "5000", "{done:?}");
    }
    assert_eq!(calls(&all, "regMr").len(), calls(&all, "deregMr").len());
    for name in ["devices", "getProperties", "connect", "accept"] {
        calls(&all, name);
    }
}
