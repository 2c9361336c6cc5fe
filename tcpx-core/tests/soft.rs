//! The core over the soft plugin: messages, slices, sleeping, faults.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::time::{Duration, Instant};

use p2p_memory::HostBuffer;
use tcpx_core::{
    Accept, Channel, ChannelSet, Connect, DeviceType, Error, Event, Misuse, OperationFault, Outcome, Plugin,
    Post, PostError, Reason, Release, Sleep, Slice, Source, leaked_objects,
};

#[path = "support/pair.rs"]
mod pair;
#[path = "../../tcpx-soft/tests/support/mod.rs"]
mod raw;

use pair::{bytes_of, channels, deadline, done, establish, filled, memory, next, open, outcome, post};
use raw::child::in_child;
use raw::drive::Random;
use raw::pattern;

const STRICT: (&str, &str) = ("TCPX_SOFT_STRICT", "1");
const UNPACK: &[(&str, &str)] = &[("TCPX_SOFT_MODE", "unpack")];
const HARD_UNPACK: &[(&str, &str)] = &[
    ("TCPX_SOFT_MODE", "unpack"),
    STRICT,
    ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "5"),
    ("TCPX_SOFT_FAULT_FRAGMENT_BYTES", "1500"),
    ("TCPX_SOFT_FAULT_POISON", "1"),
];

/// Messages of random sizes with full windows; every byte is compared, and the byte behind.
fn random_messages(tells_length: bool) {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let mut random = Random::seeded();
    let messages = random.messages(300, 200_000);
    let (mut sent, mut posted, mut received) = (0, 0, 0);
    let (mut from, mut into) = (Vec::new(), Vec::new());
    let deadline = deadline();
    while received < messages.len() {
        let now = Instant::now();
        assert!(now < deadline, "{received} of {} messages", messages.len());
        while posted < messages.len() && receiver.free() > 0 {
            let (buffer, slice) = memory(&mut receiver, messages[posted].len() + 1);
            let slice = Slice { length: messages[posted].len(), ..slice };
            if receiver.post(posted as u64, slice, now).unwrap() != Post::Accepted {
                receiver.deregister(slice.registration).unwrap();
                break;
            }
            into.push((buffer, slice));
            posted += 1;
        }
        while sent < messages.len() {
            let (_, slice) = filled(&mut sender, &messages[sent]);
            if sender.post(sent as u64, slice, now).unwrap() != Post::Accepted {
                sender.deregister(slice.registration).unwrap();
                break;
            }
            from.push(slice);
            sent += 1;
        }
        receiver.progress(now);
        sender.progress(now);
        while let Release::Released(completion) = sender.release() {
            let slice = from[completion.token as usize];
            assert_eq!(completion, done(completion.token, slice.length));
            sender.deregister(slice.registration).unwrap();
        }
        while let Release::Released(completion) = receiver.release() {
            let message = &messages[received];
            let length = tells_length.then_some(message.len());
            assert_eq!(completion, done(received as u64, length));
            let (buffer, slice) = &into[received];
            receiver.deregister(slice.registration).unwrap();
            let bytes = bytes_of(buffer);
            assert!(bytes[..message.len()] == message[..], "bytes of message {received}");
            assert_eq!(bytes[message.len()], 0xa5, "a byte behind message {received}");
            received += 1;
        }
    }
}

#[test]
fn random_messages_arrive() {
    random_messages(true);
}

#[test]
fn random_messages_arrive_without_sizes() {
    in_child("random_messages_arrive_without_sizes", &[STRICT], || random_messages(false));
}

#[test]
fn random_messages_arrive_in_pages() {
    in_child("random_messages_arrive_in_pages", UNPACK, || {
        assert_eq!(open().devices()[0].device_type, DeviceType::Unpack);
        random_messages(true);
    });
}

/// The sum of the fragments is the length, though the plugin tells no size.
#[test]
fn random_messages_arrive_in_shuffled_short_pages() {
    in_child("random_messages_arrive_in_shuffled_short_pages", HARD_UNPACK, || random_messages(true));
}

/// Cut into different slices at both ends.
#[test]
fn slices_are_gathered_and_scattered() {
    let plugin = open();
    assert!(plugin.max_slices() >= 8);
    let (mut sender, mut receiver) = channels(&plugin);
    let message = pattern(3, 100_000);
    let (_, from) = filled(&mut sender, &message);
    let (buffer, into) = memory(&mut receiver, 150_000);
    let part = |of: Slice, offset, length| Slice { offset, length, ..of };
    let out = [part(from, 0, 40_000), part(from, 40_000, 1), part(from, 40_001, 59_999)];
    let back = [part(into, 50_000, 99_000), part(into, 7, 0), part(into, 100, 1_000)];
    for round in 0..40 {
        buffer.fill(0, 150_000, 0xa5).unwrap();
        let now = Instant::now();
        assert_eq!(receiver.post_slices(round, &back, now).unwrap(), Post::Accepted);
        assert_eq!(sender.post_slices(round, &out, now).unwrap(), Post::Accepted);
        assert_eq!(next(&mut receiver, &mut sender), done(round, 100_000));
        assert_eq!(next(&mut sender, &mut receiver), done(round, 100_000));
        let bytes = bytes_of(&buffer);
        assert!(bytes[50_000..149_000] == message[..99_000]);
        assert!(bytes[100..1_100] == message[99_000..]);
        let gap = |byte: &u8| *byte == 0xa5;
        assert!(bytes[..100].iter().all(gap) && bytes[1_100..50_000].iter().all(gap));
        assert!(bytes[149_000..].iter().all(gap));
    }
    let many = vec![part(from, 0, 1); plugin.max_slices() + 1];
    let refused = sender.post_slices(0, &many, Instant::now());
    assert!(matches!(refused, Err(PostError::Misuse(Misuse::TooManySlices { .. }))));
    assert_eq!(sender.post_slices(0, &[], Instant::now()), Err(Misuse::NoSlices.into()));
}

#[test]
fn gathered_slices_arrive_in_pages() {
    in_child("gathered_slices_arrive_in_pages", HARD_UNPACK, || {
        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let message = pattern(3, 100_000);
        let (_, from) = filled(&mut sender, &message);
        let (buffer, into) = memory(&mut receiver, 100_000);
        let half = |offset| Slice { offset, length: 50_000, ..from };
        assert_eq!(receiver.max_slices(), 1);
        for round in 0..40 {
            post(&mut receiver, round, into);
            let swapped = [half(50_000), half(0)];
            assert_eq!(sender.post_slices(round, &swapped, Instant::now()).unwrap(), Post::Accepted);
            assert_eq!(next(&mut receiver, &mut sender), done(round, 100_000));
            next(&mut sender, &mut receiver);
            assert!(bytes_of(&buffer) == [&message[50_000..], &message[..50_000]].concat());
        }
    });
}

/// One thread sends with pauses, the other sleeps in between.
/// Both messages are there before either is asked about.
#[test]
fn the_oldest_alone_can_be_asked_about() {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let (_, from) = filled(&mut sender, &pattern(1, 100));
    let (_, into) = memory(&mut receiver, 100);
    for token in 0..2 {
        post(&mut sender, token, from);
    }
    let deadline = deadline();
    while sender.in_flight() > 0 {
        assert!(Instant::now() < deadline);
        sender.progress(Instant::now());
    }
    for token in 0..2 {
        post(&mut receiver, token, into);
    }
    while receiver.in_flight() > 0 {
        assert!(Instant::now() < deadline);
        let held = receiver.held();
        let ended = receiver.progress_oldest(Instant::now());
        assert_eq!(receiver.held(), held + usize::from(ended), "one call finds at most one done");
    }
    for token in 0..2 {
        assert_eq!(receiver.release(), Release::Released(done(token, 100)));
    }
}

#[test]
fn a_set_sleeps_until_something_moves_and_loses_no_wake_up() {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let (_, from) = filled(&mut sender, &pattern(1, 4096));
    let (_, into) = memory(&mut receiver, 4096);
    let peer = std::thread::spawn({
        let plugin = plugin.clone();
        move || {
            let mut set = ChannelSet::new(plugin).unwrap();
            let id = set.insert(sender).unwrap();
            for token in 0..500 {
                let accepted = set.post_within(id, token, &[from], deadline(), |_, event| {
                    assert!(matches!(event, Event::Completed(_)));
                });
                assert_eq!(accepted.unwrap(), Post::Accepted);
                if token % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            let until = deadline();
            while set.channel(id).unwrap().has_work() {
                set.wait(until, |_, event| assert!(matches!(event, Event::Completed(_)))).unwrap();
                assert!(Instant::now() < until);
            }
            set
        }
    });
    let mut set = ChannelSet::new(plugin).unwrap();
    let id = set.insert(receiver).unwrap();
    assert!(set.wait_fd().is_some());
    assert!(matches!(set.prepare_sleep(Instant::now(), |_, _| {}).unwrap(), Sleep::Idle));
    let (mut posted, mut ended) = (0, 0);
    let until = deadline();
    while ended < 500 {
        while posted < 500 && set.post(id, posted, &[into], Instant::now()).unwrap() == Post::Accepted {
            posted += 1;
        }
        set.wait(until, |channel, event| {
            assert_eq!(channel, id);
            assert_eq!(event, Event::Completed(done(ended, 4096)));
            ended += 1;
        })
        .unwrap();
        assert!(Instant::now() < until, "{ended} of 500");
    }
    drop(peer.join().unwrap());
}

#[test]
fn rounds_visit_every_channel_with_work_and_ids_go_stale() {
    let plugin = open();
    let mut set = ChannelSet::new(plugin.clone()).unwrap();
    let mut pairs = Vec::new();
    for number in 0..5_u8 {
        let (mut sender, mut receiver) = channels(&plugin);
        let (_, from) = filled(&mut sender, &[number; 100]);
        let (buffer, into) = memory(&mut receiver, 100);
        pairs.push((set.insert(sender).unwrap(), from, set.insert(receiver).unwrap(), into, buffer));
    }
    assert_eq!(set.len(), 10);
    assert_eq!(set.round(Instant::now(), |_, _| panic!("nothing was posted")).busy, 0);
    for &(sender, from, receiver, into, _) in &pairs {
        let now = Instant::now();
        assert_eq!(set.post(receiver, 1, &[into], now).unwrap(), Post::Accepted);
        assert_eq!(set.post(sender, 2, &[from], now).unwrap(), Post::Accepted);
    }
    let mut ended = Vec::new();
    let until = deadline();
    while ended.len() < 10 {
        set.wait(until, |id, event| {
            assert!(matches!(event, Event::Completed(_)));
            ended.push(id);
        })
        .unwrap();
        assert!(Instant::now() < until);
    }
    for (number, (sender, _, receiver, _, buffer)) in pairs.iter().enumerate() {
        assert_eq!(bytes_of(buffer), [number as u8; 100]);
        assert!(ended.contains(sender) && ended.contains(receiver));
    }
    let (first, from, ..) = pairs[0];
    drop(set.remove(first).unwrap());
    assert!(matches!(set.remove(first), Err(Misuse::StaleChannel)));
    let (again, _) = channels(&plugin);
    let reused = set.insert(again).unwrap();
    assert_ne!(reused, first);
    let stale = set.post(first, 3, &[from], Instant::now());
    assert_eq!(stale, Err(Misuse::StaleChannel.into()));
}

#[test]
fn a_full_window_is_a_value_and_a_release_makes_room() {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let (_, from) = filled(&mut sender, &[1; 64]);
    let (_, into) = memory(&mut receiver, 64);
    for token in 0..12 {
        post(&mut sender, token, from);
    }
    assert_eq!(sender.post(12, from, Instant::now()).unwrap(), Post::Full);
    assert_eq!(sender.outstanding().collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    post(&mut receiver, 0, into);
    assert_eq!(next(&mut receiver, &mut sender), done(0, 64));
    assert_eq!(next(&mut sender, &mut receiver), done(0, 64));
    post(&mut sender, 12, from);
}

#[test]
fn registrations_are_checked_counted_and_given_back() {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let (_, from) = filled(&mut sender, &[1; 100]);
    let far = Slice { offset: 99, length: 2, ..from };
    let misuse = Misuse::OutOfRange { offset: 99, length: 2, size: 100 };
    assert_eq!(sender.post(0, far, Instant::now()), Err(misuse.into()));
    let overflow = Slice { offset: 1, length: usize::MAX, ..from };
    assert!(matches!(
        sender.post(0, overflow, Instant::now()),
        Err(PostError::Misuse(Misuse::TooLong { .. }))
    ));
    post(&mut sender, 0, from);
    let busy = sender.deregister(from.registration);
    assert!(matches!(busy, Err(Error::Misuse(Misuse::InUse { users: 1 }))));
    let (_, into) = memory(&mut receiver, 100);
    post(&mut receiver, 0, into);
    next(&mut receiver, &mut sender);
    next(&mut sender, &mut receiver);
    let memory = sender.deregister(from.registration).unwrap();
    assert_eq!(memory.span().1, 100);
    assert_eq!(sender.post(0, from, Instant::now()), Err(Misuse::StaleRegistration.into()));
    assert!(matches!(sender.deregister(from.registration), Err(Error::Misuse(Misuse::StaleRegistration))));
    // The place is used again under another name.
    let buffer = HostBuffer::new(50).unwrap();
    let second = sender.register(Box::new(buffer)).unwrap();
    assert_ne!(second, from.registration);
    assert_eq!(sender.post(0, from, Instant::now()), Err(Misuse::StaleRegistration.into()));
}

#[test]
fn a_longer_message_fails_the_receive_within_its_deadline() {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let (_, from) = filled(&mut sender, &[1; 100_000]);
    let (buffer, into) = memory(&mut receiver, 1_000);
    post(&mut receiver, 0, into);
    post(&mut sender, 0, from);
    let Release::Failed(fault) = outcome(&mut receiver, &mut sender) else { panic!("it cannot fit") };
    assert_eq!(fault.reason, Reason::Remote);
    assert_eq!(bytes_of(&buffer), [0xa5; 1_000]);
    assert_eq!(receiver.post(1, into, Instant::now()), Err(fault.into()));
    assert_eq!(receiver.fault(), Some(fault));
    assert_eq!(receiver.outstanding().collect::<Vec<_>>(), [0]);
}

/// In strict unpack mode the plugin lets a longer message through; its list is refused, its pages go back, and
/// the comm goes on.
#[test]
fn a_longer_message_in_pages_is_refused_and_consumed() {
    in_child("a_longer_message_in_pages_is_refused_and_consumed", HARD_UNPACK, || {
        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let (_, from) = filled(&mut sender, &pattern(9, 6_000));
        let (buffer, into) = memory(&mut receiver, 8_000);
        for round in 0..40 {
            post(&mut receiver, round, Slice { length: 5_000, ..into });
            post(&mut sender, round, from);
            let completion = next(&mut receiver, &mut sender);
            assert!(
                matches!(completion.outcome, Outcome::Failed(OperationFault::Scatter(_))),
                "{completion:?}"
            );
            next(&mut sender, &mut receiver);
            assert!(bytes_of(&buffer).iter().all(|&byte| byte == 0xa5));
        }
        post(&mut receiver, 40, into);
        post(&mut sender, 40, from);
        assert_eq!(next(&mut receiver, &mut sender), done(40, 6_000));
        assert!(bytes_of(&buffer)[..6_000] == pattern(9, 6_000)[..]);
    });
}

/// One error says which variable is bad, whatever the log shows, and says it again on a second try.
#[test]
fn a_bad_variable_is_named_by_the_error_that_opening_gives() {
    let test = "a_bad_variable_is_named_by_the_error_that_opening_gives";
    in_child(test, &[("TCPX_SOFT_LANES", "x")], || {
        let config = pair::config(&[("NCCL_DEBUG", "NONE")]);
        for _ in 0..2 {
            let error = Plugin::open(Source::Static(tcpx_soft::plugin()), &config).unwrap_err();
            assert!(matches!(error, Error::Init { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("TCPX_SOFT_LANES=x is not a whole number from 1 to 64"), "{text}");
            assert!(!text.contains("GPU") && !text.contains("rxdm"), "{text}");
        }
    });
}

#[test]
fn a_file_that_is_no_library_is_named_once_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libnccl-net-text.so");
    std::fs::write(&path, "text").unwrap();
    let error = Plugin::open(Source::File(path), &pair::config(&[])).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Load(_)) && text.matches("libnccl-net-text.so").count() == 1, "{text}");
    assert!(text.contains("UCCL_TCPX_PLUGIN_PATH") && text.contains("UCCL_P2P_TRANSPORT=tcp"), "{text}");
}

#[test]
fn late_comms_and_refused_posts_are_only_waiting() {
    let variables = [
        ("TCPX_SOFT_FAULT_CONNECT_DELAY_MS", "60"),
        ("TCPX_SOFT_FAULT_ACCEPT_DELAY_MS", "80"),
        ("TCPX_SOFT_FAULT_NULL_REQUEST_EVERY", "3"),
    ];
    in_child("late_comms_and_refused_posts_are_only_waiting", &variables, || {
        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let (_, from) = filled(&mut sender, &pattern(2, 500));
        let (_, into) = memory(&mut receiver, 500);
        let insist = |channel: &mut Channel, token, slice| {
            let deadline = deadline();
            while channel.post(token, slice, Instant::now()).unwrap() != Post::Accepted {
                assert!(Instant::now() < deadline);
            }
        };
        for round in 0..30 {
            insist(&mut receiver, round, into);
            insist(&mut sender, round, from);
            assert_eq!(next(&mut receiver, &mut sender), done(round, 500));
            assert_eq!(next(&mut sender, &mut receiver), done(round, 500));
        }
        assert!(receiver.counters().not_taken > 0 && sender.counters().not_taken > 0);
        assert_eq!(receiver.counters().completed, 30);
        assert_eq!(receiver.counters().bytes, 30 * 500);
    });
}

#[test]
fn a_refused_accept_and_a_deadline_are_errors_that_name_the_call() {
    in_child(
        "a_refused_accept_and_a_deadline_are_errors_that_name_the_call",
        &[("TCPX_SOFT_FAULT_ACCEPT_FAILS", "1")],
        || {
            let plugin = open();
            let soon = Instant::now() + Duration::from_millis(300);
            let (handle, listening) = plugin.listen(0, soon).unwrap();
            let connecting = plugin.connect(0, &handle, soon).unwrap();
            let (sender, receiver) = establish(Connect::Pending(connecting), Accept::Pending(listening));
            let error = receiver.unwrap_err();
            assert!(matches!(error, Error::Establish { .. }), "{error}");
            assert!(error.to_string().starts_with("accept on "), "{error}");
            let error = sender.unwrap_err();
            assert!(error.to_string().starts_with("connect on "), "{error}");
        },
    );
}

#[test]
fn nobody_connects_and_nobody_listens_end_at_the_deadline() {
    let plugin = open();
    let soon = Instant::now() + Duration::from_millis(200);
    let (handle, listening) = plugin.listen(0, soon).unwrap();
    let error = listening.wait().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    // The listener is closed, so nobody listens there any more.
    let soon = Instant::now() + Duration::from_millis(300);
    let error = plugin.connect(0, &handle, soon).unwrap().wait().unwrap_err();
    let Error::Deadline { attempts, last, .. } = error else { panic!("{error}") };
    assert!(attempts >= 1);
    assert!(last.is_some() || attempts == 1, "{attempts} {last:?}");
}

fn silence(test: &str, variable: (&str, &str)) {
    in_child(test, &[variable], || {
        let plugin = open();
        let (sender, receiver) = channels(&plugin);
        let limit = Duration::from_millis(300);
        let (mut sender, mut receiver) =
            (sender.with_silence_limit(limit), receiver.with_silence_limit(limit));
        let (_, from) = filled(&mut sender, &pattern(2, 300_000));
        let (_, into) = memory(&mut receiver, 300_000);
        let mut fault = None;
        let until = deadline();
        'rounds: for token in 0.. {
            if receiver.post(token, into, Instant::now()).is_err()
                || sender.post(token, from, Instant::now()).is_err()
            {
                break;
            }
            loop {
                assert!(Instant::now() < until);
                sender.progress(Instant::now());
                receiver.progress(Instant::now());
                let _ = sender.release();
                match receiver.release() {
                    Release::Failed(found) => {
                        fault = Some(found);
                        break 'rounds;
                    }
                    Release::Released(_) => break,
                    Release::NotYet => {}
                }
            }
        }
        let fault = fault.or(receiver.fault()).or(sender.fault()).expect("one end notices");
        assert!(matches!(fault.reason, Reason::Silent { .. } | Reason::PeerClosed), "{fault}");
    });
}

#[test]
fn a_dead_data_socket_is_noticed() {
    silence("a_dead_data_socket_is_noticed", ("TCPX_SOFT_FAULT_DATA_SOCKET_DIES_AT", "1000000"));
}

#[test]
fn a_silent_peer_is_noticed() {
    silence("a_silent_peer_is_noticed", ("TCPX_SOFT_FAULT_SILENT_AFTER", "3"));
}

/// Twelve pages for messages of ten: what is not released holds up the rest, and nothing is lost.
#[test]
fn few_pages_are_enough_where_receives_are_released() {
    let variables = [UNPACK[0], ("TCPX_SOFT_FAULT_POOL_PAGES", "12")];
    in_child("few_pages_are_enough_where_receives_are_released", &variables, || {
        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let mut buffers = Vec::new();
        for token in 0..8 {
            let (buffer, into) = memory(&mut receiver, 40_000);
            post(&mut receiver, token, into);
            let (_, from) = filled(&mut sender, &pattern(token, 40_000));
            post(&mut sender, token, from);
            buffers.push(buffer);
        }
        for (token, buffer) in (0..).zip(&buffers) {
            assert_eq!(next(&mut receiver, &mut sender), done(token, 40_000));
            assert!(bytes_of(buffer) == pattern(token, 40_000));
        }
    });
}

#[test]
fn a_hundred_connections_leave_nothing_behind() {
    in_child("a_hundred_connections_leave_nothing_behind", &[], || {
        let plugin = open();
        let round = || {
            let (mut sender, mut receiver) = channels(&plugin);
            let (_, from) = filled(&mut sender, &[7; 70_000]);
            let (_, into) = memory(&mut receiver, 70_000);
            post(&mut receiver, 0, into);
            post(&mut sender, 0, from);
            next(&mut receiver, &mut sender);
            next(&mut sender, &mut receiver);
        };
        (0..10).for_each(|_| round());
        let (files, resident) = (raw::drive::descriptors(), raw::drive::resident());
        (0..100).for_each(|_| round());
        raw::drive::until("as many descriptors as before", || {
            (raw::drive::descriptors() <= files).then_some(())
        });
        let grown = raw::drive::resident().saturating_sub(resident);
        assert!(grown < 8 << 20, "{grown} bytes more after 100 rounds");

        // Nobody accepts: one connect is dropped half-way, the other runs into its deadline.
        let (handle, _listening) = plugin.listen(0, deadline()).unwrap();
        let connecting = plugin.connect(0, &handle, deadline()).unwrap();
        let Connect::Pending(connecting) = connecting.poll(Instant::now()) else { panic!("nobody accepts") };
        drop(connecting);
        let soon = Instant::now() + Duration::from_millis(100);
        let error = plugin.connect(0, &handle, soon).unwrap().wait().unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        assert_eq!(leaked_objects(), 0);
    });
}
