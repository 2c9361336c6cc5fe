use p2p_proto::id::LocalRegion;
use proptest::prelude::*;

use super::*;

const EPOCH: Epoch = Epoch(0x1122_3344_5566_7788);

fn range(offset: u64, len: u64) -> LocalRange {
    LocalRange { region: LocalRegion(7), offset, len }
}

/// One key, to 100 bytes at address 0x1000 that are at 50 of their region.
fn one(access: Access) -> (ExportTable, RegionKey) {
    let mut table = ExportTable::new(EPOCH);
    let item = table.advertise(MrId(1), 0x1000, range(50, 100), access, || 0xfeed).expect("room");
    (table, item.key())
}

#[test]
fn a_key_opens_what_it_was_made_for_and_nothing_around_it() {
    let (table, key) = one(Access::Both);
    for (offset, len, opened) in [
        (0, 100, Some(range(50, 100))),
        (99, 1, Some(range(149, 1))),
        (100, 0, Some(range(150, 0))),
        (0, 101, None),
        (100, 1, None),
        (101, 0, None),
        (u64::MAX, 1, None),
        (1, u64::MAX, None),
    ] {
        for write in [false, true] {
            assert_eq!(
                table.open(key, offset, len, write),
                opened.ok_or(Refusal::OutOfRange),
                "{offset} {len}"
            );
        }
    }
}

#[test]
fn a_key_that_is_wrong_in_one_bit_opens_nothing() {
    let (table, key) = one(Access::Both);
    let mut wrong: Vec<RegionKey> =
        (0..64).map(|bit| RegionKey { secret: key.secret ^ (1 << bit), ..key }).collect();
    wrong.extend((0..32).map(|bit| RegionKey { generation: key.generation ^ (1 << bit), ..key }));
    wrong.extend((0..32).map(|bit| RegionKey { index: key.index ^ (1 << bit), ..key }));
    for wrong in wrong {
        assert_eq!(table.open(wrong, 0, 1, false), Err(Refusal::UnknownKey), "{wrong:?}");
        let mut table = one(Access::Both).0;
        assert!(!table.take_back(wrong) && table.len() == 1);
    }
    assert!(table.open(key, 0, 1, false).is_ok());
}

#[test]
fn a_peer_may_do_what_was_allowed() {
    for (access, read, write) in
        [(Access::Read, true, false), (Access::Write, false, true), (Access::Both, true, true)]
    {
        let (table, key) = one(access);
        for (asked, allowed) in [(false, read), (true, write)] {
            let opened = table.open(key, 0, 1, asked);
            assert_eq!(opened, if allowed { Ok(range(50, 1)) } else { Err(Refusal::OutOfRange) });
        }
    }
}

#[test]
fn a_place_is_used_again_with_another_generation_until_they_are_used_up() {
    let (mut table, first) = one(Access::Both);
    assert!(table.take_back(first) && !table.take_back(first));
    assert_eq!(table.open(first, 0, 1, false), Err(Refusal::UnknownKey));
    // The same secret, as bad luck would have it.
    let second = table.advertise(MrId(2), 0, range(0, 9), Access::Both, || 0xfeed).expect("room").key();
    assert_eq!((second.index, second.generation), (first.index, first.generation + 1));
    assert_eq!(table.open(first, 0, 1, false), Err(Refusal::UnknownKey));
    assert!(!table.take_back(first) && table.len() == 1);
    table.places[0].generation = u32::MAX - 1;
    assert!(table.take_back(RegionKey { generation: u32::MAX - 1, ..second }));
    let last = table.advertise(MrId(3), 0, range(0, 9), Access::Both, || 1).expect("room").key();
    assert_eq!((last.index, last.generation), (0, u32::MAX));
    assert!(table.take_back(last));
    let next = table.advertise(MrId(3), 0, range(0, 9), Access::Both, || 1).expect("room").key();
    assert_eq!((next.index, next.generation), (1, 1));
}

#[test]
fn all_keys_of_a_registration_go_and_no_others() {
    let mut table = ExportTable::new(EPOCH);
    let mut secret = 0;
    let keys: Vec<(MrId, RegionKey)> = [1, 2, 1, 3, 1]
        .map(|mr| {
            secret += 1;
            let item = table.advertise(MrId(mr), 0, range(0, 9), Access::Both, || secret).expect("room");
            (MrId(mr), item.key())
        })
        .to_vec();
    assert!(table.take_back(keys[0].1));
    assert_eq!((table.take_back_all_of(MrId(1)), table.take_back_all_of(MrId(1)), table.len()), (2, 0, 2));
    for (mr, key) in keys {
        assert_eq!(table.open(key, 0, 1, true).is_ok(), mr != MrId(1));
    }
    assert_eq!((table.take_back_all_of(MrId(4)), table.take_back_all_of(MrId(3))), (0, 1));
    assert!(!table.is_empty() && table.take_back_all_of(MrId(2)) == 1 && table.is_empty());
}

#[test]
fn no_secret_is_printed() {
    let (table, key) = one(Access::Both);
    let item = Item::new(key, EPOCH, 0x1000, 100, Access::Both);
    let text = format!("{table:?} {key:?} {item:?}").to_lowercase();
    assert!(!text.contains("65261") && !text.contains("feed"), "{text}");
}

#[test]
fn ranges_beyond_all_addresses_are_refused() {
    let mut table = ExportTable::new(EPOCH);
    for (address, range) in [(u64::MAX, range(0, 1)), (0, range(u64::MAX, 1))] {
        let error = table.advertise(MrId(1), address, range, Access::Both, || 1).expect_err("it wraps");
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
    assert!(table.is_empty() && table.places.is_empty());
}

/// Written out by hand from the layout.
#[test]
fn an_item_is_laid_out_as_described() {
    let key = RegionKey { index: 0x0403_0201, generation: 0x0807_0605, secret: 0x1817_1615_1413_1211 };
    let item = Item::new(key, EPOCH, 0x1000, 0x1_0000_0002, Access::Write).narrow(0x1003, 4).expect("inside");
    let mut bytes = vec![0x03, 0x10, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([0, 0x10, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 1, 2, 3, 4, 5, 6, 7, 8]);
    bytes.extend([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, b'U', b'2', 1, 2]);
    bytes.extend(0x4cc5_6666_u32.to_le_bytes());
    assert_eq!(item.to_bytes().to_vec(), bytes);
    assert_eq!(Item::from_bytes(&bytes), Ok(item));
    assert_eq!(item.range(), p2p_proto::list::RemoteRange { key, offset: 3, len: 4 });
}

#[test]
fn bytes_that_are_no_item_are_told_apart() {
    let item = Item::new(one(Access::Both).1, EPOCH, 0x1000, 100, Access::Both);
    let bytes = item.to_bytes();
    let changed = |at: usize, value: u8| {
        let mut changed = bytes;
        changed[at] = value;
        Item::from_bytes(&changed)
    };
    assert_eq!(Item::from_bytes(&[]), Err(ItemError::Length(0)));
    assert_eq!(Item::from_bytes(&bytes[..63]), Err(ItemError::Length(63)));
    assert_eq!(Item::from_bytes(&[bytes.as_slice(), &[0]].concat()), Err(ItemError::Length(65)));
    assert_eq!(Item::from_bytes(&[0; 64]), Err(ItemError::Foreign));
    assert_eq!(changed(57, b'3'), Err(ItemError::Foreign));
    assert_eq!(changed(58, 2), Err(ItemError::Version(2)));
    for at in (16..64).filter(|at| !(56..59).contains(at)) {
        assert_eq!(changed(at, bytes[at] ^ 1), Err(ItemError::Damaged), "byte {at}");
    }
    // Address and size may be set by hand, to what was advertised.
    assert_eq!(changed(8, 99), Ok(item.narrow(0x1000, 99).expect("inside")));
    assert_eq!(changed(8, 101), item.narrow(0x1000, 101));
    assert_eq!(changed(0, 1), Err(item.narrow(0x1001, 100).expect_err("too long")));
    let text = changed(1, 0).expect_err("before it").to_string();
    assert!(text.contains("100 bytes at 0x0 ") && text.contains("100 bytes at 0x1000"), "{text}");
    // With a good checksum, but impossible.
    let wraps = Item::new(item.key(), EPOCH, u64::MAX, 2, Access::Both);
    assert_eq!(Item::from_bytes(&wraps.to_bytes()), Err(ItemError::Damaged));
}

proptest! {
    #[test]
    fn an_item_goes_to_bytes_and_back(
        (base, opened) in (any::<u32>(), any::<u32>()),
        (index, generation, secret, epoch) in any::<(u32, u32, u64, u64)>(),
        (from, to) in (0.0..=1.0, 0.0..=1.0),
        access in prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Both)],
    ) {
        let (base, opened) = (u64::from(base) << 20, u64::from(opened) << 8);
        let key = RegionKey { index, generation, secret };
        let whole = Item::new(key, Epoch(epoch), base, opened, access);
        prop_assert_eq!(Item::from_bytes(&whole.to_bytes()), Ok(whole));
        let offset = (opened as f64 * from) as u64;
        let length = ((opened - offset) as f64 * to) as u64;
        let part = whole.narrow(base + offset, length).expect("inside");
        prop_assert_eq!(Item::from_bytes(&part.to_bytes()), Ok(part));
        prop_assert_eq!((part.address(), part.length()), (base + offset, length));
        prop_assert_eq!((part.range().offset, part.range().len, part.key()), (offset, length, key));
        prop_assert_eq!((part.epoch(), part.access()), (Epoch(epoch), access));
        prop_assert_eq!(part.narrow(base, opened), Ok(whole), "it may be widened again");
        prop_assert!(whole.narrow(base + offset, opened - offset + 1).is_err());
    }

    #[test]
    fn random_bytes_are_refused_or_an_item(
        mut bytes in proptest::collection::vec(any::<u8>(), 64),
        ours: bool,
    ) {
        if ours {
            bytes[56..60].copy_from_slice(&[b'U', b'2', 1, 3]);
            let sum = item::checksum(&bytes[16..60]).to_le_bytes();
            bytes[60..].copy_from_slice(&sum);
        }
        if let Ok(item) = Item::from_bytes(&bytes) {
            prop_assert_eq!(item.to_bytes().to_vec(), bytes);
            prop_assert!(item.range().offset.checked_add(item.range().len).is_some());
        }
    }

    /// Against a list of all keys that ever were.
    #[test]
    fn it_opens_what_a_list_opens(steps in proptest::collection::vec((0_u8..6, 0_usize..50, 1_u64..20), 1..80)) {
        let mut table = ExportTable::new(EPOCH);
        // Registration, key, what it opens, and whether it still does.
        let mut list: Vec<(MrId, RegionKey, LocalRange, bool)> = Vec::new();
        // Few secrets, so that they meet again.
        let mut secret = 0_u64;
        for (step, at, length) in steps {
            let mr = MrId(at as u64 % 4);
            match step {
                0..=2 => {
                    secret = (secret + 1) % 3;
                    let opened = range(at as u64, length);
                    let item = table.advertise(mr, 0, opened, Access::Both, || secret).expect("room");
                    prop_assert!(list.iter().all(|(_, key, ..)| *key != item.key()), "a key came twice");
                    list.push((mr, item.key(), opened, true));
                }
                3 | 4 if !list.is_empty() => {
                    let at = at % list.len();
                    let (_, key, _, open) = &mut list[at];
                    prop_assert_eq!(table.take_back(*key), *open);
                    *open = false;
                }
                _ => {
                    let mut count = 0;
                    for (.., open) in list.iter_mut().filter(|(of, _, _, open)| *of == mr && *open) {
                        *open = false;
                        count += 1;
                    }
                    prop_assert_eq!(table.take_back_all_of(mr), count);
                }
            }
            for (_, key, opened, open) in &list {
                let expected = if *open { Ok(*opened) } else { Err(Refusal::UnknownKey) };
                prop_assert_eq!(table.open(*key, 0, opened.len, true), expected);
            }
            prop_assert_eq!(table.len(), list.iter().filter(|(.., open)| *open).count());
        }
    }
}
