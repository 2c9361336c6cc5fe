//! Transfers that stand still: found about once a second, and logged once with what they wait for and what to try.

use std::fmt;
use std::time::Duration;

use p2p_proto::id::RailIndex;
use p2p_proto::peer::{Peer, Side, Waiting};
use p2p_transport::Now;

use super::Engine;
use super::event::{LinkId, OpToken, TransferKind};
use super::link::{Link, Phase, name_of};
use super::tokens::{Started, Watch};

/// Time between two looks. What is younger is not looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Transfers of each kind of a link that a look looks at, oldest first: what is behind them waits for the same.
const MOST_LOOKED_AT: u32 = 64;
/// Lines that a look logs; the others are counted in one more.
const MOST_LINES: u32 = 8;

/// A transfer of this end that was started a while ago and has not ended.
///
/// Its text is one line: what stands still, since when, what it waits for, and what to try.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stall {
    /// What the caller named it.
    pub token: OpToken,
    /// Its link.
    pub link: LinkId,
    /// What the peer calls itself.
    pub peer: String,
    /// What it does.
    pub kind: TransferKind,
    /// Bytes of it; of a receive, the room for a message.
    pub bytes: u64,
    /// Time since it was started.
    pub age: Duration,
    /// Time for which it has waited for the same, to a second or two; zero if nobody has looked yet.
    pub standing: Duration,
    /// What it waits for.
    pub waits_for: Waiting,
    /// The NIC of the rail that it waits for, if it is one.
    pub nic: Option<String>,
    /// Time since the oldest of its messages was handed to the transport, if some are with it.
    pub with_transport: Option<Duration>,
    /// Time without a sign of life of the peer.
    pub silent: Duration,
}

impl Stall {
    /// What to try.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "more may come; it wants the variants that are split by a field"
    )]
    pub const fn advice(&self) -> &'static str {
        match self.waits_for {
            Waiting::PeerSends { .. } => "look whether the peer sends, and on this link",
            Waiting::PeerReceives => "look whether the peer posts a receive, on this link and long enough",
            Waiting::PeerAnnounces { .. } => "look at the peer's log: it has to send what is read",
            Waiting::Window { .. } | Waiting::Post { full: true, .. } => {
                "messages before it do not end: look at the NIC and the network behind it, and for stalls in the peer's log"
            }
            Waiting::Post { full: false, .. } => {
                "the transport takes no message: look at the NIC, and at the log of the transport"
            }
            Waiting::Transport { side: Side::Send, .. } => {
                "look at the NIC and the network behind it (firewall, MTU, cable), and for stalls in the peer's log"
            }
            Waiting::Transport { side: Side::Recv, .. } => {
                "the bytes are announced and do not come: look at the network between the NICs, and for stalls in the peer's log"
            }
            Waiting::PeerAnswers { .. } => {
                "look whether the peer's process is stopped, or nobody drives its endpoint"
            }
            Waiting::Control { .. } => {
                "the peer does not read: look whether its process is stopped, nobody drives its endpoint, or it does not take its notifications"
            }
            Waiting::Reading { .. } => {
                "what the peer has announced does not land: look at the network between the NICs, and for stalls in the peer's log"
            }
            _ => "look at the logs of both ends",
        }
    }

    fn new(
        engine: &Engine,
        now: Now,
        link: (LinkId, &Link),
        peer: &Peer,
        started: &Started,
        waits_for: Waiting,
    ) -> Self {
        let Started { token, kind, bytes, watch, .. } = *started;
        let nic = rail_of(&waits_for).and_then(|RailIndex(rail)| {
            let rail = engine.rails.get(link.1.rails.get(usize::from(rail))?.own)?;
            engine.transport.nics().iter().find(|nic| nic.id == rail.nic).map(|nic| nic.name.clone())
        });
        let with_transport = if let Waiting::Transport { since, .. } = waits_for {
            Some(now.0.saturating_sub(since))
        } else {
            None
        };
        Self {
            token,
            link: link.0,
            peer: name_of(link.1.peer.as_ref()).to_owned(),
            kind,
            bytes,
            age: age(started, now).unwrap_or_default(),
            standing: watch.standing,
            waits_for,
            nic,
            with_transport,
            silent: peer.silent(),
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, peer, kind, bytes, age, waits_for, .. } = self;
        write!(
            f,
            "a {} of {bytes} bytes (operation {}), started {:.1} s ago, does not go on: ",
            kind.name(),
            token.0,
            age.as_secs_f64()
        )?;
        match (*waits_for, self.with_transport) {
            (Waiting::Transport { rail, side, messages, .. }, Some(oldest)) => {
                let way = if side == Side::Send { "to be sent" } else { "to be received" };
                let oldest = oldest.as_secs_f64();
                write!(
                    f,
                    "{messages} messages are with the transport {way} on rail {}, the oldest for {oldest:.1} s",
                    rail.0
                )?;
            }
            (Waiting::PeerAnswers { .. }, _) => {
                f.write_str("everything was sent, and the peer has not answered")?
            }
            (other, _) => write!(f, "{other}")?,
        }
        if let Some(nic) = &self.nic {
            write!(f, " (NIC {nic})")?;
        }
        if self.silent >= LOOK * 2 {
            write!(f, "; {peer} was silent for {:.1} s", self.silent.as_secs_f64())?;
        }
        write!(f, "; {}", self.advice())
    }
}

impl Engine {
    /// Transfers of this end that were started longer than `after` ago and have not ended, by link, oldest first. It
    /// takes time for each of them.
    pub fn stalled(&self, now: Now, after: Duration) -> Vec<Stall> {
        let mut stalls = Vec::new();
        for (id, link) in self.links.iter() {
            let Phase::Up(peer) = &link.phase else { continue };
            for (transfer, started) in link.tokens.iter() {
                if age(started, now).is_none_or(|age| age <= after) {
                    break;
                }
                if let Some(waits_for) = peer.waits_for(transfer) {
                    stalls.push(Stall::new(self, now, (id, link), peer, started, waits_for));
                }
            }
        }
        stalls
    }

    /// Logs what stands still, once for each thing that it waits for.
    pub(super) fn look_for_stalls(&mut self, now: Now) {
        let passed = now.0.saturating_sub(self.looked.0);
        let after = self.options.stall_after;
        if passed < LOOK || after.is_zero() {
            return;
        }
        self.looked = now;
        let mut lines = 0;
        for index in 0..self.links.positions() {
            let Some(id) = self.links.id_at(index) else { continue };
            // Time in which nobody drove this endpoint is no stall.
            let found = self.links.get_mut(id).map_or(0, |link| link.look(now, passed.min(LOOK * 2), after));
            if found == 0 {
                continue;
            }
            self.count(id, |traffic| traffic.stalls += u64::from(found));
            let room = MOST_LINES.saturating_sub(lines);
            self.log_new(now, id, room);
            lines += found;
        }
        if lines > MOST_LINES {
            tracing::warn!(
                endpoint = %self.facts.name,
                "{} more transfers stand still; Endpoint::stalls has all of them",
                lines - MOST_LINES
            );
        }
    }

    /// Logs the stalls that the last look has found on a link, as many as there is room for.
    fn log_new(&mut self, now: Now, id: LinkId, room: u32) {
        let Some(link) = self.links.get(id) else { return };
        let Phase::Up(peer) = &link.phase else { return };
        let found = link.tokens.iter().filter(|(_, started)| started.watch.is_new);
        for (transfer, started) in found.take(room as usize) {
            if let Some(waits_for) = peer.waits_for(transfer) {
                let stall = Stall::new(self, now, (id, link), peer, started, waits_for);
                tracing::warn!(link = %stall.peer, "stall: {stall}");
            }
        }
        if let Some(link) = self.links.get_mut(id) {
            link.tokens.iter_mut().for_each(|(_, started)| started.watch.is_new = false);
        }
    }
}

impl Link {
    /// Looks at the oldest transfers; how many of them newly count as stalls.
    fn look(&mut self, now: Now, passed: Duration, after: Duration) -> u32 {
        let Phase::Up(peer) = &self.phase else { return 0 };
        let mut looked_at = [0; TransferKind::ALL.len()];
        let mut found = 0;
        for (transfer, started) in self.tokens.iter_mut() {
            let Some(age) = age(started, now).filter(|age| *age >= LOOK) else { break };
            let looked_at = &mut looked_at[started.kind as usize];
            *looked_at += 1;
            if *looked_at > MOST_LOOKED_AT {
                continue;
            }
            if let Some(waits_for) = peer.waits_for(transfer) {
                started.watch.look(waits_for, passed.min(age));
                found += u32::from(started.watch.tell(after));
            }
        }
        found
    }
}

impl Watch {
    /// It waits for this. `passed`: time since the last look.
    fn look(&mut self, waits_for: Waiting, passed: Duration) {
        let still = still(waits_for);
        let moved = self.seen.is_some_and(|seen| seen != still);
        self.standing = if moved { Duration::ZERO } else { self.standing + passed };
        self.seen = Some(still);
    }

    /// Whether it is to be told that this is a stall.
    fn tell(&mut self, after: Duration) -> bool {
        let Some(seen) = self.seen.filter(|_| self.standing >= after) else { return false };
        // Receives are met in order: those behind the first one wait for the same.
        if matches!(seen, Waiting::PeerSends { before: 1.. })
            || self.told.is_some_and(|told| is_same(&told, &seen))
        {
            return false;
        }
        (self.told, self.is_new) = (Some(seen), true);
        true
    }
}

fn age(started: &Started, now: Now) -> Option<Duration> {
    Some(now.0.saturating_sub(started.at?.0))
}

/// Without what changes while that which it waits for stands still: other messages of the transfer may move.
const fn still(mut waits_for: Waiting) -> Waiting {
    if let Waiting::PeerAnswers { silent } = &mut waits_for {
        *silent = Duration::ZERO;
    } else if let Waiting::Transport { messages, .. } = &mut waits_for {
        *messages = 0;
    }
    waits_for
}

/// Whether two are the same thing, whatever their numbers.
fn is_same(one: &Waiting, other: &Waiting) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other) && rail_of(one) == rail_of(other)
}

const fn rail_of(waits_for: &Waiting) -> Option<RailIndex> {
    if let Waiting::Window { full: rail, .. } = waits_for {
        *rail
    } else if let Waiting::Post { rail, .. } | Waiting::Transport { rail, .. } = waits_for {
        Some(*rail)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stall_is_told_once_and_again_when_it_waits_for_something_else() {
        let mut watch = Watch::default();
        let mut told = |waits_for| {
            watch.look(waits_for, SECOND);
            watch.tell(2 * SECOND)
        };
        let answers = |seconds| Waiting::PeerAnswers { silent: seconds * SECOND };
        assert!(!told(answers(1)));
        assert!(told(answers(2)), "silence that grows is no movement");
        assert!(!told(answers(3)));
        assert!(!told(Waiting::PeerReceives), "it moved");
        assert!(!told(Waiting::PeerReceives));
        assert!(told(Waiting::PeerReceives));
        assert!(!told(Waiting::PeerReceives));
    }

    #[test]
    fn what_moves_is_no_stall() {
        let mut watch = Watch::default();
        for announced in 0..20 {
            watch.look(Waiting::PeerAnnounces { announced, total: 20 }, SECOND);
            assert!(!watch.tell(2 * SECOND));
        }
        for before in (0..5).rev() {
            for _ in 0..4 {
                watch.look(Waiting::PeerSends { before }, SECOND);
            }
            assert_eq!(watch.tell(2 * SECOND), before == 0);
        }
        let full = |rail| Waiting::Window { full: Some(RailIndex(rail)), uncut: 5 };
        for rail in [1, 2] {
            for _ in 0..4 {
                watch.look(full(rail), SECOND);
            }
            assert!(watch.tell(2 * SECOND), "another rail is something else");
            assert!(!watch.tell(2 * SECOND));
        }
    }
}
