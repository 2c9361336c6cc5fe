//! The program `p2p` as a user starts it: results, and one clear line where there is none.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod running;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use running::{CHOICE, finish, free_port};

/// Without words on its progress.
fn p2p(port: u16, arguments: &[&str]) -> Command {
    running::p2p(port, &[&["--quiet"], arguments].concat())
}

/// A run that fails says one line, which has all of `parts`, and ends with exit code 1.
#[track_caller]
fn says(output: &Output, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

fn run(port: u16, arguments: &[&str]) -> Output {
    finish(p2p(port, arguments).spawn().unwrap())
}

#[test]
fn a_short_run_verifies_and_ends_with_the_ratio() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("out.json");
    let arguments = ["--seconds", "2", "--sizes", "4K,64K,1000003", "--channels", "1,4"];
    let output = run(free_port(), &[&arguments[..], &["--json", json.to_str().unwrap()]].concat());
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("verified: every byte of"), "{text}");
    let last = text.trim_end().lines().next_back().unwrap();
    let ratio: f64 = last.strip_prefix("ratio ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(ratio > 0.0, "{last}");
    let sockets = text.lines().nth(1).unwrap();
    assert!(sockets.starts_with("sends to 127.0.0.1") && sockets.contains("data sockets"), "{sockets}");
    let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(kept["entries"].as_array().unwrap().len(), 6);
    assert!(!kept["comparisons"].as_array().unwrap().is_empty());
}

#[test]
fn the_log_is_chosen_by_variables_and_has_no_colours_in_a_pipe() {
    let errors = |name: &str, value: &str| {
        let shape = ["--shape", "orchestrator", "--gpus", "0", "--channels", "1"];
        let arguments = [&shape[..], &["--seconds", "1", "--sizes", "64K"]].concat();
        let output = finish(p2p(free_port(), &arguments).env(name, value).spawn().unwrap());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !errors.contains('\x1b'), "{errors}");
        errors
    };
    let up = "link is up";
    assert!(!errors("RUST_LOG", "").contains(up), "nobody asked");
    let chosen = errors("RUST_LOG", "p2p_endpoint=info");
    assert!(chosen.matches(up).count() >= 2, "both ends say it: {chosen}");
    assert!(!chosen.contains("net_plugin"), "nothing else was chosen: {chosen}");
    let all = errors("UCCL_TCPX_DEBUG", "1");
    assert!(all.contains(up) && all.contains("net_plugin"), "{all}");
    let wrong = errors("RUST_LOG", "p2p=loud");
    assert!(wrong.contains("RUST_LOG=\"p2p=loud\" is not used"), "{wrong}");
}

#[test]
fn messages_take_turns_over_several_nics() {
    let arguments = ["--seconds", "1", "--sizes", "4K,1000003", "--channels", "1,2", "--nics", "2"];
    let mut command = p2p(free_port(), &arguments);
    let output = finish(command.env("TCPX_SOFT_ADDRESSES", "127.0.0.1,127.0.0.2").spawn().unwrap());
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("127.0.0.1, lo-127.0.0.2"), "{text}");
    assert!(text.contains("on each of 2 NICs") && !text.contains("over 1 channels"), "{text}");
}

#[test]
fn more_nics_than_there_are_is_an_error_that_says_how_to_make_more() {
    says(&run(free_port(), &["--nics", "3"]), &["--nics 3", "has 1 here", "TCPX_SOFT_ADDRESSES"]);
    let child = p2p(free_port(), &["--nics", "3"]).env("UCCL_TCPX_DEV", "0").spawn().unwrap();
    says(&finish(child), &["--nics 3", "has 1 here", "UCCL_TCPX_DEV"]);
    for (choice, said) in [("9", "names NIC number 9,"), ("eth7", "names NIC eth7,")] {
        let child = p2p(free_port(), &[]).env("UCCL_TCPX_DEV", choice).spawn().unwrap();
        says(&finish(child), &["UCCL_TCPX_DEV", said]);
    }
}

#[test]
fn a_simulation_says_that_it_is_one_and_verifies_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("out.json");
    let arguments = ["--backend", "mock", "--sizes", "4K,1M", "--channels", "1,4", "--nics", "2"];
    let output = run(free_port(), &[&arguments[..], &["--json", json.to_str().unwrap()]].concat());
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.starts_with("simulation: ") && text.contains("none is of this machine"), "{text}");
    assert!(text.contains("verified: every byte of") && !text.contains("\nratio"), "{text}");
    assert!(text.trim_end().ends_with("no ratio: plain TCP is not simulated"), "{text}");
    let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(kept["simulation"], true);
    assert_eq!(kept["entries"].as_array().unwrap().len(), 4);
    assert_eq!(run(free_port(), &arguments).stdout, output.stdout, "the same every time");
}

#[test]
fn a_simulation_has_no_roles() {
    let arguments = ["--backend", "mock", "--role", "server"];
    says(&run(free_port(), &arguments), &["--role", "--backend mock"]);
}

#[test]
fn the_choice_of_a_plugin_is_honoured() {
    let short = ["--seconds", "1", "--sizes", "4K", "--channels", "1"];
    let with = |arguments: &[&str], variables: &[(&str, &str)]| {
        finish(p2p(free_port(), arguments).envs(variables.iter().copied()).spawn().unwrap())
    };
    says(
        &with(&short, &[("UCCL_P2P_REQUIRE", "tcpx"), ("UCCL_P2P_TRANSPORT", "tcp")]),
        &["UCCL_P2P_REQUIRE"],
    );
    let elsewhere = ("UCCL_TCPX_PLUGIN_PATH", "/nonexistent/libnccl-net-chosen.so");
    let output = with(&short, &[("UCCL_P2P_TRANSPORT", "tcp"), elsewhere]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let named = [&short[..], &["--plugin", "/nonexistent/libnccl-net-named.so"]].concat();
    says(&with(&named, &[("UCCL_P2P_TRANSPORT", "tcp"), elsewhere]), &["libnccl-net-named.so"]);
}

#[test]
fn what_both_ends_find_out_is_said_once() {
    let mut command = p2p(free_port(), &["--seconds", "1", "--sizes", "4K", "--channels", "1"]);
    let output = finish(command.env_remove(CHOICE).spawn().unwrap());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.matches("plain TCP is used").count() <= 1 && text.lines().count() <= 1, "{text}");
}

#[test]
fn nobody_who_reads_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("out.json");
    let arguments = ["--seconds", "1", "--sizes", "4K", "--channels", "1", "--json", json.to_str().unwrap()];
    let mut child = p2p(free_port(), &arguments).spawn().unwrap();
    drop(child.stdout.take());
    let output = finish(child);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)) && text.is_empty(), "{:?} {text}", output.status);
    serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(json).unwrap()).unwrap();
}

#[test]
fn a_missing_plugin_file_is_named() {
    says(&run(free_port(), &["--plugin", "/nonexistent/libnccl-net.so"]), &["/nonexistent/libnccl-net.so"]);
}

#[test]
fn a_missing_plugin_file_from_the_environment_is_named() {
    let path = "/nonexistent/libnccl-net-chosen.so";
    let child = p2p(free_port(), &[]).env_remove(CHOICE).env("UCCL_TCPX_PLUGIN_PATH", path).spawn().unwrap();
    says(&finish(child), &[path]);
}

#[test]
fn a_result_file_that_cannot_be_made_is_the_only_thing_said() {
    says(&run(free_port(), &["--json", "/nonexistent/x.json"]), &["--json /nonexistent/x.json"]);
}

#[test]
fn an_address_without_its_role_is_refused() {
    says(&run(free_port(), &["--peer", "127.0.0.1"]), &["--peer", "--role client"]);
    says(&run(free_port(), &["--listen", "127.0.0.1"]), &["--listen", "--role server"]);
    says(&run(free_port(), &["--role", "server", "--peer", "127.0.0.1"]), &["--peer", "--role client"]);
}

#[test]
fn the_plugins_lines_are_shown_where_they_are_asked_for() {
    let mut command = p2p(free_port(), &["--seconds", "1", "--sizes", "4K", "--channels", "1"]);
    let output = finish(command.env("UCCL_TCPX_DEBUG", "1").spawn().unwrap());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("net_plugin"), "{text}");
}

#[test]
fn a_file_that_is_no_plugin_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libnccl-net-text.so");
    std::fs::write(&file, "text").unwrap();
    says(&run(free_port(), &["--plugin", file.to_str().unwrap()]), &["libnccl-net-text.so"]);
}

#[test]
fn a_library_without_the_plugins_symbols_is_named() {
    let libc = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"];
    let file = libc.into_iter().find(|file| std::path::Path::new(file).exists()).unwrap();
    says(&run(free_port(), &["--plugin", file]), &[file, "ncclNetPlugin_v"]);
}

#[test]
fn a_busy_port_is_named_with_its_mend() {
    let port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    says(&run(port, &[]), &[&format!("bootstrap port {port}"), "UCCL_TCPX_BOOTSTRAP_PORT_BASE"]);
}

#[test]
fn a_peer_that_never_comes_is_waited_for_as_long_as_stated() {
    let limited = |arguments: &[&str]| {
        let mut command = p2p(free_port(), arguments);
        command.env("UCCL_TCPX_CONNECT_TIMEOUT_SECONDS", "1");
        finish(command.env("TCPX_SOFT_ADDRESSES", "127.0.0.1").spawn().unwrap())
    };
    says(&limited(&["--role", "server"]), &["no client came", "within 1 s"]);
    says(&limited(&["--role", "client", "--peer", "127.0.0.1"]), &["no server at 127.0.0.1", "within 1 s"]);
}

#[test]
fn a_bad_variable_is_named() {
    let child = p2p(free_port(), &[]).env("UCCL_TCPX_MAX_SEND_INFLIGHT", "99").spawn().unwrap();
    says(&finish(child), &["UCCL_TCPX_MAX_SEND_INFLIGHT", "99"]);
}

#[test]
fn an_unknown_congestion_control_is_named() {
    says(&run(free_port(), &["--congestion", "nonesuch"]), &["nonesuch"]);
}

#[test]
fn two_ends_that_differ_refuse_each_other() {
    let port = free_port();
    let with_nic =
        |arguments: &[&str]| p2p(port, arguments).env("TCPX_SOFT_ADDRESSES", "127.0.0.1").spawn().unwrap();
    let server = with_nic(&["--role", "server", "--listen", "127.0.0.1", "--congestion", "reno"]);
    let client = with_nic(&["--role", "client", "--peer", "127.0.0.1"]);
    says(&finish(client), &["--congestion"]);
    says(&finish(server), &["--congestion"]);
    let port = free_port();
    let with_nics = |arguments: &[&str]| {
        p2p(port, arguments).env("TCPX_SOFT_ADDRESSES", "127.0.0.1,127.0.0.2").spawn().unwrap()
    };
    let server = with_nics(&["--role", "server", "--listen", "127.0.0.1", "--nics", "2"]);
    let client = with_nics(&["--role", "client", "--peer", "127.0.0.1"]);
    says(&finish(client), &["--nics"]);
    says(&finish(server), &["--nics"]);
}

#[test]
fn an_end_that_is_killed_does_not_leave_the_other_hanging() {
    for killed in ["server", "client"] {
        let port = free_port();
        let with_nic = |arguments: &[&str]| {
            p2p(port, arguments).env("TCPX_SOFT_ADDRESSES", "127.0.0.1").spawn().unwrap()
        };
        let mut server = with_nic(&["--role", "server", "--listen", "127.0.0.1"]);
        let mut said = BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains(&port.to_string()), "{line}");
        let mut client = with_nic(&["--role", "client", "--peer", "127.0.0.1", "--seconds", "60"]);
        thread::sleep(Duration::from_secs(2));
        let (mut gone, left) = if killed == "server" { (server, client) } else { (client, server) };
        gone.kill().unwrap();
        gone.wait().unwrap();
        says(&finish(left), &[]);
        client = gone;
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        drop(client);
    }
}
