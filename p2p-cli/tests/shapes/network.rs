//! Two hosts of four NICs each, and a router between them: three network namespaces, joined by virtual interfaces, each
//! shaped at both of its ends. Every NIC reaches every NIC of the other host, whichever way its own address says.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::namespace;
use crate::program;

/// NICs of a host that carry data.
pub(crate) const NICS: usize = 4;
/// Speed of a link, in megabits per second.
pub(crate) const MEGABITS: u32 = 200;
/// Set where a test runs inside of a namespace of its own.
const INSIDE: &str = "P2P_TEST_SHAPES_INSIDE";
/// What such a test says where the machine forbids it after all.
const FORBIDDEN: &str = "FORBIDDEN: ";
const PASSED: &str = "PASSED INSIDE";

/// Two hosts that live as long as this does.
pub(crate) struct Network {
    hosts: [Child; 2],
}

/// Runs `body` in a namespace of its own, where a network can be made; says why it is skipped where that is forbidden.
/// `test` is the whole name of the test that calls this.
pub(crate) fn inside(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        match shaping() {
            Ok(()) => {
                body();
                println!("{PASSED}");
            }
            Err(why) => println!("{FORBIDDEN}{why}"),
        }
        return;
    }
    // What links carry is only judged where the cores are there for it: one network at a time.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let options = match namespace::options() {
        Ok(options) => options,
        Err(why) => return namespace::skip(test, &why),
    };
    let mut command = namespace::start(test, &options, "none");
    let output =
        command.env(INSIDE, "1").stdin(Stdio::null()).stderr(Stdio::piped()).output().expect("unshare");
    let (said, errors) = (program::text(&output.stdout), program::text(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    if let Some(why) = said.lines().find_map(|line| Some(line.split_once(FORBIDDEN)?.1)) {
        return namespace::skip(test, why);
    }
    assert!(said.contains(PASSED), "nothing ran: {said}{errors}");
}

/// Whether links can be shaped and packets passed on here.
fn shaping() -> Result<(), String> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|error| format!("ip_forward: {error}"))?;
    run("ip link set lo up")?;
    run("ip link add probe0 type veth peer name probe1")?;
    run(&format!("tc qdisc add dev probe0 {}", bucket(MEGABITS)))?;
    run("ip rule add from 10.91.0.1 table 99")?;
    run("ip link delete probe0")
}

/// A queue that lets so much through. It holds a tenth of a second, so that no packet is lost before the senders know.
fn bucket(megabits: u32) -> String {
    format!("root tbf rate {megabits}mbit burst 128kb latency 100ms")
}

/// What the addresses of a NIC begin with; the one after the last is the control NIC.
fn subnet(host: usize, nic: usize) -> String {
    format!("10.91.{}", host * 10 + nic)
}

impl Network {
    /// All links of the same speed but `slow`, a host and a NIC, which has a quarter of it.
    pub(crate) fn new(slow: Option<(usize, usize)>) -> Self {
        let hosts = [0, 1].map(|_| {
            let mut command = Command::new("unshare");
            command.args(["--net", "--", "sh", "-c", "echo ready; exec sleep 600"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a namespace")
        });
        let mut network = Self { hosts };
        for host in 0..2 {
            // Before that, its namespace is still this one.
            let mut said = std::io::BufReader::new(network.hosts[host].stdout.take().expect("piped"));
            let mut line = String::new();
            std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
            assert_eq!(line.trim(), "ready");
            network.host(host, "ip link set lo up");
            for nic in 0..=NICS {
                network.link(host, nic, slow == Some((host, nic)));
            }
        }
        network
    }

    fn link(&self, host: usize, nic: usize, is_slow: bool) {
        let is_control = nic == NICS;
        let name = if is_control { "ctl".to_owned() } else { format!("rail{nic}") };
        let (near, net) = (format!("h{host}{name}"), subnet(host, nic));
        must(&format!("ip link add {near} type veth peer name {name} netns {}", self.hosts[host].id()));
        must(&format!("ip address add {net}.254/24 dev {near}"));
        must(&format!("ip link set {near} up"));
        self.host(host, &format!("ip address add {net}.1/24 dev {name}"));
        self.host(host, &format!("ip link set {name} up"));
        if is_control {
            self.host(host, &format!("ip route add default via {net}.254"));
            return;
        }
        // What has the address of a NIC leaves through that NIC, wherever it goes.
        let table = 100 + nic;
        self.host(host, &format!("ip rule add from {net}.1 table {table}"));
        self.host(host, &format!("ip route add default via {net}.254 dev {name} table {table}"));
        let shape = bucket(if is_slow { MEGABITS / 4 } else { MEGABITS });
        must(&format!("tc qdisc add dev {near} {shape}"));
        self.host(host, &format!("tc qdisc add dev {name} {shape}"));
    }

    /// The address of a host's control NIC.
    pub(crate) fn address(host: usize) -> String {
        format!("{}.1", subnet(host, NICS))
    }

    fn enter(&self, host: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.hosts[host].id().to_string(), "--net", "--"]);
        command
    }

    /// Runs a command at a host.
    pub(crate) fn host(&self, host: usize, line: &str) {
        let output = self.enter(host).args(line.split(' ')).output().expect("nsenter");
        assert!(output.status.success(), "host {host}: {line}: {}", program::text(&output.stderr));
    }

    /// The bench at a host, over its four NICs.
    pub(crate) fn bench(&self, host: usize, arguments: &[&str]) -> Command {
        let mut command = self.enter(host);
        command.arg(env!("CARGO_BIN_EXE_p2p"));
        let mut command = program::clean(command, arguments);
        command.env("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "=rail0,rail1,rail2,rail3");
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            // The namespace goes with its last process.
            let _ = host.kill();
            let _ = host.wait();
        }
    }
}

fn must(line: &str) {
    run(line).expect("it is allowed here");
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", program::text(&output.stderr).trim()))
}
