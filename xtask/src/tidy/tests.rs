//! Breaks a small workspace by each rule and sees the rule named.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::crates::{TABLE, Unsafe};
use super::{Finding, check};

/// A workspace with every crate of the table and nothing wrong in it.
struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(TempDir::new().expect("a folder for the fixture"));
        let names: Vec<String> = TABLE.iter().map(|row| format!("\"{}\"", row.name)).collect();
        let members = names.join(", ");
        let lints = "[workspace.lints.rust]\nmissing_docs = \"warn\"\n";
        let workspace = format!("[workspace]\nresolver = \"3\"\nmembers = [{members}]\n{lints}");
        fixture.write("Cargo.toml", &workspace);
        for row in TABLE {
            fixture.write(&format!("{}/Cargo.toml", row.name), &manifest(row.name, ""));
            let forbid = match row.unsafe_code {
                Unsafe::Nowhere => "#![forbid(unsafe_code)]\n",
                Unsafe::Anywhere | Unsafe::Only(_) => "",
            };
            let text = format!("//! A crate.\n//! It never does anything.\n{forbid}");
            fixture.write(&format!("{}/src/lib.rs", row.name), &text);
        }
        fixture
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.root().join(path);
        fs::create_dir_all(file.parent().expect("a file has a folder")).expect("a folder of the fixture");
        fs::write(file, text).expect("a file of the fixture");
    }

    fn findings(&self) -> Vec<Finding> {
        check(self.root()).expect("cargo reads the fixture")
    }

    /// The one finding there has to be, as text.
    #[track_caller]
    fn only_finding(&self) -> String {
        let findings = self.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].to_string()
    }
}

fn manifest(name: &str, rest: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lints]\nworkspace = true\n{rest}"
    )
}

/// A fixture with one more file gives exactly one finding, which begins with `expected`.
#[track_caller]
fn breaks(path: &str, text: &str, expected: &str) {
    let fixture = Fixture::new();
    fixture.write(path, text);
    let found = fixture.only_finding();
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn the_fixture_itself_is_tidy() {
    assert!(Fixture::new().findings().is_empty());
}

#[test]
fn a_dependency_against_the_layers_is_named() {
    let text = manifest("tcpx-sys", "[dependencies]\np2p-memory = { path = \"../p2p-memory\" }\n");
    breaks("tcpx-sys/Cargo.toml", &text, "crates: tcpx-sys: may not depend on p2p-memory");
}

#[test]
fn a_build_dependency_against_the_layers_is_named() {
    let text = manifest("tcpx-sys", "[build-dependencies]\np2p-memory = { path = \"../p2p-memory\" }\n");
    breaks("tcpx-sys/Cargo.toml", &text, "crates: tcpx-sys: may not depend on p2p-memory");
}

#[test]
fn what_only_tests_may_use_is_refused_elsewhere() {
    let soft = "tcpx-soft = { path = \"../tcpx-soft\" }\n";
    let fixture = Fixture::new();
    fixture.write("tcpx-core/Cargo.toml", &manifest("tcpx-core", &format!("[dev-dependencies]\n{soft}")));
    assert!(fixture.findings().is_empty());
    fixture.write("tcpx-core/Cargo.toml", &manifest("tcpx-core", &format!("[dependencies]\n{soft}")));
    assert!(fixture.only_finding().starts_with("crates: tcpx-core: may not depend on tcpx-soft"));
}

#[test]
fn a_crate_outside_the_table_is_named() {
    let fixture = Fixture::new();
    let root = fs::read_to_string(fixture.root().join("Cargo.toml")).expect("the root manifest");
    fixture.write("Cargo.toml", &root.replace("members = [", "members = [\"newcomer\", "));
    fixture.write("newcomer/Cargo.toml", &manifest("newcomer", ""));
    fixture.write("newcomer/src/lib.rs", "//! It never does anything.\n");
    assert!(fixture.only_finding().starts_with("crates: newcomer: is not in the table"));
}

#[test]
fn a_crate_without_the_workspace_lints_is_named() {
    let text = manifest("tcpx-sys", "").replace("workspace = true", "rust = {}");
    breaks("tcpx-sys/Cargo.toml", &text, "lints: tcpx-sys");
}

#[test]
fn a_header_without_never_is_named() {
    let text = "//! A crate.\n\n// It never does anything, but not in the header.\n";
    breaks("tcpx-sys/src/lib.rs", text, "header: tcpx-sys (tcpx_sys)");
}

#[test]
fn a_program_needs_its_header_too() {
    breaks("xtask/src/main.rs", "#![forbid(unsafe_code)]\nfn main() {}\n", "header: xtask (xtask)");
}

#[test]
fn a_missing_forbid_is_named() {
    let text = "//! It never does anything.\n// #![forbid(unsafe_code)]\n";
    breaks("benches/src/lib.rs", text, "forbid: benches (benches)");
}

#[test]
fn unsafe_outside_its_crates_is_named_with_its_line() {
    let text = "//! Test.\nfn f() {\n    unsafe { g() }\n}\n";
    breaks("benches/tests/one.rs", text, "unsafe: benches/tests/one.rs:3");
}

#[test]
fn unsafe_outside_its_files_is_named() {
    let fixture = Fixture::new();
    fixture.write("tcpx-core/src/api.rs", "unsafe fn f() {}\n");
    assert!(fixture.findings().is_empty());
    fixture.write("tcpx-core/src/channel.rs", "unsafe fn f() {}\n");
    assert!(fixture.only_finding().starts_with("unsafe: tcpx-core/src/channel.rs:1"));
}

#[test]
fn a_clock_or_an_unordered_map_in_a_sans_io_file_is_named() {
    for word in
        ["Instant::now()", "SystemTime::now()", "thread::sleep(d)", "HashMap::new()", "HashSet::new()"]
    {
        let text = format!("fn f() {{\n    let x = {word};\n}}\n");
        breaks("tcpx-core/src/window.rs", &text, "sans-io: tcpx-core/src/window.rs:2");
        breaks("tcpx-core/src/topology/sysfs.rs", &text, "sans-io: tcpx-core/src/topology/sysfs.rs:2");
    }
}

#[test]
fn a_sans_io_file_may_use_them_in_its_tests_and_other_files_anywhere() {
    let fixture = Fixture::new();
    let use_it = "fn f() {\n    Instant::now();\n}\n";
    fixture.write("tcpx-core/src/comm.rs", use_it);
    fixture.write("tcpx-core/src/window_log.rs", use_it);
    fixture.write("tcpx-core/src/window.rs", &format!("#[cfg(test)]\nmod tests {{\n{use_it}}}\n"));
    fixture.write("tcpx-core/src/window/tests.rs", use_it);
    assert!(fixture.findings().is_empty());
}

#[test]
fn unfinished_code_is_named_in_tests_too() {
    for word in ["todo!()", "unimplemented!()", "dbg!(1)"] {
        let text = format!("fn f() {{ {word} }}\n");
        breaks("tcpx-core/src/comm.rs", &text, "unfinished: tcpx-core/src/comm.rs:1");
        breaks("tcpx-core/tests/comm.rs", &text, "unfinished: tcpx-core/tests/comm.rs:1");
    }
}

#[test]
fn an_ignored_test_is_named() {
    breaks("tcpx-soft/tests/a.rs", "#[test]\n#[ignore]\nfn f() {}\n", "ignored: tcpx-soft/tests/a.rs:2");
    breaks("tcpx-soft/tests/a.rs", "#[ignore = \"slow\"]\nfn f() {}\n", "ignored: tcpx-soft/tests/a.rs:1");
}

#[test]
fn a_path_of_one_machine_is_named_in_any_text() {
    for place in [concat!("/ho", "me/me/x"), concat!("/ro", "ot/x"), concat!("/wo", "rk/main")] {
        breaks("README.md", &format!("first\nsee {place}\n"), "path: README.md:2");
        breaks("docs/DESIGN.md", &format!("`{place}`\n"), "path: docs/DESIGN.md:1");
        breaks("tcpx-soft/src/x.rs", &format!("// {place}\n"), "path: tcpx-soft/src/x.rs:1");
        breaks(".ci/run", &format!("cd {place}\n"), "path: .ci/run:1");
    }
}

#[test]
fn a_relative_path_is_no_path_of_one_machine() {
    let fixture = Fixture::new();
    let text = concat!("see some/wo", "rk/folder and https://example.org/ho", "me/page");
    fixture.write("README.md", text);
    assert!(fixture.findings().is_empty());
}

#[test]
fn a_name_that_says_nothing_is_named() {
    breaks("tcpx-soft/src/utils.rs", "", "name: tcpx-soft/src/utils.rs");
}

#[test]
fn a_long_file_is_a_warning_and_its_tests_do_not_count() {
    let fixture = Fixture::new();
    let tests = "#[cfg(test)]\nmod tests {\n}\n";
    fixture.write("tcpx-soft/src/long.rs", &format!("{}{tests}", "// x\n".repeat(600)));
    assert!(fixture.findings().is_empty());
    fixture.write("tcpx-soft/src/long.rs", &format!("{}{tests}", "// x\n".repeat(601)));
    let found = fixture.findings();
    assert!(found.len() == 1 && found[0].warning, "{found:?}");
    assert!(found[0].to_string().starts_with("warning: length: tcpx-soft/src/long.rs: 601 lines"));
}

#[test]
fn what_is_built_is_not_read() {
    let fixture = Fixture::new();
    fixture.write("tcpx-soft/target/debug/x.rs", "fn f() { todo!() }\n");
    fixture.write("target/x.rs", "fn f() { todo!() }\n");
    assert!(fixture.findings().is_empty());
}

#[test]
fn a_variable_that_is_described_nowhere_is_named() {
    let text = "fn f() { lookup(\"TCPX_SOFT_NEW\") }\n";
    breaks("tcpx-soft/src/x.rs", text, "variables: tcpx-soft/src/x.rs:1: TCPX_SOFT_NEW is described neither");
}

#[test]
fn a_variable_that_nobody_reads_is_named() {
    breaks("README.md", "| `NCCL_GONE` | 1 |\n", "variables: README.md:1: NCCL_GONE is read nowhere");
    let in_tests = "#[cfg(test)]\nmod tests {\n fn f() { set(\"NCCL_GONE\") }\n}\n";
    let fixture = Fixture::new();
    fixture.write("README.md", "`NCCL_GONE`\n");
    fixture.write("tcpx-soft/src/x.rs", in_tests);
    assert!(fixture.only_finding().starts_with("variables: README.md:1"));
    breaks("docs/X.md", "`TCPX_SOFT_GONE`\n", "variables: docs/X.md:1: TCPX_SOFT_GONE is read nowhere");
}

#[test]
fn a_variable_that_is_read_and_described_is_tidy() {
    let fixture = Fixture::new();
    fixture.write("README.md", "`TCPX_SOFT_NEW=1`, all of `TCPX_SOFT_`, `NCCL_NET_PLUGIN=x`\n");
    fixture.write("docs/X.md", "`TCPX_SOFT_OTHER`\n");
    fixture
        .write("tcpx-soft/src/x.rs", "fn f() { lookup(\"TCPX_SOFT_NEW\") + lookup(\"TCPX_SOFT_OTHER\") }\n");
    assert!(fixture.findings().is_empty());
}
