//! One measurement in two processes of its own, which get other variables than this one. It is what a user would see who
//! set them: a plugin reads its variables once in the life of a process.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpx_core::config::{ChunkBytes, WindowSize};

use super::Options;
use super::child::{end_within, first_line, whole_output};
use super::endpoints::Way;
use super::figures::Percentiles;
use super::link::MOST_CHANNELS;
use super::placement::Placement;
use super::plan::COMPARED;
use super::server::READY;
use super::session::Session;
use super::spawn::program;
use super::words::Shape;
use crate::failure::{Failure, SAID};

/// How long a process of a trial may take to listen, and to measure.
const START: Duration = Duration::from_secs(60);
const WHOLE: Duration = Duration::from_secs(120);
/// How long the server may go on after its client has ended.
const GRACE: Duration = Duration::from_secs(5);
/// Messages before those that are timed, and those.
const WARM_UP: u64 = 4;
const TIMED: u64 = 24;
/// Bytes that they rotate over: no more, since each trial has to touch them anew.
const REGION: usize = 256 << 20;

const CHANNELS: &str = "UCCL_TCPX_NUM_CHANNELS";
const CHUNK: &str = "UCCL_TCPX_CHUNK_BYTES";
const SOFT_CHUNK: &str = "TCPX_SOFT_CHUNK_BYTES";
const SEND_WINDOW: &str = "UCCL_TCPX_MAX_SEND_INFLIGHT";
const RECV_WINDOW: &str = "UCCL_TCPX_MAX_RECV_INFLIGHT";

/// What a trial tries. `None` is what happens without the variable.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Setting {
    pub(super) channels: Option<u16>,
    pub(super) chunk_bytes: Option<u64>,
    /// Sends and receives under way.
    pub(super) window: Option<(u8, u8)>,
    /// Whether it is the soft plugin, which has a variable of its own for chunks.
    pub(super) soft: bool,
}

impl Setting {
    /// The variables that make it, with their values; those without are unset.
    pub(super) fn variables(&self) -> [(&'static str, Option<String>); 4] {
        let text = |value: Option<u64>| value.map(|value| value.to_string());
        let chunk = if self.soft { SOFT_CHUNK } else { CHUNK };
        [
            (CHANNELS, self.channels.map(|channels| channels.to_string())),
            (chunk, text(self.chunk_bytes)),
            (SEND_WINDOW, text(self.window.map(|(send, _)| send.into()))),
            (RECV_WINDOW, text(self.window.map(|(_, recv)| recv.into()))),
        ]
    }

    /// As a user types it; nothing for the defaults.
    pub(super) fn typed(&self) -> String {
        let set = self.variables().into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        set.collect::<Vec<_>>().join(" ")
    }

    /// Whether all of it is allowed. What the other end says is not to be trusted.
    pub(super) fn is_possible(&self) -> bool {
        let windows = self
            .window
            .is_none_or(|(send, recv)| [send, recv].into_iter().all(|size| WindowSize::new(size).is_some()));
        self.channels.is_none_or(|channels| (1..=MOST_CHANNELS).contains(&channels))
            && self.chunk_bytes.is_none_or(|bytes| ChunkBytes::new(bytes).is_some())
            && windows
    }
}

/// What a trial came to.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Tried {
    /// Of writes of 64 MiB, two under way.
    pub(super) gigabytes_per_second: f64,
    #[serde(flatten)]
    pub(super) latency: Percentiles,
}

/// Measures, in the client's process of a trial.
pub(super) fn measure(session: &mut Session) -> Result<Tried, Failure> {
    let mut run = |messages| {
        let pass = session.endpoint_pass(COMPARED, messages);
        let placement = Placement::new(session.region.len().min(REGION), COMPARED, Shape::Contiguous);
        session.active.run(Way::Write, &pass, &placement)
    };
    run(WARM_UP)?;
    let moved = run(TIMED)?;
    Ok(Tried { gigabytes_per_second: moved.gigabytes_per_second, latency: moved.latency })
}

/// A server of a trial, in a process of its own.
pub(super) struct Server {
    child: Child,
    /// Where it waits for its client.
    pub(super) port: u16,
}

impl Server {
    pub(super) fn start(options: &Options, setting: &Setting) -> Result<Self, Failure> {
        let mut command = command(options, setting)?;
        command.args(["--role", "server"]);
        if let Some(address) = options.listen {
            command.args(["--listen", &address.to_string()]);
        }
        let mut child = spawn(command)?;
        let port = |line: &str| line.strip_prefix(READY)?.trim().parse::<u16>().ok();
        match first_line(&mut child, START, port) {
            Some(port) => Ok(Self { child, port }),
            None => {
                end_within(&mut child, GRACE);
                let typed = setting.typed();
                Err(Failure::new(format!(
                    "a server with {typed} did not start; it says why on its standard error"
                )))
            }
        }
    }
}

impl Drop for Server {
    /// Its client has ended, or never came.
    fn drop(&mut self) {
        end_within(&mut self.child, GRACE);
    }
}

/// Runs a client of a trial against a server that waits at this port.
pub(super) fn client(
    options: &Options,
    setting: &Setting,
    host: &str,
    port: u16,
    device: u16,
) -> Result<Tried, Failure> {
    let mut command = command(options, setting)?;
    command.args(["--role", "client", "--peer", host, "--quiet"]);
    // What is set here is the base, to which a process adds the number of its GPU.
    command.env("UCCL_TCPX_BOOTSTRAP_PORT_BASE", port.saturating_sub(device).to_string());
    let mut child = spawn(command)?;
    let failed = |why: &str| Failure::new(format!("a client with {} {why}", setting.typed()));
    let (text, status) = whole_output(&mut child, WHOLE);
    let status = status.ok_or_else(|| failed(&format!("did not end within {} s", WHOLE.as_secs())))?;
    if status.code() == Some(SAID.into()) {
        return Err(Failure::said());
    }
    serde_json::from_str(text.trim()).map_err(|_| failed(&format!("came to no figure ({status})")))
}

/// A process of the same program and the same choices.
fn command(options: &Options, setting: &Setting) -> Result<Command, Failure> {
    let mut command = Command::new(program()?);
    command.args(["bench", "--child", "--trial", "--channels", "1", "--sizes", "64M"]);
    if let Some(nics) = options.nics {
        command.args(["--nics", &nics.to_string()]);
    }
    if let Some(plugin) = &options.plugin {
        command.arg("--plugin").arg(plugin);
    }
    if let Some(congestion) = &options.congestion {
        command.args(["--congestion", congestion]);
    }
    for (name, value) in setting.variables() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

fn spawn(mut command: Command) -> Result<Child, Failure> {
    command.spawn().map_err(|error| Failure::new(format!("starting a trial: {error}")))
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn a_setting_is_what_a_user_types() {
        let setting =
            Setting { channels: Some(4), chunk_bytes: Some(1 << 20), window: Some((8, 8)), soft: true };
        assert_eq!(
            setting.typed(),
            "UCCL_TCPX_NUM_CHANNELS=4 TCPX_SOFT_CHUNK_BYTES=1048576 UCCL_TCPX_MAX_SEND_INFLIGHT=8 \
             UCCL_TCPX_MAX_RECV_INFLIGHT=8"
        );
        let other = Setting { soft: false, window: None, ..setting };
        assert_eq!(other.typed(), "UCCL_TCPX_NUM_CHANNELS=4 UCCL_TCPX_CHUNK_BYTES=1048576");
        assert_eq!(Setting::default().typed(), "");
    }

    #[test]
    fn what_no_variable_takes_is_refused() {
        assert!(Setting::default().is_possible());
        let possible = |channels, chunk_bytes, window| {
            Setting { channels, chunk_bytes, window, soft: true }.is_possible()
        };
        assert!(possible(Some(16), Some(4096), Some((16, 1))));
        for bad in [possible(Some(17), None, None), possible(Some(0), None, None)] {
            assert!(!bad);
        }
        assert!(!possible(None, Some(5000), None) && !possible(None, Some(1 << 30), None));
        assert!(!possible(None, None, Some((17, 1))) && !possible(None, None, Some((1, 0))));
    }
}
