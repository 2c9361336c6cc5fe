//! Striping over simulated rails, compared with the best that the same rails can do.

#[path = "striping/world.rs"]
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use world::{Model, World};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MILLISECOND: f64 = 1e6;

/// Four rails that say the same, of which some differ.
fn four(change: impl Fn(usize, &mut Model)) -> Vec<Model> {
    let model = |index| {
        let mut model = Model::usual();
        change(index, &mut model);
        model
    };
    (0..4).map(model).collect()
}

/// One of four at a quarter of the speed that it says.
fn one_slow(slow: usize) -> Vec<Model> {
    four(|index, model| model.speeds[0].1 = if index == slow { 6.25 } else { 25.0 })
}

/// How much longer a transfer took than the best.
fn ratio(world: &mut World, bytes: u64) -> f64 {
    let ideal = world.ideal(bytes);
    world.transfer(bytes) / ideal
}

#[track_caller]
fn within(world: &mut World, bytes: u64, bound: f64) {
    let ratio = ratio(world, bytes);
    assert!(ratio <= bound, "{} MiB took {ratio:.4} of the best, carried {:?}", bytes / MIB, world.carried());
}

#[test]
fn equal_rails_carry_a_gibibyte_as_fast_as_they_can() {
    within(&mut World::new(&four(|_, _| ())), GIB, 1.005);
}

#[test]
fn equal_rails_share_short_transfers() {
    let mut world = World::new(&four(|_, _| ()));
    for mib in [16, 16, 4, 16, 64, 1, 16] {
        within(&mut world, mib * MIB, 1.02);
    }
}

#[test]
fn a_slow_rail_that_says_it_is_fast_is_found_out() {
    for slow in 0..4 {
        let mut world = World::new(&one_slow(slow));
        within(&mut world, GIB, 1.01);
        within(&mut world, 16 * MIB, 1.05);
        within(&mut world, GIB, 1.01);
        let unknown = one_slow(slow).into_iter().map(|model| Model { megabits: 0, ..model });
        within(&mut World::new(&unknown.collect::<Vec<_>>()), GIB, 1.01);
    }
}

#[test]
fn short_transfers_alone_find_a_slow_rail_out() {
    for (mib, bound) in [(1, 1.4), (2, 1.25), (4, 1.15), (8, 1.1), (16, 1.05), (32, 1.02)] {
        let mut world = World::new(&one_slow(1));
        let first = ratio(&mut world, mib * MIB);
        assert!(first <= 3.0, "{mib} MiB: {first}");
        world.transfer(mib * MIB);
        world.transfer(mib * MIB);
        for _ in 0..5 {
            within(&mut world, mib * MIB, bound);
        }
    }
}

#[test]
fn what_nics_say_counts_until_more_is_known() {
    let models = four(|index, model| {
        if index == 2 {
            *model = Model { megabits: 50_000, ..Model::usual().speed(6.25) };
        }
    });
    let mut world = World::new(&models);
    within(&mut world, 16 * MIB, 1.05);
    // A rail that says nothing is taken for an average one.
    let models = four(|index, model| model.megabits = if index == 0 { 0 } else { 200_000 });
    within(&mut World::new(&models), 16 * MIB, 1.02);
}

#[test]
fn a_rail_a_hundred_times_slower_delays_nobody_once_it_is_known() {
    let mut world = World::new(&[Model::usual().speed(0.125), Model::usual()]);
    world.transfer(MIB);
    within(&mut world, 16 * MIB, 1.1);
    within(&mut world, GIB, 1.01);
    within(&mut world, 16 * MIB, 1.02);
}

#[test]
fn slow_networks_are_shared_as_well() {
    let mut world = World::new(&four(|_, model| model.speeds[0].1 = 0.125));
    for mib in [16, 1, 64, 16] {
        within(&mut world, mib * MIB, 1.02);
    }
}

#[test]
fn windows_and_channels_may_differ() {
    let models = four(|index, model| {
        (model.max_sends, model.channels) = [(2, 1), (4, 1), (64, 4), (128, 8)][index];
    });
    let mut world = World::new(&models);
    within(&mut world, GIB, 1.03);
    within(&mut world, 16 * MIB, 1.15);
    let single = four(|index, model| model.max_sends = if index == 0 { 1 } else { 16 });
    within(&mut World::new(&single), GIB, 1.03);
}

#[test]
fn all_channels_of_a_lone_rail_have_work() {
    let mut world = World::new(&[Model { max_sends: 128, channels: 8, ..Model::usual() }]);
    within(&mut world, 4 * MIB, 1.02);
    assert!(world.messages >= 8, "{} messages", world.messages);
    within(&mut world, 20 * MIB, 1.02);
    within(&mut world, GIB, 1.01);
}

#[test]
fn short_messages_are_as_good() {
    let mut world = World::new(&four(|_, model| model.max_message = 512 << 10));
    within(&mut world, GIB, 1.01);
    within(&mut world, 16 * MIB, 1.05);
    // Pages of 16 KiB, sixteen of which one message may name.
    let mut world = World::new(&four(|_, _| ()));
    world.most = 256 << 10;
    within(&mut world, GIB, 1.02);
}

#[test]
fn a_rail_that_gets_slower_is_followed() {
    let all = GIB as f64 / 100.0;
    for tenth in 1..10 {
        let mut world = World::new(&four(|index, model| {
            if index == 1 {
                model.speeds.push((all * f64::from(tenth) / 10.0, 6.25));
            }
        }));
        within(&mut world, GIB, if tenth <= 5 { 1.03 } else { 1.08 });
        // What was in flight then could as well wait at the peer.
        within(&mut world, GIB, 1.08);
        within(&mut world, GIB, 1.03);
    }
}

#[test]
fn a_rail_that_gets_faster_is_followed() {
    let mut world = World::new(&four(|index, model| {
        if index == 3 {
            model.speeds = vec![(0.0, 6.25), (5.0 * MILLISECOND, 25.0)];
        }
    }));
    within(&mut world, GIB, 1.02);
    let carried = world.carried();
    within(&mut world, GIB, 1.01);
    assert!(world.carried()[3] - carried[3] > 240 * MIB, "{:?} after {carried:?}", world.carried());
}

#[test]
fn a_rail_that_was_idle_keeps_its_rate_and_is_tried_again() {
    let mut world = World::new(&one_slow(0));
    world.transfer(GIB);
    world.rest(1000.0 * MILLISECOND);
    within(&mut world, 16 * MIB, 1.05);
    world.rest(1000.0 * MILLISECOND);
    world.change(0, 25.0);
    for _ in 0..30 {
        world.transfer(16 * MIB);
    }
    within(&mut world, 16 * MIB, 1.1);
}

#[test]
fn completions_may_be_seen_late_and_together() {
    for models in [four(|_, _| ()), one_slow(2)] {
        let mut world = World::new(&models);
        world.round = 50_000.0;
        within(&mut world, GIB, 1.02);
        within(&mut world, GIB, 1.02);
    }
}

#[test]
fn sends_that_are_only_handed_over_mislead_once_at_most() {
    // As they would with a buffer in front of a slow NIC, or with a slow NIC at the peer.
    for (mib, line) in [(1, 25.0), (2, f64::INFINITY), (4, 25.0), (8, f64::INFINITY), (16, 25.0)] {
        let mut models = one_slow(2);
        models.iter_mut().for_each(|model| (model.buffer, model.line) = ((mib * MIB) as f64, line));
        let mut world = World::new(&models);
        within(&mut world, GIB, 1.05);
        for size in [GIB, 64 * MIB, 16 * MIB, 16 * MIB, 64 * MIB, GIB] {
            within(&mut world, size, 1.15);
        }
    }
}

#[test]
fn a_rail_that_stops_gets_nothing_more() {
    let mut world = World::new(&four(|index, model| {
        if index == 0 {
            model.speeds.push((3.0 * MILLISECOND, 0.001));
        }
    }));
    world.transfer(GIB);
    // What it had carried until then, and what was in flight.
    assert!(world.carried()[0] <= 75 * MIB + 10 * MIB, "{:?}", world.carried());
}

#[test]
fn a_lost_rail_is_not_missed() {
    let mut world = World::new(&four(|_, _| ()));
    world.transfer(64 * MIB);
    world.lose(2);
    within(&mut world, GIB, 1.01);
    world.lose(0);
    world.lose(3);
    within(&mut world, GIB, 1.01);
    within(&mut world, 3, 1.2);
}

#[test]
fn what_is_short_is_one_message() {
    for bytes in [1, 4 * KIB, 64 * KIB, 127 * KIB] {
        let mut world = World::new(&four(|_, _| ()));
        world.transfer(bytes);
        assert_eq!(world.messages, 1, "{bytes} bytes");
    }
}

#[test]
fn messages_are_long_until_the_end() {
    let mut world = World::new(&four(|_, _| ()));
    world.transfer(GIB);
    assert!(world.messages <= 256 + 4 * 8, "{} messages", world.messages);
    for (mib, most) in [(1, 4), (2, 8), (4, 16), (16, 24), (64, 36)] {
        let before = world.messages;
        world.transfer(mib * MIB);
        let messages = world.messages - before;
        assert!(messages <= most, "{messages} messages for {mib} MiB");
    }
}

/// Speeds that change all the time, by up to a half.
fn restless() -> impl Strategy<Value = Vec<(f64, f64)>> {
    vec(12.5..25.0_f64, 200)
        .prop_map(|speeds| (0..200).map(|nth| f64::from(nth) * 0.2 * MILLISECOND).zip(speeds).collect())
}

fn any_rail() -> impl Strategy<Value = Model> {
    let speed = prop_oneof![Just(25.0), 1.0..25.0_f64, 0.1..1.0_f64];
    let window = prop_oneof![1..4_u16, 4..40_u16, Just(128)];
    let message = prop_oneof![Just(4_u32 << 20), 1_u32..8 << 20];
    let buffer = prop_oneof![Just((0.0, f64::INFINITY)), (0.0..4e6_f64, 1.0..30.0_f64)];
    let megabits = prop_oneof![Just(0), Just(200_000), 1..400_000_u32];
    (speed, 100.0..50_000.0_f64, window, message, 1..9_usize, buffer, megabits).prop_map(
        |(speed, latency, max_sends, max_message, channels, (buffer, line), megabits)| Model {
            speeds: vec![(0.0, speed)],
            latency,
            max_sends,
            max_message: max_message.max(4096),
            channels,
            buffer,
            line,
            megabits,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restless_rails_are_used_well(speeds in vec(restless(), 4)) {
        let mut world = World::new(&four(|index, model| model.speeds.clone_from(&speeds[index])));
        for _ in 0..2 {
            let ratio = ratio(&mut world, GIB);
            prop_assert!(ratio <= 1.06, "{ratio}");
        }
    }

    #[test]
    fn whatever_the_rails_are_transfers_end(
        models in vec(any_rail(), 1..9),
        sizes in vec(prop_oneof![1..MIB, 1..64 * MIB], 1..5),
        rounds in prop_oneof![Just(0.0), 1000.0..100_000.0],
        most in prop_oneof![Just(u32::MAX), 4096..1_u32 << 20],
    ) {
        // The world asserts the limits, and that something is in flight whenever nothing is chosen.
        let mut world = World::new(&models);
        (world.round, world.most) = (rounds, most);
        for bytes in sizes {
            world.transfer(bytes);
        }
    }

    #[test]
    fn rails_of_any_speeds_are_learnt(
        speeds in vec(1.0..25.0_f64, 2..9),
        latencies in vec(1000.0..30_000.0_f64, 8),
        windows in vec(prop_oneof![4..40_u16], 8),
    ) {
        let latencies = latencies.into_iter().zip(windows);
        let model = |(speed, (latency, max_sends))| Model { latency, max_sends, ..Model::usual().speed(speed) };
        let models: Vec<Model> = speeds.into_iter().zip(latencies).map(model).collect();
        let mut world = World::new(&models);
        world.transfer(GIB);
        let before = world.carried();
        let ratio = ratio(&mut world, GIB);
        prop_assert!(ratio <= 1.03, "{ratio}");
        // Nobody starves: each one carries about what its speed is good for.
        let all: f64 = models.iter().map(|model| model.speeds[0].1).sum();
        for (model, (after, before)) in models.iter().zip(world.carried().iter().zip(before)) {
            let fair = model.speeds[0].1 / all * GIB as f64;
            let share = (after - before) as f64 / fair;
            prop_assert!((0.8..1.2).contains(&share), "{share} of its share");
        }
    }
}
