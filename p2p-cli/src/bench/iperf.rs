//! The program iperf3 beside ours: between the same addresses, with the same congestion control, in the same rounds.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::child::{end_within, first_line, whole_output};
use crate::failure::{Doing, Failure};

const PROGRAM: &str = "iperf3";
/// How long one run may take, and its server to listen and to end.
const WHOLE: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);
/// What its server says when it listens.
const LISTENS: &str = "Server listening";

/// How it is run: streams, and bytes of one call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Manner {
    streams: u8,
    call: &'static str,
}

/// Those of which the fastest is compared with.
pub(super) const MANNERS: [Manner; 4] = [
    Manner { streams: 1, call: "128K" },
    Manner { streams: 1, call: "1M" },
    Manner { streams: 2, call: "1M" },
    Manner { streams: 4, call: "1M" },
];

/// Whether it can be started here.
pub(super) fn check() -> Result<(), Failure> {
    let mut command = Command::new(PROGRAM);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let why = match command.status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("iperf3 --version ends with {status}"),
        Err(error) => format!("iperf3 cannot be started: {error}"),
    };
    Err(Failure::new(format!(
        "--compare iperf3: {why}; install it at both ends (apt-get install iperf3), or leave --compare out"
    )))
}

/// One that serves one client.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
}

impl Server {
    /// On this address.
    pub(super) fn start(address: IpAddr) -> Result<Self, Failure> {
        check()?;
        // It cannot be told to choose a port itself.
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).doing("choosing a port for iperf3")?;
        let port = listener.local_addr().doing("choosing a port for iperf3")?.port();
        drop(listener);
        let mut command = Command::new(PROGRAM);
        command.args(["--server", "--one-off", "--forceflush", "--port", &port.to_string()]);
        command.args(["--bind", &address.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().doing("starting iperf3")?;
        if first_line(&mut child, START, |line| line.contains(LISTENS).then_some(())).is_some() {
            return Ok(Self { child, port });
        }
        end_within(&mut child, Duration::ZERO);
        Err(Failure::new(format!(
            "iperf3 does not listen on {address} port {port}; try it by hand, or leave --compare out"
        )))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end_within(&mut self.child, GRACE);
    }
}

/// Sends so many bytes to a server; gives GB/s as the receiver saw them.
pub(super) fn send(
    host: IpAddr,
    port: u16,
    bytes: u64,
    congestion: Option<&str>,
    manner: Manner,
) -> Result<f64, Failure> {
    let mut command = Command::new(PROGRAM);
    command.args(["--client", &host.to_string(), "--port", &port.to_string(), "--json"]);
    command.args(["--bytes", &bytes.to_string(), "--length", manner.call]);
    command.args(["--parallel", &manner.streams.to_string()]);
    if let Some(name) = congestion {
        command.args(["--congestion", name]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().doing("starting iperf3")?;
    let (text, status) = whole_output(&mut child, WHOLE);
    if status.is_none() {
        return Err(Failure::new(format!(
            "iperf3 did not end within {} s, so it was ended",
            WHOLE.as_secs()
        )));
    }
    rate(&text)
}

/// The rate in what it prints.
fn rate(text: &str) -> Result<f64, Failure> {
    let strange = || Failure::new("iperf3 printed no rate; try it by hand, or leave --compare out");
    let printed: serde_json::Value = serde_json::from_str(text).map_err(|_| strange())?;
    if let Some(error) = printed["error"].as_str() {
        return Err(Failure::new(format!("iperf3 failed: {error}; try it by hand, or leave --compare out")));
    }
    let bits = printed["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.filter(|bits| *bits > 0.0).map(|bits| bits / 8e9).ok_or_else(strange)
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn the_rate_is_the_receivers() {
        let text =
            r#"{"end": {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 8e9}}}"#;
        assert_eq!(rate(text).expect("a rate"), 1.0);
    }

    #[test]
    fn what_it_says_is_wrong_is_said() {
        let said = |text: &str| rate(text).expect_err("no rate").to_string();
        assert!(said(r#"{"error": "unable to connect"}"#).contains("unable to connect"));
        for text in ["", "nothing", "{}", r#"{"end": {"sum_received": {"bits_per_second": 0}}}"#] {
            assert!(said(text).contains("printed no rate"), "{text}");
        }
    }
}
