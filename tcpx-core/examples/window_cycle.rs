//! What the core itself costs: cycles of post, test and release against a plugin that does nothing.
//!
//! `window_cycle N` runs N cycles, half of them sends and half receives. It prints nothing and measures
//! nothing; `cargo xtask deep` counts its instructions.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use p2p_memory::HostBuffer;
use tcpx_core::config::{Config, FixedEnvironment};
use tcpx_core::{Channel, Plugin, Post, Release, Slice, Source};

#[path = "../tests/support/null.rs"]
mod null;

fn main() -> ExitCode {
    let cycles = std::env::args().nth(1).and_then(|argument| argument.parse().ok());
    let Some(cycles) = cycles else {
        eprintln!("usage: window_cycle CYCLES");
        return ExitCode::FAILURE;
    };
    match run(cycles) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("window_cycle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cycles: u64) -> Result<(), Box<dyn Error>> {
    let config = Config::from_environment(&FixedEnvironment::default())?;
    let plugin = Plugin::open(Source::Static(null::plugin()), &config)?;
    let now = Instant::now();
    let deadline = now + Duration::from_secs(60);
    let (handle, listening) = plugin.listen(0, deadline)?;
    let mut channels = [
        Channel::sending(plugin.connect(0, &handle, deadline)?.wait()?, plugin.send_window())?,
        Channel::receiving(listening.wait()?, plugin.recv_window())?,
    ];
    let mut slices = Vec::new();
    for channel in &mut channels {
        let registration = channel.register(Box::new(HostBuffer::new(4096)?))?;
        slices.push(Slice { registration, offset: 64, length: 1024 });
    }
    for cycle in 0..cycles {
        let which = (cycle % 2) as usize;
        let channel = &mut channels[which];
        if channel.post(cycle, slices[which], now)? != Post::Accepted {
            return Err("a post was not accepted".into());
        }
        if !matches!(channel.release(), Release::Released(completion) if completion.token == cycle) {
            return Err("a request was not released".into());
        }
    }
    Ok(())
}
