use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn one() -> Metadata {
    Metadata {
        endpoint: EndpointId(*b"0123456789abcdef"),
        device: Some(0x0201),
        name: "höst:7".to_owned(),
        addresses: vec![address("10.1.2.3:258"), address("[fd00::1]:65535")],
    }
}

/// Written out by hand from the layout.
#[test]
fn our_form_is_laid_out_as_described() {
    let mut bytes = b"UP2M\x01\x000123456789abcdef\x01\x02\x07\x00h\xc3\xb6st:7\x02".to_vec();
    bytes.extend(b"\x04\x0a\x01\x02\x03\x02\x01");
    bytes.extend(b"\x06\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff");
    assert_eq!(one().to_bytes(), bytes);
    assert_eq!(Metadata::from_bytes(&bytes), Ok(one()));
    assert_eq!(Told::from_bytes(&bytes), Ok(Told::Own(one())));
    assert_eq!(Told::Own(one()).addresses(), one().addresses);
    let host = Metadata { device: None, ..one() };
    assert_eq!(host.to_bytes()[22..24], [0xff, 0xff]);
    assert_eq!(Metadata::from_bytes(&host.to_bytes()), Ok(host));
}

#[test]
fn what_is_not_of_our_form_is_told_apart() {
    let bytes = one().to_bytes();
    assert_eq!(Metadata::from_bytes(b"UP2"), Err(MetadataError::Foreign(3)));
    assert_eq!(Metadata::from_bytes(b"UP2M"), Err(MetadataError::Damaged(4)));
    let changed = |at: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[at] = value;
        Metadata::from_bytes(&changed)
    };
    assert_eq!(changed(4, 2), Err(MetadataError::Version(2)));
    let damaged = Err(MetadataError::Damaged(bytes.len()));
    // Its name is no text; it is longer than there is; its addresses are none, too many, or of no family.
    for (at, value) in [(27, b'x'), (25, 1), (33, 0), (33, 1), (33, 3), (34, 5)] {
        assert_eq!(changed(at, value), damaged, "{at} {value}");
    }
    for cut in 6..bytes.len() {
        assert_eq!(Metadata::from_bytes(&bytes[..cut]), Err(MetadataError::Damaged(cut)));
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Metadata::from_bytes(&longer), Err(MetadataError::Damaged(longer.len())));
}

#[test]
fn too_much_is_left_out_and_not_taken() {
    let mut long = one();
    long.name = "ö".repeat(200);
    long.addresses = (0..20).map(|at| SocketAddr::from(([10, 0, 0, at], 1))).collect();
    let read = Metadata::from_bytes(&long.to_bytes()).expect("it is good");
    assert_eq!((read.name, read.addresses.as_slice()), ("ö".repeat(128), &long.addresses[..16]));
    long.name = format!("x{}", "ö".repeat(200));
    let read = Metadata::from_bytes(&long.to_bytes()).expect("it is good");
    assert_eq!(read.name, format!("x{}", "ö".repeat(127)));
    // A peer may not send more.
    let mut bytes = b"UP2M\x01\x000123456789abcdef\x01\x02".to_vec();
    let many = |count: u8| [vec![count], b"\x04\x0a\x01\x02\x03\x02\x01".repeat(count.into())].concat();
    for (name, count, good) in [(256, 16, true), (257, 1, false), (1, 17, false)] {
        let name = [&u16::to_le_bytes(name)[..], &vec![b'x'; name.into()]].concat();
        let all = [bytes.clone(), name, many(count)].concat();
        assert_eq!(Metadata::from_bytes(&all).is_ok(), good);
    }
    bytes.clear();
    assert_eq!(Told::from_bytes(&bytes), Err(MetadataError::Foreign(0)));
}

fn place(ip: &str, port: u16, device: Device) -> Place {
    Place { ip: ip.parse().expect("an address"), port, device }
}

fn bdf(name: &str) -> Device {
    Device::Bdf(name.to_owned())
}

/// The bytes that UCCL's callers cut by hand.
#[test]
fn the_forms_of_uccl_are_as_its_callers_cut_them() {
    let index = 0x0102_0304_i32.to_ne_bytes();
    let v6 = b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01".as_slice();
    for (told, bytes) in [
        (
            place("10.1.2.3", 0x1234, Device::Index(0x0102_0304)),
            [b"\x0a\x01\x02\x03\x12\x34".as_slice(), &index].concat(),
        ),
        (place("fd00::1", 0x1234, Device::Index(0x0102_0304)), [v6, b"\x12\x34", &index].concat()),
        (place("10.1.2.3", 80, Device::Index(-1)), b"\x0a\x01\x02\x03\0\x50\xff\xff\xff\xff".to_vec()),
        (place("10.1.2.3", 80, bdf("0000:06:00.0")), b"\x0a\x01\x02\x03\0\x50\x0c0000:06:00.0".to_vec()),
        (place("fd00::1", 80, bdf("0000:06:00.0")), [v6, b"\0\x50\x0c0000:06:00.0"].concat()),
        (place("10.1.2.3", 80, bdf("")), b"\x0a\x01\x02\x03\0\x50\0".to_vec()),
        (place("fd00::1", 80, bdf("")), [v6, b"\0\x50\0"].concat()),
    ] {
        assert_eq!(told.to_bytes(), Ok(bytes.clone()), "{told}");
        assert_eq!(Place::from_bytes(&bytes), Ok(told.clone()));
        assert_eq!(
            Told::from_bytes(&bytes).expect("known").addresses(),
            [SocketAddr::new(told.ip, told.port)]
        );
    }
    // These would have the length of the older form.
    for name in ["cpu", "0000:06:00.0.00", "spa ce", "tab\t", "ö", &"x".repeat(256)] {
        let refused = Err(MetadataError::Device(name.to_owned()));
        assert_eq!(place("10.1.2.3", 80, bdf(name)).to_bytes(), refused, "{name}");
    }
    for bytes in [
        &b""[..],
        b"\x0a\x01\x02\x03\0\x50",
        b"\x0a\x01\x02\x03\0\x50\x020",
        b"\x0a\x01\x02\x03\0\x50\x020\n",
    ] {
        assert_eq!(Place::from_bytes(bytes), Err(MetadataError::Foreign(bytes.len())));
    }
}

#[test]
fn the_text_of_uccl_is_read_and_written() {
    for (text, told) in [
        ("10.1.2.3:28900?0", place("10.1.2.3", 28900, Device::Index(0))),
        ("10.1.2.3:1?-1", place("10.1.2.3", 1, Device::Index(-1))),
        ("[fd00::1]:65535?7", place("fd00::1", 65535, Device::Index(7))),
        ("10.1.2.3:80?0000:06:00.0", place("10.1.2.3", 80, bdf("0000:06:00.0"))),
        ("10.1.2.3:80?", place("10.1.2.3", 80, bdf(""))),
    ] {
        assert_eq!(text.parse(), Ok(told.clone()));
        assert_eq!(told.to_string(), text);
    }
    for text in [
        "",
        "10.1.2.3",
        "10.1.2.3:80",
        "10.1.2.3?0",
        "host:80?0",
        "10.1.2.3:65536?0",
        "fd00::1:80?0",
        "[10.1.2.3]:80?0",
        "[fd00::1:80?0",
        "fd00::1]:80?0",
        "10.1.2.3:80?a b",
        "10.1.2.3:+ 80?0",
    ] {
        assert_eq!(text.parse::<Place>(), Err(MetadataError::Text(text.to_owned())));
    }
}

#[test]
fn a_door_is_reached_where_it_stands() {
    let host = || vec!["10.0.0.1".parse().expect("an address"), "fd00::1".parse().expect("an address")];
    let at = |door: &str| reachable_at(address(door), host);
    assert_eq!(at("127.0.0.1:7"), [address("127.0.0.1:7")], "its owner said so");
    assert_eq!(at("0.0.0.0:7"), [address("10.0.0.1:7")], "it is deaf to IPv6");
    assert_eq!(at("[::]:7"), [address("10.0.0.1:7"), address("[fd00::1]:7")]);
}

proptest! {
    #[test]
    fn what_is_told_in_our_form_is_understood(
        endpoint: [u8; 16],
        device in prop_oneof![Just(None), (0_u16..u16::MAX).prop_map(Some)],
        name in "\\PC{0,60}",
        addresses in proptest::collection::vec(any::<(IpAddr, u16)>(), 1..=MOST_ADDRESSES),
    ) {
        let addresses = addresses.into_iter().map(SocketAddr::from).collect();
        let told = Metadata { endpoint: EndpointId(endpoint), device, name, addresses };
        prop_assert_eq!(Metadata::from_bytes(&told.to_bytes()), Ok(told));
    }

    #[test]
    fn what_is_told_in_the_forms_of_uccl_is_understood(
        ip: IpAddr,
        port: u16,
        device in prop_oneof![any::<i32>().prop_map(Device::Index), "[!-~]{0,32}".prop_map(Device::Bdf)],
    ) {
        let told = Place { ip, port, device };
        match told.to_bytes() {
            Ok(bytes) => prop_assert_eq!(Place::from_bytes(&bytes), Ok(told.clone())),
            Err(error) => prop_assert!(
                matches!(&told.device, Device::Bdf(name) if [3, 15].contains(&name.len())), "{}", error
            ),
        }
        match &told.device {
            // A name that is a number is one.
            Device::Bdf(name) if name.parse::<i32>().is_ok() => {}
            Device::Bdf(_) | Device::Index(_) => prop_assert_eq!(told.to_string().parse(), Ok(told)),
        }
    }

    #[test]
    fn random_bytes_are_refused_or_understood(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ours: bool,
    ) {
        if ours {
            bytes.splice(0..0, *b"UP2M\x01\x00");
        }
        match Told::from_bytes(&bytes) {
            Ok(Told::Own(told)) => prop_assert_eq!(told.to_bytes(), bytes),
            Ok(Told::Uccl(told)) => {
                prop_assert_eq!(told.to_bytes(), Ok(bytes));
            }
            Err(_) => {}
        }
    }

    #[test]
    fn random_text_is_refused_or_understood(text in "[0-9.:?\\[\\]a-f]{0,30}") {
        if let Ok(told) = text.parse::<Place>() {
            prop_assert_eq!(told.to_string().parse(), Ok(told));
        }
    }
}
