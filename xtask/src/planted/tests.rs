use std::fs;
use std::path::{Path, PathBuf};

use super::patch::{Patch, all};
use super::{FOLDER, copy};

const FILE: &str = "fn one() {\n    a();\n    b();\n}\n\nfn two() {\n    b();\n}\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn patch(hunk: &str) -> Result<Patch, String> {
    Patch::of("probe", &format!("Bug: b\nSeeds: 3\n--- a/file.rs\n+++ b/file.rs\n@@ -1 +1 @@\n{hunk}"))
}

fn applied(hunk: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file.rs"), FILE).expect("written");
    let files = patch(hunk)?.apply(folder.path())?;
    let text = files.texts().collect();
    let before = files.put()?;
    assert_eq!(before.texts().collect::<String>(), FILE);
    assert_eq!(fs::read_to_string(folder.path().join("file.rs")).expect("there"), text);
    before.put()?;
    assert_eq!(fs::read_to_string(folder.path().join("file.rs")).expect("there"), FILE);
    Ok(text)
}

#[test]
fn a_hunk_changes_the_lines_that_it_names_wherever_they_are() {
    assert_eq!(applied("     a();\n-    b();\n+    c();\n"), Ok(FILE.replacen("b();", "c();", 1)));
    assert_eq!(applied("-fn one() {\n+fn zero() {\n"), Ok(FILE.replace("one", "zero")));
    assert_eq!(applied("-    b();\n }\n \n fn two() {\n"), Ok(FILE.replacen("    b();\n", "", 1)));
}

#[test]
fn a_hunk_that_fits_nowhere_or_twice_says_so() {
    let nowhere = applied("-    d();\n").expect_err("nowhere");
    assert!(
        nowhere.contains("probe.patch does not apply any more") && nowhere.contains("0 times"),
        "{nowhere}"
    );
    let twice = applied("-    b();\n").expect_err("twice");
    assert!(twice.contains("2 times"), "{twice}");
    // A part of a line is no line.
    assert!(applied("-();\n").is_err());
}

#[test]
fn a_patch_says_what_it_is_and_what_finds_it() {
    let diff = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n";
    for (head, missing) in [("Seeds: 3\n", "Bug"), ("Bug: b\n", "Test"), ("Bug: b\nSeeds: x\n", "seeds")] {
        let why = Patch::of("probe", &format!("{head}{diff}")).expect_err("incomplete");
        assert!(why.contains(missing), "{why}");
    }
    assert!(Patch::of("probe", "Bug: b\nSeeds: 3\n").is_err(), "no hunk");
    assert!(patch(" a\n").is_err(), "it changes nothing");
    assert!(patch("?\n").is_err());
    let words = Patch::of("probe", &format!("Bug: b\nTest: -p x --lib a::b\n{diff}")).expect("whole").test;
    assert_eq!(words.expect("named"), ["-p", "x", "--lib", "a::b"]);
}

/// What a change of the code makes useless is noticed with that change, and not by whoever plants the bugs next.
#[test]
fn every_patch_still_applies_and_names_a_test_that_exists() {
    let patches = all(&root().join(FOLDER)).expect("patches");
    for patch in &patches {
        if let Err(why) = patch.apply(&root()) {
            panic!("{why}: make it anew, as {FOLDER}/README.md says");
        }
        let Some(test) = &patch.test else { continue };
        let package = test.iter().skip_while(|word| *word != "-p").nth(1).expect("a package");
        let name = test.last().and_then(|name| name.rsplit("::").next()).expect("a name");
        let mut texts = String::new();
        read_all(&root().join(package), &mut texts);
        assert!(texts.contains(&format!("fn {name}(")), "{}: {package} has no test {name}", patch.name);
    }
}

#[test]
fn the_list_of_bugs_has_every_patch() {
    let list = fs::read_to_string(root().join(FOLDER).join("README.md")).expect("a list");
    for patch in all(&root().join(FOLDER)).expect("patches") {
        let line = format!("| `{}` |", patch.name);
        assert!(list.contains(&line), "{FOLDER}/README.md has no line {line}");
    }
}

fn read_all(folder: &Path, texts: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, texts);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            texts.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn a_copy_has_what_is_there_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    for path in ["a/target/built", ".git/objects", ".cargo/config.toml", "a/b.rs"] {
        fs::create_dir_all(from.join(path).parent().expect("a folder")).expect("made");
        fs::write(from.join(path), path).expect("written");
    }
    fs::create_dir_all(to.join("old")).expect("made");
    fs::write(to.join("old/file"), "").expect("written");
    copy::tree(&from, &to).expect("copied");
    assert_eq!(fs::read_to_string(to.join("a/b.rs")).expect("there"), "a/b.rs");
    assert!(to.join(".cargo/config.toml").exists());
    for gone in ["old", ".git", "a/target"] {
        assert!(!to.join(gone).exists(), "{gone}");
    }
}
