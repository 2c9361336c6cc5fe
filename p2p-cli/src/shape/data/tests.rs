use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser;
use p2p_endpoint::exports::Item;
use tcpx_core::config::{Config, FixedEnvironment};

use super::super::Shape;
use super::super::gpus::Gpus;
use super::super::layout::{Asked, Layout, Node, Present};
use super::super::nics::Nics;
use super::content::{self, Place};
use super::{Mine, Order, Way};
use crate::bench;

const PATIENCE: Duration = Duration::from_secs(20);
const SIZES: [usize; 2] = [100_001, 70_000];

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: bench::Options,
}

/// One process that stands for both hosts, with two GPUs each.
fn whole() -> (Gpus, Layout, BTreeMap<usize, Item>) {
    let environment: FixedEnvironment = [("UCCL_P2P_TRANSPORT", "tcp")].into_iter().collect();
    let config = Config::from_environment(&environment).expect("good values");
    let options = Line::try_parse_from(["p2p", "--shape", "per-gpu"]).expect("good arguments").options;
    let nics = Nics::open(&options, &config).expect("the soft plugin");
    let here = Some("127.0.0.1".parse().expect("an address"));
    let mut gpus = Gpus::new(nics, config, Shape::PerGpu, 1, here);
    assert_eq!(gpus.listen(&[0, 1, 2, 3]).expect("they listen"), 4);
    let handles = |gpus: &Gpus| gpus.present().into_iter().map(|gpu| gpu.handle).collect::<Vec<_>>();
    let first = handles(&gpus);
    assert_eq!(gpus.listen(&[2, 0]).expect("they listen already"), 0);
    assert_eq!(handles(&gpus), first, "who was told where they are finds them there");
    let asked =
        Asked { shape: Shape::PerGpu, channels: 1, sizes: SIZES.to_vec(), seconds: 1, setup_only: false };
    let all = gpus.present();
    let host = |node: u32| Present {
        node: Node::Number(node),
        asked: asked.clone(),
        gpus: all.iter().filter(|gpu| u32::from(gpu.gpu / 2) == node).cloned().collect(),
        reached_at: None,
    };
    let mut layout = Layout::new(&[host(0), host(1)]).expect("two hosts");
    layout.gpus.iter_mut().for_each(|placed| placed.rank = 0);
    gpus.link(&layout, 0, None, PATIENCE).expect("they connect");
    let items = gpus.register(&layout, 0).expect("memory");
    let items = items.into_iter().map(|(gpu, bytes)| {
        let at = layout.gpus.iter().position(|placed| placed.of.gpu == gpu).expect("it is there");
        (at, Item::from_bytes(&bytes).expect("an item"))
    });
    let items = items.collect();
    (gpus, layout, items)
}

#[test]
fn what_was_not_moved_or_was_changed_is_found_in_every_pair() {
    let (gpus, layout, items) = whole();
    let mine = Mine { gpus: &gpus, layout: &layout, rank: 0, items: &items };
    assert_eq!(layout.pairs.len(), 4);
    for (number, way) in [(1, Way::Write), (2, Way::Read)] {
        let order = Order { way, verified: true, messages: 1, number };
        mine.prepare(&order).expect("memory");
        for pair in 0..4 {
            let text = mine.check(&order, |one| one == pair).expect_err("nothing was moved").to_string();
            assert!(text.starts_with(&format!("WRONG DATA from a {} of host 0", way.name())), "{text}");
        }
        mine.check(&order, |_| false).expect("nobody is asked for what failed");
        let before = mine.by_nic();
        let done = mine.run(&order).expect("it moves");
        assert!(done.len() == 4 && done.iter().all(|one| one.messages == 1 && one.failed == 0), "{done:?}");
        mine.check(&order, |_| true).expect("as it should be");
        let bytes: u64 = layout.pairs.iter().map(|pair| pair.bytes as u64).sum();
        let moved = mine.carried(&before, 2 * bytes);
        let sums = moved.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(sums, (bytes, bytes), "all of it was sent, and all received");
        for (number, pair) in layout.pairs.iter().enumerate() {
            let (at, place) = match way {
                Way::Write => (pair.to, pair.at_to()),
                Way::Read => (pair.from, pair.at_from()),
            };
            let gpu = gpus.get(layout.gpus[at].of.gpu).expect("it listens");
            let region = &gpu.memory.as_ref().expect("registered").region;
            let (last, mut byte) = (place.offset + place.bytes - 1, [0]);
            region.copy_out(last, &mut byte).expect("inside");
            region.copy_in(last, &[!byte[0]]).expect("inside");
            mine.check(&order, |one| one == number).expect_err("one byte differs");
            mine.check(&order, |one| one != number).expect("the others are as they should be");
            region.copy_in(last, &byte).expect("inside");
        }
    }
}

#[test]
fn messages_rotate_over_all_their_places() {
    let (gpus, layout, items) = whole();
    let mine = Mine { gpus: &gpus, layout: &layout, rank: 0, items: &items };
    mine.touch().expect("memory");
    let region = |at: usize| {
        let gpu = gpus.get(layout.gpus[at].of.gpu).expect("it listens");
        &gpu.memory.as_ref().expect("registered").region
    };
    let places = layout.pairs[0].places;
    assert!(places > 2);
    for pair in &layout.pairs {
        assert_eq!(pair.places, places);
        let all = Place { offset: pair.to_offset, bytes: places * pair.stride() };
        content::fill(region(pair.to), all, 7).expect("inside");
    }
    // One turn but for the last place.
    let order = Order { way: Way::Write, verified: false, messages: places as u64 - 1, number: 1 };
    mine.run(&order).expect("it moves");
    for pair in &layout.pairs {
        for place in 0..places {
            let (mut from, mut to) = (vec![0; pair.bytes], vec![0; pair.bytes]);
            let offset = place * pair.stride();
            region(pair.from).copy_out(pair.from_offset + offset, &mut from).expect("inside");
            region(pair.to).copy_out(pair.to_offset + offset, &mut to).expect("inside");
            assert_eq!(from == to, place + 1 < places, "place {place}");
        }
    }
}

#[test]
fn what_cannot_be_moved_is_told_with_its_reason_and_the_others_go_on() {
    let (gpus, layout, items) = whole();
    let mine = Mine { gpus: &gpus, layout: &layout, rank: 0, items: &items };
    let first = gpus.get(layout.gpus[layout.pairs[0].from].of.gpu).expect("it listens");
    first.endpoint.close(first.links[&0]).expect("it is up");
    let order = Order { way: Way::Write, verified: false, messages: 5, number: 1 };
    let done = mine.run(&order).expect("it moves what it can");
    for one in done {
        let expected = if one.pair == 0 { (0, 5) } else { (5, 0) };
        assert_eq!((one.messages, one.failed), expected, "{one:?}");
        assert_eq!(one.reason.is_some(), one.pair == 0, "{one:?}");
    }
}
