//! What an ordinary test run does with the corpora of the fuzz targets.

use std::fs;
use std::path::Path;

/// Runs a target with each of its inputs.
pub(crate) fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        run(&fs::read(&path).expect("readable"));
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", folder.display());
}
