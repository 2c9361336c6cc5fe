//! What the memory list of a transfer costs: pages pushed, their shape said, cut into messages, and named.
//!
//! `vector_of_pages N` does so for N pages of 16 KiB that lie scattered at both ends, and for N that follow each
//! other, and fails if a byte is missing or if cutting allocates. It prints nothing and measures nothing else;
//! `cargo xtask deep` counts its instructions.

use std::process::ExitCode;

use p2p_proto::id::{LocalRegion, RegionKey};
use p2p_proto::list::{List, LocalRange, RemoteRange, cut};

const PAGE: u64 = 16 << 10;
const LONGEST_MESSAGE: u32 = 4 << 20;
const SLICES: u16 = 256;
const RANGES_IN_A_FRAME: usize = 1024;

fn main() -> ExitCode {
    let pages = std::env::args().nth(1).and_then(|argument| argument.parse().ok());
    let Some(pages) = pages else {
        eprintln!("usage: vector_of_pages PAGES");
        return ExitCode::FAILURE;
    };
    for stride in [3 * PAGE, PAGE] {
        if let Err(error) = run(pages, stride) {
            eprintln!("vector_of_pages: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The ways of both ends of a write: the one that has the memory of both, and the one that is told of messages.
fn run(pages: u64, stride: u64) -> Result<(), String> {
    let room = usize::try_from(pages).map_err(|error| error.to_string())?;
    let (mut own, mut remote) = (List::with_capacity(room), List::with_capacity(room));
    for page in 0..pages {
        let range = LocalRange { region: LocalRegion(1), offset: page * stride, len: PAGE };
        own.push(range).map_err(|error| error.to_string())?;
        let key = RegionKey { index: 1, generation: 1, secret: 1 };
        let range = RemoteRange { key, offset: page * stride, len: PAGE };
        remote.push(range).map_err(|error| error.to_string())?;
    }
    let mut said = 0;
    loop {
        let runs = remote.runs(said, RANGES_IN_A_FRAME);
        if runs.is_empty() {
            break;
        }
        said += runs.iter().map(|run| run.ranges.len()).sum::<usize>();
    }
    let shape = own.shape();
    let mut parts = Vec::with_capacity(usize::from(SLICES));
    let mut named = 0;
    let measured = allocation_counter::measure(|| {
        let (mut own_at, mut shape_at, mut reads) = (remote.cursor(), shape.cursor(), own.cursor());
        loop {
            let bytes = cut(&remote, &mut own_at, &shape, &mut shape_at, LONGEST_MESSAGE, SLICES, SLICES);
            if bytes == 0 {
                break;
            }
            parts.clear();
            named += u64::from(own.parts(&mut reads, bytes, &mut parts));
        }
    });
    if measured.count_total > 0 {
        return Err(format!("{} allocations while cutting", measured.count_total));
    }
    if named != pages * PAGE || said != remote.len() {
        return Err(format!("{named} bytes and {said} ranges of {pages} pages were named"));
    }
    Ok(())
}
