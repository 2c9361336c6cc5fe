//! Tests that need variables run their body in a process of their own, because the plugin reads the
//! environment once.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MARKER: &str = "TCPX_SOFT_TEST_SCENARIO";
const RAN: &str = "scenario ran to its end: ";
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `body` in a child process of this test program with the `variables` set, and returns what the child
/// said. `test` is the name of the calling test, which the child runs again.
///
/// Panics if the child fails, takes too long, or did not run the body to its end.
pub fn in_child(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> String {
    if is_child(test) {
        body();
        println!("{RAN}{test}");
        return String::new();
    }
    let child = spawn(test, variables);
    let (success, text) = wait(child, test);
    assert!(success, "scenario {test} with {variables:?} failed:\n{text}");
    assert!(text.contains(&format!("{RAN}{test}")), "scenario {test} did not run:\n{text}");
    text
}

/// Whether this process is the child that runs `test`.
pub fn is_child(test: &str) -> bool {
    std::env::var(MARKER).is_ok_and(|name| name == test)
}

/// The command that runs `test` of this program as a child, without any other variable of the plugin.
pub fn command(test: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("path of the test program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    for (name, _) in std::env::vars() {
        if name.starts_with("TCPX_SOFT_") || name.starts_with("NCCL_") {
            command.env_remove(name);
        }
    }
    command.env(MARKER, test).envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts [`command`].
pub fn spawn(test: &str, variables: &[(&str, &str)]) -> Child {
    command(test, variables).spawn().expect("start of a child process")
}

/// Waits for a child with a bound, reading all it says; whether it succeeded, and its words.
pub fn wait(mut child: Child, what: &str) -> (bool, String) {
    drop(child.stdin.take().map(|mut stdin| stdin.flush()));
    let reader = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // A pipe that breaks ends the text there.
            let _ = from.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = child.stdout.take().map(|out| reader(Box::new(out)));
    let err = child.stderr.take().map(|err| reader(Box::new(err)));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        if Instant::now() > deadline {
            // It may have ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text: Vec<String> =
        [out, err].into_iter().flatten().map(|reader| reader.join().expect("reader")).collect();
    let text = text.concat();
    assert!(status.is_some(), "{what} was still running after {LIMIT:?}:\n{text}");
    (status.is_some_and(|status| status.success()), text)
}
