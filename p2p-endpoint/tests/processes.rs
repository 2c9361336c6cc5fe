//! Peers in processes of their own, which are killed or stopped at any moment.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use p2p_endpoint::endpoint::{Endpoint, OpId, Progress, Status};
use p2p_endpoint::engine::{LinkId, Options, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::Random;
use rustix::process::{Pid, Signal, kill_process};
use tcpx_core::config::{Config, FixedEnvironment};

/// Marks the process that is killed, and tells it whom to connect to.
const PEER_OF: &str = "P2P_TEST_PEER_OF";
/// Kills for each phase in an ordinary run; `P2P_KILLS` asks for more.
const KILLS: u64 = 4;
/// Bound of the endpoints, and some time for a busy machine.
const BOUND: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
const LENGTH: usize = 4 << 20;
/// What a peer says before it begins each part of its life. The first comes last here: an attempt to connect that is
/// given up keeps its sockets until the plugin forgets it, half a minute later, so that descriptors are counted before.
const PHASES: [&str; 5] = ["registration", "announcement", "data", "close", "handshake"];

fn endpoint() -> Endpoint {
    let environment: FixedEnvironment = [("UCCL_P2P_TRANSPORT", "tcp")].into_iter().collect();
    let config = Config::from_environment(&environment).expect("good values");
    let mut options = Options::of(&config);
    options.door = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    options.caps.silence = BOUND;
    options.caps.ping_after = BOUND / 4;
    options.connect_timeout = BOUND;
    Endpoint::of(&config, options, Progress::Thread).expect("an endpoint")
}

/// Memory of an endpoint, open to its peers.
fn open(endpoint: &Endpoint) -> (Part, Item) {
    let mr = endpoint.reg(Box::new(SharedHost::new(LENGTH).expect("memory"))).expect("registered");
    let whole = Part { mr, offset: 0, len: LENGTH as u64 };
    (whole, endpoint.advertise(whole, Access::Both).expect("advertised"))
}

/// The life of a peer; a test that does nothing in an ordinary run.
#[test]
fn peer() {
    let Ok(door) = std::env::var(PEER_OF) else { return };
    let say = |phase: &str| println!("phase {phase}");
    let endpoint = endpoint();
    say("handshake");
    let link = endpoint.connect(door.parse().expect("an address"), PATIENCE).expect("it lives");
    say("registration");
    let (part, item) = open(&endpoint);
    endpoint.notify(link, item.to_bytes().to_vec()).expect("up");
    let (_, theirs) = endpoint.notification(PATIENCE).expect("it lives");
    let theirs = Item::from_bytes(&theirs).expect("an item");
    say("announcement");
    for round in 0..200 {
        let write = endpoint.run(link, &[part], Request::Write { into: &[theirs], counter: None }, PATIENCE);
        assert_eq!(write.expect("up"), Some(Outcome::Done { bytes: LENGTH as u64 }));
        if round == 0 {
            say("data");
        }
        if round == 30 {
            break;
        }
    }
    say("close");
    endpoint.close(link).expect("up");
    endpoint.turn(PATIENCE);
}

struct Peer {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn new(door: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "peer", "--nocapture"])
            .env(PEER_OF, door.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, said }
    }

    fn until(&mut self, phase: &str) {
        let mut line = String::new();
        while !line.contains(&format!("phase {phase}")) {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).expect("text"), 0, "the peer ended before {phase}");
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves a peer until its link is over, and says what became of the transfers to it.
fn serve(endpoint: &Endpoint, part: Part, item: Item, over: &dyn Fn() -> bool) -> Vec<(LinkId, OpId)> {
    let mut begun = Vec::new();
    while !over() {
        let Ok(Some(accepted)) = endpoint.accept(Duration::from_millis(1)) else {
            if let Some((link, theirs)) = endpoint.notification(Duration::from_millis(1)) {
                let theirs = Item::from_bytes(&theirs).expect("an item");
                // It may be gone by now.
                let _ = endpoint.notify(link, item.to_bytes().to_vec());
                for request in
                    [Request::Write { into: &[theirs], counter: None }, Request::Read { from: &[theirs] }]
                {
                    begun.extend(endpoint.start(link, &[part], request).map(|id| (link, id)));
                }
                begun.extend(endpoint.start(link, &[part], Request::Recv).map(|id| (link, id)));
            }
            continue;
        };
        assert!(!accepted.peer.name.is_empty());
    }
    begun
}

/// Serves while `meanwhile` lasts.
fn served(survivor: &Endpoint, part: Part, item: Item, meanwhile: impl FnOnce()) -> Vec<(LinkId, OpId)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(survivor, part, item, &|| over.load(Ordering::Acquire)));
        meanwhile();
        over.store(true, Ordering::Release);
        serving.join().expect("the survivor does not panic")
    })
}

fn files() -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
    let read = |name| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let tcp = read("tcp") + &read("tcp6");
    let named = |link: std::fs::DirEntry| {
        let name = std::fs::read_link(link.path()).ok()?.display().to_string();
        let inode = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).unwrap_or("none");
        // Addresses and state of a socket, as the kernel has them.
        let line = tcp.lines().find(|line| line.split_whitespace().nth(9) == Some(inode));
        Some(line.map_or(name, |line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")))
    };
    links.filter_map(named).collect()
}

#[test]
fn a_killed_peer_is_noticed_in_time_whenever_it_dies() {
    let kills = std::env::var("P2P_KILLS").ok().map_or(KILLS, |text| text.parse().expect("a number"));
    let mut random = Random::new(1);
    let survivor = endpoint();
    let (part, item) = open(&survivor);
    let door = survivor.door().expect("it listens");
    let mut before = None;
    for phase in PHASES {
        for round in 0..kills {
            let mut peer = Peer::new(door);
            let begun = served(&survivor, part, item, || {
                peer.until(phase);
                std::thread::sleep(Duration::from_micros(random.below(3000)));
                peer.signal(Signal::KILL);
                let _ = peer.child.wait();
                // What it said until then is still heard.
                std::thread::sleep(Duration::from_millis(20));
            });
            let died = Instant::now();
            for (link, id) in begun {
                let ended = survivor.wait(id, 2 * BOUND);
                assert!(is_done_or_lost(ended), "round {round}, {phase}: {ended:?}");
                while survivor.is_up(link) {
                    assert!(died.elapsed() < 2 * BOUND, "round {round}, {phase}: the link is still up");
                    survivor.turn(Duration::from_millis(1));
                }
                let why = survivor.why(link).map(|why| why.text().to_owned());
                assert!(why.is_some_and(|why| !why.is_empty()), "round {round}, {phase}: nobody knows why");
            }
        }
        if phase == "handshake" {
            continue;
        }
        // What was closed takes its time to go, and nothing stays.
        survivor.turn(Duration::from_millis(100));
        let (begin, allowed) = (Instant::now(), *before.get_or_insert_with(|| files().len()) + 2);
        while files().len() > allowed {
            let open = files();
            assert!(
                begin.elapsed() < PATIENCE,
                "descriptors leak: {allowed} are allowed, {} open: {open:?}",
                open.len()
            );
            survivor.turn(Duration::from_millis(10));
        }
    }
    // The survivor is as good as new.
    let mut peer = Peer::new(door);
    let begun = served(&survivor, part, item, || peer.until("close"));
    let outcomes: Vec<Status> = begun.iter().map(|(_, id)| survivor.wait(*id, PATIENCE)).collect();
    assert_eq!(outcomes[..2], [Status::Ended(Outcome::Done { bytes: LENGTH as u64 }); 2]);
}

/// Whether a transfer of a peer that dies ended as one may.
fn is_done_or_lost(ended: Status) -> bool {
    matches!(ended, Status::Ended(Outcome::Done { .. } | Outcome::LinkLost | Outcome::RailLost(_)))
}

/// A stopped process lives for the kernel: only its silence shows.
#[test]
fn a_stopped_peer_is_noticed_by_its_silence() {
    let survivor = endpoint();
    let (part, item) = open(&survivor);
    let mut peer = Peer::new(survivor.door().expect("it listens"));
    let begun = served(&survivor, part, item, || {
        peer.until("data");
        peer.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(50));
    });
    let stopped = Instant::now();
    assert_eq!(begun.len(), 3, "a write, a read and a receive were under way");
    // Others come and go meanwhile.
    let mut other = Peer::new(survivor.door().expect("it listens"));
    let others = served(&survivor, part, item, || other.until("close"));
    for (_, id) in &others[..2] {
        assert_eq!(survivor.wait(*id, PATIENCE), Status::Ended(Outcome::Done { bytes: LENGTH as u64 }));
    }
    let mut lost = 0;
    for (link, id) in begun {
        let ended = survivor.wait(id, (2 * BOUND).saturating_sub(stopped.elapsed()));
        assert!(is_done_or_lost(ended), "{ended:?} after {:?}", stopped.elapsed());
        lost += u32::from(ended == Status::Ended(Outcome::LinkLost));
        while survivor.is_up(link) {
            assert!(stopped.elapsed() < 2 * BOUND, "the link is still up");
            survivor.turn(Duration::from_millis(1));
        }
        let why = survivor.why(link).map(|why| why.text().to_owned()).unwrap_or_default();
        assert!(why.contains("said nothing for 2."), "{why:?}");
    }
    assert!(lost > 0, "what it had not answered is lost with it");
}
