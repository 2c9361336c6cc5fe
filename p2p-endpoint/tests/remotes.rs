//! Peers that are found by what they tell of themselves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use p2p_endpoint::affinity::{Placement, allowed, threads};
use p2p_endpoint::endpoint::{Endpoint, Progress};
use p2p_endpoint::engine::{LinkId, Options};
use p2p_endpoint::metadata::{Device, Metadata, Place, Told};
use p2p_proto::id::EndpointId;
use p2p_transport::ErrorKind;
use tcpx_core::config::{Config, FixedEnvironment};

const PATIENCE: Duration = Duration::from_secs(20);

fn of(variables: &[(&str, &str)], change: impl FnOnce(&mut Options)) -> Endpoint {
    let all = [("UCCL_P2P_TRANSPORT", "tcp")].into_iter().chain(variables.iter().copied());
    let environment: FixedEnvironment = all.collect();
    let config = Config::from_environment(&environment).expect("good values");
    let mut options = Options::of(&config);
    change(&mut options);
    Endpoint::of(&config, options, Progress::Thread).expect("an endpoint")
}

/// One that is reached by loopback.
fn near() -> Endpoint {
    of(&[], |options| options.door.set_ip(Ipv4Addr::LOCALHOST.into()))
}

fn gone(endpoint: &Endpoint, link: LinkId) {
    let begin = Instant::now();
    while endpoint.is_up(link) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_endpoint_tells_where_it_is_and_not_loopback() {
    let endpoint = of(&[], |options| options.host = vec!["10.1.2.3".parse().expect("an address")]);
    let port = endpoint.door().expect("it listens").port();
    let metadata = endpoint.metadata().expect("it listens");
    assert_eq!(metadata.addresses, [SocketAddr::new("10.1.2.3".parse().expect("an address"), port)]);
    assert_eq!((metadata.endpoint, metadata.device), (endpoint.facts().endpoint, None));
    let named = of(&[("UCCL_TCPX_CTRL_IP", "10.9.8.7")], |_| {});
    let at = named.metadata().expect("it listens").addresses;
    assert_eq!(
        at.iter().map(SocketAddr::ip).collect::<Vec<_>>(),
        ["10.9.8.7".parse::<IpAddr>().expect("one")]
    );
    // Whatever this host has: loopback stands alone or not at all.
    let addresses = of(&[], |_| {}).metadata().expect("it listens").addresses;
    let loopback = addresses.iter().filter(|address| address.ip().is_loopback()).count();
    assert!(loopback == 0 || loopback == addresses.len(), "{addresses:?}");
}

#[test]
fn a_peer_is_added_once_while_it_lives() {
    let (here, there) = (near(), near());
    let told = there.metadata().expect("it listens").to_bytes();
    let links: Vec<LinkId> = std::thread::scope(|scope| {
        let add = || here.add_remote(&told, PATIENCE).expect("it answers");
        let adding: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
        adding.into_iter().map(|thread| thread.join().expect("fine")).collect()
    });
    assert!(links.iter().all(|link| *link == links[0]), "{links:?}");
    assert!(here.remove_remote(links[0]));
    assert!(!here.remove_remote(links[0]), "it was removed");
    gone(&here, links[0]);
    let again = here.add_remote(&told, PATIENCE).expect("it answers");
    assert_ne!(again, links[0]);
    // One that was lost is made anew.
    here.close(again).expect("it is up");
    gone(&here, again);
    let third = here.add_remote(&told, PATIENCE).expect("it answers");
    assert!(third != again && here.is_up(third));
    // A link that was made otherwise is not its to end.
    let other = here.connect(there.door().expect("it listens"), PATIENCE).expect("it answers");
    assert!(!here.remove_remote(other) && here.is_up(other));
    let error = here.add_remote(b"nonsense", PATIENCE).expect_err("no metadata");
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}

#[test]
fn uccls_form_is_as_good() {
    let (here, there) = (near(), near());
    let port = there.door().expect("it listens").port();
    let place = Place { ip: Ipv4Addr::LOCALHOST.into(), port, device: Device::Index(0) };
    let told = place.to_bytes().expect("it fits");
    let link = here.add_remote(&told, PATIENCE).expect("it answers");
    assert_eq!(here.add_remote(&told, PATIENCE).expect("it is up"), link);
}

#[test]
fn the_next_address_is_tried_and_a_stranger_is_told_from_the_peer() {
    let (here, there) = (near(), near());
    let own = there.metadata().expect("it listens");
    // It takes a connection and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("bound");
    let others = [closed, silent.local_addr().expect("bound")];
    let addresses: Vec<SocketAddr> = others.into_iter().chain(own.addresses.clone()).collect();
    let several = Metadata { addresses: addresses.clone(), ..own.clone() };
    let link =
        here.connect_to(&Told::Own(several), Duration::from_secs(6)).expect("the last one leads there");
    assert!(here.is_up(link));
    // Somebody else listens there by now.
    let former = Metadata { endpoint: EndpointId([7; 16]), name: "the-former".to_owned(), ..own };
    let error = here.add_remote(&former.to_bytes(), PATIENCE).expect_err("another endpoint");
    assert!(error.text().contains("the-former") && error.text().contains("anew"), "{error}");
    let nowhere = Metadata { addresses: vec![closed, closed], ..former };
    let error = here.connect_to(&Told::Own(nowhere), PATIENCE).expect_err("nobody listens");
    assert!(error.text().contains("none of 2 addresses"), "{error}");
}

#[test]
fn the_port_is_the_users_or_one_that_follows() {
    let (_taken, port) = loop {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let port = taken.local_addr().expect("bound").port();
        if port < u16::MAX - 32 {
            break (taken, port);
        }
    };
    let text = port.to_string();
    let open = |retries| {
        let environment: FixedEnvironment = [
            ("UCCL_P2P_TRANSPORT", "tcp"),
            ("UCCL_TCPX_OOB_PORT", &text),
            ("UCCL_TCPX_PORT_RETRIES", retries),
        ]
        .into_iter()
        .collect();
        let config = Config::from_environment(&environment).expect("good values");
        Endpoint::of(&config, Options::of(&config), Progress::Caller)
    };
    let error = open("0").expect_err("the port is taken");
    assert!(error.to_string().contains(&text), "{error}");
    let endpoint = open("32").expect("one of them is free");
    let door = endpoint.door().expect("it listens").port();
    assert!((port + 1..=port + 32).contains(&door), "{door} after {port}");
}

#[test]
fn the_progress_thread_runs_where_it_shall_and_says_so() {
    let before = allowed();
    let first = before[0];
    let text = first.to_string();
    let endpoint = of(&[("UCCL_P2P_AFFINITY", &text)], |_| {});
    assert!(matches!(endpoint.placement(), Some(Placement::On(cores, _)) if *cores == [first]));
    let bound =
        |thread: &p2p_endpoint::affinity::Thread| thread.name == "p2p-progress" && thread.cores == [first];
    // A thread names itself when it has begun.
    let begin = Instant::now();
    while !threads().iter().any(bound) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", threads());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(allowed(), before, "its maker is where it was");
    let off = of(&[("UCCL_P2P_AFFINITY", "off")], |_| {});
    assert!(matches!(off.placement(), Some(Placement::Anywhere(_))));
    let environment: FixedEnvironment =
        [("UCCL_P2P_TRANSPORT", "tcp"), ("UCCL_P2P_AFFINITY", "1023")].into_iter().collect();
    let config = Config::from_environment(&environment).expect("good values");
    if !allowed().contains(&1023) {
        let error = Endpoint::of(&config, Options::of(&config), Progress::Thread).expect_err("no such core");
        assert!(error.text().contains("UCCL_P2P_AFFINITY"), "{error}");
    }
}
