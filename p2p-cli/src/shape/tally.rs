//! What all processes saw of a run, put together: each pair, each NIC, and how they compare with what was expected.

use std::collections::BTreeMap;

use super::data::{ByNic, Order, PairDone};
use super::layout::Layout;
use super::report::{NicMoved, PairMoved, Pass};
use super::system::Carried;

/// NICs of each host that its GPUs use, each once.
pub(super) fn nics_of_hosts(layout: &Layout) -> Vec<Vec<String>> {
    let of = |host: usize| {
        let rails =
            layout.gpus.iter().filter(|placed| placed.host == host).flat_map(|placed| &placed.of.rails);
        let mut names: Vec<String> = rails.map(|rail| rail.nic.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    (0..layout.hosts.len()).map(of).collect()
}

/// What all processes saw of a pass: `all` by rank.
pub(super) fn pass_of(
    layout: &Layout,
    order: &Order,
    done: &[PairDone],
    all: &[(ByNic, BTreeMap<String, Carried>)],
) -> Pass {
    let nanoseconds = done.iter().map(|one| one.nanoseconds).max().unwrap_or(0);
    let seconds = nanoseconds as f64 / 1e9;
    let mut by_pair: Vec<(usize, PairMoved)> =
        done.iter().map(|one| (one.pair, pair_moved(layout, one))).collect();
    by_pair.sort_by_key(|(pair, _)| *pair);
    let by_pair: Vec<PairMoved> = by_pair.into_iter().map(|(_, moved)| moved).collect();
    let bytes = by_pair.iter().map(|pair| pair.messages * pair.size as u64).sum();
    Pass {
        way: order.way.name().to_owned(),
        verified: order.verified,
        messages: order.messages,
        bytes,
        seconds,
        gigabytes_per_second: speed(bytes, nanoseconds),
        by_pair,
        by_nic: by_nic(layout, done, all, seconds),
    }
}

/// In 10^9 bytes per second.
fn speed(bytes: u64, nanoseconds: u64) -> f64 {
    if nanoseconds == 0 { 0.0 } else { bytes as f64 / nanoseconds as f64 }
}

fn pair_moved(layout: &Layout, done: &PairDone) -> PairMoved {
    let pair = &layout.pairs[done.pair];
    let PairDone { messages, failed, nanoseconds, .. } = *done;
    PairMoved {
        from: layout.gpus[pair.from].name(),
        to: layout.gpus[pair.to].name(),
        rails: layout.rails(pair).iter().map(|rail| format!("{}-{}", rail.from, rail.to)).collect(),
        size: pair.bytes,
        messages,
        seconds: nanoseconds as f64 / 1e9,
        gigabytes_per_second: speed(messages * pair.bytes as u64, nanoseconds),
        failed,
        reason: done.reason.clone(),
    }
}

/// What each NIC of each host carried, and should have carried.
fn by_nic(
    layout: &Layout,
    done: &[PairDone],
    all: &[(ByNic, BTreeMap<String, Carried>)],
    seconds: f64,
) -> Vec<NicMoved> {
    let mut expected: BTreeMap<(usize, &str), f64> = BTreeMap::new();
    for one in done {
        let pair = &layout.pairs[one.pair];
        let bytes = (one.messages * pair.bytes as u64) as f64;
        for rail in layout.rails(pair) {
            *expected.entry((layout.gpus[pair.from].host, rail.from)).or_default() += bytes * rail.share;
            *expected.entry((layout.gpus[pair.to].host, rail.to)).or_default() += bytes * rail.share;
        }
    }
    let mut moved = Vec::new();
    for (host, names) in nics_of_hosts(layout).into_iter().enumerate() {
        let ranks: Vec<usize> = layout
            .gpus
            .iter()
            .filter(|placed| placed.host == host)
            .map(|placed| placed.rank as usize)
            .collect();
        let own = |rank: &usize, name: &str| {
            let (sent, received) =
                all.get(*rank).and_then(|(nics, _)| nics.get(name)).copied().unwrap_or_default();
            sent + received
        };
        let mut once = ranks.clone();
        once.sort_unstable();
        once.dedup();
        let of = |name: &str| once.iter().map(|rank| own(rank, name)).sum::<u64>();
        let sum: u64 = names.iter().map(|name| of(name)).sum();
        let wanted = |name: &str| expected.get(&(host, name)).copied().unwrap_or(0.0);
        let wanted_sum: f64 = names.iter().map(|name| wanted(name)).sum();
        for nic in names {
            let bytes = of(&nic);
            // Every process of a host sees the same interfaces.
            let kernel = once.first().and_then(|rank| all.get(*rank)?.1.get(&nic).copied());
            moved.push(NicMoved {
                host,
                bytes,
                share: part(bytes as f64, sum as f64),
                expected_share: part(wanted(&nic), wanted_sum),
                gigabits_per_second: part(bytes as f64 * 8.0 / 1e9, seconds),
                kernel,
                nic,
            });
        }
    }
    moved
}

fn part(one: f64, all: f64) -> f64 {
    if all > 0.0 { one / all } else { 0.0 }
}
