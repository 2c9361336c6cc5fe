//! The end that sends, measures and prints.

use std::time::{Duration, Instant};

use tcpx_core::config::Config;

use super::Options;
use super::about::About;
use super::bootstrap::Peer;
use super::calibrate;
use super::live::Live;
use super::net::Net;
use super::plan::Plan;
use super::report::Report;
use super::session::Session;
use super::sweep;
use super::trial;
use crate::failure::{Doing, Failure};
use crate::output::{self, Kept};

/// Runs everything and prints it.
pub(super) fn run(options: &Options, config: &Config, congestion: Option<String>) -> Result<(), Failure> {
    let began = Instant::now();
    let json = options.json.as_deref().map(Kept::new).transpose()?;
    let page = options.report.as_deref().map(|file| Kept::of("--report", file)).transpose()?;
    let net = if options.transfers() { Some(Net::tcpx(options, config)?) } else { None };
    let port = config.bootstrap_port_base.value.of(config.local_device.value).get();
    let patience = Duration::from_secs(config.connect_timeout_seconds.value.get());
    let host = options.peer.as_deref().ok_or_else(|| Failure::new("--role client needs --peer"))?;
    let mut peer = Peer::find(host, port, patience)?;
    let live = Live::new(options.quiet, Duration::from_secs(options.seconds));
    let Some(net) = net else {
        if options.calibrate {
            let calibrated = calibrate::run(options, &mut peer, &live);
            live.finish();
            let calibrated = calibrated?;
            json.map_or(Ok(()), |json| json.write(&calibrated))?;
            return output::print(&calibrated.to_string());
        }
        let swept = sweep::run(options, config, &mut peer, host, &live);
        live.finish();
        let swept = swept?;
        json.map_or(Ok(()), |json| json.write(&swept))?;
        page.map_or(Ok(()), |page| page.write_text(swept.page().to_html().as_bytes()))?;
        return output::print(&swept.to_string());
    };
    live.phase("opening endpoints and connections");
    let mut session = Session::open(options, net, peer, congestion)?;
    if options.is_trial() {
        let tried = trial::measure(&mut session)?;
        session.end()?;
        let figure = serde_json::to_string(&tried).map_err(|error| Failure::new(error.to_string()))?;
        output::print(&format!("{figure}\n"))?;
        session.close();
        return Ok(());
    }
    let report = measure(&mut session, options, began, &live);
    live.finish();
    let report = report?;
    session.end()?;
    // First of all: standard output may have nobody who reads it.
    json.map_or(Ok(()), |json| json.write(&report))?;
    let charts = match &page {
        Some(page) => {
            page.write_text(report.page().to_html().as_bytes())?;
            format!("charts: {}", page.name())
        }
        None => "charts: --report FILE writes one HTML file with all of this".to_owned(),
    };
    let late = longer_than_asked(options.seconds, began.elapsed());
    output::print(&format!("{report}{late}{charts}\n{}\n", report.ratio_line()))?;
    session.close();
    Ok(())
}

/// A line for a run that took much longer than it was asked to.
fn longer_than_asked(seconds: u64, took: Duration) -> String {
    let took = took.as_secs();
    if took <= 2 * seconds + 2 {
        return String::new();
    }
    format!(
        "took {took} s, not {seconds}: every byte is verified, and everything measured once, however long that takes; fewer \
         --sizes and --channels take less\n"
    )
}

fn measure(session: &mut Session, options: &Options, began: Instant, live: &Live) -> Result<Report, Failure> {
    let plan = Plan::new(options.seconds);
    let mut raw = session.open_raw()?;
    let mut report = Report {
        about: About::here(),
        plugin: session.net.clone(),
        nics: session.link.rails(),
        sockets: session.link.describe(),
        congestion: raw.congestion().doing("reading the congestion control")?,
        same_host: session.same_host,
        ..Report::default()
    };
    report.verified = session.verify(options, live)?;
    session.matrix(options, &plan, began, live, &mut report)?;
    let watch = live.watch(session.active.endpoint().clone());
    report.sizes = session.sizes(&options.sizes, &plan, began, live, &mut raw)?;
    session.compare(&plan, began, live, &mut raw, &mut report, options.compare.is_some())?;
    report.timeline = watch.stop();
    report.client_nics = session.nics();
    report.server_nics = session.server_nics()?;
    report.conclude();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::longer_than_asked;
    use std::time::Duration;

    #[test]
    fn a_run_that_takes_much_longer_than_asked_says_so() {
        assert_eq!(longer_than_asked(60, Duration::from_secs(118)), "", "what restless machines take");
        let text = longer_than_asked(3, Duration::from_secs(56));
        assert!(text.starts_with("took 56 s, not 3: ") && text.contains("--sizes"), "{text}");
    }
}
