//! Charts of lines.

use std::fmt::Write as _;

use super::axis::Axis;
use super::svg::{COLOURS, Frame, legend, point};

/// Lines over common axes.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
    /// A value of the vertical axis at which a line goes across.
    pub(crate) reference: Option<f64>,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Lines {
    /// The chart and its legend. Points without a place on the axes are left out.
    pub(super) fn draw(&self, title: &str) -> String {
        let values = || self.lines.iter().flat_map(|line| &line.points);
        let x = self.x.span(values().map(|(x, _)| *x));
        let y = self.y.span(values().map(|(_, y)| *y).chain(self.reference));
        let mut frame = Frame::new(title, (&self.x, x), (&self.y, y));
        if let Some(value) = self.reference {
            frame.reference(value);
        }
        for (series, line) in self.lines.iter().enumerate() {
            let _ = write!(frame.svg, "<g class=\"c{}\">", series % COLOURS);
            let places: Vec<(f64, f64, String)> = line
                .points
                .iter()
                .filter_map(|(x, y)| {
                    let says = format!("{}: {}, {}", line.name, (self.x.write)(*x), (self.y.write)(*y));
                    Some((frame.x(*x)?, frame.y(*y)?, says))
                })
                .collect();
            let path: Vec<String> = places.iter().map(|(x, y, _)| format!("{x:.1} {y:.1}")).collect();
            if path.len() > 1 {
                let _ = write!(frame.svg, "<path class=\"line\" d=\"M{}\"/>", path.join("L"));
            }
            for (x, y, says) in &places {
                point(&mut frame.svg, series, *x, *y, says);
            }
            frame.svg.push_str("</g>");
        }
        frame.finish() + &legend(self.lines.iter().map(|line| line.name.as_str()), true)
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Lines};
    use crate::report::{Axis, Scale};

    #[test]
    fn every_point_with_a_place_is_drawn_and_says_what_it_is() {
        let axis = |scale| Axis {
            label: "a <label>".to_owned(),
            scale,
            write: |value| format!("{value:.2}"),
            marks: Vec::new(),
        };
        let line =
            |name: &str, points: &[(f64, f64)]| Line { name: name.to_owned(), points: points.to_vec() };
        let lines = Lines {
            x: axis(Scale::Log),
            y: axis(Scale::Log),
            lines: vec![line("one & only", &[(1.0, 2.0), (10.0, 0.0), (100.0, 4.0)]), line("none", &[])],
            reference: Some(1.0),
        };
        let drawn = lines.draw("a \"title\"");
        assert!(
            drawn.contains("one &amp; only: 1.00, 2.00") && drawn.contains("one &amp; only: 100.00, 4.00")
        );
        assert!(!drawn.contains(": 10.00, 0.00") && !drawn.contains("NaN"), "{drawn}");
        assert!(drawn.contains("aria-label=\"a &quot;title&quot;\"") && drawn.contains("a &lt;label&gt;"));
        assert_eq!(drawn.matches("class=\"reference\"").count(), 1);
    }
}
