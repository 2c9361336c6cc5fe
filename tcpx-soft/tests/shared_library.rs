//! The plugin as NCCL meets it: a shared library, opened in a fresh process.

mod support;

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use support::child::in_child;
use support::drive::{self, close, pair};
use support::{Net, pattern};
use tcpx_sys::{Table, Version, extension, load};

/// The library beside this test program: cargo builds it with the tests.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("path of the test program");
    let folder = program.parent().expect("a folder");
    let places = [folder.join("libtcpx_soft.so"), folder.with_file_name("libtcpx_soft.so")];
    let found = places.iter().find(|place| place.is_file());
    let Some(found) = found else {
        panic!("no libtcpx_soft.so in {}; `cargo build -p tcpx-soft` makes it", folder.display())
    };
    found.clone()
}

fn opened(version: Version) -> Net {
    // SAFETY: the library is this crate's own build.
    let plugin = unsafe { load(&library(), &[version]) }.expect("the built library");
    assert_eq!(plugin.table.version(), version);
    assert!(plugin.extension.is_some_and(|extension| extension.max_slices == 4096));
    let linked = tcpx_soft::plugin_of(version).table.name_pointer();
    assert_ne!(plugin.table.name_pointer(), linked, "not the copy linked into this program");
    // SAFETY: the name is a constant of the library, which stays loaded.
    let name = unsafe { CStr::from_ptr(plugin.table.name_pointer()) };
    assert_eq!(name, c"TCPX_Soft");
    Net(plugin.table)
}

fn exchange_through(version: Version) {
    let net = opened(version);
    assert_eq!(net.init(), 0);
    assert!(net.devices() > 0);
    let comms = pair(net);
    drive::exchange(net, comms, &[pattern(1, 100), Vec::new(), pattern(2, 3 << 20), pattern(3, 16_385)]);
    close(net, comms);
}

macro_rules! versions {
    ($($name:ident: $version:expr;)*) => {$(
        #[test]
        fn $name() {
            in_child(stringify!($name), &[], || exchange_through($version));
        }
    )*};
}
versions! {
    version_7_of_the_library_moves_messages: Version::V7;
    version_8_of_the_library_moves_messages: Version::V8;
    version_9_of_the_library_moves_messages: Version::V9;
    version_10_of_the_library_moves_messages: Version::V10;
    version_11_of_the_library_moves_messages: Version::V11;
}

#[test]
fn the_newest_wanted_version_wins() {
    in_child("the_newest_wanted_version_wins", &[], || {
        // SAFETY: the library is this crate's own build.
        let plugin = unsafe { load(&library(), &Version::NEWEST_FIRST) }.expect("the built library");
        assert!(matches!(plugin.table, Table::V11(_)));
    });
}

#[test]
fn the_library_stays_mapped_when_it_is_closed() {
    in_child("the_library_stays_mapped_when_it_is_closed", &[], || {
        let path = CString::new(library().as_os_str().as_bytes()).expect("no zero in a path");
        // SAFETY: the library is this crate's own build.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: an open library and a symbol name.
        let table = unsafe { libc::dlsym(handle, Version::V8.symbol().as_ptr()) };
        // SAFETY: the symbol is the table of version 8, which stays mapped: that is what is tested.
        let net = Net(Table::V8(unsafe { &*table.cast() }));
        assert_eq!(net.init(), 0);
        let comms = pair(net);
        // SAFETY: an open library; NCCL closes it while its threads may still run.
        assert_eq!(unsafe { libc::dlclose(handle) }, 0);
        drive::exchange(net, comms, &[pattern(1, 1 << 20)]);
        close(net, comms);
    });
}

#[test]
fn a_missing_file_is_named_with_what_the_linker_said() {
    let path = Path::new("/nowhere/libnccl-net-missing.so");
    // SAFETY: there is no such file, so nothing is loaded.
    let error = unsafe { load(path, &Version::NEWEST_FIRST) }.expect_err("missing").to_string();
    assert!(error.contains("/nowhere/libnccl-net-missing.so"), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn a_file_that_is_no_library_is_named_with_what_the_linker_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("libnccl-net-text.so");
    std::fs::write(
        &path,
        "this is no library, although it is long enough to have a header of one\n".repeat(9),
    )
    .expect("write");
    // SAFETY: the file is refused before anything of it runs.
    let error = unsafe { load(&path, &Version::NEWEST_FIRST) }.expect_err("text").to_string();
    assert!(error.contains("invalid ELF header"), "{error}");
    assert_eq!(error.matches("libnccl-net-text.so").count(), 1, "{error}");
}

#[test]
fn a_library_without_tables_is_named_with_the_symbols_tried() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let Some(path) = libc.into_iter().find(|path| path.contains("libc.so") || path.contains("libc-")) else {
        panic!("this process has no libc mapped:\n{maps}")
    };
    // SAFETY: the C library is loaded already.
    let error =
        unsafe { load(Path::new(path), &[Version::V11, Version::V7]) }.expect_err("no table").to_string();
    assert!(error.contains(path), "{error}");
    assert!(error.contains("ncclNetPlugin_v11, ncclNetPlugin_v7"), "in the order wanted: {error}");
    assert!(!error.contains("ncclNetPlugin_v8"), "only those tried: {error}");
}

/// A 64-bit little-endian ELF file.
struct Elf(Vec<u8>);

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_NODELETE: u64 = 0x8;
const SHT_DYNSYM: u64 = 11;

impl Elf {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        self.0[at..at + bytes].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn text(&self, at: usize) -> String {
        let end = self.0[at..].iter().position(|&byte| byte == 0).expect("a terminated text");
        String::from_utf8_lossy(&self.0[at..at + end]).into_owned()
    }

    /// Type, file offset, address and file size of each segment.
    fn segments(&self) -> Vec<[u64; 4]> {
        let (start, size, count) = (self.number(32, 8), self.number(54, 2), self.number(56, 2));
        let at = |i| (start + i * size) as usize;
        (0..count)
            .map(|i| {
                [
                    self.number(at(i), 4),
                    self.number(at(i) + 8, 8),
                    self.number(at(i) + 16, 8),
                    self.number(at(i) + 32, 8),
                ]
            })
            .collect()
    }

    fn offset_of(&self, address: u64) -> usize {
        let holds = |segment: &&[u64; 4]| {
            segment[0] == PT_LOAD && (segment[2]..segment[2] + segment[3]).contains(&address)
        };
        let segments = self.segments();
        let segment = segments.iter().find(holds).expect("a loaded address");
        (address - segment[2] + segment[1]) as usize
    }

    fn dynamic(&self, tag: u64) -> Option<u64> {
        let segments = self.segments();
        let dynamic = segments.iter().find(|segment| segment[0] == PT_DYNAMIC).expect("a dynamic section");
        let entries = (dynamic[1] as usize..(dynamic[1] + dynamic[3]) as usize).step_by(16);
        entries
            .map(|at| (self.number(at, 8), self.number(at + 8, 8)))
            .find(|(t, _)| *t == tag)
            .map(|(_, v)| v)
    }

    /// Names of the dynamic symbols that the file defines.
    fn exported(&self) -> Vec<String> {
        let (start, size, count) = (self.number(40, 8), self.number(58, 2), self.number(60, 2));
        let header = |i: u64| (start + i * size) as usize;
        let table = (0..count).map(header).find(|&at| self.number(at + 4, 4) == SHT_DYNSYM);
        let table = table.expect("a table of dynamic symbols");
        let (from, length) = (self.number(table + 24, 8) as usize, self.number(table + 32, 8) as usize);
        let strings = self.number(header(self.number(table + 40, 4)) + 24, 8) as usize;
        (from..from + length)
            .step_by(24)
            .filter(|&at| self.number(at + 6, 2) != 0)
            .map(|at| self.text(strings + self.number(at, 4) as usize))
            .collect()
    }
}

#[test]
fn the_file_says_its_name_and_that_it_is_never_unmapped() {
    let elf = Elf(std::fs::read(library()).expect("the library"));
    assert_eq!(&elf.0[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
    let flags = elf.dynamic(DT_FLAGS_1).unwrap_or(0);
    assert_ne!(flags & DF_1_NODELETE, 0, "linked with -z nodelete: flags {flags:#x}");
    let strings = elf.offset_of(elf.dynamic(DT_STRTAB).expect("strings"));
    let name = elf.text(strings + elf.dynamic(DT_SONAME).expect("a name") as usize);
    assert_eq!(name, "libnccl-net-tcpx-soft.so");
}

#[test]
fn the_file_exports_these_tables_and_no_others() {
    let exported = Elf(std::fs::read(library()).expect("the library")).exported();
    let mut tables: Vec<_> = exported
        .iter()
        .filter(|name| name.starts_with("nccl") || name.starts_with("tcpx"))
        .cloned()
        .collect();
    tables.sort();
    let mut expected: Vec<_> =
        Version::NEWEST_FIRST.iter().map(|v| v.symbol().to_string_lossy().into_owned()).collect();
    expected.push(extension::SYMBOL.to_string_lossy().into_owned());
    expected.sort();
    assert_eq!(tables, expected);
}
