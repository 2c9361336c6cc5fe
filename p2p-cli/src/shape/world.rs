//! The processes of a run: how they find each other, and how each learns what all of them have to say.
//!
//! Rank 0 waits at a port; the others come to it. From then on all do the same steps, and each step ends with a word
//! of everybody to everybody, so that nobody goes on before all are there. Every wait has a bound.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bench::bootstrap::{Door, Peer, Strangers};
use crate::failure::Failure;

/// Changes whenever a word does, so that two programs that differ say so at once.
const VERSION: u32 = 1;
/// Processes of a run at most; what each says has to fit into one frame of all.
pub(super) const MOST_RANKS: u32 = 64;
/// How much longer the others wait than rank 0, whose word says who is missing.
const LONGER: Duration = Duration::from_secs(5);

/// All processes, as one of them sees them.
#[derive(Debug)]
pub(super) struct World {
    rank: u32,
    seat: Seat,
}

#[derive(Debug)]
enum Seat {
    /// Rank 0, with the streams to the others in their order.
    First(Vec<Peer>),
    /// Another, with its stream to rank 0.
    Other(Peer),
}

/// What a process says when it comes.
#[derive(Debug, Deserialize, Serialize)]
struct Join {
    version: u32,
    rank: u32,
    world: u32,
}

/// What a process says at the end of a step.
#[derive(Debug, Deserialize, Serialize)]
enum Word<T> {
    Said(T),
    Failed(String),
}

/// What rank 0 says at the end of a step.
#[derive(Debug, Deserialize, Serialize)]
enum Answer<T> {
    /// By rank.
    All(Vec<T>),
    Failed(String),
}

impl World {
    /// Rank 0 waits at its door until all have come.
    pub(super) fn lead(door: &Door, size: u32, patience: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        let mut strangers = Strangers::default();
        let mut seats: Vec<Option<Peer>> = (1..size).map(|_| None).collect();
        while seats.iter().any(Option::is_none) {
            let Some((mut peer, join)) = door.come::<Join>(deadline, &mut strangers)? else {
                let missing = (1..size).zip(&seats).filter(|(_, seat)| seat.is_none());
                let text = format!(
                    "{} did not come to {} within {} s{strangers}; see whether they run and reach this host, or allow \
                     more time with UCCL_TCPX_CONNECT_TIMEOUT_SECONDS",
                    ranks(missing.map(|(rank, _)| rank)),
                    door.address(),
                    patience.as_secs()
                );
                seats.iter_mut().flatten().for_each(|peer| drop(peer.say(&failed(&text))));
                return Err(Failure::new(text));
            };
            match seat_of(&join, size, &seats) {
                Ok(at) => seats[at] = Some(peer),
                Err(text) => {
                    drop(peer.say(&failed(&text)));
                    seats.iter_mut().flatten().for_each(|peer| drop(peer.say(&failed(&text))));
                    return Err(Failure::new(text));
                }
            }
        }
        let mut world = Self { rank: 0, seat: Seat::First(seats.into_iter().flatten().collect()) };
        world.gather("joining", Ok(()), patience)?;
        Ok(world)
    }

    /// Another rank goes to where rank 0 is.
    pub(super) fn follow(
        host: &str,
        port: u16,
        rank: u32,
        size: u32,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let mut peer = Peer::find(host, port, patience)?;
        peer.say(&Join { version: VERSION, rank, world: size })?;
        let mut world = Self { rank, seat: Seat::Other(peer) };
        world.gather("joining", Ok(()), patience)?;
        Ok(world)
    }

    pub(super) const fn rank(&self) -> u32 {
        self.rank
    }

    /// The address at which others of the run reach this process, as far as its streams tell.
    pub(super) fn reached_at(&self) -> Option<IpAddr> {
        let own = |peer: &Peer| peer.stream().local_addr().ok().map(|address| address.ip().to_canonical());
        match &self.seat {
            Seat::Other(first) => own(first),
            Seat::First(others) => {
                let mut all = others.iter().filter_map(own);
                let any = all.clone().next();
                all.find(|ip| !ip.is_loopback()).or(any)
            }
        }
    }

    /// Where rank 0 is, for the others.
    pub(super) fn first_at(&self) -> Option<IpAddr> {
        match &self.seat {
            Seat::First(_) => None,
            Seat::Other(first) => first.stream().peer_addr().ok().map(|address| address.ip().to_canonical()),
        }
    }

    /// Says to all what this process came to, and hears from all of them, in the order of ranks.
    ///
    /// Where one has failed, all fail, with what it said. `doing` begins with a verb in -ing.
    pub(super) fn gather<T: DeserializeOwned + Serialize>(
        &mut self,
        doing: &str,
        own: Result<T, Failure>,
        patience: Duration,
    ) -> Result<Vec<T>, Failure> {
        match &mut self.seat {
            Seat::First(others) => collect(others, doing, own, patience),
            Seat::Other(first) => {
                let own = match own {
                    Ok(own) => own,
                    Err(failure) => {
                        // Rank 0 may be gone: then there is nobody to say it to.
                        drop(first.say(&Word::<T>::Failed(failure.to_string())));
                        return Err(failure);
                    }
                };
                first.say(&Word::Said(own))?;
                first.set_silence(patience + LONGER)?;
                match first.hear::<Answer<T>>().doing_what(doing)? {
                    Answer::All(all) => Ok(all),
                    Answer::Failed(text) => Err(Failure::peer(text)),
                }
            }
        }
    }
}

fn failed(text: &str) -> Answer<()> {
    Answer::Failed(text.to_owned())
}

fn collect<T: DeserializeOwned + Serialize>(
    others: &mut [Peer],
    doing: &str,
    own: Result<T, Failure>,
    patience: Duration,
) -> Result<Vec<T>, Failure> {
    let deadline = Instant::now() + patience;
    let mut all = Vec::with_capacity(others.len() + 1);
    let mut failures: Vec<Failure> = Vec::new();
    match own {
        Ok(own) => all.push(own),
        Err(failure) => failures.push(failure),
    }
    if failures.is_empty() {
        for (rank, other) in (1_u32..).zip(others.iter_mut()) {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            let heard = other.set_silence(left).and_then(|()| other.hear::<Word<T>>());
            match heard {
                Ok(Word::Said(word)) => all.push(word),
                // It says so itself, where it can.
                Ok(Word::Failed(text)) => {
                    failures.push(Failure::peer(format!("rank {rank} failed while {doing}: {text}")))
                }
                Err(failure) => {
                    failures.push(Failure::new(format!("rank {rank} was lost while {doing}: {failure}")))
                }
            }
        }
    }
    let lost = failures.iter().position(|failure| !failure.is_peer_lost()).unwrap_or(0);
    if failures.is_empty() {
        let answer = Answer::All(all);
        for (rank, other) in (1_u32..).zip(others.iter_mut()) {
            other.say(&answer).map_err(|failure| Failure::new(format!("rank {rank} was lost: {failure}")))?;
        }
        return match answer {
            Answer::All(all) => Ok(all),
            Answer::Failed(text) => Err(Failure::new(text)),
        };
    }
    let text = failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("; ");
    for other in others {
        // Who is lost does not hear it.
        drop(other.say(&Answer::<T>::Failed(text.clone())));
    }
    Err(failures.swap_remove(lost))
}

/// Where in the list a process belongs.
fn seat_of(join: &Join, size: u32, seats: &[Option<Peer>]) -> Result<usize, String> {
    let Join { version, rank, world } = *join;
    if version != VERSION {
        return Err(format!("rank {rank} is of another version ({version}, and rank 0 of {VERSION})"));
    }
    if world != size {
        return Err(format!(
            "rank {rank} says that there are {world} processes, and rank 0 that there are {size}: give all the same"
        ));
    }
    let at = (rank as usize).checked_sub(1).filter(|at| *at < seats.len());
    let at = at.ok_or_else(|| {
        format!("a second process says that it is rank {rank} of {size}: each has its own rank")
    })?;
    if seats[at].is_some() {
        return Err(format!("two processes say that they are rank {rank}: each has its own"));
    }
    Ok(at)
}

/// `rank 3` or `ranks 3, 5`.
fn ranks(numbers: impl Iterator<Item = u32>) -> String {
    let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
    format!("rank{} {}", if numbers.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// Says what rank 0 was waited for.
trait DoingWhat<T> {
    fn doing_what(self, doing: &str) -> Result<T, Failure>;
}

impl<T> DoingWhat<T> for Result<T, Failure> {
    fn doing_what(self, doing: &str) -> Self {
        self.map_err(|failure| Failure::peer(format!("rank 0 was lost while {doing}: {failure}")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, World};
    use crate::failure::Failure;
    use std::net::{IpAddr, Ipv4Addr};
    use std::thread;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn door() -> (Door, u16) {
        let door = Door::open(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0).expect("any port");
        let port = door.address().port();
        (door, port)
    }

    fn follow(port: u16, rank: u32, size: u32) -> Result<World, Failure> {
        World::follow("127.0.0.1", port, rank, size, PATIENCE)
    }

    #[test]
    fn everybody_hears_everybody_in_the_order_of_ranks() {
        let (door, port) = door();
        let others: Vec<_> = [3, 1, 2]
            .into_iter()
            .map(|rank| {
                thread::spawn(move || {
                    let mut world = follow(port, rank, 4).expect("it comes");
                    world.gather("counting", Ok(rank * 10), PATIENCE).expect("all speak")
                })
            })
            .collect();
        let mut world = World::lead(&door, 4, PATIENCE).expect("they come");
        assert_eq!(world.gather("counting", Ok(0), PATIENCE).expect("all speak"), [0, 10, 20, 30]);
        for other in others {
            assert_eq!(other.join().expect("no panic"), [0, 10, 20, 30]);
        }
    }

    #[test]
    fn who_does_not_come_is_named() {
        let (door, port) = door();
        let there = thread::spawn(move || follow(port, 2, 5).map(drop));
        let text = World::lead(&door, 5, Duration::from_millis(500)).expect_err("alone").to_string();
        assert!(text.starts_with("ranks 1, 3, 4 did not come"), "{text}");
        let told = there.join().expect("no panic").expect_err("told").to_string();
        assert!(told.contains("ranks 1, 3, 4 did not come"), "{told}");
    }

    #[test]
    fn two_of_one_rank_and_another_count_are_refused() {
        for (rank, size, said) in [(0, 2, "rank 0 of 2"), (1, 3, "there are 3 processes")] {
            let (door, port) = door();
            let there = thread::spawn(move || follow(port, rank, size).map(drop));
            let text = World::lead(&door, 2, PATIENCE).expect_err("contradicts").to_string();
            assert!(text.contains(said), "{text}");
            let told = there.join().expect("no panic").expect_err("told").to_string();
            assert!(told.contains(said), "{told}");
        }
    }

    /// Ranks 1 and 2 of 3, each in a thread of its own that does this.
    fn two_others(
        port: u16,
        does: fn(&mut World, u32) -> Result<(), Failure>,
    ) -> [thread::JoinHandle<Result<(), Failure>>; 2] {
        [1, 2].map(|rank| thread::spawn(move || does(&mut follow(port, rank, 3).expect("it comes"), rank)))
    }

    #[test]
    fn a_failure_of_one_reaches_all_with_its_words() {
        let (door, port) = door();
        let others = two_others(port, |world, rank| {
            let own = if rank == 1 { Err(Failure::new("no memory")) } else { Ok(()) };
            world.gather("registering", own, PATIENCE).map(drop)
        });
        let mut world = World::lead(&door, 3, PATIENCE).expect("they come");
        let text = world.gather("registering", Ok(()), PATIENCE).expect_err("rank 1 has none").to_string();
        assert_eq!(text, "rank 1 failed while registering: no memory");
        let told: Vec<String> = others
            .into_iter()
            .map(|other| other.join().expect("no panic").expect_err("told").to_string())
            .collect();
        assert_eq!(told[0], "no memory");
        assert_eq!(told[1], text);
    }

    #[test]
    fn who_ends_without_a_word_is_named() {
        let (door, port) = door();
        let others = two_others(port, |world, rank| match rank {
            1 => Ok(()),
            _ => world.gather("accepting", Ok(()), PATIENCE).map(drop),
        });
        let mut world = World::lead(&door, 3, PATIENCE).expect("they come");
        let text = world.gather("accepting", Ok(()), PATIENCE).expect_err("one is gone").to_string();
        assert!(text.starts_with("rank 1 was lost while accepting"), "{text}");
        for (at, other) in others.into_iter().enumerate() {
            assert_eq!(other.join().expect("no panic").is_err(), at == 1);
        }
    }
}
