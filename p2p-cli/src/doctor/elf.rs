//! The symbols of a shared library, read without loading it: loading runs its code.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Start of the names of a net plugin's tables; the version follows.
pub(super) const TABLE: &str = "ncclNetPlugin_v";
/// Start of the name of the table that only the soft plugin has.
const SOFT: &str = "tcpxSoftExtension_v";
/// Longest file that is looked into.
const LONGEST: u64 = 256 << 20;
/// Type of the section that lists what the dynamic linker finds.
const DYNAMIC_SYMBOLS: u32 = 11;
/// Bytes of a symbol in it.
const SYMBOL_BYTES: usize = 24;

/// Whether this is a symbol of the soft plugin.
pub(super) fn is_soft(name: &str) -> bool {
    name.starts_with(SOFT)
}

/// The names of the plugin tables that a shared library for this machine defines, sorted.
///
/// # Errors
///
/// Why the file is no such library, as the end of a sentence about it.
pub(super) fn exports(file: &Path) -> Result<Vec<String>, String> {
    let about = fs::metadata(file).map_err(|error| format!("cannot be looked at ({error})"))?;
    if !about.is_file() || about.len() > LONGEST {
        return Err("is no shared library".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read ({error})"))?;
    tables(&bytes)
}

fn tables(bytes: &[u8]) -> Result<Vec<String>, String> {
    if bytes.get(..4) != Some(b"\x7fELF") {
        return Err("is no shared library (it does not begin as one)".to_owned());
    }
    // 64 bits, little-endian, x86-64.
    if bytes.get(4..6) != Some(&[2, 1]) || number(bytes, 18, 2) != Some(62) {
        return Err("is a library for another processor than x86-64".to_owned());
    }
    let mut names = defined(bytes).ok_or("has no list of symbols that can be read, or is cut off")?;
    names.sort();
    Ok(names)
}

/// The defined dynamic symbols that are of interest; `None` where the file contradicts itself.
fn defined(bytes: &[u8]) -> Option<Vec<String>> {
    let (sections, size, count) = (number(bytes, 40, 8)?, number(bytes, 58, 2)?, number(bytes, 60, 2)?);
    let section = |index: usize| {
        let at = sections.checked_add(index.checked_mul(size)?)?;
        bytes.get(at..at.checked_add(64)?)
    };
    let dynamic = (0..count)
        .filter_map(section)
        .find(|header| number(header, 4, 4) == Some(DYNAMIC_SYMBOLS as usize))?;
    let content = |header: &[u8]| {
        let at = number(header, 24, 8)?;
        bytes.get(at..at.checked_add(number(header, 32, 8)?)?)
    };
    let names = content(section(number(dynamic, 40, 4)?)?)?;
    let symbols = content(dynamic)?.chunks_exact(SYMBOL_BYTES);
    // A symbol of section 0 is one that the library wants from others.
    let defined = symbols.filter(|symbol| number(symbol, 6, 2) != Some(0));
    let named = defined.filter_map(|symbol| {
        let name = names.get(number(symbol, 0, 4)?..)?;
        let name = &name[..name.iter().position(|&byte| byte == 0)?];
        std::str::from_utf8(name).ok().map(str::to_owned)
    });
    Some(named.filter(|name| name.starts_with(TABLE) || is_soft(name)).collect())
}

/// The little-endian number of `length` bytes at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    field.iter().rev().try_fold(0_usize, |value, &byte| value.checked_mul(256)?.checked_add(byte.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// This test program is one for this machine, though it defines no table.
    fn program() -> Vec<u8> {
        fs::read(std::env::current_exe().expect("its path")).expect("its bytes")
    }

    #[test]
    fn what_is_no_library_is_told_apart() {
        assert_eq!(tables(&program()), Ok(Vec::new()));
        assert!(tables(b"text").expect_err("text").contains("no shared library"));
        assert!(tables(b"").expect_err("nothing").contains("no shared library"));
        let mut other = program();
        other[18] = 183;
        assert!(tables(&other).expect_err("another processor").contains("another processor"));
        assert!(tables(&program()[..4096]).expect_err("cut off").contains("cut off"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever the header says, nothing outside of the file is read.
        #[test]
        fn a_damaged_header_is_no_panic(at in 0_usize..64, byte: u8, length in 0_usize..100_000) {
            let mut bytes = program();
            bytes[at] = byte;
            let _ = tables(&bytes);
            bytes.truncate(length);
            let _ = tables(&bytes);
        }
    }
}
