//! Lists, shapes and cuts against rows of single bytes.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::frame::Repeat;

/// Where one byte lies: memory and offset.
type Place = (u32, u64);
/// Memory, offset and length.
type Stretch = (u32, u64, u64);

fn local(region: u32, offset: u64, len: u64) -> LocalRange {
    LocalRange { region: LocalRegion(region), offset, len }
}

fn key(index: u32) -> RegionKey {
    RegionKey { index, generation: 7, secret: 0x5ec }
}

fn remote(index: u32, offset: u64, len: u64) -> RemoteRange {
    RemoteRange { key: key(index), offset, len }
}

fn list<R: Range>(ranges: impl IntoIterator<Item = R>) -> List<R> {
    List::of(ranges).expect("far below all limits")
}

fn local_places(ranges: &[LocalRange]) -> Vec<Place> {
    let places = |range: &LocalRange| {
        let region = range.region.0;
        (range.offset..range.offset + range.len).map(move |at| (region, at))
    };
    ranges.iter().flat_map(places).collect()
}

fn remote_places(ranges: &[RemoteRange]) -> Vec<Place> {
    ranges.iter().flat_map(|range| local_places(&[local(range.key.index, range.offset, range.len)])).collect()
}

/// Ranges so close to each other that many continue the one before, and some are empty.
fn ranges() -> impl Strategy<Value = Vec<Stretch>> {
    vec((0..2_u32, 0..6_u64, 0..9_u64), 0..30).prop_map(|steps| {
        let (mut region, mut offset) = (0, 0);
        let step = |(jump, gap, len): (u32, u64, u64)| {
            region ^= jump & (gap as u32 & 1);
            offset += gap.saturating_sub(3);
            let range = (region, offset, len);
            offset += len;
            range
        };
        steps.into_iter().map(step).collect()
    })
}

/// Cuts `total` bytes into parts of a peer, scattered.
fn peer_of(total: u64, lengths: &[u64]) -> List<RemoteRange> {
    let mut peer = List::new();
    let mut left = total;
    for (nth, length) in (0_u64..).zip(lengths.iter().cycle()) {
        let length = (*length).min(left);
        if left == 0 {
            break;
        }
        peer.push(remote(nth as u32 % 3, nth * 1000 + nth % 2, length)).expect("short");
        left -= length;
    }
    peer
}

/// How many parts hold the `length` bytes from `start` on.
fn spanned(lengths: impl Iterator<Item = u64>, start: u64, length: u64) -> usize {
    let mut at = 0;
    lengths
        .filter(|part| {
            at += part;
            at > start && at - part < start + length
        })
        .count()
}

proptest! {
    #[test]
    fn a_list_holds_the_same_bytes_as_its_ranges(ranges in ranges()) {
        let plain: Vec<LocalRange> = ranges.iter().map(|(region, at, len)| local(*region, *at, *len)).collect();
        let list = list(plain.clone());
        prop_assert_eq!(local_places(list.ranges()), local_places(&plain));
        prop_assert_eq!(list.total(), plain.iter().map(|range| range.len).sum::<u64>());
        prop_assert_eq!(list.len(), list.ranges().len());
        prop_assert_eq!(list.is_empty(), list.total() == 0);
        for range in list.ranges() {
            prop_assert!(range.len > 0);
        }
        for pair in list.ranges().windows(2) {
            prop_assert!(pair[0].region != pair[1].region || pair[0].offset + pair[0].len != pair[1].offset);
        }
    }

    #[test]
    fn parts_of_any_lengths_are_the_bytes_in_their_order(ranges in ranges(), lengths in vec(1..20_u32, 1..9)) {
        let list = list(ranges.iter().map(|(region, at, len)| local(*region, *at, *len)));
        let (mut cursor, mut out, mut given) = (list.cursor(), Vec::new(), 0);
        for length in lengths.iter().cycle() {
            let before = cursor.position();
            let taken = list.parts(&mut cursor, *length, &mut out);
            prop_assert_eq!(u64::from(taken), u64::from(*length).min(list.total() - before));
            prop_assert_eq!(cursor.position(), before + u64::from(taken));
            given += u64::from(taken);
            if taken < *length {
                break;
            }
        }
        prop_assert_eq!(given, list.total());
        prop_assert!(out.iter().all(|part| part.len > 0));
        prop_assert_eq!(local_places(&out), local_places(list.ranges()));
    }

    #[test]
    fn seeking_is_walking(ranges in ranges(), positions in vec(0..200_u64, 1..20)) {
        let list = list(ranges.iter().map(|(region, at, len)| local(*region, *at, *len)));
        let places = local_places(list.ranges());
        let mut moved = list.cursor();
        for position in positions {
            list.move_to(&mut moved, position);
            for mut at in [list.seek(position), moved] {
                prop_assert_eq!(at.position(), position.min(list.total()));
                let mut out = Vec::new();
                list.parts(&mut at, u32::MAX, &mut out);
                prop_assert_eq!(&local_places(&out)[..], &places[(position as usize).min(places.len())..]);
            }
            // Elsewhere, and not at the start of a range, for the next move.
            list.parts(&mut moved, 3, &mut Vec::new());
        }
    }

    #[test]
    fn a_shape_says_the_lengths_of_a_list(lengths in vec((0..4_u64, 0..4_u32), 0..20), most in 1..5_usize) {
        let mut shape = Shape::new();
        for (length, count) in &lengths {
            shape.push(Repeat { length: *length, count: *count }).expect("short");
        }
        let plain = lengths.iter().flat_map(|(length, count)| vec![*length; *count as usize]);
        let plain: Vec<u64> = plain.filter(|length| *length > 0).collect();
        // Scattered, so that none is merged.
        let list = list((0..).zip(&plain).map(|(nth, length)| local(0, nth * 10, *length)));
        prop_assert_eq!(&list.shape(), &shape);
        prop_assert_eq!((shape.total(), shape.count() as usize), (list.total(), plain.len()));
        let mut said = Vec::new();
        loop {
            let piece = shape.repeats(said.len(), most);
            prop_assert!(piece.len() <= most);
            if piece.is_empty() {
                break;
            }
            said.extend_from_slice(piece);
        }
        prop_assert!(said.windows(2).all(|pair| pair[0].length != pair[1].length));
        let again = said.iter().flat_map(|repeat| vec![repeat.length; repeat.count as usize]);
        prop_assert_eq!(again.collect::<Vec<_>>(), plain);
    }

    #[test]
    fn cuts_keep_both_limits_and_are_the_longest(
        ranges in ranges(),
        peer_lengths in vec(1..9_u64, 1..9),
        limits in vec((0..40_u32, 0..5_u16, 0..5_u16), 1..9),
    ) {
        let own = list(ranges.iter().map(|(region, at, len)| local(*region, *at, *len)));
        let peer = peer_of(own.total(), &peer_lengths);
        let shape = peer.shape();
        let (mut own_at, mut peer_at, mut shape_at) = (own.cursor(), peer.cursor(), shape.cursor());
        let (mut own_reads, mut peer_reads) = (own_at, peer_at);
        let mut pairs = Vec::new();
        let (mut from, mut into) = (Vec::new(), Vec::new());
        for (most, own_slices, peer_slices) in limits.into_iter().cycle() {
            let start = own_at.position();
            let mut again = own_at;
            let length = cut(&own, &mut own_at, &peer, &mut peer_at, most, own_slices, peer_slices);
            let same = cut(&own, &mut again, &shape, &mut shape_at, most, own_slices, peer_slices);
            prop_assert_eq!((same, again), (length, own_at));
            prop_assert_eq!(shape_at.position(), peer_at.position());
            prop_assert_eq!(own_at.position(), start + u64::from(length));
            prop_assert_eq!(peer_at.position(), own_at.position());
            if start == own.total() {
                prop_assert_eq!(length, 0);
                break;
            }
            from.clear();
            into.clear();
            prop_assert_eq!(own.parts(&mut own_reads, length, &mut from), length);
            prop_assert_eq!(peer.parts(&mut peer_reads, length, &mut into), length);
            let (most, own_slices) = (most.max(1), usize::from(own_slices.max(1)));
            let peer_slices = usize::from(peer_slices.max(1));
            prop_assert!(length >= 1 && length <= most);
            prop_assert!(from.len() <= own_slices && into.len() <= peer_slices);
            let parts = |more: u64| {
                let own_lengths = own.ranges().iter().map(|range| range.len);
                let peer_lengths = peer.ranges().iter().map(|range| range.len);
                let length = u64::from(length) + more;
                (spanned(own_lengths, start, length), spanned(peer_lengths, start, length))
            };
            prop_assert_eq!(parts(0), (from.len(), into.len()));
            let longer = parts(1);
            prop_assert!(
                length == most || own_at.position() == own.total()
                    || longer.0 > own_slices || longer.1 > peer_slices,
                "{} bytes at {} could have been more", length, start
            );
            pairs.extend(local_places(&from).into_iter().zip(remote_places(&into)));
        }
        let all = local_places(own.ranges()).into_iter().zip(remote_places(peer.ranges()));
        prop_assert_eq!(pairs, all.collect::<Vec<_>>());
    }

    #[test]
    fn runs_in_pieces_are_the_whole_list(ranges in ranges(), most in 1..7_usize) {
        let list = list(ranges.iter().map(|(key, at, len)| remote(*key, *at, *len)));
        let mut said = Vec::new();
        loop {
            let runs = list.runs(said.len(), most);
            let before = said.len();
            prop_assert!(runs.windows(2).all(|pair| pair[0].key != pair[1].key));
            for Run { key, ranges } in runs {
                said.extend(ranges.into_iter().map(|(offset, len)| RemoteRange { key, offset, len }));
            }
            prop_assert_eq!(said.len() - before, most.min(list.len() - before));
            if said.len() == before {
                break;
            }
        }
        prop_assert_eq!(&said[..], list.ranges());
        prop_assert!(list.runs(usize::MAX, most).is_empty());
    }
}

#[test]
fn only_what_continues_in_the_same_memory_is_merged() {
    let apart = list([local(1, 0, 4), local(2, 4, 4), local(2, 9, 4), local(2, 5, 4), local(2, 5, 4)]);
    assert_eq!(apart.len(), 5);
    let whole = list([local(1, 8, 4), local(1, 0, 0), local(1, 12, 1), local(1, 13, 7)]);
    assert_eq!(whole.ranges(), [local(1, 8, 12)]);
    let other = RemoteRange { key: RegionKey { secret: 1, ..key(1) }, offset: 4, len: 4 };
    assert_eq!(list([remote(1, 0, 4), other]).len(), 2);
    assert_eq!(list([remote(1, 0, 4), remote(1, 4, 4)]).ranges(), [remote(1, 0, 8)]);
}

#[test]
fn a_range_behind_the_last_offset_is_refused() {
    let mut list = list([local(0, u64::MAX - 8, 4)]);
    assert_eq!(list.push(local(0, u64::MAX - 4, 5)), Err(ListError::NoSuchMemory));
    assert_eq!(list.push(local(0, u64::MAX, 1)), Err(ListError::NoSuchMemory));
    assert_eq!(list.push(local(0, u64::MAX - 4, 4)), Ok(()));
    assert_eq!(list.push(local(0, 0, 4)), Ok(()));
    assert_eq!(list.ranges(), [local(0, u64::MAX - 8, 8), local(0, 0, 4)]);
}

#[test]
fn a_transfer_of_the_longest_length_fits_and_a_byte_more_does_not() {
    let mut list = list([local(0, 0, LONGEST_TRANSFER - 1)]);
    assert_eq!(list.push(local(1, 0, 2)), Err(ListError::TooLong));
    assert_eq!(list.push(local(0, LONGEST_TRANSFER - 1, 2)), Err(ListError::TooLong));
    assert_eq!((list.len(), list.total()), (1, LONGEST_TRANSFER - 1));
    assert_eq!(list.push(local(1, 0, 1)), Ok(()));
    assert_eq!(list.push(local(1, 5, 1)), Err(ListError::TooLong));
    let mut shape = list.shape();
    assert_eq!(shape.total(), LONGEST_TRANSFER);
    assert_eq!(shape.push(Repeat { length: 1, count: 1 }), Err(ListError::TooLong));
    assert_eq!(shape.push(Repeat { length: u64::MAX, count: u32::MAX }), Err(ListError::TooLong));
    assert_eq!(shape, list.shape());
}

#[test]
fn a_transfer_has_so_many_ranges_and_not_one_more() {
    let mut list = List::with_capacity(MOST_RANGES as usize);
    for nth in 0..u64::from(MOST_RANGES) {
        list.push(local(0, 2 * nth, 1)).expect("within the limit");
    }
    let end = 2 * u64::from(MOST_RANGES);
    assert_eq!(list.push(local(0, end, 1)), Err(ListError::TooMany));
    assert_eq!((list.len(), list.total()), (MOST_RANGES as usize, u64::from(MOST_RANGES)));
    // One that continues the last one needs no room.
    assert_eq!(list.push(local(0, end - 1, 1)), Ok(()));
    let mut shape = Shape::new();
    assert_eq!(shape.push(Repeat { length: 1, count: MOST_RANGES }), Ok(()));
    assert_eq!(shape.push(Repeat { length: 1, count: 1 }), Err(ListError::TooMany));
    assert_eq!(shape.push(Repeat { length: 1, count: u32::MAX }), Err(ListError::TooMany));
    assert_eq!((shape.total(), shape.count()), (u64::from(MOST_RANGES), MOST_RANGES));
}

#[test]
fn a_cursor_at_the_end_goes_on_when_more_comes() {
    let mut list = list([local(0, 0, 4)]);
    let (mut cursor, mut out) = (list.cursor(), Vec::new());
    assert_eq!(list.parts(&mut cursor, 9, &mut out), 4);
    list.push(local(0, 4, 2)).expect("short");
    list.push(local(1, 0, 2)).expect("short");
    assert_eq!(list.parts(&mut cursor, 9, &mut out), 4);
    assert_eq!(out, [local(0, 0, 4), local(0, 4, 2), local(1, 0, 2)]);

    let mut shape = Shape::new();
    shape.push(Repeat { length: 3, count: 1 }).expect("short");
    let (mut cursor, mut other) = (shape.cursor(), list.cursor());
    assert_eq!(cut(&shape, &mut cursor, &list, &mut other, 9, 9, 9), 3);
    assert_eq!(cut(&shape, &mut cursor, &list, &mut other, 9, 9, 9), 0);
    shape.push(Repeat { length: 3, count: 1 }).expect("short");
    shape.push(Repeat { length: 2, count: 1 }).expect("short");
    assert_eq!(cut(&shape, &mut cursor, &list, &mut other, 9, 9, 9), 5);
}

#[test]
fn a_cleared_list_is_empty_and_usable() {
    let mut list = list([local(0, 0, 4), local(0, 9, 4)]);
    list.clear();
    assert_eq!((list.len(), list.total()), (0, 0));
    list.push(local(0, 13, 4)).expect("short");
    let (mut cursor, mut out) = (list.seek(2), Vec::new());
    assert_eq!((list.parts(&mut cursor, 9, &mut out), out), (2, vec![local(0, 15, 2)]));
}

/// Counts how often it is asked.
struct Asked<'a, P> {
    parts: &'a P,
    times: Cell<usize>,
}

impl<P: Parts> Parts for Asked<'_, P> {
    fn total(&self) -> u64 {
        self.parts.total()
    }

    fn rest(&self, at: &mut Cursor) -> u64 {
        self.times.set(self.times.get() + 1);
        self.parts.rest(at)
    }

    fn walk(&self, at: &mut Cursor, bytes: u64) {
        self.parts.walk(at, bytes);
    }
}

/// A hundred thousand pages at either end.
fn pages() -> (List<LocalRange>, List<RemoteRange>) {
    let own = list((0..100_000).map(|nth| local(0, nth * 32_768, 16_384)));
    let peer = list((0..100_000).map(|nth| remote(0, nth * 40_960, 16_384)));
    (own, peer)
}

#[test]
fn cutting_takes_a_step_for_each_part() {
    let (own, peer) = pages();
    let shape = peer.shape();
    // Whatever the limits are: that only one end may name many slices must not make the other one look far ahead.
    for (own_slices, peer_slices) in [(256, 256), (256, 1), (1, 256), (7, 30)] {
        let own = Asked { parts: &own, times: Cell::new(0) };
        let shape = Asked { parts: &shape, times: Cell::new(0) };
        let (mut own_at, mut peer_at) = (Cursor::default(), Cursor::default());
        let mut chunks = 0;
        while cut(&own, &mut own_at, &shape, &mut peer_at, 4 << 20, own_slices, peer_slices) > 0 {
            chunks += 1;
        }
        assert_eq!(own_at.position(), own.total());
        let steps = own.times.get() + shape.times.get();
        assert!(steps <= 2 * (100_000 + 2 * chunks + 2), "{steps} steps, {chunks} chunks");
    }
}

#[test]
fn cutting_and_naming_parts_allocates_nothing() {
    let (own, peer) = pages();
    let shape = peer.shape();
    let mut out = Vec::with_capacity(256);
    let measured = allocation_counter::measure(|| {
        let (mut own_at, mut peer_at, mut reads) = (own.cursor(), shape.cursor(), own.cursor());
        loop {
            let length = cut(&own, &mut own_at, &shape, &mut peer_at, 4 << 20, 256, 256);
            if length == 0 {
                break;
            }
            out.clear();
            own.parts(&mut reads, length, &mut out);
            own.move_to(&mut reads, own_at.position());
        }
    });
    assert_eq!(measured.count_total, 0);
}
