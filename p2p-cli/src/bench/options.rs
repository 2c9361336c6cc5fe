//! What a user can choose.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::sweep::Knob;
use crate::failure::Failure;
use crate::shape;

/// Which end this process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Role {
    /// Waits for the client, receives, and checks
    Server,
    /// Connects, sends, measures, and prints
    Client,
}

/// What moves the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Backend {
    /// A net plugin: the real one, or the soft one over plain TCP
    Tcpx,
    /// A simulation in virtual time, in this process; its figures are of a model and not of this machine
    Mock,
}

/// A program to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Program {
    /// The well-known measure of TCP
    Iperf3,
}

/// Without --role, both ends are started on this machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Which end this process is; without it, both are started here
    #[arg(long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Host name or address of the server
    #[arg(long, value_name = "HOST", required_if_eq("role", "client"))]
    pub(crate) peer: Option<String>,
    /// File of a net plugin, whatever UCCL_TCPX_PLUGIN_PATH and UCCL_P2P_TRANSPORT say
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
    /// What moves the bytes
    #[arg(long, value_enum, default_value = "tcpx")]
    pub(crate) backend: Backend,
    /// NICs to use, with a connection each, over which messages take turns; without it, one, or those of
    /// UCCL_TCPX_DEV
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) nics: Option<u8>,
    /// Numbers of channels to measure, 1 to 16 each, per connection; each NIC has a connection of its own
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u8).range(1..=16))]
    #[arg(default_value_ifs([("shape", "orchestrator", "8"), ("shape", "per-gpu", "4"), ("shape", "both", "8,4")]))]
    pub(crate) channels: Vec<u8>,
    /// Message sizes, such as 64K, 4M; at most 1G; a simulation leaves out 256M unless it is asked for
    #[arg(long, value_delimiter = ',', default_value = "256,4K,64K,1M,16M,64M,256M", value_parser = size)]
    #[arg(default_value_if("backend", "mock", "256,4K,64K,1M,16M,64M"))]
    #[arg(default_value_if("shape", clap::builder::ArgPredicate::IsPresent, "8M"))]
    pub(crate) sizes: Vec<usize>,
    /// About how long to run; everything is verified and measured once however long that takes, about a minute with all
    /// sizes, and a simulation ends earlier if everything is measured
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    #[arg(default_value_if("shape", clap::builder::ArgPredicate::IsPresent, "10"))]
    pub(crate) seconds: u64,
    /// Keeps everything measured in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes everything measured as charts and tables into this HTML file, such as report.html; it needs nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Shows no progress
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Congestion control of the soft plugin's and the plain sockets, such as cubic; give both ends the same
    #[arg(long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
    /// Measures only plain TCP, one 64 MiB buffer, every layout and congestion control
    #[arg(long, conflicts_with = "report")]
    pub(crate) calibrate: bool,
    /// Varies channels, chunk and window (any of them), each combination in processes of its own, in turn, and says which
    /// is best for writes of 64 MiB, and whether it is better at all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT", conflicts_with = "calibrate")]
    pub(crate) sweep: Vec<Knob>,
    /// Measures that program too, in the same rounds, between the same addresses; it has to be installed at both ends
    #[arg(long, value_enum, value_name = "PROGRAM", conflicts_with_all = ["calibrate", "sweep"])]
    pub(crate) compare: Option<Program>,
    /// Address that the server listens on; without it, all
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) shape: shape::Options,
    /// Started by another p2p
    #[arg(long, hide = true)]
    child: bool,
    /// One measurement of a sweep
    #[arg(long, hide = true)]
    trial: bool,
}

impl Options {
    /// Whether another `p2p` started this one and watches it.
    pub(crate) const fn is_child(&self) -> bool {
        self.child
    }

    /// Whether this is one measurement of a sweep.
    pub(crate) const fn is_trial(&self) -> bool {
        self.trial
    }

    /// Whether this process is started along with another one, which says what both find out.
    pub(crate) fn has_spokesman(&self) -> bool {
        self.child && (self.trial || self.role == Some(Role::Server))
    }

    /// Whether there are transfers in this process, and not only plain TCP or other processes.
    pub(crate) const fn transfers(&self) -> bool {
        !self.calibrate && self.sweep.is_empty()
    }

    /// Whether nothing is asked of the simulation that it does not have.
    pub(crate) fn check_backend(&self) -> Result<(), Failure> {
        let wrong = [
            (self.role.is_some(), "--role", "both ends of a simulation are in this process"),
            (self.plugin.is_some(), "--plugin", "a simulation has no net plugin"),
            (self.congestion.is_some(), "--congestion", "a simulation has no sockets"),
            (self.calibrate, "--calibrate", "a simulation has no plain TCP"),
            (!self.sweep.is_empty(), "--sweep", "a simulation reads no variables"),
            (self.compare.is_some(), "--compare", "a simulation is no match for a program"),
            (self.report.is_some(), "--report", "its charts are of a machine"),
        ];
        let wrong = wrong.into_iter().find(|(given, ..)| self.backend == Backend::Mock && *given);
        wrong.map_or(Ok(()), |(_, name, why)| {
            Err(Failure::new(format!("{name} does not go with --backend mock: {why}; leave it out")))
        })
    }

    /// Whether each address is of the end that this process is.
    pub(crate) fn check_role(&self) -> Result<(), Failure> {
        let wrong = if self.peer.is_some() && self.role != Some(Role::Client) {
            "--peer goes only with --role client"
        } else if self.listen.is_some() && self.role != Some(Role::Server) {
            "--listen goes only with --role server"
        } else {
            return Ok(());
        };
        let mend = match self.role {
            Some(_) => "leave it out, or choose the other role",
            None => "add it, or leave both out to start both ends here",
        };
        Err(Failure::new(format!("{wrong}: {mend}")))
    }
}

/// Bytes, with K, M or G for powers of 1024.
fn size(text: &str) -> Result<usize, String> {
    const LARGEST: usize = 1 << 30;
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: Option<usize> = digits.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(|| "a size is a number from 1 byte to 1G, such as 65536 or 64K".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Options, size};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &[&str]) -> Result<Options, clap::Error> {
        Line::try_parse_from([&["p2p"], line].concat()).map(|line| line.options)
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4K"), Ok(4096));
        assert_eq!(size("64m"), Ok(64 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        assert_eq!(size("17"), Ok(17));
        for bad in ["", "K", "0", "2G", "-1", "4KB", "1.5M", "99999999999999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_is_the_whole_matrix_for_a_minute() {
        let options = parse(&[]).expect("no arguments");
        assert_eq!(options.channels, [1, 2, 4]);
        assert_eq!((options.sizes[0], options.sizes[6]), (256, 256 << 20));
        assert_eq!(options.seconds, 60);
        assert!(options.role.is_none() && !options.is_child());
    }

    #[test]
    fn an_address_goes_with_its_role() {
        let check = |line: &[&str]| parse(line).expect("clap takes it").check_role();
        for (line, said) in [
            (&["--peer", "host"][..], "--peer"),
            (&["--role", "server", "--peer", "host"], "--peer"),
            (&["--listen", "127.0.0.1"], "--listen"),
            (&["--role", "client", "--peer", "host", "--listen", "::"], "--listen"),
        ] {
            let text = check(line).expect_err("refused").to_string();
            assert!(text.starts_with(said) && text.contains("--role"), "{text}");
        }
        for line in
            [&[][..], &["--role", "client", "--peer", "host"], &["--role", "server", "--listen", "::"]]
        {
            check(line).expect("an address of its own role");
        }
    }

    #[test]
    fn a_simulation_has_no_sockets_and_no_roles() {
        for line in [
            &["--role", "server"][..],
            &["--plugin", "x.so"],
            &["--congestion", "cubic"],
            &["--calibrate"],
            &["--report", "x.html"],
        ] {
            let line = [&["--backend", "mock"], line].concat();
            let text = parse(&line).expect("clap takes it").check_backend().expect_err("refused").to_string();
            assert!(text.starts_with(line[2]) && text.contains("--backend mock"), "{text}");
            parse(&line[2..]).expect("clap takes it").check_backend().expect("tcpx has them");
        }
        let mock = parse(&["--backend", "mock", "--nics", "4"]).expect("clap takes it");
        mock.check_backend().expect("a simulation has NICs");
        assert_eq!(mock.sizes, [256, 4096, 64 << 10, 1 << 20, 16 << 20, 64 << 20]);
        assert_eq!(parse(&["--backend", "mock", "--sizes", "256M"]).expect("good").sizes, [256 << 20]);
    }

    #[test]
    fn a_client_needs_a_peer_and_numbers_have_ranges() {
        assert!(parse(&["--role", "client"]).is_err());
        assert!(parse(&["--role", "client", "--peer", "host"]).is_ok());
        assert!(parse(&["--role", "server"]).is_ok());
        assert!(parse(&["--channels", "0"]).is_err());
        assert!(parse(&["--channels", "17"]).is_err());
        assert!(parse(&["--nics", "0"]).is_err());
        assert!(parse(&["--nics", "17"]).is_err());
        assert!(parse(&["--seconds", "0"]).is_err());
        assert_eq!(parse(&["--channels", "2", "--sizes", "1K,2K"]).expect("good").sizes, [1024, 2048]);
    }
}
