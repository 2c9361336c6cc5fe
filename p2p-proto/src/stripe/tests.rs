//! Choices one at a time, and calls that are out of order. How well rails are used is shown over simulated ones,
//! in `tests/striping.rs`.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const CHUNK: u32 = PREFERRED_CHUNK;

fn limits(megabits: u32) -> RailLimits {
    RailLimits { max_message: CHUNK, max_slices: 16, max_sends: 16, max_recvs: 16, peer_slices: 16, megabits }
}

fn at(microseconds: u64) -> Duration {
    Duration::from_micros(microseconds)
}

const fn rail(index: u8) -> RailIndex {
    RailIndex(index)
}

/// Gives out bytes until no rail wants more. What each rail got, and what is left.
fn give(striper: &mut Striper, now: Duration, mut left: u64) -> (Vec<u64>, u64) {
    let mut given = vec![0; striper.rails.len()];
    while let Some(Choice { rail, bytes }) = striper.choose(now, left) {
        striper.started(now, rail, bytes);
        given[usize::from(rail.0)] += u64::from(bytes);
        left -= u64::from(bytes);
    }
    (given, left)
}

#[test]
fn nothing_left_or_no_rail_is_no_choice() {
    let mut striper = Striper::new(&[limits(0)]);
    assert_eq!(striper.choose(at(0), 0), None);
    assert_eq!(Striper::new(&[]).choose(at(0), 1), None);
    striper.lost(rail(0));
    assert_eq!(striper.choose(at(0), 1), None);
}

#[test]
fn equal_rails_get_equal_shares_and_no_more_than_they_need() {
    let mut striper = Striper::new(&[limits(100_000); 4]);
    let (given, left) = give(&mut striper, at(0), 1 << 40);
    assert_eq!(given, [2 * u64::from(CHUNK); 4]);
    assert_eq!(left, (1 << 40) - 8 * u64::from(CHUNK));
    // Of equals, the first one.
    let mut striper = Striper::new(&[limits(100_000); 4]);
    assert_eq!(striper.choose(at(0), 1), Some(Choice { rail: rail(0), bytes: 1 }));
}

#[test]
fn a_rail_that_is_busy_for_longer_than_all_the_rest_counts_for_nothing() {
    let mut striper = Striper::new(&[limits(100_000); 2]);
    (0..16).for_each(|_| striper.started(at(0), rail(1), CHUNK));
    // The other one has a mebibyte to do, in four parts.
    assert_eq!(striper.choose(at(0), MIB), Some(Choice { rail: rail(0), bytes: 256 << 10 }));
}

#[test]
fn half_of_a_short_transfer_waits_for_what_is_learnt_meanwhile() {
    let mut striper = Striper::new(&[limits(100_000); 4]);
    let (given, left) = give(&mut striper, at(0), 16 * MIB);
    assert_eq!((given, left), (vec![2 * MIB; 4], 8 * MIB));
}

#[test]
fn shares_are_as_the_nics_say() {
    // Nothing is known of the last one, so that it counts as an average one.
    let mut striper = Striper::new(&[limits(100_000), limits(50_000), limits(150_000), limits(0)]);
    let (given, left) = give(&mut striper, at(0), 2 * MIB);
    assert_eq!(left, 0);
    let grain = 64 << 10;
    for (given, fair) in given.into_iter().zip([MIB / 2, MIB / 4, MIB * 3 / 4, MIB / 2]) {
        assert!(given.abs_diff(fair) <= grain, "{given} instead of {fair}");
    }
}

#[test]
fn bytes_wait_for_a_better_rail() {
    let mut striper = Striper::new(&[limits(100_000), limits(1000)]);
    // In flight on the fast one for some 84 us: there is room, and the slow one would take 500 us for so little.
    striper.started(at(0), rail(0), 1 << 20);
    assert_eq!(striper.choose(at(0), 64 << 10).map(|choice| choice.rail), Some(rail(0)));
    let mut full = Striper::new(&[RailLimits { max_sends: 1, ..limits(100_000) }, limits(1000)]);
    full.started(at(0), rail(0), 1 << 20);
    assert_eq!(full.choose(at(0), 64 << 10), None);
    full.ended(at(84), rail(0), 1 << 20);
    assert_eq!(full.choose(at(84), 64 << 10).map(|choice| choice.rail), Some(rail(0)));
}

#[test]
fn bytes_do_not_wait_for_a_rail_that_is_late() {
    let mut striper = Striper::new(&[RailLimits { max_sends: 1, ..limits(100_000) }, limits(1000)]);
    striper.started(at(0), rail(0), 1 << 20);
    assert_eq!(striper.choose(at(100), 64 << 10), None);
    assert_eq!(striper.choose(at(10_000), 64 << 10).map(|choice| choice.rail), Some(rail(1)));
    // Nor are they given to it: what was late by so much is expected to be late by as much again.
    let mut striper = Striper::new(&[limits(100_000), limits(1000)]);
    striper.started(at(0), rail(0), 1 << 20);
    assert_eq!(striper.choose(at(100), 64 << 10).map(|choice| choice.rail), Some(rail(0)));
    assert_eq!(striper.choose(at(1000), 64 << 10).map(|choice| choice.rail), Some(rail(1)));
}

#[test]
fn a_short_transfer_is_one_message_on_the_rail_that_is_free_first() {
    let mut striper = Striper::new(&[limits(100_000); 3]);
    striper.started(at(0), rail(0), 1 << 20);
    striper.started(at(0), rail(1), 1 << 19);
    let choice = striper.choose(at(0), 100 << 10);
    assert_eq!(choice, Some(Choice { rail: rail(2), bytes: 100 << 10 }));
    striper.started(at(0), rail(2), 1 << 21);
    assert_eq!(striper.choose(at(0), 100 << 10), Some(Choice { rail: rail(1), bytes: 100 << 10 }));
}

#[test]
fn messages_are_whole_grains_and_leave_no_crumb() {
    let mut striper = Striper::new(&[limits(100_000); 3]);
    let mut left = 2 * MIB + 12_345;
    while let Some(Choice { rail, bytes }) = striper.choose(at(0), left) {
        striper.started(at(0), rail, bytes);
        left -= u64::from(bytes);
        assert!(bytes >= 64 << 10 && (left == 0 || bytes % (64 << 10) == 0), "{bytes}, {left} left");
    }
    assert_eq!(left, 0);
    // Where a crumb does not fit into the message before it, both are shorter.
    let mut striper = Striper::new(&[limits(100_000)]);
    let left = u64::from(CHUNK) + 1;
    let (given, rest) = give(&mut striper, at(0), left);
    assert_eq!((given, rest), (vec![left], 0));
    let mut striper = Striper::new(&[limits(100_000)]);
    assert_eq!(striper.choose(at(0), left).map(|choice| choice.bytes), Some(CHUNK + 1 - (64 << 10)));
}

#[test]
fn limits_that_make_no_sense_do_no_harm() {
    let nothing =
        RailLimits { max_message: 0, max_slices: 0, max_sends: 0, max_recvs: 0, peer_slices: 0, megabits: 0 };
    let mut striper = Striper::with_chunk(&[nothing], 0);
    assert_eq!(striper.choose(at(0), 5), Some(Choice { rail: rail(0), bytes: 1 }));
    striper.started(at(0), rail(0), 1);
    assert_eq!(striper.choose(at(0), 5), None);
    let all = RailLimits { max_message: u32::MAX, max_sends: u16::MAX, megabits: u32::MAX, ..nothing };
    let mut striper = Striper::with_chunk(&[all; 300], u32::MAX);
    let (given, _) = give(&mut striper, Duration::MAX, u64::MAX);
    assert_eq!(given.len(), 256);
    assert!(given.iter().all(|bytes| (1 << 20..=32 << 20).contains(bytes)), "{given:?}");
}

#[test]
fn calls_that_are_out_of_place_change_nothing() {
    let mut striper = Striper::new(&[limits(100_000); 2]);
    striper.started(at(0), rail(9), 7);
    striper.ended(at(0), rail(9), 7);
    striper.ended(at(0), rail(0), 7);
    striper.lost(rail(9));
    assert!(striper.is_idle());
    let (given, _) = give(&mut striper, at(0), 1 << 40);
    assert_eq!(given, [2 * u64::from(CHUNK); 2]);
}

#[test]
fn what_was_on_a_lost_rail_is_not_in_flight() {
    let mut striper = Striper::new(&[limits(0); 2]);
    striper.started(at(0), rail(0), 7);
    assert!(!striper.is_idle());
    striper.lost(rail(0));
    assert!(striper.is_idle());
    striper.started(at(1), rail(0), 7);
    striper.ended(at(1), rail(0), 7);
    assert!(striper.is_idle());
    assert_eq!(striper.choose(at(1), 7).map(|choice| choice.rail), Some(rail(1)));
}

#[test]
fn completions_of_one_moment_say_nothing_about_the_speed() {
    let mut striper = Striper::new(&[limits(100_000)]);
    let before = striper.rails[0].rate();
    for _ in 0..100 {
        striper.started(at(5), rail(0), CHUNK);
        striper.ended(at(5), rail(0), CHUNK);
        striper.started(at(5), rail(0), CHUNK);
        striper.started(at(5), rail(0), CHUNK);
        striper.ended(at(5), rail(0), CHUNK);
        striper.ended(at(5), rail(0), CHUNK);
    }
    assert_eq!(striper.rails[0].rate(), before);
}

#[test]
fn bursts_of_completions_count_as_a_whole() {
    // Eight messages end every 800 us: at the same moment, or so close that each one alone would say 1 us.
    for (gap, in_flight) in [(0, 2), (0, 8), (1, 8)] {
        let mut striper = Striper::new(&[limits(100_000)]);
        (0..in_flight).for_each(|_| striper.started(at(0), rail(0), MESSAGE));
        for burst in 1..40 {
            for message in 0..8 {
                let now = at(burst * 800 + message * gap);
                striper.ended(now, rail(0), MESSAGE);
                striper.started(now, rail(0), MESSAGE);
            }
            if burst > 2 {
                let found = microseconds_for_a_mebibyte(&striper);
                assert!((80..=130).contains(&found), "{found} after burst {burst} with gaps of {gap}");
            }
        }
    }
}

#[test]
fn the_first_window_does_not_count() {
    let mut striper = Striper::new(&[limits(100_000)]);
    striper.started(at(0), rail(0), MESSAGE);
    striper.started(at(0), rail(0), MESSAGE);
    // The peer comes late, and then one ends every 100 us: two more messages are enough to know.
    let now = keep_busy(&mut striper, 0, 2000, 2);
    striper.ended(at(now + 100), rail(0), MESSAGE);
    striper.ended(at(now + 200), rail(0), MESSAGE);
    assert_eq!(microseconds_for_a_mebibyte(&striper), 100);
    // Or one, if nothing follows.
    let mut striper = Striper::new(&[limits(100_000)]);
    striper.started(at(0), rail(0), MESSAGE);
    striper.started(at(0), rail(0), MESSAGE);
    keep_busy(&mut striper, 0, 2000, 1);
    striper.ended(at(4000), rail(0), MESSAGE);
    striper.ended(at(4100), rail(0), MESSAGE);
    assert_eq!(microseconds_for_a_mebibyte(&striper), 100);
}

#[test]
fn a_rail_that_was_never_measured_may_be_faster_than_it_says() {
    let mut striper = Striper::new(&[limits(80_000)]);
    (0..8).for_each(|_| striper.started(at(0), rail(0), 1_000_000));
    striper.ended(at(10), rail(0), 1_000_000);
    // Seven at the speed that it says, and nothing that ended too early.
    assert_eq!(striper.rails[0].outlook(10_000).free_in, 700_000);
}

#[test]
fn a_rail_that_was_late_is_slower_from_its_next_completion_on() {
    let mut striper = Striper::new(&[limits(100_000)]);
    let now = run(&mut striper, 0, 100, 40);
    striper.started(at(now), rail(0), MESSAGE);
    striper.started(at(now), rail(0), MESSAGE);
    striper.ended(at(now + 190), rail(0), MESSAGE);
    assert_eq!(microseconds_for_a_mebibyte(&striper), 100);
    striper.started(at(now + 190), rail(0), MESSAGE);
    striper.ended(at(now + 2000), rail(0), MESSAGE);
    assert!((120..=140).contains(&microseconds_for_a_mebibyte(&striper)));
}

const MESSAGE: u32 = 1 << 20;

/// A rail on which two messages are in flight, of which one ends every `microseconds` and the next one follows.
fn keep_busy(striper: &mut Striper, start: u64, microseconds: u64, messages: u64) -> u64 {
    for message in 1..=messages {
        let now = at(start + message * microseconds);
        striper.ended(now, rail(0), MESSAGE);
        striper.started(now, rail(0), MESSAGE);
    }
    start + messages * microseconds
}

/// The same, on a rail that was idle and is idle again.
fn run(striper: &mut Striper, start: u64, microseconds: u64, messages: u64) -> u64 {
    striper.started(at(start), rail(0), MESSAGE);
    striper.started(at(start), rail(0), MESSAGE);
    let end = keep_busy(striper, start, microseconds, messages - 2);
    striper.ended(at(end + microseconds), rail(0), MESSAGE);
    striper.ended(at(end + 2 * microseconds), rail(0), MESSAGE);
    end + 2 * microseconds
}

/// Of the first rail.
fn microseconds_for_a_mebibyte(striper: &Striper) -> u64 {
    striper.rails[0].rate().time(1 << 20) / 1000
}

#[test]
fn a_rate_is_learnt_and_a_change_is_followed_within_a_few_windows() {
    let mut striper = Striper::new(&[limits(100_000)]);
    let mut now = run(&mut striper, 0, 100, 20);
    assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
    now = run(&mut striper, now, 400, 20);
    assert!((350..=410).contains(&microseconds_for_a_mebibyte(&striper)));
    run(&mut striper, now, 50, 20);
    assert!((49..=60).contains(&microseconds_for_a_mebibyte(&striper)));
}

#[test]
fn a_change_is_followed_while_the_rail_is_busy() {
    let mut striper = Striper::new(&[limits(100_000)]);
    striper.started(at(0), rail(0), MESSAGE);
    striper.started(at(0), rail(0), MESSAGE);
    let mut now = 0;
    for microseconds in [200, 50, 400, 100, 101, 25, 1000, 10] {
        now = keep_busy(&mut striper, now, microseconds, 30);
        let found = microseconds_for_a_mebibyte(&striper);
        assert!(found.abs_diff(microseconds) <= microseconds / 20, "{found} instead of {microseconds}");
    }
}

#[test]
fn what_ends_before_it_is_carried_is_expected_to_take_its_time() {
    let mut striper = Striper::new(&[limits(100_000), limits(100_000)]);
    // Eight messages fit into the buffer, and end every 100 us; then one is carried in 400 us.
    let fill = |striper: &mut Striper, start| {
        let now = keep_busy(striper, start, 100, 10);
        keep_busy(striper, now, 400, 40)
    };
    striper.started(at(0), rail(0), MESSAGE);
    striper.started(at(0), rail(0), MESSAGE);
    let now = fill(&mut striper, 0);
    // Two are in flight, and more than seven hidden.
    let free_in = striper.rails[0].outlook(now * 1000).free_in / 1000;
    assert!((9 * 400..=10 * 400).contains(&free_in), "{free_in}");
    striper.ended(at(now + 400), rail(0), MESSAGE);
    striper.ended(at(now + 800), rail(0), MESSAGE);
    let free_in = striper.rails[0].outlook((now + 1200) * 1000).free_in / 1000;
    assert!((6 * 400..=7 * 400).contains(&free_in), "{free_in}");
    assert_eq!(striper.rails[0].outlook((now + 4400) * 1000).free_in, 0);
    // When it fills again, it does not look fast again.
    let now = now + 10_000;
    striper.started(at(now), rail(0), MESSAGE);
    striper.started(at(now), rail(0), MESSAGE);
    let now = keep_busy(&mut striper, now, 100, 9);
    assert!((380..=420).contains(&microseconds_for_a_mebibyte(&striper)));
    let free_in = striper.rails[0].outlook(now * 1000).free_in / 1000;
    assert!((8 * 400..=10 * 400).contains(&free_in), "{free_in}");
    // Unless it goes on like that.
    keep_busy(&mut striper, now, 100, 60);
    assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
}

#[test]
fn a_rail_with_little_to_do_is_not_taken_for_a_slow_one() {
    let mut striper = Striper::new(&[limits(100_000)]);
    let now = run(&mut striper, 0, 100, 40);
    // One short message after the other, always two of them and with long gaps: all that there was to send.
    for later in [5, 995] {
        let mut striper = Striper::new(&[limits(100_000)]);
        let now = run(&mut striper, 0, 100, 40);
        striper.started(at(now), rail(0), 64 << 10);
        for nth in 1..500 {
            striper.started(at(now + nth * 1000), rail(0), 64 << 10);
            striper.ended(at(now + nth * 1000 + later), rail(0), 64 << 10);
        }
        assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
    }
    // Nor one whose messages are so short that they take no time but that of the way.
    let now = now + 1_000_000;
    for nth in 0..100 {
        striper.started(at(now + nth * 1000), rail(0), 64 << 10);
        striper.ended(at(now + nth * 1000 + 50), rail(0), 64 << 10);
    }
    assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
}

#[test]
fn what_is_only_handed_over_at_first_is_not_taken_for_speed() {
    let mut striper = Striper::new(&[limits(100_000)]);
    let now = run(&mut striper, 0, 100, 40);
    let mut now = now + 1000;
    for _ in 0..50 {
        // Gone at once, and followed by nothing that would show how fast the rail is.
        striper.started(at(now), rail(0), 1 << 20);
        striper.ended(at(now + 1), rail(0), 1 << 20);
        now += 1000;
    }
    assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
}

#[test]
fn nothing_rises_above_its_equals_for_what_is_handed_over() {
    let mut striper = Striper::new(&[limits(100_000), limits(200_000)]);
    let mut now = run(&mut striper, 0, 200, 40);
    striper.started(at(now), rail(1), MESSAGE);
    striper.ended(at(now + 50), rail(1), MESSAGE);
    for _ in 0..200 {
        now += 1000;
        striper.started(at(now), rail(0), MESSAGE);
        striper.ended(at(now + 1), rail(0), MESSAGE);
    }
    // The other one, of which twice as much is said, needs 50 us.
    assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
}

#[test]
fn a_buffer_that_is_never_seen_again_is_forgotten() {
    let mut striper = Striper::new(&[limits(100_000); 2]);
    striper.started(at(0), rail(0), MESSAGE);
    striper.started(at(0), rail(0), MESSAGE);
    let now = keep_busy(&mut striper, 0, 100, 10);
    let mut now = keep_busy(&mut striper, now, 400, 40) + 800;
    striper.ended(at(now - 400), rail(0), MESSAGE);
    striper.ended(at(now), rail(0), MESSAGE);
    striper.started(at(now), rail(1), MESSAGE);
    striper.ended(at(now + 100), rail(1), MESSAGE);
    let mut one_by_one = |striper: &mut Striper, messages| {
        for _ in 0..messages {
            now += 10_000;
            striper.started(at(now), rail(0), MESSAGE);
            striper.ended(at(now + 100), rail(0), MESSAGE);
        }
    };
    // They could as well lie in the buffer.
    one_by_one(&mut striper, 30);
    assert!((380..=420).contains(&microseconds_for_a_mebibyte(&striper)));
    one_by_one(&mut striper, 1000);
    assert!((95..=105).contains(&microseconds_for_a_mebibyte(&striper)));
}

#[test]
fn a_late_rail_is_expected_to_be_late_by_as_much_again() {
    let mut striper = Striper::new(&[limits(80_000)]);
    striper.started(at(0), rail(0), 1_000_000);
    let outlook = |striper: &Striper, now| {
        let Outlook { free_in, rate } = striper.rails[0].outlook(now);
        (free_in, rate.time(1_000_000).next_multiple_of(10))
    };
    assert_eq!(outlook(&striper, 0), (100_000, 100_000));
    assert_eq!(outlook(&striper, 100_000), (0, 100_000));
    assert_eq!(outlook(&striper, 150_000), (50_000, 200_000));
    striper.ended(at(150), rail(0), 1_000_000);
    assert_eq!(outlook(&striper, 150_000).0, 0);
}

#[test]
fn few_sends_are_long_ones() {
    let few = RailLimits { max_sends: 2, ..limits(100_000) };
    let mut striper = Striper::new(&[few; 2]);
    assert_eq!(striper.choose(at(0), 2 * MIB).map(|choice| choice.bytes), Some(512 << 10));
}

#[test]
fn an_unmeasured_rail_is_compared_with_a_measured_one() {
    let mut striper = Striper::new(&[limits(100_000), limits(200_000)]);
    run(&mut striper, 0, 1000, 20);
    let (measured, other) = (striper.rails[0].rate(), striper.rails[1].rate());
    assert_eq!(other.time(2 << 20) / 1000, measured.time(1 << 20) / 1000);
    // And from its own first measurement on, it is not.
    striper.started(at(50_000), rail(1), CHUNK);
    striper.ended(at(54_000), rail(1), CHUNK);
    let own = striper.rails[1].rate();
    run(&mut striper, 60_000, 10, 20);
    assert_eq!(striper.rails[1].rate(), own);
}

#[test]
fn rates_do_not_wrap() {
    let (most, least) = (Rate::measured(u64::MAX, 0), Rate::measured(0, u64::MAX));
    assert_eq!(most.bytes(u64::MAX), least.bytes(u64::MAX).max(1 << 43));
    assert_eq!(most.scaled(most, least), most);
    assert_eq!(least.scaled(least, most), least);
    assert!(least.time(u64::MAX) > most.time(u64::MAX));
    assert_eq!((Rate::ZERO.time(0), Rate::ZERO.bytes(u64::MAX)), (0, 0));
    let gigabyte = Rate::of_megabits(8000);
    assert_eq!((gigabyte.time(1_000_000), gigabyte.bytes(1_000_000)), (1_000_000, 1_000_000));
    assert_eq!(gigabyte.and(gigabyte), Rate::measured(2000, 1000));
    assert_eq!(gigabyte.towards(Rate::of_megabits(16_000), 2), Rate::of_megabits(12_000));
    assert_eq!(Rate::of_megabits(16_000).towards(gigabyte, 4), Rate::of_megabits(14_000));
}

#[test]
fn choosing_and_learning_allocates_nothing() {
    let mut striper = Striper::new(&[limits(0); 8]);
    let measured = allocation_counter::measure(|| {
        let mut now = 0;
        for _ in 0..100 {
            while let Some(Choice { rail, bytes }) = striper.choose(at(now), 1 << 40) {
                striper.started(at(now), rail, bytes);
            }
            for index in 0..8 {
                now += 10;
                striper.ended(at(now), rail(index), CHUNK);
            }
        }
    });
    assert_eq!(measured.count_total, 0);
}

#[derive(Clone, Debug)]
enum Call {
    Choose(u64),
    Started(u8, u32),
    Ended(u8, u32),
    Lost(u8),
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => any::<u64>().prop_map(Call::Choose),
        8 => (0..6_u8, any::<u32>()).prop_map(|(rail, bytes)| Call::Started(rail, bytes)),
        8 => (0..6_u8, any::<u32>()).prop_map(|(rail, bytes)| Call::Ended(rail, bytes)),
        1 => (0..6_u8).prop_map(Call::Lost),
    ]
}

fn any_limits() -> impl Strategy<Value = RailLimits> {
    (any::<u32>(), any::<u16>(), any::<u32>()).prop_map(|(max_message, max_sends, megabits)| RailLimits {
        max_message,
        max_sends,
        megabits,
        ..limits(0)
    })
}

proptest! {
    #[test]
    fn any_calls_are_answered_alike_and_without_a_panic(
        rails in vec(any_limits(), 0..5),
        calls in vec((any::<u64>(), any_call()), 0..200),
    ) {
        let (mut one, mut two) = (Striper::new(&rails), Striper::new(&rails));
        for (nanoseconds, call) in calls {
            let now = Duration::from_nanos(nanoseconds);
            match call {
                Call::Choose(left) => {
                    let choice = one.choose(now, left);
                    prop_assert_eq!(choice, two.choose(now, left));
                    if let Some(Choice { rail, bytes }) = choice {
                        prop_assert!(bytes > 0 && u64::from(bytes) <= left);
                        prop_assert!(bytes <= rails[usize::from(rail.0)].max_message.max(1));
                    }
                }
                Call::Started(rail, bytes) => {
                    one.started(now, RailIndex(rail), bytes);
                    two.started(now, RailIndex(rail), bytes);
                }
                Call::Ended(rail, bytes) => {
                    one.ended(now, RailIndex(rail), bytes);
                    two.ended(now, RailIndex(rail), bytes);
                }
                Call::Lost(rail) => {
                    one.lost(RailIndex(rail));
                    two.lost(RailIndex(rail));
                }
            }
        }
    }
}
