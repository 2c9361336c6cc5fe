//! The product and plain TCP at the sizes that count, in rounds of both.

use std::time::Instant;

use benches::cores::{self, Pinned};
use benches::raw_tcp::Sender;
use benches::statistics::Latencies;

use super::comparison::{Comparison, EndpointRound, Pings, PlainRound};
use super::endpoints::Way;
use super::figures::{Entry, Moved};
use super::iperf;
use super::live::Live;
use super::ping_pong::Calling;
use super::placement::Placement;
use super::plan::{COMPARED, COMPARED_MESSAGES, FINALISTS, LONG, LONG_MESSAGES, PINGS, Plan, SLICE};
use super::report::Report;
use super::session::Session;
use super::words::{Command, Shape};
use crate::failure::Failure;

impl Session {
    /// Rounds of the product and of plain TCP in turn, until enough are of one state or time is over.
    pub(super) fn compare(
        &mut self,
        plan: &Plan,
        began: Instant,
        live: &Live,
        raw: &mut Sender,
        report: &mut Report,
        other: bool,
    ) -> Result<(), Failure> {
        let channels = report.best_channels(COMPARED).unwrap_or(1);
        report.compared_channels = channels;
        live.phase("comparing with plain TCP, in rounds");
        live.step("choosing the fastest plain TCP");
        let ranked = self.raw(false, raw, |raw| raw.qualify(COMPARED, plan.qualification))?;
        let layouts = raw.layouts();
        report.qualification =
            ranked.iter().map(|(number, speed)| (layouts[*number].to_string(), *speed)).collect();
        let finalists: Vec<usize> = ranked.iter().take(FINALISTS).map(|(number, _)| *number).collect();
        report.finalists = finalists.iter().map(|number| layouts[*number].to_string()).collect();
        let manner = if other { Some(self.fastest_manner(live)?) } else { None };
        let mut before = self.condition()?;
        loop {
            let elapsed = began.elapsed();
            let limit = if report.settled() { plan.whole } else { plan.whole + plan.extension };
            if elapsed >= limit && !report.comparisons.is_empty() {
                return Ok(());
            }
            let round = report.comparisons.len();
            let more = if elapsed >= plan.whole { ", going on for rounds that are alike" } else { "" };
            live.step(&format!("round {}, cores {}{more}", round + 1, before.distance.state));
            let product_first = round.is_multiple_of(2);
            let mut messages = None;
            if product_first {
                messages = Some(self.compared(channels)?);
            }
            let mut plain = PlainRound::default();
            for layout in &finalists {
                let (short, long) = self.raw(false, raw, |raw| {
                    let short = raw.round(*layout, COMPARED_MESSAGES, COMPARED)?;
                    Ok((short, raw.round(*layout, LONG_MESSAGES, LONG)?))
                })?;
                plain.add(&short, &long);
            }
            let messages = messages.map_or_else(|| self.compared(channels), Ok)?;
            let scattered = self.scattered(channels, COMPARED_MESSAGES, false)?;
            let endpoint = self.endpoint_round()?;
            let iperf = manner.map(|manner| self.iperf(manner)).transpose()?;
            let after = self.condition()?;
            let pings = self.pings(raw)?;
            let conditions = [before, after];
            report
                .comparisons
                .push(Comparison::new(conditions, messages, scattered, plain, endpoint, pings, iperf));
            before = self.condition()?;
        }
    }

    /// How iperf3 is fastest.
    fn fastest_manner(&mut self, live: &Live) -> Result<iperf::Manner, Failure> {
        live.step("choosing the fastest iperf3");
        let mut best = (iperf::MANNERS[0], 0.0);
        for manner in iperf::MANNERS {
            let rate = self.iperf(manner)?;
            if rate > best.1 {
                best = (manner, rate);
            }
        }
        Ok(best.0)
    }

    /// Messages over the connections in a comparison.
    fn compared(&mut self, channels: usize) -> Result<Entry, Failure> {
        let pass = self.pass(COMPARED, channels, COMPARED_MESSAGES, false);
        Ok(self.run(&pass)?.entry)
    }

    /// One round of the endpoints.
    fn endpoint_round(&mut self) -> Result<EndpointRound, Failure> {
        let mut run = |way, size, messages, shape| -> Result<Moved, Failure> {
            let mut pass = self.endpoint_pass(size, messages);
            pass.shape = shape;
            self.active.run(way, &pass, &Placement::new(self.region.len(), size, shape))
        };
        let write = run(Way::Write, COMPARED, COMPARED_MESSAGES, Shape::Contiguous)?;
        let read = run(Way::Read, COMPARED, COMPARED_MESSAGES, Shape::Contiguous)?;
        let vector = run(Way::Write, COMPARED, COMPARED_MESSAGES, Shape::Scattered(SLICE))?;
        let long_write = run(Way::Write, LONG, LONG_MESSAGES, Shape::Contiguous)?;
        Ok(EndpointRound { write, read, vector, long_write })
    }

    /// Small messages to and fro: over the connections, over plain TCP, and as notifications.
    fn pings(&mut self, raw: &mut Sender) -> Result<Pings, Failure> {
        let messages = self.ping_pong()?;
        let plain = {
            let _pinned = first_core();
            self.raw(true, raw, |raw| raw.ping_pong(PINGS))?
        };
        let notifications = {
            let _pinned = first_core();
            self.ask(&Command::Notifications { count: PINGS })?;
            self.active.call(PINGS)?
        };
        Ok(Pings::of(&messages, &notifications, &plain))
    }

    fn ping_pong(&mut self) -> Result<Latencies, Failure> {
        let _pinned = first_core();
        self.ask(&Command::PingPong { messages: PINGS })?;
        let mut calling = Calling::new(&self.region, PINGS);
        self.link.drive_awake(&mut calling)?;
        Ok(calling.latencies())
    }
}

/// Keeps the calling thread on the first core it may use, where there is another for the other end.
fn first_core() -> Option<Pinned> {
    let allowed = cores::allowed().ok().filter(|allowed| allowed.len() > 1)?;
    cores::pin(allowed[0]).ok()
}
