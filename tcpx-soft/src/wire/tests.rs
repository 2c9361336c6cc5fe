use super::*;

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The handle of a real listener, as published (2 sockets, data port 37521, control port 57295).
const REAL: [u8; 92] = [
    0x02, 0x00, 0x92, 0x91, 0x7f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x85, 0, 0, 0, 0, 0, 0, 0x10, 0x85,
    0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x00,
    0xdf, 0xcf, 0x7f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x85, 0, 0, 0, 0, 0, 0, 0x10, 0x85, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

fn real() -> [u8; HANDLE_BYTES] {
    let mut bytes = [0; HANDLE_BYTES];
    bytes[..REAL.len()].copy_from_slice(&REAL);
    bytes
}

fn soft() -> Handle {
    Handle {
        data: v4(37521),
        control: v4(57295),
        sockets: 2,
        redirect: false,
        announcement: Some(Announcement { machine: 0x1122_3344_5566_7788, cookie: 99 }),
    }
}

#[test]
fn a_real_listeners_handle_is_read() {
    let handle = Handle::decode(&real()).expect("a good handle");
    let expected = Handle { announcement: None, ..soft() };
    assert_eq!(handle, expected);
}

#[test]
fn a_soft_handle_is_a_real_one_to_a_real_connector() {
    let bytes = soft().encode();
    let real = real();
    for range in [0..16, 28..40, 44..64] {
        assert_eq!(bytes[range.clone()], real[range]);
    }
    assert_eq!(i32_at(&bytes, AT_THREADS), 1, "0 threads would stop a real connector");
    assert_eq!(attempt(&bytes), 0, "a real connector takes it for a pointer");
    assert_eq!(Handle::decode(&bytes), Ok(soft()));
}

#[test]
fn ipv6_addresses_survive() {
    let v6 = |port| {
        "[fd00::2]:1".parse::<SocketAddr>().map(|mut a| {
            a.set_port(port);
            a
        })
    };
    let handle = Handle { data: v6(47833).expect("address"), control: v6(5).expect("address"), ..soft() };
    let bytes = handle.encode();
    assert_eq!(bytes[..12], [0x0a, 0, 0xba, 0xd9, 0, 0, 0, 0, 0xfd, 0, 0, 0]);
    assert_eq!(Handle::decode(&bytes), Ok(handle));
}

#[test]
fn an_announcement_left_over_from_another_listener_does_not_count() {
    let mut bytes = soft().encode();
    bytes[2] ^= 1;
    assert_eq!(Handle::decode(&bytes).expect("still a handle").announcement, None);
}

#[test]
fn unusable_handles_are_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = real();
        bytes[at] = value;
        Handle::decode(&bytes).expect_err("unusable")
    };
    assert_eq!(with(36, 0), BadHandle::Sockets(0));
    assert_eq!(with(36, 9), BadHandle::Sockets(9));
    assert_eq!(with(0, 7), BadHandle::Family(7));
    let mut bytes = real();
    bytes[50..52].fill(0);
    assert_eq!(Handle::decode(&bytes), Err(BadHandle::Port));
}

#[test]
fn control_messages_match_the_reference_exchange() {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
        let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).expect("ascii"), 16).expect("hex");
        digits.chunks(2).map(pair).collect()
    };
    let message = |kind, index, size, offset, total| Control { kind, index, size, offset, total };
    for (control, bytes) in [
        (message(1, 0, 0, 0, 0), "0100 0000 00000000 00000000 00000000"),
        (message(0, 1, 100, 0, 100), "0000 0100 64000000 00000000 64000000"),
        (message(0, 0, 524_288, 0, 614_400), "0000 0000 00000800 00000000 00600900"),
        (message(0, 1, 90_112, 524_288, 614_400), "0000 0100 00600100 00000800 00600900"),
    ] {
        assert_eq!(control.encode()[..], hex(bytes));
        assert_eq!(Control::decode(&control.encode()), control);
    }
}

#[test]
fn an_assembly_takes_what_a_real_sender_says_and_refuses_the_rest() {
    let chunk = |index, size, offset, total| Control { kind: 0, index, size, offset, total };
    let mut assembly = Assembly::default();
    let taken = assembly.take(&chunk(0, 60, 0, 100), 2);
    assert_eq!(taken, Ok(Announced::Chunk { socket: 0, offset: 0, size: 60, last: false }));
    let before = assembly;
    for (bad, why) in [
        (chunk(2, 40, 60, 100), BadControl::Index(2)),
        (chunk(1, 0, 60, 100), BadControl::EmptyChunk),
        (chunk(1, 41, 60, 100), BadControl::PastTotal { total: 100, end: 101 }),
        (chunk(1, 40, 50, 100), BadControl::Place { offset: 50, expected: 60 }),
        (Control { kind: 1, ..chunk(0, 5, 0, 5) }, BadControl::Place { offset: 0, expected: 60 }),
        (chunk(1, u32::MAX, 60, 100), BadControl::PastTotal { total: 100, end: u64::from(u32::MAX) + 60 }),
    ] {
        assert_eq!(assembly.take(&bad, 2), Err(why));
    }
    assert!(!before.begins());
    // Only the first chunk's total counts, and any kind but 1 is a chunk.
    let last = assembly.take(&Control { kind: 7, ..chunk(1, 40, 60, 3) }, 2);
    assert_eq!(last, Ok(Announced::Chunk { socket: 1, offset: 60, size: 40, last: true }));
    assert!(assembly.begins());
    assert_eq!(
        assembly.take(&Control { kind: 1, ..chunk(0, 0, 0, 0) }, 2),
        Ok(Announced::Inline { size: 0 })
    );
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a peer sends: no panic, and what is taken stays inside the message it announced.
        #[test]
        fn no_input_leads_outside_a_message(
            messages in prop::collection::vec(any::<[u8; 16]>(), 0..64),
            small in any::<bool>(),
            sockets in 1usize..=MAX_SOCKETS,
        ) {
            let mut assembly = Assembly::default();
            let mut place = 0u64;
            let mut total = 0u64;
            for mut bytes in messages {
                if small {
                    // Plausible sizes, so that chunks do get taken.
                    for at in [3, 5, 6, 7, 9, 10, 11, 13, 14, 15] {
                        bytes[at] = 0;
                    }
                    bytes[8..10].copy_from_slice(&(place as u16).to_le_bytes());
                }
                let message = Control::decode(&bytes);
                if assembly.begins() {
                    place = 0;
                    total = u64::from(message.total);
                }
                if let Ok(Announced::Chunk { socket, offset, size, last }) = assembly.take(&message, sockets) {
                    prop_assert!(socket < sockets && size > 0);
                    prop_assert_eq!(u64::from(offset), place);
                    place += u64::from(size);
                    prop_assert!(place <= total);
                    prop_assert_eq!(last, place == total);
                }
            }
        }

        #[test]
        fn no_handle_panics(bytes in any::<[u8; 32]>(), at in 0usize..96) {
            let mut handle = real();
            handle[at..at + 32].copy_from_slice(&bytes);
            let _ = Handle::decode(&handle);
        }
    }
}
