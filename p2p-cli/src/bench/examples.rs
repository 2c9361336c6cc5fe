//! Reports as a run would make them.

use super::comparison::{Comparison, EndpointRound, Pings, PlainRound};
use super::figures::{Condition, Entry, Moved, Percentiles};
use super::live::{Sample, Timeline};
use super::nics::{self, Bytes};
use super::plan::COMPARED;
use super::report::Report;
use super::sizes::{AtSize, WayAtSize};
use benches::distance::{Distance, State};

fn percentiles(middle: f64) -> Percentiles {
    Percentiles { p50_microseconds: middle, p90_microseconds: middle * 2.0, p99_microseconds: middle * 3.0 }
}

fn entry(speed: f64) -> Entry {
    Entry {
        size: COMPARED,
        channels: 1,
        in_flight: 3,
        messages: 16,
        sender_gigabytes_per_second: speed,
        receiver_gigabytes_per_second: speed,
        latency: percentiles(1.0),
        sender_cpu_seconds_per_gigabyte: 0.1,
        receiver_cpu_seconds_per_gigabyte: 0.1,
    }
}

fn moved(gigabytes_per_second: f64) -> Moved {
    Moved { gigabytes_per_second, latency: percentiles(1.0), cpu_seconds_per_gigabyte: 0.1 }
}

/// A round; `None` if the cores' distance changed in it.
pub(super) fn comparison(state: Option<State>, others: f64, product: f64, plain: [f64; 2]) -> Comparison {
    let condition = |state| Condition { distance: Distance { nanoseconds: None, state }, others };
    let conditions = match state {
        Some(state) => [condition(state), condition(state)],
        None => [condition(State::Near), condition(State::Far)],
    };
    let plain = PlainRound {
        gigabytes_per_second: plain.to_vec(),
        long_gigabytes_per_second: plain.map(|speed| speed / 2.0).to_vec(),
        cpu_seconds_per_gigabyte: vec![0.2; 2],
    };
    let endpoint = EndpointRound {
        write: moved(product),
        read: moved(product),
        vector: moved(product / 2.0),
        long_write: moved(product * 0.8),
    };
    let [messages, notifications, plain_pings] = [6.0, 7.0, 5.0].map(percentiles);
    let pings = Pings { messages, notifications, plain: plain_pings };
    Comparison::new(conditions, entry(product), Some(entry(product / 2.0)), plain, endpoint, pings, None)
}

pub(super) fn way(gigabytes_per_second: f64, server_longer: f64) -> WayAtSize {
    WayAtSize {
        gigabytes_per_second,
        server_gigabytes_per_second: gigabytes_per_second * 1.01,
        spread: 0.1,
        latency: percentiles(1e3 / gigabytes_per_second),
        client_cpu_seconds_per_gigabyte: 0.12,
        server_cpu_seconds_per_gigabyte: 0.14,
        server_longer_microseconds: server_longer,
        pass_microseconds: 10_000.0,
    }
}

pub(super) fn report(comparisons: Vec<Comparison>) -> Report {
    let at = |size: usize, speed: f64| AtSize {
        size,
        in_flight: 2,
        messages: 16,
        rounds: 5,
        write: way(speed, -50.0),
        read: way(speed * 0.9, 50.0),
        plain_layout: "one".to_owned(),
        plain_gigabytes_per_second: speed * 1.1,
        write_ratio: 0.91,
        read_ratio: 0.82,
    };
    let nics = nics::Moved {
        nics: [("lo-127.0.0.1", 3), ("lo-127.0.0.2", 1)]
            .map(|(name, sent)| (name.to_owned(), Bytes { sent: sent * 1_000_000_000, received: 0 }))
            .into(),
        interfaces: [("lo".to_owned(), Bytes { sent: 5_000_000_000, received: 5_000_000_000 })].into(),
        devmem_packets: [("eth1".to_owned(), 7)].into(),
    };
    let samples = (0..8).map(|at| Sample {
        seconds: 30.0 + f64::from(at) / 4.0,
        gigabytes_per_second: vec![3.0 + f64::from(at) / 10.0, 1.0],
    });
    let mut report = Report {
        plugin: "TCPX_Soft v11 on lo".to_owned(),
        nics: 2,
        same_host: true,
        finalists: vec!["one".to_owned(), "other".to_owned()],
        comparisons,
        entries: vec![entry(8.0)],
        compared_channels: 1,
        sizes: vec![at(256, 0.01), at(65_536, 2.0), at(COMPARED, 7.0)],
        client_nics: nics.clone(),
        server_nics: nics,
        timeline: Timeline {
            nics: vec!["lo-127.0.0.1".to_owned(), "lo-127.0.0.2".to_owned()],
            samples: samples.collect(),
        },
        ..Report::default()
    };
    report.conclude();
    report
}
