//! On which cores the progress thread of an endpoint runs, and on which all threads of this process do.

use std::path::Path;

use p2p_transport::{Error, ErrorKind};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tcpx_core::config::{Affinity, Config, core_list};

/// Where a process has fewer cores, no thread of it is placed: the threads that move bytes need all of them.
const FEWEST: usize = 4;

/// Where the progress thread runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Placement {
    /// Wherever the system puts it, for this reason.
    Anywhere(&'static str),
    /// On these cores, in increasing order, for this reason.
    On(Vec<u16>, String),
}

/// What a placement is chosen by.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What the user wants.
    pub affinity: Affinity,
    /// Cores that others need more: those to which the workers of a plugin are bound.
    pub taken: Vec<u16>,
}

impl Wish {
    /// As this configuration wants it.
    pub fn of(config: &Config) -> Self {
        let bound = [&config.tx_bindings.value, &config.rx_bindings.value].into_iter().flatten();
        let ranges = bound.flat_map(|bindings| bindings.entries()).flat_map(|binding| &binding.ranges);
        let taken = ranges.flat_map(|range| range.first()..=range.last()).collect();
        Self { affinity: config.affinity.value.clone(), taken }
    }

    /// The placement for a thread that drives NICs at these NUMA nodes. `allowed` are the cores that this process may
    /// use, and `of_node` knows those of a node.
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) if the user names no core that the process may use.
    pub fn place(
        &self,
        nodes: &[Option<u16>],
        allowed: &[u16],
        of_node: impl FnOnce(u16) -> Option<Vec<u16>>,
    ) -> Result<Placement, Error> {
        // Of a machine with more cores than can be asked about, what the user says is taken as it is.
        let allowed_of = |cores: &[u16]| -> Vec<u16> {
            cores.iter().copied().filter(|core| allowed.is_empty() || allowed.contains(core)).collect()
        };
        match &self.affinity {
            Affinity::Off => Ok(Placement::Anywhere("UCCL_P2P_AFFINITY says off")),
            Affinity::Cores(wanted) => match allowed_of(wanted) {
                none if none.is_empty() => {
                    let text = format!(
                        "UCCL_P2P_AFFINITY names no core that this process may use: {}",
                        in_words(allowed)
                    );
                    Err(Error::new(ErrorKind::Misuse, "open", text))
                }
                cores => Ok(Placement::On(cores, "UCCL_P2P_AFFINITY names them".to_owned())),
            },
            Affinity::Auto => Ok(self.near(nodes, allowed, of_node, allowed_of)),
        }
    }

    fn near(
        &self,
        nodes: &[Option<u16>],
        allowed: &[u16],
        of_node: impl FnOnce(u16) -> Option<Vec<u16>>,
        allowed_of: impl Fn(&[u16]) -> Vec<u16>,
    ) -> Placement {
        if allowed.len() < FEWEST {
            return Placement::Anywhere("this process has few cores");
        }
        let Some(&Some(node)) = nodes.first() else {
            return Placement::Anywhere("the NUMA node of its NICs is not known");
        };
        if nodes.iter().any(|other| *other != Some(node)) {
            return Placement::Anywhere("its NICs lie at several NUMA nodes");
        }
        let Some(cores) = of_node(node) else {
            return Placement::Anywhere("the cores of its NICs' NUMA node are not known");
        };
        let mut near = allowed_of(&cores);
        near.retain(|core| !self.taken.contains(core));
        if near.is_empty() {
            return Placement::Anywhere("its NICs' NUMA node has no core that is free for it");
        }
        if near.len() == allowed.len() {
            return Placement::Anywhere("all cores of this process are near its NICs");
        }
        Placement::On(near, format!("NUMA node {node} of its NICs"))
    }
}

/// Cores that the calling thread may use; none where that cannot be found out.
pub fn allowed() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).map(|core| core as u16).collect()
}

/// Cores of a NUMA node, by the system whose root folder this is.
pub fn of_node(root: &Path, node: u16) -> Option<Vec<u16>> {
    let path = root.join(format!("sys/devices/system/node/node{node}/cpulist"));
    core_list(std::fs::read_to_string(path).ok()?.trim())
}

/// The calling thread, on other cores for a while; threads that it starts meanwhile stay there.
pub(crate) struct Moved(CpuSet);

impl Moved {
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn to(cores: &[u16]) -> std::io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut set = CpuSet::new();
        cores.iter().for_each(|core| set.set(usize::from(*core)));
        sched_setaffinity(None, &set)?;
        Ok(Self(before))
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        // They were allowed a moment ago; if they are not any more, the thread stays where it may be.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// A thread of this process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Thread {
    /// Its number, as the system has it.
    pub id: u32,
    /// Its name; at most 15 bytes are kept by the system.
    pub name: String,
    /// Cores that it may use, in increasing order.
    pub cores: Vec<u16>,
}

impl std::fmt::Display for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): cores {}", self.name, self.id, in_words(&self.cores))
    }
}

/// All threads of this process with the cores that they may use: those of a plugin as well. One that ends meanwhile is
/// left out; nothing is known where `/proc` is not there.
pub fn threads() -> Vec<Thread> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let thread = |task: std::io::Result<std::fs::DirEntry>| {
        let task = task.ok()?;
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Thread {
            id: task.file_name().to_str()?.parse().ok()?,
            name: field("Name:")?.to_owned(),
            cores: core_list(field("Cpus_allowed_list:")?)?,
        })
    };
    let mut threads: Vec<Thread> = tasks.filter_map(thread).collect();
    threads.sort_unstable_by_key(|thread| thread.id);
    threads
}

/// Cores as the kernel lists them: `0-3,8`.
pub fn in_words(cores: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &core in cores {
        match runs.last_mut() {
            Some((_, last)) if core == *last + 1 => *last = core,
            _ => runs.push((core, core)),
        }
    }
    let words = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(affinity: Affinity, taken: &[u16]) -> Wish {
        Wish { affinity, taken: taken.to_vec() }
    }

    /// Two nodes of four cores.
    fn cores(node: u16) -> Option<Vec<u16>> {
        (node < 2).then(|| (4 * node..4 * node + 4).collect())
    }

    const ALL: [u16; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

    #[test]
    fn by_default_it_runs_near_its_nics_beside_the_workers_of_the_plugin() {
        let place = |nodes: &[Option<u16>], allowed: &[u16], taken: &[u16]| {
            wish(Affinity::Auto, taken).place(nodes, allowed, cores).expect("it says so")
        };
        let on = |cores: &[u16]| Placement::On(cores.to_vec(), "NUMA node 1 of its NICs".to_owned());
        assert_eq!(place(&[Some(1), Some(1)], &ALL, &[]), on(&[4, 5, 6, 7]));
        assert_eq!(place(&[Some(1)], &[0, 1, 5, 6], &[]), on(&[5, 6]));
        assert_eq!(
            place(&[Some(1)], &[4, 5, 6, 7], &[4]),
            on(&[5, 6, 7]),
            "beside the workers of the plugin"
        );
        assert_eq!(place(&[Some(1)], &ALL, &[4, 5, 0]), on(&[6, 7]));
        for (nodes, allowed, taken, why) in [
            (&[Some(1), Some(0)][..], &ALL[..], &[][..], "several"),
            (&[Some(1), None], &ALL, &[], "several"),
            (&[None], &ALL, &[], "not known"),
            (&[], &ALL, &[], "not known"),
            (&[Some(7)], &ALL, &[], "not known"),
            (&[Some(1)], &[4, 5, 6, 7], &[], "all cores"),
            (&[Some(1)], &[4, 5], &[], "few cores"),
            (&[Some(1)], &[], &[], "few cores"),
            (&[Some(1)], &ALL, &[4, 5, 6, 7], "free for it"),
            (&[Some(1)], &[0, 1, 2, 3], &[], "free for it"),
        ] {
            let placed = place(nodes, allowed, taken);
            assert!(matches!(placed, Placement::Anywhere(text) if text.contains(why)), "{placed:?} {why}");
        }
    }

    #[test]
    fn the_users_word_counts() {
        let place = |affinity| wish(affinity, &[1]).place(&[Some(1)], &ALL[..4], cores);
        assert!(matches!(place(Affinity::Off), Ok(Placement::Anywhere(text)) if text.contains("off")));
        let named = place(Affinity::Cores(vec![1, 3, 9])).expect("two of them can be used");
        assert!(matches!(named, Placement::On(cores, _) if cores == [1, 3]));
        let error = place(Affinity::Cores(vec![6])).expect_err("it may not be used");
        assert!(error.text().contains("0-3"), "{error}");
        let unknown = wish(Affinity::Cores(vec![2000]), &[]).place(&[], &[], cores);
        assert!(matches!(unknown, Ok(Placement::On(cores, _)) if cores == [2000]));
    }

    #[test]
    fn a_node_without_a_list_has_no_cores() {
        let root = std::env::temp_dir().join("no-such-root");
        assert_eq!(of_node(&root, 0), None);
    }

    #[test]
    fn a_thread_is_moved_and_comes_back() {
        std::thread::spawn(|| {
            let before = allowed();
            let moved = Moved::to(&before[..1]).expect("it may run there");
            let name = "affinity-test".to_owned();
            let inherits = std::thread::Builder::new().name(name).spawn(|| {
                let of = threads().into_iter().find(|thread| thread.name == "affinity-test");
                (allowed(), of.expect("it is listed").cores)
            });
            let (of_child, listed) = inherits.expect("a thread").join().expect("fine");
            assert_eq!((&of_child[..], &listed[..]), (&before[..1], &before[..1]));
            drop(moved);
            assert_eq!(allowed(), before);
        })
        .join()
        .expect("fine");
    }

    #[test]
    fn cores_are_written_as_they_are_read() {
        for text in ["0-3,8", "5", "1,3,5-6"] {
            assert_eq!(in_words(&core_list(text).expect("a list")), text);
        }
    }
}
