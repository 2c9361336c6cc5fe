//! What is shown while it runs: bars on a terminal, a line for each phase elsewhere, nothing if that was asked for.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use p2p_endpoint::endpoint::Endpoint;
use serde::Serialize;

use super::nics::{self, Bytes};

/// Between two looks at an endpoint's counters.
pub(super) const SAMPLE: Duration = Duration::from_millis(250);
/// Between two drawings of a bar whose numbers stand still.
const TICK: Duration = Duration::from_millis(125);
/// A NIC's bar is full at this many gigabytes per second, until it was faster.
const FULL: f64 = 1.0;
/// Share of the time that is shown at most, while there is more to do.
const MOST: f64 = 0.99;
/// Steps of a NIC's bar.
const STEPS: u64 = 1000;

/// The view.
#[derive(Debug)]
pub(super) struct Live {
    how: How,
    began: Instant,
    whole: Duration,
}

#[derive(Debug)]
enum How {
    Bars(Bars),
    Lines,
    Quiet,
}

#[derive(Clone, Debug)]
struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    step: ProgressBar,
    nics: Arc<Mutex<BTreeMap<String, Rate>>>,
}

/// One NIC's bar, and the fastest it has shown.
#[derive(Debug)]
struct Rate {
    bar: ProgressBar,
    most: f64,
}

impl Live {
    /// Of a run that takes about `whole`.
    pub(super) fn new(quiet: bool, whole: Duration) -> Self {
        let how = if quiet {
            How::Quiet
        } else if std::io::stderr().is_terminal() {
            How::Bars(Bars::new(whole))
        } else {
            How::Lines
        };
        Self { how, began: Instant::now(), whole }
    }

    /// A new part of the run begins.
    pub(super) fn phase(&self, text: &str) {
        match &self.how {
            How::Bars(bars) => {
                bars.whole.set_message(text.to_owned());
                bars.step.set_message(String::new());
            }
            How::Lines => {
                let line = format!("p2p bench: {:3.0} s: {text}\n", self.began.elapsed().as_secs_f64());
                // Where nobody reads it, there is nobody to say so to.
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            How::Quiet => {}
        }
        self.advance();
    }

    /// Something within a part.
    pub(super) fn step(&self, text: &str) {
        if let How::Bars(bars) = &self.how {
            bars.step.set_message(text.to_owned());
        }
        self.advance();
    }

    fn advance(&self) {
        if let How::Bars(bars) = &self.how {
            // What takes longer is not at its end.
            let most = self.whole.mul_f64(MOST);
            bars.whole.set_position(self.began.elapsed().min(most).as_millis() as u64);
        }
    }

    /// Takes everything off the terminal.
    pub(super) fn finish(&self) {
        if let How::Bars(bars) = &self.how {
            bars.whole.finish_and_clear();
            bars.step.finish_and_clear();
            for rate in bars.nics.lock().unwrap_or_else(PoisonError::into_inner).values() {
                rate.bar.finish_and_clear();
            }
            let _ = bars.all.clear();
        }
    }

    /// Looks at the counters of an endpoint every quarter of a second, until the watch is stopped.
    pub(super) fn watch(&self, endpoint: Endpoint) -> Watch {
        let bars = if let How::Bars(bars) = &self.how { Some(bars.clone()) } else { None };
        Watch::start(endpoint, self.began, bars)
    }
}

impl Bars {
    fn new(whole: Duration) -> Self {
        let all = MultiProgress::new();
        let add = |bar: ProgressBar, template: &str| {
            let bar = all.add(bar);
            // A template that is wrong shows a plainer bar.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("##-"));
            }
            bar
        };
        let time = add(
            ProgressBar::new(whole.as_millis() as u64),
            "[{elapsed}] {wide_bar:.cyan} {percent:>3} %  {msg}",
        );
        let step = add(ProgressBar::new_spinner(), "  {spinner} {wide_msg}");
        time.enable_steady_tick(TICK);
        step.enable_steady_tick(TICK);
        Self { all, whole: time, step, nics: Arc::default() }
    }

    fn show(&self, nic: &str, gigabytes_per_second: f64) {
        let mut nics = self.nics.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = nics.entry(nic.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(STEPS));
            if let Ok(style) = ProgressStyle::with_template("  {prefix:<18} {bar:24.green} {msg}") {
                bar.set_style(style.progress_chars("##-"));
            }
            bar.set_prefix(nic.to_owned());
            Rate { bar, most: FULL }
        });
        rate.most = rate.most.max(gigabytes_per_second);
        rate.bar.set_position((gigabytes_per_second / rate.most * STEPS as f64) as u64);
        rate.bar.set_message(format!("{gigabytes_per_second:6.2} GB/s between endpoints"));
    }
}

/// What each NIC moved in a quarter of a second.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Since the run began, at its end.
    pub(super) seconds: f64,
    /// Gigabytes per second, both ways, in the order of [`Timeline::nics`].
    pub(super) gigabytes_per_second: Vec<f64>,
}

/// What each NIC moved, over time.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Timeline {
    pub(super) nics: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

impl Timeline {
    fn add(
        &mut self,
        seconds: f64,
        took: f64,
        before: &BTreeMap<String, Bytes>,
        now: &BTreeMap<String, Bytes>,
    ) {
        let rate = |nic: &String| {
            let both = |at: &BTreeMap<String, Bytes>| at.get(nic).map_or(0, |bytes| bytes.both());
            both(now).saturating_sub(both(before)) as f64 / 1e9 / took.max(1e-9)
        };
        self.nics = now.keys().cloned().collect();
        self.samples.push(Sample { seconds, gigabytes_per_second: self.nics.iter().map(rate).collect() });
    }
}

/// Looks at an endpoint from a thread of its own.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Timeline>>,
}

impl Watch {
    fn start(endpoint: Endpoint, began: Instant, bars: Option<Bars>) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let look = move || {
            let mut timeline = Timeline::default();
            let (mut before, mut at) = (nics::of_endpoint(&endpoint), Instant::now());
            while stopped.recv_timeout(SAMPLE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let (now, then) = (nics::of_endpoint(&endpoint), at);
                at = Instant::now();
                timeline.add(began.elapsed().as_secs_f64(), (at - then).as_secs_f64(), &before, &now);
                if let (Some(bars), Some(sample)) = (&bars, timeline.samples.last()) {
                    for (nic, rate) in timeline.nics.iter().zip(&sample.gigabytes_per_second) {
                        bars.show(nic, *rate);
                    }
                }
                before = now;
            }
            timeline
        };
        // Without a thread there is nothing to see, and all else goes on.
        let thread = std::thread::Builder::new().name("p2p-bench-view".to_owned()).spawn(look).ok();
        Self { stop: Some(stop), thread }
    }

    /// What there was to see.
    pub(super) fn stop(mut self) -> Timeline {
        drop(self.stop.take());
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Timeline};
    use std::collections::BTreeMap;

    #[test]
    fn a_sample_is_what_moved_since_the_one_before() {
        let at = |first: u64, second: u64| -> BTreeMap<String, Bytes> {
            let of = |name: &str, sent| (name.to_owned(), Bytes { sent, received: 1_000_000_000 });
            [of("eth1", first), of("eth2", second)].into()
        };
        let mut timeline = Timeline::default();
        timeline.add(0.5, 0.5, &at(0, 0), &at(1_000_000_000, 500_000_000));
        timeline.add(1.0, 0.5, &at(1_000_000_000, 500_000_000), &at(1_000_000_000, 1_000_000_000));
        assert_eq!(timeline.nics, ["eth1", "eth2"]);
        let rates: Vec<&[f64]> =
            timeline.samples.iter().map(|sample| sample.gigabytes_per_second.as_slice()).collect();
        assert_eq!(rates, [[2.0, 1.0], [0.0, 1.0]]);
    }
}
