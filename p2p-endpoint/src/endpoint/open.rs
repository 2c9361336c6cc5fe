//! An endpoint as the variables of its process want it.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_transport::Error;
use p2p_transport_tcpx::{Choice, Options as TcpxOptions, Tcpx, addresses_of_host};
use tcpx_core::Plugin;
use tcpx_core::config::Config;

use super::{Endpoint, Progress};
use crate::affinity::Wish;
use crate::control_tcp::{TcpControl, TcpOptions};
use crate::engine::Options;
use crate::secret::Secret;

impl Endpoint {
    /// An endpoint over the net plugin that the variables of this process choose, with a progress thread.
    ///
    /// # Errors
    ///
    /// [`Misuse`](p2p_transport::ErrorKind::Misuse) for a bad value of a variable; otherwise as [`Choice::open`],
    /// [`Tcpx::new`] and [`Endpoint::new`].
    pub fn open() -> Result<Self, Error> {
        let config = Config::from_process()
            .map_err(|error| Error::misuse("open", error.to_string()).with_source(error))?;
        Self::of(&config, Options::of(&config), Progress::Thread)
    }

    /// An endpoint over the net plugin that this configuration chooses.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn of(config: &Config, options: Options, progress: Progress) -> Result<Self, Error> {
        Self::over(Choice::of(config).open(config)?, config, options, progress)
    }

    /// An endpoint over this plugin.
    ///
    /// # Errors
    ///
    /// As [`Tcpx::new`] and [`Endpoint::new`].
    pub fn over(
        plugin: Arc<Plugin>,
        config: &Config,
        options: Options,
        progress: Progress,
    ) -> Result<Self, Error> {
        let mut options = options;
        if options.host.is_empty() {
            let nics: Vec<&str> = plugin.devices().iter().map(|device| device.name).collect();
            options.host = addresses_of_host(config, &nics);
        }
        let transport = Tcpx::new(plugin, config, TcpxOptions::of(config, Instant::now()))?;
        let mut streams = TcpOptions::default();
        (streams.connect_timeout, streams.close_timeout) = (options.connect_timeout, options.close_timeout);
        Self::new(Box::new(transport), Box::new(TcpControl::new(streams)?), options, progress)
    }
}

impl Options {
    /// As this configuration wants it, for host memory.
    pub fn of(config: &Config) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut options = Self::new(format!("{host}:{}", std::process::id()));
        options.connect_timeout = Duration::from_secs(config.connect_timeout_seconds.value.get());
        // Of both families, where the host has both.
        options.door.set_ip(Ipv6Addr::UNSPECIFIED.into());
        if config.oob_port.is_from_user() {
            options.door.set_port(config.oob_port.value.get());
            options.port_retries = config.port_retries.value.get() as u16;
        }
        options.affinity = Wish::of(config);
        options.secret = Secret::of(config);
        options.caps.silence = Duration::from_secs(config.peer_timeout_seconds.value.get());
        options.caps.ping_after = Duration::from_secs(config.heartbeat_seconds.value.get());
        options.stall_after = Duration::from_secs(config.stall_seconds.value.get());
        options
    }
}
