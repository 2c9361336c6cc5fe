use std::collections::BTreeSet;

use p2p_memory::HostBuffer;
use p2p_transport::ErrorKind;
use proptest::prelude::*;

use super::*;

const BYTES: usize = 64;

/// Memory of which parts can be registered, and that tells which of them are still owned.
struct Pool {
    all: Shared,
    base: usize,
}

/// Who asks whether somebody else owns something.
struct Probe(Option<Shared>);

impl Probe {
    fn is_owned(&mut self) -> bool {
        match self.0.take().map(Shared::try_into_inner) {
            Some(Err(shared)) => {
                self.0 = Some(shared);
                true
            }
            Some(Ok(_)) | None => false,
        }
    }
}

impl Pool {
    fn new() -> Self {
        let all = Shared::new(Box::new(HostBuffer::new(BYTES).expect("little memory")));
        let base = all.whole().span().0.addr().get();
        Self { all, base }
    }

    fn part(&self, at: usize, length: usize) -> (Box<dyn Memory>, Probe) {
        let part = self.all.part(at, length).expect("inside");
        let shared = Shared::new(Box::new(part));
        (Box::new(shared.whole()), Probe(Some(shared)))
    }

    fn register(&self, registry: &mut Registry, at: usize, length: usize) -> (MrId, LocalRegion, Probe) {
        let (memory, probe) = self.part(at, length);
        match registry.register(memory).expect("good memory") {
            Registered::New { mr, region, .. } | Registered::Shared { mr, region } => (mr, region, probe),
        }
    }
}

fn range(region: LocalRegion, offset: u64, len: u64) -> LocalRange {
    LocalRange { region, offset, len }
}

#[test]
fn memory_inside_of_a_registration_shares_and_the_rest_does_not() {
    let (pool, mut registry) = (Pool::new(), Registry::new());
    let is_new = |registry: &mut Registry, at, length| {
        let registered = registry.register(pool.part(at, length).0).expect("good memory");
        let is_new = matches!(registered, Registered::New { .. });
        (registered.mr(), is_new)
    };
    let cases = [
        (10, 30, true),
        (10, 30, false),
        (10, 1, false),
        (39, 1, false),
        (20, 5, false),
        (9, 5, true),
        (39, 2, true),
        (40, 4, true),
        (0, 64, true),
        (20, 5, false),
    ];
    for (number, (at, length, new)) in (1..).zip(cases) {
        assert_eq!(is_new(&mut registry, at, length), (MrId(number), new), "{at} {length}");
        assert_eq!(registry.span(MrId(number)), Some((pool.base + at, length)));
    }
    assert_eq!(registry.len(), cases.len());
    // Of one kind only, whatever the descriptor.
    let cuda = |ordinal, dmabuf| Kind::of(MemoryKind::Cuda { ordinal, dmabuf }, 5);
    assert_eq!((cuda(0, None), cuda(1, Some(7))), (Kind::Cuda(0), Kind::Cuda(1)));
    assert_eq!(Kind::of(MemoryKind::Host, 5), Kind::Host);
    let span = Span { base: pool.base + 20, end: pool.base + 25 };
    for kind in [Kind::Cuda(0), Kind::Cuda(1), Kind::Other(1), Kind::Other(2)] {
        for again in [false, true] {
            let registered = registry.add(span, kind, pool.part(20, 5).0);
            assert_eq!(matches!(registered, Registered::Shared { .. }), again, "{kind:?}");
        }
    }
}

#[test]
fn bytes_are_found_in_their_region_and_never_outside() {
    let (pool, mut registry) = (Pool::new(), Registry::new());
    let (whole, region, _) = pool.register(&mut registry, 10, 30);
    let (inner, same, _) = pool.register(&mut registry, 20, 5);
    assert_eq!(region, same);
    let at = |offset: usize| pool.base + offset;
    for (mr, address, length, expected) in [
        (whole, at(10), 30, Some(range(region, 0, 30))),
        (whole, at(12), 3, Some(range(region, 2, 3))),
        (whole, at(40), 0, Some(range(region, 30, 0))),
        (whole, at(10), 31, None),
        (whole, at(40), 1, None),
        (whole, at(9), 1, None),
        (whole, at(41), 0, None),
        (whole, at(12), u64::MAX, None),
        (inner, at(20), 5, Some(range(region, 10, 5))),
        (inner, at(24), 1, Some(range(region, 14, 1))),
        (inner, at(19), 1, None),
        (inner, at(20), 6, None),
        (MrId(0), at(20), 1, None),
        (MrId(3), at(20), 1, None),
    ] {
        let found = registry.resolve(mr, address, length);
        assert_eq!(found.as_ref().ok(), expected.as_ref(), "{mr} {address:#x} {length}");
        if let (Err(error), Some((base, _))) = (found, registry.span(mr)) {
            assert_eq!(error.kind(), ErrorKind::Misuse);
            assert!(error.to_string().contains(&format!("{base:#x}")), "{error}");
        }
    }
    assert_eq!(registry.part(inner, 1, 4).expect("inside"), range(region, 11, 4));
    for (offset, length) in [(0, 6), (6, 0), (5, 1), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(registry.part(inner, offset, length).is_err(), "{offset} {length}");
    }
    // A capacity may be more than there is.
    assert_eq!(registry.capacity(inner, at(22), 100).expect("inside"), range(region, 12, 3));
    assert_eq!(registry.capacity(inner, at(22), 2).expect("inside"), range(region, 12, 2));
    assert!(registry.capacity(inner, at(19), 2).is_err() && registry.capacity(inner, at(26), 2).is_err());
    assert_eq!(registry.find(at(21), 2), Some(whole));
    assert_eq!((registry.find(at(9), 2), registry.find(usize::MAX, 2)), (None, None));
}

#[test]
fn the_memory_that_brought_a_region_stays_as_long_as_anybody_shares_it() {
    let (pool, mut registry) = (Pool::new(), Registry::new());
    let (outer, region, mut outer_memory) = pool.register(&mut registry, 0, 64);
    let (middle, _, mut middle_memory) = pool.register(&mut registry, 10, 30);
    let (inner, _, mut inner_memory) = pool.register(&mut registry, 20, 5);
    let (brief, _, mut brief_memory) = pool.register(&mut registry, 20, 6);
    // Another one vouches for these bytes.
    assert!(brief_memory.is_owned());
    assert!(matches!(registry.deregister(brief).expect("live"), Deregistered::Shared { memory: Some(_) }));
    assert!(!brief_memory.is_owned());
    for mr in [outer, middle] {
        assert!(matches!(registry.deregister(mr).expect("live"), Deregistered::Shared { memory: None }));
        assert!(registry.resolve(mr, pool.base + 20, 1).is_err(), "it has ended");
        assert_eq!(registry.deregister(mr).expect_err("twice").kind(), ErrorKind::Misuse);
    }
    assert!(outer_memory.is_owned() && middle_memory.is_owned());
    assert_eq!(registry.resolve(inner, pool.base + 20, 5).expect("live"), range(region, 20, 5));
    assert!(registry.retired(region).is_empty(), "it is in use");
    // Nobody vouches for what the outer one had: those who come share the inner one or nothing.
    assert_eq!(registry.find(pool.base + 19, 2), None);
    let (late, other, _) = pool.register(&mut registry, 19, 2);
    assert_ne!(other, region);
    assert!(matches!(registry.deregister(late).expect("live"), Deregistered::Last { .. }));
    let Deregistered::Last { region: last } = registry.deregister(inner).expect("live") else {
        panic!("others use it")
    };
    assert_eq!(last, region);
    assert!(registry.is_empty());
    for memory in [&mut outer_memory, &mut middle_memory, &mut inner_memory] {
        assert!(memory.is_owned(), "a NIC may reach it");
    }
    // Its number means nothing else before it is retired.
    let (_, third, _) = pool.register(&mut registry, 0, 64);
    assert_ne!(third, region);
    assert_eq!(registry.retired(region).len(), 3);
    for memory in [&mut outer_memory, &mut middle_memory, &mut inner_memory] {
        assert!(!memory.is_owned());
    }
    assert!(registry.retired(region).is_empty(), "it was retired");
}

#[test]
fn impossible_memory_comes_back() {
    let mut registry = Registry::new();
    let pool = Pool::new();
    let refused = registry.register(pool.part(8, 0).0).expect_err("nothing");
    assert_eq!((refused.error.kind(), refused.memory.span().1), (ErrorKind::Misuse, 0));
    assert!(registry.is_empty());
    assert_eq!(pool.register(&mut registry, 0, 1).0, MrId(1), "no number was used");
}

/// What a registration is in the model.
#[derive(Debug)]
struct Known {
    mr: MrId,
    at: usize,
    length: usize,
    region: LocalRegion,
    founder: bool,
}

proptest! {
    /// Against a list that is searched from end to end.
    #[test]
    fn it_does_what_a_list_does(
        steps in proptest::collection::vec((0_u8..8, 0_usize..BYTES, 1_usize..40), 1..80),
    ) {
        let (pool, mut registry) = (Pool::new(), Registry::new());
        let mut live: Vec<(Known, Probe)> = Vec::new();
        let mut retiring: Vec<LocalRegion> = Vec::new();
        // Start of each region, and the memory that must stay with it.
        let mut bases: BTreeMap<LocalRegion, usize> = BTreeMap::new();
        let mut held: Vec<(LocalRegion, Probe)> = Vec::new();
        let mut number = 0;
        for (step, at, length) in steps {
            let length = length.min(BYTES - at);
            let inside = |known: &Known, at: usize, length: usize| {
                known.at <= at && at + length <= known.at + known.length
            };
            if step < 4 {
                number += 1;
                let (memory, probe) = pool.part(at, length);
                let around: BTreeSet<LocalRegion> = live
                    .iter()
                    .filter(|(known, _)| inside(known, at, length))
                    .map(|(known, _)| known.region)
                    .collect();
                let registered = registry.register(memory).expect("good memory");
                prop_assert_eq!(registered.mr(), MrId(number));
                let (region, founder) = match registered {
                    Registered::New { region, memory, .. } => {
                        prop_assert!(around.is_empty(), "it could have shared");
                        prop_assert!(!bases.contains_key(&region), "the number is in use");
                        prop_assert_eq!(memory.span(), pool.part(at, length).0.span());
                        bases.insert(region, at);
                        (region, true)
                    }
                    Registered::Shared { region, .. } => {
                        prop_assert!(around.contains(&region), "nobody vouches for it");
                        (region, false)
                    }
                };
                live.push((Known { mr: MrId(number), at, length, region, founder }, probe));
            } else if step < 7 && !live.is_empty() {
                let (known, mut probe) = live.remove(at % live.len());
                let mut same = live.iter().filter(|(other, _)| other.region == known.region);
                let vouched = same.clone().any(|(other, _)| inside(other, known.at, known.length));
                match registry.deregister(known.mr).expect("live") {
                    Deregistered::Shared { memory } => {
                        prop_assert!(same.next().is_some(), "it was the last one");
                        prop_assert_eq!(memory.is_some(), vouched && !known.founder);
                        drop(memory);
                        prop_assert_eq!(probe.is_owned(), !vouched || known.founder);
                        if !vouched || known.founder {
                            held.push((known.region, probe));
                        }
                    }
                    Deregistered::Last { region } => {
                        prop_assert!(same.next().is_none(), "others use it");
                        prop_assert_eq!(region, known.region);
                        retiring.push(region);
                        held.push((region, probe));
                    }
                }
            } else if !retiring.is_empty() {
                let region = retiring.remove(at % retiring.len());
                prop_assert!(!registry.retired(region).is_empty());
                bases.remove(&region);
                for (_, probe) in held.iter_mut().filter(|(of, _)| *of == region) {
                    prop_assert!(!probe.is_owned());
                }
                held.retain(|(of, _)| *of != region);
            }
            for (_, probe) in &mut held {
                prop_assert!(probe.is_owned());
            }
            for (known, probe) in &mut live {
                prop_assert!(probe.is_owned());
                let expected = LocalRange {
                    region: known.region,
                    offset: (known.at - bases[&known.region]) as u64,
                    len: known.length as u64,
                };
                let found = registry.resolve(known.mr, pool.base + known.at, known.length as u64);
                prop_assert_eq!(found.expect("live"), expected);
            }
            prop_assert_eq!(registry.len(), live.len());
            let around = live.iter().any(|(known, _)| inside(known, at, length));
            let found = registry.find(pool.base + at, length);
            prop_assert_eq!(found.is_some(), around);
            if let Some(found) = found {
                prop_assert!(live.iter().any(|(known, _)| known.mr == found && inside(known, at, length)));
            }
        }
    }
}
