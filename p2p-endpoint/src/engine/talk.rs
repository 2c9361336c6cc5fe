//! How long an answer is waited for awake: waking up takes longer than an answer from near by.

use std::time::Duration;

use p2p_transport::Now;

use super::event::LinkId;

/// Time after a word in which the next one is waited for awake.
const SHORT: Duration = Duration::from_micros(50);
/// As long where the last answer came within this time: it is more than a peer takes that has to be woken, so that two
/// ends that have fallen asleep once do not go on waking each other.
const LONG: Duration = Duration::from_micros(250);

/// A look at everything costs several of them.
const SHORT_LOOKS: u8 = 8;

/// The words on the control streams of an endpoint, and when the last one was.
#[derive(Debug)]
pub(super) struct Talk {
    last: Now,
    awake: Duration,
    /// With whom.
    link: Option<LinkId>,
    /// Polls that may look at this link alone, before one looks at everything.
    short_looks: u8,
}

impl Talk {
    pub(super) fn new() -> Self {
        Self { last: Now::default(), awake: Duration::ZERO, link: None, short_looks: 0 }
    }

    pub(super) fn said(&mut self, link: LinkId, now: Duration) {
        (self.link, self.last) = (Some(link), Now(now));
        self.awake = self.awake.max(SHORT);
    }

    pub(super) fn heard(&mut self, link: LinkId, now: Duration) {
        let is_soon = now.saturating_sub(self.last.0) <= LONG;
        self.awake = if is_soon { LONG } else { SHORT };
        (self.link, self.last) = (Some(link), Now(now));
    }

    /// The link that a poll may look at alone, while its next word is waited for awake.
    pub(super) fn short_look(&mut self, now: Now) -> Option<LinkId> {
        self.short_looks = self.short_looks.checked_sub(1)?;
        self.link.filter(|_| self.goes_on(now))
    }

    /// Everything was looked at, and nothing is there to be done.
    pub(super) const fn may_look_short(&mut self, may: bool) {
        self.short_looks = if may { SHORT_LOOKS } else { 0 };
    }

    /// Whether the next word is waited for awake.
    pub(super) fn goes_on(&self, now: Now) -> bool {
        now < self.last.after(self.awake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_transport::Id;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn who_answers_soon_is_waited_for_longer_than_a_stranger() {
        let link = LinkId::of(0, std::num::NonZeroU32::MIN);
        let mut talk = Talk::new();
        assert!(!talk.goes_on(Now::default()), "nobody has spoken");
        talk.said(link, micros(1000));
        assert!(talk.goes_on(Now(micros(1049))) && !talk.goes_on(Now(micros(1050))));
        // The peer had to be woken, and answers all the same.
        talk.heard(link, micros(1200));
        assert!(talk.goes_on(Now(micros(1449))) && !talk.goes_on(Now(micros(1450))));
        talk.said(link, micros(1210));
        assert!(talk.goes_on(Now(micros(1459))));
        // A sign of life once a second costs nothing much.
        talk.heard(link, micros(1_000_000));
        assert!(talk.goes_on(Now(micros(1_000_049))) && !talk.goes_on(Now(micros(1_000_050))));
    }

    #[test]
    fn every_few_looks_one_is_at_everything() {
        let link = LinkId::of(3, std::num::NonZeroU32::MIN);
        let mut talk = Talk::new();
        talk.said(link, micros(1000));
        assert_eq!(talk.short_look(Now(micros(1001))), None);
        talk.may_look_short(true);
        for _ in 0..SHORT_LOOKS {
            assert_eq!(talk.short_look(Now(micros(1001))), Some(link));
        }
        assert_eq!(talk.short_look(Now(micros(1001))), None);
        talk.may_look_short(true);
        assert_eq!(talk.short_look(Now(micros(2000))), None, "it is too late");
        talk.may_look_short(false);
        assert_eq!(talk.short_look(Now(micros(1001))), None);
    }
}
