//! What `p2p bench` leaves behind: a page that a browser can show without anything else, JSON with the same figures, and
//! what it says meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod running;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use roxmltree::{Document, ParsingOptions};
use running::{finish, free_port, p2p};
use serde_json::Value;

fn json(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Every key, with those it lies below. Names of NICs and interfaces are not keys of ours.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let named = ["_nics.nics", "_nics.interfaces", "_nics.devmem_packets"];
                let key = if named.iter().any(|end| path.ends_with(end)) { "*" } else { key };
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                keys(value, &path, found);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| keys(value, path, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.insert(path.to_owned());
        }
    }
}

/// Well-formed, and nothing in it is fetched or run.
fn check_page(html: &str) {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let page = Document::parse_with_options(html, options).unwrap();
    let may_be: BTreeSet<&str> = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "div",
        "span",
        "strong",
        "small",
        "section",
        "figure",
        "figcaption",
        "ul",
        "li",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "dl",
        "dt",
        "dd",
        "svg",
        "g",
        "line",
        "path",
        "text",
        "circle",
        "rect",
        "polygon",
    ]
    .into();
    for element in page.descendants().filter(roxmltree::Node::is_element) {
        let name = element.tag_name().name();
        assert!(may_be.contains(name), "<{name}>");
        for attribute in element.attributes() {
            let name = attribute.name();
            assert!(!["src", "href", "style"].contains(&name) && !name.starts_with("on"), "{name}");
        }
        if name == "svg" {
            assert!(element.attribute("viewBox").is_some());
        }
    }
    for outside in ["http:", "https:", "//", "url(", "@import", "NaN", "inf "] {
        assert!(!html.contains(outside), "{outside}");
    }
    for needed in ["width=device-width", "prefers-color-scheme: dark", "charset=\"utf-8\""] {
        assert!(html.contains(needed), "{needed}");
    }
}

#[test]
fn a_page_and_json_say_the_same_and_phases_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let (page, kept) = (folder.path().join("a <b> & \"c\".html"), folder.path().join("out.json"));
    let arguments = ["--seconds", "2", "--sizes", "4K,1000003", "--channels", "1", "--nics", "2"];
    let files = ["--report", page.to_str().unwrap(), "--json", kept.to_str().unwrap()];
    let mut command = p2p(free_port(), &[&arguments[..], &files].concat());
    let output = finish(command.env("TCPX_SOFT_ADDRESSES", "127.0.0.1,127.0.0.2").spawn().unwrap());
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    for phase in ["verifying every byte", "over sizes", "comparing with plain TCP"] {
        assert!(
            errors.lines().any(|line| line.starts_with("p2p bench:") && line.contains(phase)),
            "{errors}"
        );
    }
    assert!(!errors.contains('\r'), "no bars where there is no terminal: {errors}");
    assert!(errors.lines().all(|line| line.starts_with("p2p bench:")), "and nothing else: {errors}");
    let html = std::fs::read_to_string(&page).unwrap();
    check_page(&html);
    let kept = json(&kept);
    assert_eq!(kept["format"], 2);
    assert!(html.contains("a &lt;b&gt; &amp; &quot;c&quot;.html"), "the command is shown, escaped");
    for (at, size) in ["<td>4K</td>", "<td>1000003</td>"].into_iter().enumerate() {
        assert!(html.contains(size), "{size}");
        for way in ["write", "read"] {
            let speed = kept["sizes"][at][way]["gigabytes_per_second"].as_f64().unwrap();
            assert!(speed > 0.0 && html.contains(&format!("<td>{speed:.3}</td>")), "{size} {way} {speed}");
            assert!(text.contains(&format!(" {speed:.3} ")), "{size} {way} {speed}: {text}");
        }
    }
    let ratio = kept["verdict"]["write"]["ratio"].as_f64().unwrap();
    assert!(html.contains(&format!("{ratio:.3} of plain TCP")), "{ratio}");
    assert!(text.trim_end().lines().next_back().unwrap().starts_with(&format!("ratio {ratio:.3}")), "{text}");
    // Both ends count the same bytes, the other way round, and the kernel no fewer.
    let both = |end: &str, way: &str| -> u64 {
        let nics = kept[end]["nics"].as_object().unwrap();
        assert_eq!(nics.len(), 2);
        nics.values().map(|bytes| bytes[way].as_u64().unwrap()).sum()
    };
    assert!(both("client_nics", "sent") > 0 && both("client_nics", "received") > 0, "writes and reads");
    assert_eq!(both("client_nics", "sent"), both("server_nics", "received"));
    assert_eq!(both("client_nics", "received"), both("server_nics", "sent"));
    assert!(text.contains("client, kernel's counters: agrees"), "{text}");
    let mut found = BTreeSet::new();
    keys(&kept, "", &mut found);
    let expected: BTreeSet<String> = include_str!("report_keys.txt").lines().map(str::to_owned).collect();
    let (more, less): (Vec<_>, Vec<_>) =
        (found.difference(&expected).collect(), expected.difference(&found).collect());
    assert!(
        more.is_empty() && less.is_empty(),
        "keys came {more:#?} and went {less:#?}: users read them, so change FORMAT and tests/report_keys.txt"
    );
}

#[test]
fn a_sweep_tries_each_setting_and_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let (page, kept) = (folder.path().join("sweep.html"), folder.path().join("out.json"));
    let files = ["--report", page.to_str().unwrap(), "--json", kept.to_str().unwrap()];
    let output = finish(
        p2p(free_port(), &[&["--sweep", "window", "--seconds", "1"][..], &files].concat()).spawn().unwrap(),
    );
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    let kept = json(&kept);
    let rows = kept["rows"].as_array().unwrap();
    let windows: Vec<&Value> = rows.iter().map(|row| &row["window"]).collect();
    assert_eq!(windows, [&Value::Null, &serde_json::json!([4, 4]), &serde_json::json!([8, 8])]);
    for row in rows {
        assert_eq!(row["rounds"].as_array().unwrap().len(), 3);
        assert!(row["lowest"].as_f64().unwrap() > 0.0);
    }
    let best = text.trim_end().lines().next_back().unwrap();
    let named = best.contains("UCCL_TCPX_MAX_SEND_INFLIGHT=") || best.contains("the defaults; set nothing");
    assert!(best.starts_with("best: ") && named, "{best}");
    check_page(&std::fs::read_to_string(&page).unwrap());
}

#[test]
fn iperf3_is_run_in_the_same_rounds() {
    // A stand-in for it, so that the test needs no program that may be missing.
    let folder = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\ncase \"$1\" in\n--version) exit 0 ;;\n--server) echo 'Server listening on 5201'; exec sleep 30 ;;\n\
                  --client) echo '{\"end\": {\"sum_received\": {\"bits_per_second\": 4e9}}}' ;;\nesac\n";
    let program = folder.path().join("iperf3");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let arguments = ["--quiet", "--seconds", "1", "--sizes", "4K", "--channels", "1", "--compare", "iperf3"];
    let output = finish(p2p(free_port(), &arguments).env("PATH", path).spawn().unwrap());
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{text}{errors}");
    assert!(text.contains("iperf3: 0.50 GB/s; write over iperf3: ratio "), "{text}");
}

#[test]
fn iperf3_that_is_missing_is_named_with_its_mend() {
    let mut command = p2p(free_port(), &["--compare", "iperf3"]);
    let output = finish(command.env("PATH", "/nonexistent").spawn().unwrap());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("--compare iperf3") && text.contains("apt-get install iperf3"), "{text}");
}

#[test]
fn both_ends_find_each_other_over_ipv6() {
    if let Err(error) = std::net::TcpListener::bind(("::1", 0)) {
        println!("skipped: this machine has no IPv6 loopback ({error})");
        return;
    }
    let port = free_port();
    let start = |role: &[&str]| {
        let short = ["--quiet", "--seconds", "1", "--sizes", "4K", "--channels", "1"];
        let mut command = p2p(port, &[role, &short].concat());
        command.env("TCPX_SOFT_ADDRESSES", "127.0.0.1").spawn().unwrap()
    };
    let server = start(&["--role", "server", "--listen", "::"]);
    let client = finish(start(&["--role", "client", "--peer", "::1"]));
    let (text, errors) = (String::from_utf8_lossy(&client.stdout), String::from_utf8_lossy(&client.stderr));
    let server = finish(server);
    assert!(client.status.success() && server.status.success(), "{text}{errors}{server:?}");
    assert!(text.trim_end().lines().next_back().unwrap().starts_with("ratio "), "{text}");
}
