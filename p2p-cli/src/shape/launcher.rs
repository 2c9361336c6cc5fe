//! Which of many processes this one is: as told by hand, or in the variables of whoever launched it.

use std::collections::BTreeMap;

/// What this process is told by hand, on its command line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hand<'a> {
    pub(super) rank: Option<u32>,
    pub(super) world: Option<u32>,
    /// Where rank 0 is.
    pub(super) peer: Option<&'a str>,
}

/// The port of the rendezvous, as the configuration has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BasePort {
    pub(super) port: u16,
    /// Whether the user chose it.
    pub(super) is_chosen: bool,
}

/// One process of a job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rank {
    pub(super) rank: u32,
    pub(super) world: u32,
    /// Counted on its host. Where all are on one host, its halves stand for two.
    pub(super) local_rank: u32,
    pub(super) local_world: u32,
    /// Number of its host, where that is known without asking the others.
    pub(super) node: Option<u32>,
    pub(super) rendezvous: Rendezvous,
}

/// Where rank 0 waits for the others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rendezvous {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why this process does not know which one it is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("{given} says that this is one of several processes, but {missing} is not set: {mend}")]
    Missing { given: &'static str, missing: &'static str, mend: &'static str },
    #[error("{variable}={value} is not {wanted}")]
    Bad { variable: &'static str, value: String, wanted: &'static str },
    #[error("{one}={one_value} contradicts {other}={other_value}: {why}")]
    Contradiction {
        one: &'static str,
        one_value: String,
        other: &'static str,
        other_value: String,
        why: &'static str,
    },
    #[error(
        "{variable}={value} processes on one host cannot stand for two hosts: start an even number, 2 or more"
    )]
    Odd { variable: &'static str, value: u32 },
}

pub(super) type Variables = BTreeMap<String, String>;

/// The variables of one launcher.
struct Launcher {
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    /// Of this host, or of every one where [`Launcher::node`] tells which is meant.
    local_world: &'static [&'static str],
    node: Option<&'static str>,
}

const TORCHRUN: Launcher = Launcher {
    rank: "RANK",
    world: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_world: &["LOCAL_WORLD_SIZE"],
    node: Some("GROUP_RANK"),
};
const OPEN_MPI: Launcher = Launcher {
    rank: "OMPI_COMM_WORLD_RANK",
    world: "OMPI_COMM_WORLD_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    local_world: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
    node: None,
};
/// MPICH, Intel MPI.
const HYDRA: Launcher = Launcher {
    rank: "PMI_RANK",
    world: "PMI_SIZE",
    local_rank: "MPI_LOCALRANKID",
    local_world: &["MPI_LOCALNRANKS"],
    node: None,
};
const SLURM: Launcher = Launcher {
    rank: "SLURM_PROCID",
    world: "SLURM_NTASKS",
    local_rank: "SLURM_LOCALID",
    local_world: &["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"],
    node: Some("SLURM_NODEID"),
};

const ADDRESS: &str = "MASTER_ADDR";
const PORT: &str = "MASTER_PORT";
/// Set by torchrun where its own store listens at that port.
const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";
const NODE_LISTS: [&str; 3] = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];
const LAUNCH_NODE: &str = "SLURM_LAUNCH_NODE_IPADDR";
const LOOPBACK: &str = "127.0.0.1";

/// Which process this is. `None` if nothing says that there are others.
pub(super) fn rank(
    hand: Hand<'_>,
    variables: &Variables,
    base: BasePort,
) -> Result<Option<Rank>, LaunchError> {
    let found = match hand {
        Hand { rank: Some(rank), world: Some(world), .. } => by_hand(rank, world)?,
        Hand { rank: Some(_), world: None, .. } => {
            return Err(LaunchError::Missing {
                given: "--rank",
                missing: "--world",
                mend: "say how many processes there are",
            });
        }
        Hand { rank: None, world: Some(_), .. } => {
            return Err(LaunchError::Missing {
                given: "--world",
                missing: "--rank",
                mend: "say which of them this is, from 0",
            });
        }
        Hand { rank: None, world: None, .. } => match in_use(variables) {
            Some(launcher) => launcher.read(variables)?,
            None => return Ok(None),
        },
    };
    let host = host(hand, variables, &found)?;
    let port = if hand.rank.is_some() { base.port } else { port(variables, base)? };
    Ok(Some(Rank { rendezvous: Rendezvous { host, port }, ..found.halved()? }))
}

/// What is found, before the rendezvous is known.
struct Found {
    given: &'static str,
    count: &'static str,
    rank: u32,
    world: u32,
    local_rank: u32,
    local_world: u32,
    node: Option<u32>,
}

impl Found {
    /// On one host, the first half of the processes stands for one host and the second for another.
    fn halved(self) -> Result<Rank, LaunchError> {
        let Self { rank, world, mut local_rank, mut local_world, mut node, .. } = self;
        if local_world == world {
            if world < 2 || !world.is_multiple_of(2) {
                return Err(LaunchError::Odd { variable: self.count, value: world });
            }
            local_world = world / 2;
            node = Some(rank / local_world);
            local_rank = rank % local_world;
        }
        let rendezvous = Rendezvous { host: String::new(), port: 0 };
        Ok(Rank { rank, world, local_rank, local_world, node, rendezvous })
    }
}

fn by_hand(rank: u32, world: u32) -> Result<Found, LaunchError> {
    below(("--rank", rank), ("--world", world), RANKS)?;
    let (local_rank, local_world) = (rank, world);
    Ok(Found { given: "--rank", count: "--world", rank, world, local_rank, local_world, node: None })
}

const RANKS: &str = "ranks are counted from 0";

fn below(
    (one, small): (&'static str, u32),
    (other, large): (&'static str, u32),
    why: &'static str,
) -> Result<(), LaunchError> {
    if small < large {
        return Ok(());
    }
    let (one_value, other_value) = (small.to_string(), large.to_string());
    Err(LaunchError::Contradiction { one, one_value, other, other_value, why })
}

/// Who launched this process last. A launcher inside of another one has the word: `torchrun` is started by `srun`, and
/// `mpirun` inside of a Slurm job, whose variables all its processes inherit.
fn in_use(variables: &Variables) -> Option<&'static Launcher> {
    let slurm = text(variables, SLURM.rank).is_some();
    let hydra_tells = text(variables, HYDRA.local_rank).is_some();
    [&TORCHRUN, &OPEN_MPI, &HYDRA, &SLURM].into_iter().find(|launcher| {
        // `srun` gives these two as well, and no local rank with them.
        let is_slurms = launcher.rank == HYDRA.rank && slurm && !hydra_tells;
        text(variables, launcher.rank).is_some() && !is_slurms
    })
}

impl Launcher {
    fn read(&self, variables: &Variables) -> Result<Found, LaunchError> {
        let need = |name: &'static str| {
            number(variables, name)?.ok_or(LaunchError::Missing {
                given: self.rank,
                missing: name,
                mend: "the launcher sets both; start it through one of torchrun, srun, mpirun, or with --rank and \
                       --world",
            })
        };
        let (rank, world, local_rank) = (need(self.rank)?, need(self.world)?, need(self.local_rank)?);
        below((self.rank, rank), (self.world, world), RANKS)?;
        let node = self.node.map_or(Ok(None), |name| number(variables, name))?;
        let (name, local_world) = self.local_world(variables, world, node)?;
        below((self.local_rank, local_rank), (name, local_world), "local ranks are counted from 0")?;
        if local_world > world {
            return Err(LaunchError::Contradiction {
                one: name,
                one_value: local_world.to_string(),
                other: self.world,
                other_value: world.to_string(),
                why: "a host has no more processes than there are",
            });
        }
        let (given, count) = (self.rank, self.world);
        Ok(Found { given, count, rank, world, local_rank, local_world, node })
    }

    /// Processes of this host, and the variable that says so.
    fn local_world(
        &self,
        variables: &Variables,
        world: u32,
        node: Option<u32>,
    ) -> Result<(&'static str, u32), LaunchError> {
        let named = |name: &&'static str| text(variables, name).map(|value| (*name, value));
        let Some((name, value)) = self.local_world.iter().find_map(named) else {
            return Err(LaunchError::Missing {
                given: self.rank,
                missing: self.local_world[0],
                mend: "it says how many processes there are on this host",
            });
        };
        let bad = || LaunchError::Bad { variable: name, value: value.to_owned(), wanted: COUNT };
        let counts = counts(value).ok_or_else(bad)?;
        if let [one] = counts[..] {
            return Ok((name, one));
        }
        let sum: u32 = counts.iter().sum();
        if sum != world {
            return Err(LaunchError::Contradiction {
                one: name,
                one_value: value.to_owned(),
                other: self.world,
                other_value: world.to_string(),
                why: "the processes of all hosts are all there are",
            });
        }
        let node = node.ok_or(LaunchError::Missing {
            given: name,
            missing: self.node.unwrap_or(self.rank),
            mend: "it says which host this is",
        })?;
        let count = counts.get(node as usize).copied().ok_or_else(bad)?;
        Ok((name, count))
    }
}

const COUNT: &str = "a number of processes, or one for each host such as 8(x2),4";
/// More would be a list that somebody made to fill memory.
const MOST_HOSTS: usize = 4096;

/// `8`, or Slurm's `8(x2),4`.
fn counts(value: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for group in value.split(',') {
        let (count, times) = match group.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (group, 1_usize),
        };
        let count: u32 = count.trim().parse().ok().filter(|count| (1..=100_000).contains(count))?;
        if times == 0 || all.len() + times > MOST_HOSTS {
            return None;
        }
        all.extend(std::iter::repeat_n(count, times));
    }
    Some(all)
}

/// Where rank 0 is.
fn host(hand: Hand<'_>, variables: &Variables, found: &Found) -> Result<String, LaunchError> {
    if let Some(peer) = hand.peer {
        return Ok(peer.to_owned());
    }
    if hand.rank.is_some() {
        // Rank 0 waits, and needs to know nobody.
        return if found.rank == 0 {
            Ok(LOOPBACK.to_owned())
        } else {
            Err(LaunchError::Missing {
                given: "--rank",
                missing: "--peer",
                mend: "give the host name or address of rank 0",
            })
        };
    }
    if let Some(address) = text(variables, ADDRESS) {
        return Ok(address.to_owned());
    }
    if let Some(list) = NODE_LISTS.iter().find_map(|name| text(variables, name)) {
        return Ok(first_host(list));
    }
    if let Some(address) = text(variables, LAUNCH_NODE) {
        return Ok(address.to_owned());
    }
    if found.local_world == found.world {
        return Ok(LOOPBACK.to_owned());
    }
    let mend = "give every process the host name or address of rank 0 in it (mpirun -x MASTER_ADDR=... hands it on), \
                or --peer";
    Err(LaunchError::Missing { given: found.given, missing: ADDRESS, mend })
}

/// The first host of a list such as `gpu[03-05,9],login`.
fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let end = rest.find([',', '[']).unwrap_or(rest.len());
        host.push_str(&rest[..end]);
        let Some(inside) = rest[end..].strip_prefix('[') else { return host };
        let (numbers, after) = inside.split_once(']').unwrap_or((inside, ""));
        host.push_str(numbers.split([',', '-']).next().unwrap_or_default());
        rest = after;
    }
}

fn port(variables: &Variables, base: BasePort) -> Result<u16, LaunchError> {
    let Some(value) = text(variables, PORT).filter(|_| !base.is_chosen) else { return Ok(base.port) };
    let bad =
        || LaunchError::Bad { variable: PORT, value: value.to_owned(), wanted: "a port from 1 to 65534" };
    let port: u16 = value.parse().ok().filter(|port| (1..u16::MAX).contains(port)).ok_or_else(bad)?;
    // torchrun listens there itself.
    let taken = text(variables, AGENT_STORE).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(if taken { port + 1 } else { port })
}

/// An empty value counts as unset.
fn text<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn number(variables: &Variables, name: &'static str) -> Result<Option<u32>, LaunchError> {
    let Some(value) = text(variables, name) else { return Ok(None) };
    let bad = || LaunchError::Bad { variable: name, value: value.to_owned(), wanted: "a number from 0 on" };
    value.parse().map(Some).map_err(|_| bad())
}

#[cfg(test)]
mod tests;
