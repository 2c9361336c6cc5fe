//! Progress: rounds over the channels, looks at the exchange streams, reports, and how to sleep.

use std::time::{Duration, Instant};

use p2p_transport::{ConnId, Error, Event, Events, Limits, Next, Now, OpFault, Outcome, Transport};
use tcpx_core::{Channel, ChannelId, Event as ChannelEvent, Fault, Reason, Sleep};

use crate::Tcpx;
use crate::bits::Bits;
use crate::connection::{Conn, Ending, Live, Name, Pair, Phase, Side, lost};
use crate::establish::{Comms, Progress, Surroundings};
use crate::exchange::stream::StreamError;
use crate::exchange::wire::Word;
use crate::operations::Operations;
use crate::options::Options;

/// Time between two looks at the exchange streams while every connection is settled: they carry nothing then
/// but the end of a peer. Whoever sleeps is woken by it.
const LOOK: Duration = Duration::from_millis(1);
/// The same while connections open or end, and time between two tries of a post that the plugin did not take.
const SOON: Duration = Duration::from_micros(100);
/// Time after something moved in which sleeping would cost more than it saves: getting ready for it takes a
/// system call and another round, and waking up takes longer than an answer from near by.
const SPIN: Duration = Duration::from_micros(20);
/// Longest sleep while channels have work, because their deadlines are found in rounds.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// Words of a peer that one look takes at most; it has no reason to say more.
const MOST_WORDS: usize = 16;
/// Time between two copies of the counters.
const PUBLISH: Duration = Duration::from_millis(1);

impl Tcpx {
    pub(crate) fn progress(&mut self, now: Now, events: &mut Events) -> Next {
        self.now = self.now.max(now);
        let now = self.now;
        let at = self.instant(now);
        let room = events.room();
        let mut moved = self.round(at);
        moved |= self.start_waiting(at);
        if now >= self.next_look {
            moved |= self.look(at);
            self.wake_at = self.wake();
            let soon = now.after(SOON);
            let pause = if self.wake_at.is_some_and(|at| at <= soon) { SOON } else { LOOK };
            self.next_look = now.after(pause);
        }
        self.report(events);
        if now >= self.next_publish {
            self.publish();
        }
        if moved || events.room() < room || !self.reports.is_empty() || self.regions.has_retired() {
            self.quiet_at = now.after(SPIN);
            return Next::Again;
        }
        if now < self.quiet_at {
            return Next::Spin;
        }
        self.sleep(at)
    }

    /// How to sleep after a poll that found nothing.
    fn sleep(&mut self, at: Instant) -> Next {
        let again = self.tries_again().then(|| self.now.after(SOON));
        let until = self.wake_at.into_iter().chain(again).min();
        let has_descriptor = self.set.wait_fd().is_some();
        let Self { set, conns, reports, lost, .. } = self;
        let mut found = false;
        let slept = set.prepare_sleep(at, |id, event| {
            found = true;
            take(conns, reports, lost, id, event);
        });
        let next = match slept {
            Ok(Sleep::Not) => Next::Again,
            Ok(Sleep::On(_)) => {
                let longest = self.now.after(LONGEST_SLEEP);
                Next::Wait(Some(until.map_or(longest, |until| until.min(longest))))
            }
            Ok(Sleep::Idle) if has_descriptor => match until {
                Some(until) => Next::Wait(Some(until)),
                None => Next::Idle(None),
            },
            Ok(Sleep::Idle) if self.conns.is_empty() => Next::Idle(None),
            // Only looking shows that a peer is gone.
            Ok(Sleep::Idle) => Next::Idle(Some(until.unwrap_or(self.next_look))),
            Ok(Sleep::Poll) => Next::Spin,
            Err(error) => {
                tracing::error!("cannot sleep, so polling goes on: {error}");
                Next::Spin
            }
        };
        if found {
            return Next::Again;
        }
        if matches!(next, Next::Wait(_) | Next::Idle(_)) {
            // Whoever is woken may have been woken by a stream.
            self.next_look = Now::default();
        }
        next
    }

    fn tries_again(&self) -> bool {
        let mut from = 0;
        while let Some(index) = self.waiting.next(from) {
            let live = self.conns.id_at(index).and_then(|id| self.conns.get(id)?.live.as_ref());
            if live.is_some_and(|live| live.try_again) {
                return true;
            }
            from = index + 1;
        }
        false
    }

    /// Visits the channels that have work. True if an operation ended.
    fn round(&mut self, at: Instant) -> bool {
        let Self { set, conns, reports, lost, .. } = self;
        let round = set.round(at, |id, event| take(conns, reports, lost, id, event));
        if !self.lost.is_empty() {
            self.lose_channels();
        }
        round.events > 0
    }

    /// Gives what waits to channels that have room again. True if anything was taken.
    fn start_waiting(&mut self, at: Instant) -> bool {
        let Self { set, conns, scratch, waiting, reports, now, .. } = self;
        let (mut any, mut from) = (false, 0);
        while let Some(index) = waiting.next(from) {
            from = index + 1;
            let Some(live) = conns.at_mut(index).and_then(|conn| conn.live.as_mut()) else {
                waiting.clear(index);
                continue;
            };
            live.try_again = false;
            any |= live.start(index, Side::Recv, set, scratch, at);
            any |= live.start(index, Side::Send, set, scratch, at);
            if !live.count_waiting(*now) {
                waiting.clear(index);
            }
            if live.has_ended() {
                reports.set(index);
            }
        }
        any
    }

    /// Ends the connections whose comms were lost.
    fn lose_channels(&mut self) {
        while let Some((id, fault)) = self.lost.pop() {
            let has = |conn: &Conn| conn.live.as_ref().is_some_and(|live| live.pair_of(id).is_some());
            let Some(conn) = self.conns.iter().find(|(_, conn)| has(conn)).map(|(conn, _)| conn) else {
                continue;
            };
            if fault.reason == Reason::Remote {
                self.truncate(conn, id);
            }
            // While the end is being agreed, a comm that ends is a peer that was faster.
            let text = match self.conns.get(conn).map(|conn| &conn.phase) {
                Some(Phase::Ending(ending)) if !ending.closed_here => CLOSED_THERE.to_owned(),
                _ => fault.to_string(),
            };
            self.end(conn, Some(lost("poll", text)), true);
        }
    }

    /// A plugin that checks lengths gives the comm up when a message is longer than its receive: that is the
    /// oldest one.
    fn truncate(&mut self, conn: ConnId, id: ChannelId) {
        let oldest = self.set.channel(id).ok().and_then(|channel| channel.outstanding().next());
        let live = self.conns.get_mut(conn).and_then(|conn| conn.live.as_mut());
        if let (Some(token), Some(live)) = (oldest, live) {
            let Name { side, slot, .. } = Name::of(token);
            if side == Side::Recv {
                live.recvs.end_started(slot, |_| Outcome::Failed(OpFault::Truncated));
            }
        }
    }

    /// Ends a connection; with `tell`, the peer is told why.
    fn end(&mut self, id: ConnId, reason: Option<Error>, tell: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        // Whoever closed needs no other reason.
        let reason = reason.filter(|_| !conn.is_closed_here());
        if let (true, Some(stream), Some(reason)) = (tell, &mut conn.stream, &reason) {
            stream.say(&Word::Refused(reason.to_string()));
        }
        if let Some(reason) = &reason {
            tracing::debug!(conn = id.index(), "connection lost: {reason}");
        }
        conn.finish(&mut self.set, reason);
        self.unsettled.clear(id.index());
        self.waiting.clear(id.index());
        self.reports.set(id.index());
    }

    /// Looks at the exchange streams and at whatever came for listeners. True if something moved.
    fn look(&mut self, at: Instant) -> bool {
        let Self { watch, unsettled, .. } = self;
        // What is readable is looked at once, settled or not.
        let found = watch.look(|index| unsettled.set(index));
        if let (true, Some(hub)) = (found.visitors, self.watch.known_hub()) {
            hub.look();
        }
        let (mut moved, mut from) = (false, 0);
        while let Some(index) = self.unsettled.next(from) {
            from = index + 1;
            match self.conns.id_at(index) {
                Some(id) => moved |= self.settle(id, at),
                None => self.unsettled.clear(index),
            }
        }
        moved
    }

    /// When the connections that open or end want to be looked at, if nothing comes for them before.
    fn wake(&self) -> Option<Now> {
        let (mut wake, mut from) = (None::<Now>, 0);
        while let Some(index) = self.unsettled.next(from) {
            from = index + 1;
            let conn = self.conns.id_at(index).and_then(|id| self.conns.get(id));
            let at = match conn.map(|conn| &conn.phase) {
                Some(Phase::Opening(_)) => self.now.after(SOON),
                // What is still to be received shows in rounds.
                Some(Phase::Ending(_) | Phase::Open) => self.now.after(LOOK),
                Some(Phase::Over) | None => continue,
            };
            wake = Some(wake.map_or(at, |wake| wake.min(at)));
        }
        wake
    }

    fn settle(&mut self, id: ConnId, at: Instant) -> bool {
        let index = id.index();
        let Some(conn) = self.conns.get_mut(id) else { return false };
        match &mut conn.phase {
            Phase::Opening(opening) => {
                let Self {
                    plugin, watch, options: Options { peer_timeout, connect_timeout, .. }, now, ..
                } = self;
                let (peer_timeout, connect_timeout, now) = (*peer_timeout, *connect_timeout, *now);
                let around = Surroundings { plugin, watch, peer_timeout, connect_timeout, now, at };
                match opening.drive(conn.rail, index, &mut conn.stream, &around) {
                    Ok(Progress::Pending) => false,
                    Ok(Progress::Comms(comms)) => {
                        if let Err(error) = self.make_live(id, comms) {
                            self.end(id, Some(error), true);
                        }
                        true
                    }
                    Ok(Progress::Register(from)) => {
                        if let Err(error) = self.register_some(id, from) {
                            self.end(id, Some(error), true);
                        }
                        true
                    }
                    Ok(Progress::Connected) => {
                        self.connected(id);
                        true
                    }
                    Err(error) => {
                        self.end(id, Some(error), true);
                        true
                    }
                }
            }
            Phase::Open | Phase::Ending(_) => self.hear(id),
            Phase::Over => {
                self.unsettled.clear(index);
                false
            }
        }
    }

    /// Makes channels of a connection's comms, and registers the memory of its NIC.
    fn make_live(&mut self, id: ConnId, comms: Comms) -> Result<(), Error> {
        let Some(rail) = self.conns.get(id).map(|conn| conn.rail) else { return Ok(()) };
        let Comms { max_message, sends, recvs } = comms;
        let count = sends.len();
        let mut channels = Vec::with_capacity(count);
        let mut max_slices = usize::from(u16::MAX);
        let of_core = |error: tcpx_core::Error| lost("connect", error.to_string()).with_source(error);
        for (send, recv) in sends.into_iter().zip(recvs) {
            let send = Channel::sending(send, self.plugin.send_window()).map_err(of_core)?;
            let window = self.plugin.recv_window();
            let unpacker = self.options.unpackers.as_ref().map(|unpackers| unpackers.unpacker(rail));
            let recv = match unpacker.transpose()?.flatten() {
                Some(unpack) => Channel::receiving_with(recv, window, unpack),
                None => Channel::receiving(recv, window),
            };
            let recv = recv.map_err(of_core)?;
            max_slices = max_slices.min(send.max_slices()).min(recv.max_slices());
            let mut insert = |channel: Channel| {
                let channel = match self.options.silence_limit {
                    Some(limit) => channel.with_silence_limit(limit),
                    None => channel,
                };
                self.set.insert(channel).map_err(of_core)
            };
            // Rounds go in this order: pages of receives are given back before anything is sent.
            let (recv, send) = (insert(recv)?, insert(send)?);
            channels.push(Pair { send, recv, sent: 0, recv_started: 0, recv_ended: 0 });
        }
        let count = count as u16;
        let sends = Operations::new(count, self.plugin.send_window());
        let recvs = Operations::new(count, self.plugin.recv_window());
        let mut limits = Limits::new(max_message, sends.capacity() as u16, recvs.capacity() as u16);
        limits.max_slices = max_slices.max(1) as u16;
        limits.fifo = count == 1;
        let scatters = self.device(rail.nic).device_type == tcpx_core::DeviceType::Unpack;
        limits.checks_length = scatters || self.plugin.checks_length();
        let sheet = self.counters.open(id, rail.nic, channels.len());
        let live = Live::new(limits, channels, sends, recvs, sheet);
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        conn.live = Some(live);
        if let Phase::Opening(opening) = &mut conn.phase {
            opening.registers_from(0);
        }
        Ok(())
    }

    /// Registers some of the NIC's regions on a new connection, which is ready after the last.
    fn register_some(&mut self, id: ConnId, from: usize) -> Result<(), Error> {
        let next = self.register_from(id, from)?;
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        if let (Phase::Opening(opening), Some(stream)) = (&mut conn.phase, &mut conn.stream) {
            match next {
                Some(next) => opening.registers_from(next),
                None => opening.is_ready(stream),
            }
        }
        Ok(())
    }

    fn connected(&mut self, id: ConnId) {
        let sockets = self.describe(id);
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.phase = Phase::Open;
        conn.connected_due = true;
        conn.was_open = true;
        self.reports.set(id.index());
        let peer = conn.stream.as_ref().and_then(|stream| stream.peer());
        let peer = peer.map_or_else(|| "?".to_owned(), |peer| peer.to_string());
        let Some(live) = &conn.live else { return };
        tracing::info!(
            conn = id.index(),
            peer,
            plugin = self.plugin.name(),
            version = %self.plugin.version(),
            nic = self.plugin.devices()[usize::from(conn.rail.nic.0)].name,
            channels = live.channels.len(),
            sockets = sockets.as_deref().unwrap_or("as the plugin has them"),
            max_message = live.limits.max_message,
            "connected"
        );
    }

    /// Hears what the peer of an open or ending connection says, and ends it when it is time.
    fn hear(&mut self, id: ConnId) -> bool {
        let (now, peer_timeout) = (self.now, self.options.peer_timeout);
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let (mut moved, mut gone) = (false, None);
        for _ in 0..MOST_WORDS {
            let Some(stream) = &mut conn.stream else { break };
            stream.flush();
            match stream.next() {
                Ok(Some(word)) => {
                    moved = true;
                    if let Err(text) = conn.take_word(word) {
                        gone = Some(text);
                        break;
                    }
                }
                Ok(None) => break,
                Err(StreamError::Ended) if conn.is_draining() => {
                    // It has said goodbye, and what it sent may still be on its way.
                    conn.stream = None;
                }
                Err(error @ StreamError::Wire(_)) => {
                    gone = Some(error.to_string());
                    break;
                }
                Err(error) => {
                    gone = Some(format!(
                        "the peer is gone ({error}): its process ended, or its host or the network between"
                    ));
                    break;
                }
            }
        }
        let Phase::Ending(ending) = &mut conn.phase else {
            if let Some(text) = gone {
                self.end(id, Some(lost("poll", text)), true);
                return true;
            }
            if !conn.stream.as_ref().is_some_and(|stream| stream.has_output()) {
                self.unsettled.clear(id.index());
            }
            return moved;
        };
        let reason = (!ending.closed_here).then(|| lost("poll", CLOSED_THERE.to_owned()));
        if let Some(live) = &conn.live
            && !ending.said_received
            && ending.has_received(&live.channels)
        {
            ending.said_received = true;
            moved = true;
            if let Some(stream) = &mut conn.stream {
                stream.say(&Word::Received);
            }
        }
        let deadline = *ending.deadline.get_or_insert(now.after(peer_timeout));
        if gone.is_some() || ending.is_over() || now >= deadline {
            self.end(id, reason, false);
            return true;
        }
        self.unsettled.set(id.index());
        moved
    }

    /// Reports what there is room for. Where there is little, connections take turns.
    fn report(&mut self, events: &mut Events) {
        while events.room() > 0 {
            let Some(region) = self.regions.next_retired() else { break };
            let _ = events.push(Event::Retired(region));
        }
        let first = self.report_next;
        let mut turn = self.reports.next(first).or_else(|| self.reports.next(0));
        let mut wrapped = turn.is_some_and(|index| index < first);
        while let Some(index) = turn {
            if events.room() == 0 || wrapped && index >= first {
                return;
            }
            self.report_next = index + 1;
            let done = self.conns.id_at(index).is_none_or(|id| self.report_of(id, events));
            if done {
                self.reports.clear(index);
            }
            while let Some(region) = self.unused.pop() {
                self.deregister(region);
            }
            turn = self.reports.next(index + 1);
            if turn.is_none() && !wrapped {
                wrapped = true;
                turn = self.reports.next(0);
            }
        }
    }

    /// Reports what one connection has. True if nothing is left.
    fn report_of(&mut self, id: ConnId, events: &mut Events) -> bool {
        let Self { conns, regions, unused, .. } = self;
        let Some(conn) = conns.get_mut(id) else { return true };
        if conn.connected_due {
            if events.push(Event::Connected(id)).is_err() {
                return false;
            }
            conn.connected_due = false;
        }
        if let Some(live) = &mut conn.live {
            // Receives first: what arrived is what callers wait for.
            for operations in [&mut live.recvs, &mut live.sends] {
                while operations.has_ended() {
                    if events.room() == 0 {
                        return false;
                    }
                    let Some((token, outcome, slices)) = operations.report() else { break };
                    regions.release(slices, |_, region| unused.push(region));
                    let _ = events.push(Event::Completed { conn: id, token, outcome });
                }
            }
        }
        if !matches!(conn.phase, Phase::Over) {
            return true;
        }
        if events.push(Event::Closed(id)).is_err() {
            return false;
        }
        if let Some(mut conn) = conns.remove(id) {
            if let Some(live) = &conn.live {
                self.counters.close(&live.sheet);
            }
            if let Some(place) = self.reasons.get_mut(id.index()) {
                *place = conn.reason.take().map(|reason| (id, reason));
            }
        }
        self.waiting.clear(id.index());
        self.unsettled.clear(id.index());
        true
    }

    /// Copies the counters of all connections to where others read them.
    fn publish(&mut self) {
        let Self { conns, set, .. } = self;
        for (_, conn) in conns.iter() {
            if let Some(live) = conn.live.as_ref().filter(|live| !live.channels.is_empty()) {
                live.publish(set);
            }
        }
        self.next_publish = self.now.after(PUBLISH);
    }
}

/// Why a connection ended that the other end has closed.
const CLOSED_THERE: &str = "the peer closed the connection";

/// Takes what a round found.
#[inline]
fn take(
    conns: &mut p2p_transport::Slab<ConnId, Conn>,
    reports: &mut Bits,
    lost: &mut Vec<(ChannelId, Fault)>,
    id: ChannelId,
    event: ChannelEvent,
) {
    let completion = match event {
        ChannelEvent::Completed(completion) => completion,
        ChannelEvent::Failed(fault) => {
            lost.push((id, fault));
            return;
        }
    };
    let name = Name::of(completion.token);
    let Some(conn) = conns.at_mut(name.conn) else { return };
    let is_closing = matches!(&conn.phase, Phase::Ending(Ending { closed_here: true, .. }));
    if let Some(live) = &mut conn.live {
        live.completed(name, completion, is_closing);
        reports.set(name.conn);
    }
}

impl Conn {
    /// Whether this end has closed it.
    const fn is_closed_here(&self) -> bool {
        matches!(&self.phase, Phase::Ending(Ending { closed_here: true, .. }))
    }

    /// Whether the peer alone has closed it, and messages are still to be received.
    fn is_draining(&self) -> bool {
        let Phase::Ending(ending) = &self.phase else { return false };
        let received = self.live.as_ref().is_none_or(|live| ending.has_received(&live.channels));
        !ending.closed_here && ending.peer_sent.is_some() && !received
    }

    /// What the peer says of an open or ending connection; an error if it may not be said.
    fn take_word(&mut self, word: Word) -> Result<(), String> {
        let channels = self.live.as_ref().map_or(0, |live| live.channels.len());
        match word {
            Word::Closing { sent } if sent.len() == channels => {
                if let Phase::Open = self.phase {
                    self.phase = Phase::Ending(Ending::new());
                    if let Some(live) = &mut self.live {
                        live.sends.flush_waiting();
                    }
                }
                let Phase::Ending(ending) = &mut self.phase else { return Ok(()) };
                if ending.peer_sent.replace(sent).is_some() {
                    return Err("the peer closed twice: run the same release at both ends".to_owned());
                }
                Ok(())
            }
            Word::Received => match &mut self.phase {
                Phase::Ending(ending) if ending.closed_here && !ending.got_received => {
                    ending.got_received = true;
                    Ok(())
                }
                Phase::Opening(_) | Phase::Open | Phase::Ending(_) | Phase::Over => {
                    Err("the peer received what was not sent: run the same release at both ends".to_owned())
                }
            },
            Word::Refused(why) => Err(format!("the peer gave the connection up: {why}")),
            Word::Hello(_) | Word::Welcome { .. } | Word::Handles(_) | Word::Ready | Word::Closing { .. } => {
                Err("the peer broke the order of the exchange: run the same release at both ends".to_owned())
            }
        }
    }
}
