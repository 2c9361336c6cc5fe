//! The map of GPUs and channels to NICs on recorded machines and on random ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "fixtures/materialise.rs"]
mod materialise;

use std::path::Path;

use materialise::Root;
use proptest::prelude::*;
use tcpx_core::config::{Channels, Config, FixedEnvironment, GpuIndex};
use tcpx_core::topology::{Class, Gpu, MapError, MapSource, Nic, NicMap, NicRole, PciPath, Policy, Tree};

const CTRL_DEV: &str = "NCCL_GPUDIRECTTCPX_CTRL_DEV";
const DEV: &str = "UCCL_TCPX_DEV";
const MAP: &str = "UCCL_TCPX_GPU_NIC_MAP";
const FOREIGN: &str = "UCCL_TCPX_ALLOW_FOREIGN_NICS";
/// A plugin that delivers scattered pages, as the real one does.
const PAGES: bool = true;
/// A plugin that may join any GPU and any NIC.
const PLACED: bool = false;

fn recorded(name: &str) -> Tree {
    Tree::read(Root::recorded(name).path()).unwrap()
}

fn config(variables: &[(&str, &str)]) -> Config {
    let environment: FixedEnvironment = variables.iter().copied().collect();
    Config::from_environment(&environment).unwrap()
}

fn map(tree: &Tree, pages: bool, variables: &[(&str, &str)]) -> Result<NicMap, MapError> {
    NicMap::new(tree, &Policy::new(&config(variables), pages))
}

fn gpu(index: u8) -> GpuIndex {
    GpuIndex::new(index).unwrap()
}

fn nics(map: &NicMap, index: u8) -> Vec<&str> {
    map.nics(gpu(index)).unwrap().iter().map(|nic| nic.name.as_str()).collect()
}

fn channels(map: &NicMap, index: u8, count: u8) -> Vec<&str> {
    let channels = map.channels(gpu(index), Channels::new(count).unwrap()).unwrap();
    channels.iter().map(|nic| nic.name.as_str()).collect()
}

fn names(tree: &Tree) -> Vec<&str> {
    tree.devices().iter().map(|nic| nic.name.as_str()).collect()
}

#[test]
fn a3_high_is_recognised_and_mapped_in_pairs() {
    let tree = recorded("a3-high.tree");
    assert_eq!(tree.gpus().len(), 8);
    assert_eq!(names(&tree), ["eth0", "eth1", "eth2", "eth3", "eth4"]);
    let map = map(&tree, PAGES, &[(CTRL_DEV, "eth0")]).unwrap();
    let pairs = ["eth1", "eth1", "eth2", "eth2", "eth3", "eth3", "eth4", "eth4"];
    for (index, expected) in (0..).zip(pairs) {
        assert_eq!(channels(&map, index, 3), [expected; 3]);
        let [nic] = map.nics(gpu(index)).unwrap() else { panic!("one NIC each") };
        assert_eq!((nic.class, nic.source), (Some(Class::Pix), MapSource::Machine));
        assert_eq!(tree.devices()[nic.device].name, expected);
    }
}

#[test]
fn closeness_alone_gives_the_same_map_of_a3_high() {
    let tree = recorded("a3-high.tree");
    // Without its last GPU the machine is not recognised.
    let fewer = Tree::from_parts(tree.gpus()[..7].to_vec(), tree.interfaces().to_vec());
    let map = map(&fewer, PAGES, &[]).unwrap();
    for (index, expected) in (0..7).zip(["eth1", "eth1", "eth2", "eth2", "eth3", "eth3", "eth4"]) {
        assert_eq!(nics(&map, index), [expected]);
        assert_eq!(map.nics(gpu(index)).unwrap()[0].source, MapSource::Closeness);
    }
}

#[test]
fn a3_high_is_not_recognised_with_its_nics_exchanged() {
    let tree = recorded("a3-high.tree");
    let exchanged = tree.interfaces().iter().cloned().map(|mut nic| {
        nic.name = match nic.name.as_str() {
            "eth1" => "eth2".to_owned(),
            "eth2" => "eth1".to_owned(),
            other => other.to_owned(),
        };
        nic
    });
    let tree = Tree::from_parts(tree.gpus().to_vec(), exchanged.collect());
    let map = map(&tree, PAGES, &[]).unwrap();
    assert_eq!((nics(&map, 0), nics(&map, 2)), (vec!["eth2"], vec!["eth1"]));
    assert_eq!(map.nics(gpu(0)).unwrap()[0].source, MapSource::Closeness);
}

#[test]
fn classes_on_a3_high() {
    let tree = recorded("a3-high.tree");
    let class = |gpu: usize, nic: &str| tree.interface(nic).unwrap().class(&tree.gpus()[gpu].path);
    assert_eq!(class(0, "eth1"), Class::Pix);
    assert_eq!(class(0, "eth2"), Class::Node);
    assert_eq!(class(0, "eth0"), Class::Node);
    assert_eq!(class(0, "eth3"), Class::Sys);
    assert_eq!(class(7, "eth4"), Class::Pix);
    assert_eq!(class(7, "eth3"), Class::Node);
    assert_eq!(tree.gpus()[0].path.address().to_string(), "0000:04:00.0");
    assert_eq!(tree.interface("eth4").unwrap().address().unwrap().to_string(), "0000:8c:00.0");
    assert_eq!(tree.interface("lo").unwrap().role, NicRole::Virtual);
}

#[test]
fn a_foreign_root_is_refused_for_scattered_pages_only() {
    let tree = recorded("a3-high.tree");
    let all = (MAP, "*:eth1,eth2,eth3,eth4");
    let pages = map(&tree, PAGES, &[all]).unwrap();
    for index in 0..8 {
        let error = pages.nics(gpu(index)).unwrap_err();
        assert!(matches!(&error, MapError::ForeignRoot { gpu, .. } if gpu.get() == index), "{error}");
    }
    let placed = map(&tree, PLACED, &[all]).unwrap();
    assert_eq!(channels(&placed, 0, 4), ["eth1", "eth2", "eth3", "eth4"]);
    assert_eq!(channels(&placed, 1, 4), ["eth2", "eth3", "eth4", "eth1"]);
    assert_eq!(channels(&placed, 5, 2), ["eth2", "eth3"]);
}

#[test]
fn a_foreign_nic_is_forced_by_its_name() {
    let tree = recorded("a3-high.tree");
    let error = map(&tree, PAGES, &[(MAP, "0:eth1,eth2")]).unwrap().nics(gpu(0)).unwrap_err();
    let text = error.to_string();
    for part in ["GPU 0", "pci0000:01", "eth2", "pci0000:07", "UCCL_TCPX_ALLOW_FOREIGN_NICS=eth2"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let forced = map(&tree, PAGES, &[(MAP, "0:eth1,eth2"), (FOREIGN, "eth2")]).unwrap();
    assert_eq!(nics(&forced, 0), ["eth1", "eth2"]);
    let wrong_name = map(&tree, PAGES, &[(MAP, "0:eth1,eth2"), (FOREIGN, "eth3")]).unwrap();
    assert!(wrong_name.nics(gpu(0)).is_err());
    // Where a close NIC is there, a permitted foreign one does not take its place.
    assert_eq!(nics(&map(&tree, PAGES, &[(FOREIGN, "eth2")]).unwrap(), 0), ["eth1"]);
}

#[test]
fn a_missing_nic_is_refused_for_its_own_gpus_alone() {
    let tree = recorded("a3-high.tree");
    let left = map(&tree, PAGES, &[(DEV, "eth1,eth2")]).unwrap();
    assert_eq!((nics(&left, 1), nics(&left, 3)), (vec!["eth1"], vec!["eth2"]));
    for index in 4..8 {
        assert!(matches!(left.nics(gpu(index)), Err(MapError::ForeignRoot { .. })), "GPU {index}");
    }
    let forced = map(&tree, PAGES, &[(DEV, "eth1,eth2"), (FOREIGN, "eth2")]).unwrap();
    assert_eq!(nics(&forced, 4), ["eth2"]);
    let placed = map(&tree, PLACED, &[(DEV, "eth1,eth2")]).unwrap();
    assert_eq!((nics(&placed, 4), nics(&placed, 5)), (vec!["eth1", "eth2"], vec!["eth2", "eth1"]));
}

#[test]
fn the_control_nic_carries_no_data() {
    let tree = recorded("a3-high.tree");
    let only = |name: &'static str| tree.with_devices([(name, None, None)]);
    let error = map(&only("eth0"), PLACED, &[(CTRL_DEV, "eth0")]).unwrap();
    assert_eq!(error.nics(gpu(0)), Err(MapError::NoNic { known: "eth0".to_owned() }));
    assert_eq!(error.host_nics(), Err(MapError::NoNic { known: "eth0".to_owned() }));
    for (variable, value) in [(MAP, "0:eth1"), (MAP, "*:eth1"), (DEV, "eth1"), (DEV, "1")] {
        let error = map(&tree, PAGES, &[(CTRL_DEV, "eth1"), (variable, value)]).unwrap_err();
        assert_eq!(error, MapError::ControlNic { variable, nic: "eth1".to_owned() });
    }
    // The plugin matches by prefix and takes the first in the kernel's order.
    let prefix = map(&tree, PLACED, &[(CTRL_DEV, "eth")]).unwrap();
    let host = prefix.host_nics().unwrap().iter().map(|nic| nic.name.as_str());
    assert_eq!(host.collect::<Vec<_>>(), ["eth1", "eth2", "eth3", "eth4"]);
}

#[test]
fn names_that_do_not_exist_are_refused() {
    let tree = recorded("a3-high.tree");
    let known = "eth0, eth1, eth2, eth3, eth4".to_owned();
    let cases = [(MAP, "0:eth9", "eth9"), (MAP, "*:eth10", "eth10"), (DEV, "eth9", "eth9"), (DEV, "5", "5")];
    for (variable, value, nic) in cases {
        let error = map(&tree, PAGES, &[(variable, value)]).unwrap_err();
        assert_eq!(error, MapError::UnknownNic { variable, nic: nic.to_owned(), known: known.clone() });
    }
    let unknown = MapError::UnknownGpu { gpu: gpu(8), count: 8 };
    assert_eq!(map(&tree, PAGES, &[(MAP, "8:eth1")]).unwrap_err(), unknown);
    assert_eq!(map(&tree, PAGES, &[]).unwrap().nics(gpu(8)), Err(unknown));
}

#[test]
fn the_users_map_wins_and_leaves_others_to_the_machine() {
    let tree = recorded("a3-high.tree");
    let map = map(&tree, PLACED, &[(MAP, "0,1:eth4;2:eth3,eth1")]).unwrap();
    assert_eq!((nics(&map, 0), nics(&map, 1), nics(&map, 3)), (vec!["eth4"], vec!["eth4"], vec!["eth2"]));
    assert_eq!(channels(&map, 2, 3), ["eth3", "eth1", "eth3"]);
    assert_eq!(map.nics(gpu(0)).unwrap()[0].source, MapSource::User);
    assert_eq!(map.nics(gpu(3)).unwrap()[0].source, MapSource::Machine);
}

#[test]
fn the_plugins_own_list_gives_the_device_indices() {
    let tree = recorded("a3-high.tree");
    let listed = ["eth1", "eth2", "eth3", "eth4"].map(|name| (name, None, Some(200_000)));
    let map = map(&tree.with_devices(listed), PAGES, &[(CTRL_DEV, "eth0"), (DEV, "0,eth2,2,3")]).unwrap();
    let devices: Vec<_> = (0..8).map(|index| map.nics(gpu(index)).unwrap()[0].device).collect();
    assert_eq!(devices, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn a_device_that_is_no_interface_has_the_path_the_plugin_reports() {
    let tree = recorded("a3-high.tree");
    let path = Path::new("/sys/devices/pci0000:81/0000:81:00.0/0000:82:00.0/0000:83:02.0/0000:86:00.0");
    let tree = tree.with_devices([("tunnel", None, None), ("card", Some(path), Some(100_000))]);
    let map = map(&tree, PLACED, &[]).unwrap();
    assert_eq!((nics(&map, 4), map.nics(gpu(4)).unwrap()[0].class), (vec!["card"], Some(Class::Pix)));
    assert_eq!(tree.devices()[0].class(&tree.gpus()[0].path), Class::Sys);
    assert!(!tree.devices()[0].shares_root(&tree.gpus()[0].path));
}

#[test]
fn a_laptop_has_no_gpu_and_serves_host_memory() {
    let tree = recorded("laptop.tree");
    assert!(tree.gpus().is_empty());
    assert_eq!(names(&tree), ["eth0", "wlan0"]);
    let map = map(&tree, PLACED, &[]).unwrap();
    let host = |count| map.host_channels(Channels::new(count).unwrap()).unwrap();
    assert!(host(4).iter().all(|nic| nic.name == "eth0"), "wlan0 has no known speed");
    assert_eq!(host(4).len(), 4);
    assert_eq!(map.nics(gpu(0)), Err(MapError::UnknownGpu { gpu: gpu(0), count: 0 }));
}

#[test]
fn addresses_that_stand_for_nics_share_the_channels() {
    let tree = recorded("laptop.tree");
    let tree = tree.with_devices([("127.0.0.2", None, Some(10_000)), ("127.0.0.3", None, Some(10_000))]);
    let map = map(&tree, PLACED, &[]).unwrap();
    let host = map.host_channels(Channels::new(3).unwrap()).unwrap();
    let host: Vec<_> = host.iter().map(|nic| (nic.device, nic.name.as_str())).collect();
    assert_eq!(host, [(0, "127.0.0.2"), (1, "127.0.0.3"), (0, "127.0.0.2")]);
}

#[test]
fn a_bond_stands_for_its_members_and_a_virtual_function_shares_its_card() {
    let tree = recorded("two-nic-server.tree");
    let role = |name: &str| tree.interface(name).unwrap().role;
    assert_eq!(
        (role("bond0"), role("ens1f0"), role("ens1f1")),
        (NicRole::Bond, NicRole::Member, NicRole::Member)
    );
    assert_eq!((role("ens2f0"), role("ens2f0v0")), (NicRole::Physical, NicRole::VirtualFunction));
    assert_eq!(tree.interface("bond0").unwrap().paths.len(), 2);
    assert_eq!(names(&tree), ["bond0", "eno1", "ens2f0", "ens2f0v0"], "eno2 is down");
    let all = map(&tree, PAGES, &[]).unwrap();
    assert_eq!((nics(&all, 0), nics(&all, 1)), (vec!["bond0"], vec!["ens2f0"]));
    assert_eq!(all.nics(gpu(0)).unwrap()[0].class, Some(Class::Pix));
    assert_eq!(all.nics(gpu(1)).unwrap()[0].class, Some(Class::Phb));
    assert_eq!(nics(&map(&tree, PAGES, &[(DEV, "ens2f0v0")]).unwrap(), 1), ["ens2f0v0"]);
}

#[test]
fn a_bond_is_as_far_as_its_farthest_member() {
    let tree = recorded("a3-high.tree");
    let member = |name: &str| tree.interface(name).unwrap().paths[0].clone();
    let bond = |first: &str, second: &str| {
        let paths = vec![member(first), member(second)];
        Nic { paths, role: NicRole::Bond, ..tree.interface("eth0").unwrap().clone() }
    };
    let gpu = &tree.gpus()[0].path;
    assert_eq!((bond("eth1", "eth3").class(gpu), bond("eth3", "eth1").class(gpu)), (Class::Sys, Class::Sys));
    assert_eq!((bond("eth1", "eth2").class(gpu), bond("eth1", "eth1").class(gpu)), (Class::Node, Class::Pix));
    assert!(!bond("eth1", "eth2").shares_root(gpu) && bond("eth1", "eth1").shares_root(gpu));
}

#[test]
fn link_speed_decides_between_equals() {
    let tree = recorded("two-nic-server.tree");
    let listed =
        [("ens2f0", None, Some(25_000)), ("ens2f0v0", None, Some(100_000)), ("eno1", None, Some(400_000))];
    let map = map(&tree.with_devices(listed), PLACED, &[]).unwrap();
    assert_eq!(nics(&map, 1), ["ens2f0v0"], "the faster of two of one class, not the fastest of all");
}

#[test]
fn a_machine_without_pci_or_interfaces_is_empty() {
    let root = Root::of("dir sys");
    let tree = Tree::read(root.path()).unwrap();
    assert_eq!(tree, Tree::default());
    let map = map(&tree, PLACED, &[]).unwrap();
    assert_eq!(map.host_nics(), Err(MapError::NoNic { known: "no NIC at all".to_owned() }));
}

#[test]
fn a_folder_that_cannot_be_listed_is_an_error_that_names_it() {
    let root = Root::of("file sys/class/net no folder");
    let error = Tree::read(root.path()).unwrap_err();
    assert!(error.to_string().contains("sys/class/net"), "{error}");
}

/// Places in a PCI tree of few roots, so that random devices often share a part of their paths.
fn pci_path() -> impl Strategy<Value = PciPath> {
    let hops = prop::collection::vec(0u8..2, 1..5);
    (0u8..3, hops, prop::option::of(0u32..2), 0u8..32).prop_map(|(root, hops, numa, last)| {
        let mut path = format!("/sys/devices/pci0000:{root:02x}");
        for (bus, hop) in (root * 16..).zip(&hops) {
            path.push_str(&format!("/0000:{bus:02x}:{hop:02x}.0"));
        }
        path.push_str(&format!("/0000:f0:{last:02x}.0"));
        PciPath::parse(Path::new(&path), numa).unwrap()
    })
}

fn machine() -> impl Strategy<Value = Tree> {
    let gpus = prop::collection::vec(pci_path(), 0..6);
    let speed = prop::option::of(prop::sample::select(vec![1000u32, 100_000, 200_000]));
    let nic = (prop::option::of(pci_path()), speed, any::<bool>());
    (gpus, prop::collection::vec(nic, 1..7)).prop_map(|(gpus, nics)| {
        let gpus = gpus.into_iter().enumerate();
        let gpus = gpus.map(|(index, path)| Gpu { index: gpu(u8::try_from(index).unwrap()), path });
        let nics = nics.into_iter().enumerate().map(|(index, (path, speed_mbps, is_down))| Nic {
            name: format!("eth{index}"),
            role: NicRole::Physical,
            paths: path.into_iter().collect(),
            physical_function: None,
            speed_mbps,
            is_down,
            ifindex: u32::try_from(index).unwrap() + 2,
        });
        Tree::from_parts(gpus.collect(), nics.collect())
    })
}

proptest! {
    #[test]
    fn classes_are_the_same_in_both_directions(a in pci_path(), b in pci_path()) {
        prop_assert_eq!(a.class(&b), b.class(&a));
        prop_assert_eq!(a.class(&a), Class::Pix);
        prop_assert_eq!(a.shares_root(&b), a.class(&b) <= Class::Phb);
    }

    #[test]
    fn every_gpu_is_served_and_never_by_the_control_nic(tree in machine(), count in 1u8..=16) {
        let wanted = Channels::new(count).unwrap();
        let placed = map(&tree, PLACED, &[(CTRL_DEV, "=eth0")]).unwrap();
        let left = tree.devices().iter().any(|nic| nic.name != "eth0");
        for index in placed.gpus() {
            let channels = placed.channels(index, wanted);
            prop_assert_eq!(channels.is_ok(), left);
            for nic in channels.into_iter().flatten() {
                prop_assert_ne!(nic.name.as_str(), "eth0");
                prop_assert_eq!(&tree.devices()[nic.device].name, &nic.name);
            }
        }
        prop_assert_eq!(placed.host_channels(wanted).is_ok(), left);
    }

    #[test]
    fn no_closer_and_no_faster_nic_is_passed_over(tree in machine(), pages in any::<bool>()) {
        let made = map(&tree, pages, &[]).unwrap();
        for gpu in tree.gpus() {
            let allowed = |nic: &&Nic| !pages || nic.shares_root(&gpu.path);
            let rank = |nic: &Nic| (nic.class(&gpu.path), std::cmp::Reverse(nic.speed_mbps));
            let best = tree.devices().iter().filter(allowed).map(rank).min();
            match made.nics(gpu.index) {
                Ok(nics) => {
                    let ranks: Vec<_> = nics.iter().map(|nic| Some(rank(&tree.devices()[nic.device]))).collect();
                    prop_assert!(ranks.iter().all(|rank| *rank == best));
                    let equals = tree.devices().iter().filter(allowed).filter(|nic| Some(rank(nic)) == best);
                    prop_assert_eq!(equals.count(), nics.len());
                }
                Err(error) => {
                    prop_assert_eq!(best, None);
                    prop_assert!(matches!(error, MapError::ForeignRoot { .. }), "{}", error);
                }
            }
        }
    }

    #[test]
    fn channels_are_spread_evenly_over_the_nics(tree in machine(), count in 1u8..=16) {
        let made = map(&tree, PLACED, &[]).unwrap();
        for index in made.gpus() {
            let nics = made.nics(index).unwrap();
            let channels = made.channels(index, Channels::new(count).unwrap()).unwrap();
            prop_assert_eq!(channels.len(), usize::from(count));
            let uses = nics.iter().map(|nic| channels.iter().filter(|channel| channel.device == nic.device).count());
            let uses: Vec<_> = uses.collect();
            let (least, most) = (uses.iter().min().unwrap(), uses.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", uses);
        }
    }

    #[test]
    fn the_same_machine_gives_the_same_map(tree in machine()) {
        let again = tree.clone();
        let (first, second) = (map(&tree, PLACED, &[]).unwrap(), map(&again, PLACED, &[]).unwrap());
        for index in first.gpus() {
            prop_assert_eq!(first.nics(index), second.nics(index));
        }
    }
}
