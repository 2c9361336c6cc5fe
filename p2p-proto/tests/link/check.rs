//! What must have come of a script.

use std::collections::VecDeque;

use bytes::Bytes;
use p2p_proto::frame::Refusal;
use p2p_proto::peer::{Happened, Outcome};

use crate::run::{Job, JobKind, Run};
use crate::script::Wrong;

/// Whom a send or a receive meets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Partner {
    Job(usize),
    /// Of a send: longer than the receive that it met.
    TooLong,
    Nobody,
}

impl Run {
    pub(crate) fn check_outcomes(&self) {
        let partners = self.partners();
        for (index, job) in self.jobs.iter().enumerate() {
            let outcome = self.world.outcome(job.end, job.transfer).expect("everything has ended");
            let bytes = job.local.iter().map(|range| range.len).sum::<u64>();
            let expected = if job.abandoned {
                Some(Outcome::Abandoned)
            } else {
                match (job.kind, job.wrong) {
                    (JobKind::Write | JobKind::Read, Wrong::Nothing) => Some(Outcome::Done { bytes }),
                    (JobKind::Write | JobKind::Read, Wrong::Key) => {
                        Some(Outcome::Refused(Refusal::UnknownKey))
                    }
                    (JobKind::Write | JobKind::Read, Wrong::Range) => {
                        Some(Outcome::Refused(Refusal::OutOfRange))
                    }
                    (JobKind::Send, _) if partners[index] == Partner::TooLong => {
                        Some(Outcome::Refused(Refusal::TooLong))
                    }
                    (JobKind::Send, _) => Some(Outcome::Done { bytes }),
                    (JobKind::Recv, _) => match partners[index] {
                        Partner::Job(sender) => Some(Outcome::Done { bytes: self.jobs[sender].bytes() }),
                        Partner::TooLong | Partner::Nobody => None,
                    },
                }
            };
            let lost = matches!(outcome, Outcome::RailLost(_) | Outcome::LinkLost);
            let gone = matches!(outcome, Outcome::MemoryGone { .. } | Outcome::Refused(Refusal::UnknownKey));
            assert!(
                Some(outcome) == expected || self.faulty && lost || job.released && gone,
                "{:?} of end {} ended as {outcome:?}, not as {expected:?}",
                job.kind,
                job.end
            );
            if let Outcome::Done { .. } = outcome {
                self.check_bytes(job, partners[index]);
            }
        }
    }

    pub(crate) fn check_bytes(&self, job: &Job, partner: Partner) {
        let here = self.world.ends[job.end].memory.gather(&job.local);
        let other = match (job.kind, partner) {
            (JobKind::Write | JobKind::Read, _) => &job.remote,
            (JobKind::Send | JobKind::Recv, Partner::Job(partner)) => &self.jobs[partner].local,
            (JobKind::Send | JobKind::Recv, Partner::TooLong | Partner::Nobody) => {
                unreachable!("it met nobody")
            }
        };
        let there = self.world.ends[1 - job.end].memory.gather(other);
        let same = if job.kind == JobKind::Recv {
            here[..there.len()] == there[..] && here[there.len()..].iter().all(|byte| *byte == 0xee)
        } else if job.kind == JobKind::Send {
            there[..here.len()] == here[..]
        } else {
            here == there
        };
        assert!(same, "{:?} of end {} is done, and the bytes differ", job.kind, job.end);
    }

    /// Which send meets which receive, by their order alone.
    fn partners(&self) -> Vec<Partner> {
        let mut partners = vec![Partner::Nobody; self.jobs.len()];
        for end in 0..2 {
            let of = |end: usize, kind: JobKind| -> VecDeque<usize> {
                (0..self.jobs.len())
                    .filter(|job| self.jobs[*job].end == end && self.jobs[*job].kind == kind)
                    .collect()
            };
            let (mut sends, mut recvs) = (of(end, JobKind::Send), of(1 - end, JobKind::Recv));
            while let (Some(send), Some(recv)) = (sends.front().copied(), recvs.front().copied()) {
                sends.pop_front();
                if self.jobs[send].bytes() > self.jobs[recv].bytes() {
                    partners[send] = Partner::TooLong;
                } else {
                    recvs.pop_front();
                    partners[send] = Partner::Job(recv);
                    partners[recv] = Partner::Job(send);
                }
            }
        }
        partners
    }

    pub(crate) fn check_notices(&self) {
        for end in 0..2 {
            let heard: Vec<&Bytes> = self.world.ends[1 - end].happened.iter().filter_map(notified).collect();
            let said = || self.said.iter().filter(|said| said.end == end);
            for bytes in &heard {
                assert!(said().any(|said| said.bytes == **bytes), "a notification that nobody said");
                assert_eq!(heard.iter().filter(|other| *other == bytes).count(), 1, "it was heard twice");
            }
            let plain: Vec<&Bytes> =
                said().filter(|said| said.after.is_none()).map(|said| &said.bytes).collect();
            let mut plain_heard = heard.clone();
            plain_heard.retain(|bytes| plain.contains(bytes));
            assert!(plain.starts_with(&plain_heard), "notifications are out of order");
            assert!(self.faulty || plain == plain_heard, "a notification is missing");
            for said in said() {
                let Some(after) = said.after else { continue };
                let job = self
                    .jobs
                    .iter()
                    .find(|job| job.end == end && job.transfer == after)
                    .expect("somebody began it");
                let is_heard = heard.contains(&&said.bytes);
                if job.wrong != Wrong::Nothing {
                    assert!(!is_heard, "a notification after a write that was refused");
                } else if !self.faulty && !job.released {
                    assert!(is_heard, "a notification after a write is missing");
                }
            }
        }
    }

    pub(crate) fn check_counters(&self) {
        for end in 0..2 {
            for counter in 0..3 {
                let counted = Happened::Counted(counter);
                let heard = self.world.ends[1 - end].happened.iter().filter(|what| **what == counted).count();
                let good = |job: &&Job| {
                    job.end == end && job.counter == Some(counter) && job.wrong == Wrong::Nothing
                };
                let good = self.jobs.iter().filter(good);
                let done = good.clone().filter(|job| !job.released).filter(|job| {
                    matches!(
                        self.world.outcome(end, job.transfer),
                        Some(Outcome::Done { .. } | Outcome::Abandoned)
                    )
                });
                assert!(heard <= good.count(), "a counter was raised without a write");
                assert!(heard >= done.count() || self.faulty, "a counter was not raised");
            }
        }
    }
}

fn notified(happened: &Happened) -> Option<&Bytes> {
    match happened {
        Happened::Notified(bytes) => Some(bytes),
        Happened::Ended { .. }
        | Happened::Counted(_)
        | Happened::RailBroken(_)
        | Happened::Goodbye(_)
        | Happened::Lost(_) => None,
    }
}
