//! `p2p bench`: verified bytes between two processes, and their speed beside plain TCP's.

mod about;
mod arrived;
mod back;
pub(crate) mod bootstrap;
mod calibrate;
mod calibrated;
mod child;
mod client;
mod compare;
mod comparison;
mod content;
mod endpoints;
#[cfg(test)]
mod examples;
mod figures;
mod iperf;
mod link;
mod live;
mod matrix;
mod mock;
pub(crate) mod net;
mod nics;
mod options;
mod page;
mod ping_pong;
mod placement;
mod plan;
mod print;
mod report;
mod server;
mod session;
mod sizes;
pub(crate) mod spawn;
mod sweep;
mod swept;
mod text;
mod transfer;
mod trial;
mod words;

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::sockopt::set_tcp_congestion;
use socket2::{Domain, Socket, Type};
use tcpx_core::config::Config;

use crate::failure::{Doing, Failure};
pub(crate) use options::Options;
pub(crate) use options::{Backend, Role};

/// The soft plugin's congestion control.
const CONGESTION: &str = "TCPX_SOFT_CONGESTION";

/// Runs one end, or starts both.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if let Some(asked) = options.shape.shape {
        return crate::shape::run(asked, options);
    }
    options.check_role()?;
    options.check_backend()?;
    if options.backend == Backend::Mock {
        return mock::run(options);
    }
    let config = Config::from_process().map_err(|error| Failure::new(error.to_string()))?;
    if options.compare.is_some() {
        iperf::check()?;
    }
    let Some(role) = options.role else {
        options.congestion.as_deref().map_or(Ok(()), check_congestion)?;
        return spawn::both();
    };
    if options.is_child() {
        // The parent may end without a chance to say so.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
    let congestion = std::env::var(CONGESTION).ok().filter(|name| !name.is_empty());
    if let Some(name) = options.congestion.as_ref().or(congestion.as_ref()) {
        check_congestion(name)?;
    }
    if let Some(wanted) = &options.congestion
        && congestion.as_ref() != Some(wanted)
    {
        // The plugin reads its environment, which a running process cannot change safely.
        let error =
            Command::new(spawn::program()?).args(std::env::args_os().skip(1)).env(CONGESTION, wanted).exec();
        return Err(Failure::new(format!("starting with {CONGESTION}={wanted}: {error}")));
    }
    match role {
        Role::Server => server::run(options, &config, congestion),
        Role::Client => client::run(options, &config, congestion),
    }
}

/// Whether this user may choose this congestion control.
fn check_congestion(name: &str) -> Result<(), Failure> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).doing("making a socket")?;
    set_tcp_congestion(&socket, name).map_err(|error| {
        Failure::new(format!(
            "congestion control {name} cannot be used: {error}; /proc/sys/net/ipv4/tcp_allowed_congestion_control \
             lists what can"
        ))
    })
}
