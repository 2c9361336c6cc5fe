//! Both ends sleep whenever they are told that they may, and are woken for everything that happens.

mod support;

use std::time::{Duration, Instant};

use p2p_transport::{Address, ConnId, Event, Next, Token, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{End, PATIENCE, slice};

/// Messages each way.
const COUNT: u64 = 3000;
const LONGEST: u32 = 60_000;
/// Sleeps that may end by their time just before something happens, on a busy machine.
const COINCIDENCES: usize = 5;

/// Sleeps as it is told to; true if the time was over and nothing had become readable.
fn sleep(end: &End, next: Next) -> bool {
    let (Next::Wait(until) | Next::Idle(until)) = next else { return false };
    let left = until.map_or(Duration::from_secs(1), |until| until.0.saturating_sub(end.now().0));
    let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let file = end.transport.wait_fd().expect("the soft plugin sleeps");
    poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&time)).expect("poll") == 0
}

/// Completions that were reported since the last call, and whether the connection is closed since.
fn completions(end: &mut End, closed: &mut bool) -> u64 {
    let events = end.events.drain(..);
    let completed = events.filter(|event| {
        *closed |= matches!(event, Event::Closed(_));
        matches!(event, Event::Completed { .. })
    });
    completed.count() as u64
}

/// Sends and receives with a few messages under way, the sizes from `seed`.
fn talk(mut end: End, conn: ConnId, mut seed: u64) {
    let (region, _) = end.register(2 * LONGEST as usize);
    let (mut sent, mut received, mut done) = (0, 0, 0);
    let (mut late, mut sleeps, mut closed) = (0, 0, false);
    let begin = Instant::now();
    end.events.clear();
    while done < 2 * COUNT {
        assert!(begin.elapsed() < 2 * PATIENCE, "{done} done, {late} of {sleeps} sleeps were too long");
        while received < COUNT && received < done + 3 {
            let into = [slice(region, LONGEST.into(), LONGEST)];
            if end.transport.recv(conn, Token(received), &into).count == 0 {
                break;
            }
            received += 1;
        }
        while sent < COUNT && sent < done + 2 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly small ones, which end inside of calls; some by the plugin's threads.
            let len = if seed >> 61 == 0 { (seed >> 33) as u32 % LONGEST } else { (seed >> 33) as u32 % 300 };
            if end.transport.send(conn, Token(COUNT + sent), &[slice(region, 0, len)]).count == 0 {
                break;
            }
            sent += 1;
        }
        let next = end.poll_next();
        let before = done;
        done += completions(&mut end, &mut closed);
        if done > before {
            continue;
        }
        let too_long = sleep(&end, next);
        sleeps += usize::from(matches!(next, Next::Wait(_) | Next::Idle(_)));
        if too_long {
            // Had something happened, it should have woken.
            let _ = end.poll_next();
            let found = completions(&mut end, &mut closed);
            done += found;
            late += usize::from(found > 0);
        }
    }
    assert!(
        late <= COINCIDENCES,
        "{late} of {sleeps} sleeps ended by their time although something had happened"
    );
    if closed {
        // The peer was done first, and has closed it.
        return;
    }
    // The peer may still wait for the last message.
    end.transport.close(conn).expect("open");
    while !end.events.contains(&Event::Closed(conn)) {
        let next = end.poll_next();
        sleep(&end, next);
        assert!(begin.elapsed() < 3 * PATIENCE, "closing");
    }
}

fn connected(end: &mut End, conn: ConnId) {
    let begin = Instant::now();
    while !end.has(Event::Connected(conn)) {
        let next = end.poll_next();
        sleep(end, next);
        assert!(begin.elapsed() < PATIENCE, "connecting: {:?}", end.events);
    }
}

#[test]
fn no_wake_up_is_lost() {
    for channels in [1, 2] {
        let mut here = End::new(|_| {});
        let (conn, address) = here.listen(channels);
        let address: Address = address;
        let there = std::thread::spawn(move || {
            let mut there = End::new(|_| {});
            let conn = there.connect(channels, &address);
            connected(&mut there, conn);
            talk(there, conn, 11);
        });
        connected(&mut here, conn);
        talk(here, conn, 7);
        there.join().expect("the other end is fine");
    }
}
