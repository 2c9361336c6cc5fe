//! Charts of stacked bars over time.

use std::fmt::Write as _;

use super::axis::Axis;
use super::svg::{COLOURS, Frame, legend};

/// Bars that stand close together, each of parts that lie on each other.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// What the parts are, from the lowest up.
    pub(crate) names: Vec<String>,
    /// Where a bar ends on the horizontal axis, and the height of each of its parts.
    pub(crate) bars: Vec<(f64, Vec<f64>)>,
    /// How wide a bar is.
    pub(crate) width: f64,
}

impl Bars {
    pub(super) fn draw(&self, title: &str) -> String {
        let ends = self.bars.iter().flat_map(|(at, _)| [*at, at - self.width]);
        let x = self.x.span(ends);
        let y = self.y.span(self.bars.iter().map(|(_, parts)| parts.iter().sum()));
        let mut frame = Frame::new(title, (&self.x, x), (&self.y, y));
        for (series, name) in self.names.iter().enumerate() {
            let mut path = String::new();
            for (at, parts) in &self.bars {
                let below: f64 = parts.iter().take(series).sum();
                let height = parts.get(series).copied().unwrap_or(0.0);
                let ends = (frame.x(at - self.width), frame.x(*at), frame.y(below), frame.y(below + height));
                let (Some(left), Some(right), Some(low), Some(high)) = ends else { continue };
                if height > 0.0 {
                    let _ = write!(path, "M{left:.1} {low:.1}V{high:.1}H{right:.1}V{low:.1}Z");
                }
            }
            let _ = write!(frame.svg, "<g class=\"c{}\"><path class=\"bar\" d=\"{path}\">", series % COLOURS);
            let _ = write!(frame.svg, "<title>{}</title></path></g>", super::escape::Escaped(name));
        }
        frame.finish() + &legend(self.names.iter().map(String::as_str), false)
    }
}

#[cfg(test)]
mod tests {
    use super::Bars;
    use crate::report::{Axis, Scale};

    #[test]
    fn parts_lie_on_each_other_and_empty_ones_are_not_drawn() {
        let axis = || Axis {
            label: String::new(),
            scale: Scale::Linear,
            write: |value| format!("{value}"),
            marks: Vec::new(),
        };
        let bars = Bars {
            x: axis(),
            y: axis(),
            names: vec!["eth1".to_owned(), "<eth2>".to_owned()],
            bars: vec![(1.0, vec![1.0, 1.0]), (2.0, vec![0.0, 2.0])],
            width: 1.0,
        };
        let drawn = bars.draw("shares");
        assert_eq!(drawn.matches('Z').count(), 3, "{drawn}");
        assert!(drawn.contains("<title>&lt;eth2&gt;</title>"), "{drawn}");
    }
}
