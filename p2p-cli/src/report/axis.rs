//! Axes: where values lie, and which of them are written beside it.

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scale {
    /// Evenly, from zero or below.
    Linear,
    /// Evenly, from the lowest to the highest.
    Range,
    /// By their logarithm; values of zero and less have no place.
    Log,
}

/// An axis. Its ends are chosen from the values.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// Writes a value beside the axis.
    pub(crate) write: fn(f64) -> String,
    /// Values to be written, instead of round ones.
    pub(crate) marks: Vec<f64>,
}

/// An axis with ends.
#[derive(Clone, Debug)]
pub(super) struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    /// Values to be written.
    pub(super) marks: Vec<f64>,
}

/// Marks of an axis at most, unless the caller chose them.
const MOST_MARKS: usize = 7;

impl Axis {
    /// The span that holds all these values.
    pub(super) fn span(&self, values: impl Iterator<Item = f64>) -> Span {
        let fits = |value: &f64| value.is_finite() && (self.scale != Scale::Log || *value > 0.0);
        let (low, high) = values
            .filter(fits)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        match self.scale {
            Scale::Linear => self.linear(low, high),
            Scale::Range => self.range(low, high),
            Scale::Log => self.log(low, high),
        }
    }

    fn linear(&self, low: f64, high: f64) -> Span {
        let step = round_step((high - low.min(0.0)).max(1e-9) / (MOST_MARKS - 2) as f64);
        let low = if low < 0.0 { (low / step).floor() * step } else { 0.0 };
        let high = ((high / step).ceil() * step).max(low + step);
        let count = ((high - low) / step).round() as usize;
        let marks = (0..=count).map(|at| low + at as f64 * step).collect();
        Span { scale: Scale::Linear, low, high, marks: self.chosen(marks, low, high) }
    }

    fn range(&self, low: f64, high: f64) -> Span {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / (MOST_MARKS - 1) as f64);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        let marks = (first..=last).map(|at| at as f64 * step).collect();
        Span { scale: Scale::Range, low, high, marks: self.chosen(marks, low, high) }
    }

    fn log(&self, low: f64, high: f64) -> Span {
        if !self.marks.is_empty() {
            // The caller knows the values; half a step beside the outermost.
            let (low, high) = (low / 1.4, high * 1.4);
            return Span { scale: Scale::Log, low, high, marks: self.chosen(Vec::new(), low, high) };
        }
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let last = last.max(first + 1);
        let skip = ((last - first) as usize).div_ceil(MOST_MARKS - 1).max(1);
        let marks = (first..=last).step_by(skip).map(|power| 10_f64.powi(power)).collect();
        Span { scale: Scale::Log, low: 10_f64.powi(first), high: 10_f64.powi(last), marks }
    }

    fn chosen(&self, otherwise: Vec<f64>, low: f64, high: f64) -> Vec<f64> {
        if self.marks.is_empty() {
            return otherwise;
        }
        self.marks.iter().copied().filter(|mark| (low..=high).contains(mark)).collect()
    }
}

impl Span {
    /// Where a value lies, from 0 at the low end to 1 at the high end; `None` if it has no place.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.scale == Scale::Log && value <= 0.0) {
            return None;
        }
        let of = |value: f64| if self.scale == Scale::Log { value.ln() } else { value };
        Some(((of(value) - of(self.low)) / (of(self.high) - of(self.low))).clamp(0.0, 1.0))
    }
}

/// 1, 2 or 5 times a power of ten, not less than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::{Axis, Scale};

    fn axis(scale: Scale, marks: &[f64]) -> Axis {
        Axis { label: String::new(), scale, write: |value| value.to_string(), marks: marks.to_vec() }
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_has_round_marks() {
        let span = axis(Scale::Linear, &[]).span([3.0, 8.7].into_iter());
        assert_eq!(span.marks, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(span.at(5.0), Some(0.5));
        assert_eq!(span.at(f64::NAN), None);
    }

    #[test]
    fn a_range_begins_with_its_lowest_value() {
        let span = axis(Scale::Range, &[]).span([47.0, 62.0].into_iter());
        assert_eq!((span.at(47.0), span.at(62.0)), (Some(0.0), Some(1.0)));
        assert_eq!(span.marks, [50.0, 55.0, 60.0]);
    }

    #[test]
    fn a_log_axis_has_powers_of_ten_and_no_place_for_zero() {
        let span = axis(Scale::Log, &[]).span([0.02, 7.0, 0.0].into_iter());
        assert_eq!(span.marks.len(), 4);
        assert_eq!(span.at(0.0), None);
        let middle = span.at(10_f64.powf(-0.5)).expect("on it");
        assert!((middle - 0.5).abs() < 1e-9, "{middle}");
        let wide = axis(Scale::Log, &[]).span([1e-9, 1e9].into_iter());
        assert!(wide.marks.len() <= 7, "{:?}", wide.marks);
    }

    #[test]
    fn marks_of_the_caller_are_the_only_ones() {
        let span = axis(Scale::Log, &[256.0, 4096.0, 1e12]).span([256.0, 65536.0].into_iter());
        assert_eq!(span.marks, [256.0, 4096.0]);
        assert!(span.at(256.0).expect("on it") > 0.0);
    }

    #[test]
    fn no_values_and_one_value_have_axes() {
        for scale in [Scale::Linear, Scale::Range, Scale::Log] {
            for values in [&[][..], &[0.0], &[5.0], &[f64::INFINITY]] {
                let span = axis(scale, &[]).span(values.iter().copied());
                assert!(!span.marks.is_empty() && span.low < span.high, "{scale:?} {values:?} {span:?}");
            }
        }
    }
}
