//! Who is where: the GPUs of all hosts, and which of them move bytes to which.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Shape;
use crate::failure::Failure;

/// Bytes of a host that messages rotate over at least, so that few GPUs are no better served by caches than many.
const WORKING_SET: usize = 512 << 20;
/// More places only take time to list.
const MOST_PLACES: usize = 64;

/// What a process says of itself to the others.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Present {
    pub(super) node: Node,
    pub(super) asked: Asked,
    pub(super) gpus: Vec<GpuPresent>,
    /// Where others reach it.
    pub(super) reached_at: Option<IpAddr>,
}

/// The host of a process.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(super) enum Node {
    /// Its number.
    Number(u32),
    /// What tells machines apart, where nobody has given numbers.
    Machine(String),
}

/// What was asked for, which has to be the same everywhere.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Asked {
    pub(super) shape: Shape,
    pub(super) channels: u8,
    pub(super) sizes: Vec<usize>,
    pub(super) seconds: u64,
    pub(super) setup_only: bool,
}

/// A GPU of a process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct GpuPresent {
    pub(super) gpu: u8,
    /// The metadata of its endpoint.
    pub(super) handle: Vec<u8>,
    pub(super) rails: Vec<RailPresent>,
}

/// A NIC of a GPU.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct RailPresent {
    pub(super) nic: String,
    pub(super) channels: u16,
    /// 0 if unknown.
    pub(super) megabits: u32,
}

/// All GPUs and pairs of a run. Every process makes the same one.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Hosts, by the rank of their first process; those of numbered nodes by their numbers.
    pub(super) hosts: Vec<Node>,
    pub(super) gpus: Vec<Placed>,
    pub(super) pairs: Vec<Pair>,
}

/// A GPU and where it is.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) host: usize,
    pub(super) rank: u32,
    pub(super) reached_at: Option<IpAddr>,
    pub(super) of: GpuPresent,
    /// Bytes of its memory: a part for each of its pairs.
    pub(super) memory: usize,
}

impl Placed {
    /// `host 0 GPU 3`.
    pub(super) fn name(&self) -> String {
        format!("host {} GPU {}", self.host, self.of.gpu)
    }
}

/// Two GPUs that move bytes. The first opens the link, and writes and reads the memory of the second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    /// Positions in the list of GPUs.
    pub(super) from: usize,
    pub(super) to: usize,
    /// Of a message.
    pub(super) bytes: usize,
    /// Messages that its part of the memory has room for, one behind the other; they take turns.
    pub(super) places: usize,
    /// Where its part of the memory begins at each.
    pub(super) from_offset: usize,
    pub(super) to_offset: usize,
}

impl Pair {
    /// Bytes from one place to the next: a multiple of eight, from which patterns are checked fastest.
    pub(super) const fn stride(&self) -> usize {
        self.bytes.next_multiple_of(8)
    }
}

/// A rail of a pair's link: the NIC at each end, its channels, and what part of the bytes it should carry.
#[derive(Clone, Debug)]
pub(super) struct RailOfPair<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) channels: u16,
    pub(super) share: f64,
}

impl Layout {
    /// Of what all processes say, by rank.
    pub(super) fn new(all: &[Present]) -> Result<Self, Failure> {
        let Some(first) = all.first() else { return Err(Failure::new("there are no processes")) };
        for (rank, present) in all.iter().enumerate() {
            agree(&first.asked, &present.asked, rank)?;
        }
        let hosts = hosts(all);
        if hosts.len() < 2 {
            return Err(Failure::new(
                "all processes are on one host: start them on two, or with --rank and --world, which makes one host \
                 stand for two",
            ));
        }
        let mut gpus = Vec::new();
        for (rank, present) in (0_u32..).zip(all) {
            let host = hosts.iter().position(|node| *node == present.node).unwrap_or(0);
            gpus.extend(present.gpus.iter().map(|of| Placed {
                host,
                rank,
                reached_at: present.reached_at,
                of: of.clone(),
                memory: 0,
            }));
        }
        gpus.sort_by_key(|placed| placed.host);
        let mut pairs = pairs(first.asked.shape, &gpus)?;
        for (at, pair) in pairs.iter_mut().enumerate() {
            pair.bytes = first.asked.sizes[at % first.asked.sizes.len()];
        }
        let once: usize = pairs.iter().map(Pair::stride).sum();
        for pair in &mut pairs {
            pair.places = (WORKING_SET / once.max(1)).clamp(1, MOST_PLACES);
            (pair.from_offset, pair.to_offset) = (gpus[pair.from].memory, gpus[pair.to].memory);
            gpus[pair.from].memory += pair.places * pair.stride();
            gpus[pair.to].memory += pair.places * pair.stride();
        }
        Ok(Self { hosts, gpus, pairs })
    }

    /// The rails of a pair, in the order in which its link has them.
    pub(super) fn rails(&self, pair: &Pair) -> Vec<RailOfPair<'_>> {
        let (from, to) = (&self.gpus[pair.from].of.rails, &self.gpus[pair.to].of.rails);
        let count = from.len().max(to.len());
        let ends = || from.iter().cycle().zip(to.iter().cycle()).take(count);
        let speed = |one: &RailPresent, other: &RailPresent| match (one.megabits, other.megabits) {
            (0, known) | (known, 0) => f64::from(known),
            (one, other) => f64::from(one.min(other)),
        };
        let known = ends().all(|(one, other)| speed(one, other) > 0.0);
        let weight = |one: &RailPresent, other: &RailPresent| if known { speed(one, other) } else { 1.0 };
        let sum: f64 = ends().map(|(one, other)| weight(one, other)).sum();
        ends()
            .map(|(one, other)| RailOfPair {
                from: &one.nic,
                to: &other.nic,
                channels: one.channels.min(other.channels),
                share: weight(one, other) / sum,
            })
            .collect()
    }

    /// Channels of all pairs.
    pub(super) fn channels(&self) -> u64 {
        let of = |pair| self.rails(pair).iter().map(|rail| u64::from(rail.channels)).sum::<u64>();
        self.pairs.iter().map(of).sum()
    }
}

/// The hosts there are, each once.
fn hosts(all: &[Present]) -> Vec<Node> {
    let mut hosts: Vec<Node> = Vec::new();
    for present in all {
        if !hosts.contains(&present.node) {
            hosts.push(present.node.clone());
        }
    }
    if hosts.iter().all(|node| matches!(node, Node::Number(_))) {
        hosts.sort();
    }
    hosts
}

fn pairs(shape: Shape, gpus: &[Placed]) -> Result<Vec<Pair>, Failure> {
    let mut pairs = Vec::new();
    for (from, one) in gpus.iter().enumerate() {
        for (to, other) in gpus.iter().enumerate().filter(|(_, other)| other.host > one.host) {
            if shape == Shape::PerGpu || one.of.gpu == other.of.gpu {
                pairs.push(Pair { from, to, bytes: 0, places: 1, from_offset: 0, to_offset: 0 });
            }
        }
    }
    let of = |host: usize| {
        let mut of: Vec<u8> =
            gpus.iter().filter(|placed| placed.host == host).map(|placed| placed.of.gpu).collect();
        of.sort_unstable();
        of
    };
    if shape == Shape::Orchestrator && of(0) != of(1) {
        return Err(Failure::new(format!(
            "one host has GPUs {:?} and the other {:?}: give both the same --gpus",
            of(0),
            of(1)
        )));
    }
    Ok(pairs)
}

/// Whether a process was asked for the same as rank 0.
fn agree(first: &Asked, other: &Asked, rank: usize) -> Result<(), Failure> {
    let same = [
        (first.shape == other.shape, "--shape"),
        (first.channels == other.channels, "--channels"),
        (first.sizes == other.sizes, "--sizes"),
        (first.seconds == other.seconds, "--seconds"),
        (first.setup_only == other.setup_only, "--setup-only"),
    ];
    match same.into_iter().find(|(same, _)| !same) {
        Some((_, option)) => {
            Err(Failure::new(format!("{option} differs between rank 0 and rank {rank}: give all the same")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, GpuPresent, Layout, Node, Present, RailPresent, Shape};

    fn present(shape: Shape, node: Node, gpus: &[u8], rails: &[(&str, u32)]) -> Present {
        let sizes = vec![1001, 8, 300];
        let asked = Asked { shape, channels: 4, sizes, seconds: 1, setup_only: false };
        let rail = |(nic, megabits): &(&str, u32)| RailPresent {
            nic: (*nic).to_owned(),
            channels: 2,
            megabits: *megabits,
        };
        let gpu =
            |gpu: &u8| GpuPresent { gpu: *gpu, handle: Vec::new(), rails: rails.iter().map(rail).collect() };
        Present { node, asked, gpus: gpus.iter().map(gpu).collect(), reached_at: None }
    }

    #[test]
    fn rails_carry_by_their_slower_ends_speed() {
        let shares = |one: &[(&str, u32)], other: &[(&str, u32)]| {
            let ends = [(0, one), (1, other)]
                .map(|(node, rails)| present(Shape::Orchestrator, Node::Number(node), &[3], rails));
            let layout = Layout::new(&ends).expect("two hosts");
            let rails = layout.rails(&layout.pairs[0]);
            rails
                .iter()
                .map(|rail| (rail.from.to_owned(), rail.to.to_owned(), rail.share))
                .collect::<Vec<_>>()
        };
        let name = |name: &str| name.to_owned();
        assert_eq!(
            shares(&[("a", 200), ("b", 200)], &[("c", 300), ("d", 50)]),
            [(name("a"), name("c"), 0.8), (name("b"), name("d"), 0.2)]
        );
        assert_eq!(
            shares(&[("a", 100)], &[("c", 0), ("d", 100)]),
            [(name("a"), name("c"), 0.5), (name("a"), name("d"), 0.5)],
            "the end with fewer NICs uses them again; an unknown speed is that of the other end"
        );
        assert_eq!(
            shares(&[("a", 0), ("b", 7)], &[("c", 0), ("d", 9)])
                .iter()
                .map(|rail| rail.2)
                .collect::<Vec<_>>(),
            [0.5, 0.5],
            "where one is unknown, all are alike"
        );
    }

    #[test]
    fn a_mesh_joins_every_two_gpus_of_different_hosts_and_their_memory_does_not_overlap() {
        let machine = |name: &str| Node::Machine(name.to_owned());
        let of = |node, gpus: &[u8]| present(Shape::PerGpu, node, gpus, &[("a", 1)]);
        let all = [
            of(machine("x"), &[0]),
            of(machine("y"), &[0, 1]),
            of(machine("x"), &[1]),
            of(machine("z"), &[5]),
        ];
        let layout = Layout::new(&all).expect("three hosts");
        assert_eq!(layout.hosts.len(), 3);
        assert_eq!(layout.pairs.len(), 2 * 2 + 2 + 2);
        for (at, placed) in layout.gpus.iter().enumerate() {
            let places = layout.pairs.iter().flat_map(|pair| {
                let bytes = (pair.places - 1) * pair.stride() + pair.bytes;
                let one = (pair.from == at).then_some((pair.from_offset, bytes));
                let other = (pair.to == at).then_some((pair.to_offset, bytes));
                [one, other].into_iter().flatten()
            });
            let mut places: Vec<(usize, usize)> = places.collect();
            places.sort_unstable();
            assert!(places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "{places:?}");
            assert!(
                places.last().is_some_and(|(offset, bytes)| offset + bytes <= placed.memory),
                "{places:?}"
            );
        }
    }

    #[test]
    fn what_differs_between_processes_is_named() {
        let one = || present(Shape::Orchestrator, Node::Number(0), &[0, 1], &[("a", 1)]);
        let other = || present(Shape::Orchestrator, Node::Number(1), &[0, 1], &[("a", 1)]);
        Layout::new(&[one(), other()]).expect("the same");
        let differs = |change: fn(&mut Present), said: &str| {
            let mut changed = other();
            change(&mut changed);
            let text = Layout::new(&[one(), changed]).expect_err(said).to_string();
            assert!(text.contains(said), "{text}");
        };
        differs(|there| there.asked.channels = 1, "--channels differs between rank 0 and rank 1");
        differs(|there| there.asked.sizes.clear(), "--sizes");
        differs(|there| there.asked.seconds = 2, "--seconds");
        differs(|there| there.asked.setup_only = true, "--setup-only");
        differs(|there| there.asked.shape = Shape::PerGpu, "--shape");
        differs(|there| there.gpus.truncate(1), "--gpus");
        differs(|there| there.node = Node::Number(0), "one host");
    }
}
