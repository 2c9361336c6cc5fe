//! Turns and polls, what they must not report, and waiting within bounds.

use std::time::Duration;

use p2p_transport::{ConnId, Event, Slice};

use super::{Buffer, Rig, Work};

impl Rig<'_> {
    /// Lets time pass and polls both ends once; the operations that completed.
    #[track_caller]
    pub(crate) fn turn(&mut self) -> Vec<usize> {
        self.pass_time();
        let mut completed = self.poll(0);
        completed.extend(self.poll(1));
        completed
    }

    pub(crate) fn pass_time(&mut self) {
        let now = self.harness.step();
        assert!(now >= self.now, "the harness's time went back from {:?} to {now:?}", self.now);
        self.now = now;
    }

    /// Polls one end, checks and notes what it reports; the operations that completed.
    #[track_caller]
    pub(crate) fn poll(&mut self, end: usize) -> Vec<usize> {
        let now = self.now;
        let this = &mut self.ends[end];
        let Some(transport) = &mut this.transport else { return Vec::new() };
        this.next = transport.poll(now, &mut this.events);
        let events: Vec<Event> = this.events.drain().collect();
        events.into_iter().filter_map(|event| self.note(end, event)).collect()
    }

    #[track_caller]
    fn note(&mut self, end: usize, event: Event) -> Option<usize> {
        let mut completed = None;
        match event {
            Event::Connected(conn) => {
                let first = self.ends[end].open.contains(&conn) && !self.ends[end].log.contains(&event);
                require!(
                    self,
                    first,
                    "end {end}: expected one Connected of a live connection, {event:?} came"
                );
            }
            Event::Closed(conn) => {
                let left = self.works.iter().find(|work| is_pending(work, end, conn));
                require!(
                    self,
                    left.is_none(),
                    "end {end}: expected all to complete before Closed, not {left:?}"
                );
                let open = self.ends[end].open.contains(&conn);
                require!(self, open, "end {end}: expected nothing after Closed, and {event:?} came");
                self.ends[end].open.retain(|live| *live != conn);
            }
            Event::Completed { conn, token, outcome } => {
                let open = self.ends[end].open.contains(&conn);
                require!(self, open, "end {end}: expected no completion after Closed, and {event:?} came");
                let of = |work: &Work| is_pending(work, end, conn) && work.token == token.0;
                completed = self.works.iter().position(of);
                let Some(work) = completed else {
                    let was = self.works.iter().find(|work| work.end == end && work.token == token.0);
                    self.fail(format_args!(
                        "end {end}: expected one completion of each accepted operation, and {event:?} is not of a \
                         pending one; with this token there was {was:?}"
                    ));
                };
                self.works[work].outcome = Some(outcome);
            }
            Event::Retired(region) => {
                let asked = |buffer: &Buffer| buffer.end == end && buffer.region == region;
                let Some(buffer) = self.buffers.iter().position(asked) else {
                    self.fail(format_args!(
                        "end {end}: expected Retired of a region of the test, {event:?} came"
                    ));
                };
                let of = &self.buffers[buffer];
                require!(self, of.retiring && !of.retired, "expected Retired once and on request: {event:?}");
                let user = self.works.iter().find(|work| {
                    let uses = |slice: &Slice| slice.region == region;
                    work.end == end && work.uses && work.outcome.is_none() && work.slices.iter().any(uses)
                });
                require!(
                    self,
                    user.is_none(),
                    "expected {event:?} only after the last user, and {user:?} is pending"
                );
                self.buffers[buffer].retired = true;
            }
            Event::Notified { .. } => self.fail(format_args!("end {end}: nobody wrote, and {event:?} came")),
            _ => {}
        }
        self.ends[end].log.push(event);
        completed
    }

    /// Turns until something holds; fails after the bound on the harness's clock, or too many steps.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, bound: Duration, mut holds: impl FnMut(&Self) -> bool) {
        self.until_with(what, bound, |rig| {
            rig.turn();
            holds(rig)
        });
    }

    /// Repeats a turn of the law's own until it says that something holds.
    #[track_caller]
    pub(crate) fn until_with(
        &mut self,
        what: &str,
        bound: Duration,
        mut turn: impl FnMut(&mut Self) -> bool,
    ) {
        let deadline = self.now.after(bound);
        for step in 0..self.bounds.steps {
            if turn(self) {
                return;
            }
            if self.now > deadline {
                self.fail(format_args!(
                    "expected within {bound:?} ({step} steps) that {what}; it has not{}",
                    self.rest()
                ));
            }
        }
        self.fail(format_args!(
            "expected within {} steps that {what}; it has not{}",
            self.bounds.steps,
            self.rest()
        ));
    }

    /// What is unfinished, for a failure's message.
    fn rest(&self) -> String {
        let work = self.works.iter().find(|work| work.outcome.is_none());
        let (pending, last) =
            ([self.pending(0), self.pending(1)], self.ends.each_ref().map(|end| end.log.last()));
        format!(" (pending {pending:?}, first {work:?}, last events {last:?})")
    }

    #[track_caller]
    pub(crate) fn until_done(&mut self, works: &[usize]) {
        let bound = self.bounds.progress;
        self.until("these operations complete", bound, |rig| {
            works.iter().all(|&work| rig.outcome(work).is_some())
        });
    }

    #[track_caller]
    pub(crate) fn until_idle(&mut self) {
        let bound = self.bounds.progress;
        self.until("all operations complete", bound, |rig| rig.pending(0) + rig.pending(1) == 0);
    }

    #[track_caller]
    pub(crate) fn until_retired(&mut self, buffer: usize) {
        let bound = self.bounds.progress;
        self.until("the region is Retired", bound, |rig| rig.buffers[buffer].retired);
    }

    #[track_caller]
    pub(crate) fn until_closed(&mut self, end: usize, bound: Duration) {
        self.until("the connection is Closed", bound, |rig| rig.is_closed(end));
    }

    /// Turns for a while in which nothing may be reported.
    #[track_caller]
    pub(crate) fn silence(&mut self) {
        let before = [self.ends[0].log.len(), self.ends[1].log.len()];
        for _ in 0..self.bounds.quiet_steps {
            self.turn();
        }
        for (end, before) in before.into_iter().enumerate() {
            let more = &self.ends[end].log[before..];
            require!(self, more.is_empty(), "end {end}: expected no further event, and {more:?} came");
        }
    }

    /// Turns for a while, whatever happens.
    #[track_caller]
    pub(crate) fn wait_a_little(&mut self) {
        for _ in 0..self.bounds.quiet_steps {
            self.turn();
        }
    }
}

fn is_pending(work: &Work, end: usize, conn: ConnId) -> bool {
    work.end == end && work.conn == conn && work.outcome.is_none()
}
