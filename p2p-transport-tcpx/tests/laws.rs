//! The laws of the contract over the soft plugin: with one channel and with three, in host mode and, in a
//! process of its own, with scattered pages, with a strict plugin, and with other sockets.

use std::cell::OnceCell;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use p2p_conformance::{Bounds, Harness, Law, SEED_VARIABLE, conformance};
use p2p_transport::{NicId, Now, Rail, Transport};
use p2p_transport_tcpx::{Choice, Options, Tcpx};
use tcpx_core::config::{Config, FixedEnvironment};

/// Two transports of this process, on the real clock.
struct Soft {
    origin: Instant,
    channels: u16,
    /// Bytes registered at once.
    registration_limit: Option<usize>,
    pass: OnceCell<Pass>,
}

/// Whoever polls lets in visitors of all transports of the process. What that allocates would be counted as
/// the work of the law that counts, so that law runs alone.
static RUNNING: RwLock<()> = RwLock::new(());

#[allow(dead_code, reason = "held, and never looked at")]
enum Pass {
    Alone(RwLockWriteGuard<'static, ()>),
    BesideOthers(RwLockReadGuard<'static, ()>),
}

impl Pass {
    fn to(law: Law) -> Self {
        if law == Law::NoAllocation {
            Self::Alone(RUNNING.write().unwrap_or_else(PoisonError::into_inner))
        } else {
            Self::BesideOthers(RUNNING.read().unwrap_or_else(PoisonError::into_inner))
        }
    }
}

impl Soft {
    fn new(channels: u16) -> Self {
        Self { origin: Instant::now(), channels, registration_limit: None, pass: OnceCell::new() }
    }

    fn in_pieces(channels: u16) -> Self {
        Self { registration_limit: Some(256 << 10), ..Self::new(channels) }
    }
}

impl Harness for Soft {
    fn ends(&mut self, _seed: u64) -> [Box<dyn Transport>; 2] {
        let none: [(&str, &str); 0] = [];
        let environment: FixedEnvironment = none.into_iter().collect();
        let config = Config::from_environment(&environment).expect("no variables");
        let plugin = Choice::Soft.open(&config).expect("the soft plugin");
        [0, 1].map(|_| -> Box<dyn Transport> {
            let mut options = Options::of(&config, self.origin);
            options.peer_timeout = Duration::from_secs(2);
            options.connect_timeout = Duration::from_secs(2);
            options.registration_limit = self.registration_limit;
            Box::new(Tcpx::new(plugin.clone(), &config, options).expect("a transport"))
        })
    }

    fn step(&mut self) -> Now {
        // The plugin's threads move the bytes, on as few as two cores.
        std::thread::yield_now();
        Now(self.origin.elapsed())
    }

    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    fn rail(&self, _end: usize) -> Rail {
        Rail { nic: NicId(0), device: None, channels: self.channels }
    }

    /// Asked first of all: from here on the law runs, alone or not.
    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        self.pass.get_or_init(|| Pass::to(law));
        if law == Law::SameTrace {
            return Some("the plugin's threads and the kernel's sockets are not deterministic");
        }
        (law == Law::TooLong && is_strict())
            .then_some("a strict plugin takes the lengths of both ends to be equal, as Google's does")
    }

    fn seeds(&self) -> u64 {
        2
    }
}

conformance!(one_channel, Soft::new(1));
conformance!(three_channels, Soft::new(3));
conformance!(in_pieces, Soft::in_pieces(2));

/// Whether this process's plugin is strict.
fn is_strict() -> bool {
    std::env::var(STRICT).is_ok_and(|value| value == "1")
}

const STRICT: &str = "TCPX_SOFT_STRICT";

/// Runs the laws of these mounts again in a process of their own: the plugin reads its variables once.
fn hold_with(mounts: &[&str], variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(mounts).envs(variables.iter().copied());
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let all = format!(" {} passed; 0 failed", mounts.len() * Law::ALL.len());
    assert!(output.status.success() && text.contains(&all), "{text}");
}

#[test]
fn the_laws_hold_with_scattered_pages() {
    let variables = [
        ("TCPX_SOFT_MODE", "unpack"),
        ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "3"),
        ("TCPX_SOFT_FAULT_POISON", "1"),
    ];
    hold_with(&["one_channel::", "three_channels::", "in_pieces::"], &variables);
}

#[test]
fn the_laws_hold_with_a_strict_plugin() {
    hold_with(&["one_channel::"], &[(STRICT, "1"), (SEED_VARIABLE, "1")]);
}

#[test]
fn the_laws_hold_with_two_sockets_for_each_channel() {
    let sockets = [("NCCL_NSOCKS_PERTHREAD", "2"), ("NCCL_SOCKET_NTHREADS", "1")];
    hold_with(&["one_channel::"], &[&sockets[..], &[(SEED_VARIABLE, "1")]].concat());
}
