//! The frame of a chart: its axes, and where values lie between them.
//!
//! Colours are classes that the page's style gives a meaning, for light and for dark. Lengths are those of the view box,
//! which the page scales to the room there is.

use std::fmt::Write as _;

use super::axis::{Axis, Span};
use super::escape::Escaped;

/// Of the view box. Text of 14.5 in it can be read where the chart is as narrow as a phone.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
/// Room for what is written beside the axes.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 46.0;
/// What a character of a mark takes at most, and the room between two marks.
const CHARACTER: f64 = 9.0;
const BETWEEN: f64 = 8.0;
/// Series that have colours of their own; further ones begin again.
pub(super) const COLOURS: usize = 6;

/// The room between the axes.
pub(super) struct Frame {
    x: Span,
    y: Span,
    /// What is drawn so far.
    pub(super) svg: String,
}

impl Frame {
    /// Draws the axes of a chart with this title.
    pub(super) fn new(title: &str, (x_axis, x): (&Axis, Span), (y_axis, y): (&Axis, Span)) -> Self {
        let mut svg = String::new();
        let _ = write!(
            svg,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            Escaped(title)
        );
        let mut frame = Self { x, y, svg };
        frame.marks(x_axis, y_axis);
        frame
    }

    fn marks(&mut self, x_axis: &Axis, y_axis: &Axis) {
        let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for mark in self.y.marks.clone() {
            let Some(y) = self.y(mark) else { continue };
            let text = (y_axis.write)(mark);
            let _ = write!(
                self.svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"mark\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                Escaped(&text)
            );
        }
        let mut free = WIDTH;
        for mark in self.x.marks.clone().into_iter().rev() {
            let Some(x) = self.x(mark) else { continue };
            let _ = write!(
                self.svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>"
            );
            let text = (x_axis.write)(mark);
            let half = text.chars().count() as f64 * CHARACTER / 2.0;
            // Where there is no room for it, the line alone is drawn; the last is always written.
            if x + half <= free || free >= WIDTH {
                free = x - half - BETWEEN;
                let _ = write!(
                    self.svg,
                    "<text class=\"mark\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    floor + 17.0,
                    Escaped(&text)
                );
            }
        }
        let _ = write!(
            self.svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\"/>\
             <text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" x=\"4\" y=\"13\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 8.0,
            Escaped(&x_axis.label),
            Escaped(&y_axis.label)
        );
    }

    /// Where a value of the horizontal axis lies.
    pub(super) fn x(&self, value: f64) -> Option<f64> {
        Some(LEFT + self.x.at(value)? * (WIDTH - RIGHT - LEFT))
    }

    /// Where a value of the vertical axis lies.
    pub(super) fn y(&self, value: f64) -> Option<f64> {
        Some(HEIGHT - BOTTOM - self.y.at(value)? * (HEIGHT - BOTTOM - TOP))
    }

    /// A line across, at a value of the vertical axis.
    pub(super) fn reference(&mut self, value: f64) {
        if let Some(y) = self.y(value) {
            let right = WIDTH - RIGHT;
            let _ = write!(
                self.svg,
                "<line class=\"reference\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// The shape of a series' points, so that colour is not all that tells them apart.
pub(super) fn point(svg: &mut String, series: usize, x: f64, y: f64, says: &str) {
    let shape = match series % 3 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\">"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"6.6\" height=\"6.6\">", x - 3.3, y - 3.3),
        _ => format!(
            "<polygon points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\">",
            x,
            y - 4.4,
            x - 4.2,
            y + 3.4,
            x + 4.2,
            y + 3.4
        ),
    };
    let end = match series % 3 {
        0 => "circle",
        1 => "rect",
        _ => "polygon",
    };
    let _ = write!(svg, "{shape}<title>{}</title></{end}>", Escaped(says));
}

/// What names the series below a chart.
pub(super) fn legend<'a>(names: impl Iterator<Item = &'a str>, lines: bool) -> String {
    let mut text = String::from("<ul class=\"legend\">");
    for (series, name) in names.enumerate() {
        let _ = write!(text, "<li><svg class=\"key\" viewBox=\"0 0 26 12\" aria-hidden=\"true\">");
        let _ = write!(text, "<g class=\"c{}\">", series % COLOURS);
        if lines {
            let _ = write!(text, "<path class=\"line\" d=\"M1 6H25\"/>");
            point(&mut text, series, 13.0, 6.0, name);
        } else {
            let _ = write!(text, "<rect class=\"bar\" x=\"7\" y=\"0\" width=\"12\" height=\"12\"/>");
        }
        let _ = write!(text, "</g></svg>{}</li>", Escaped(name));
    }
    text.push_str("</ul>");
    text
}

#[cfg(test)]
mod tests {
    use super::super::axis::{Axis, Scale};
    use super::Frame;

    #[test]
    fn marks_without_room_are_lines_alone() {
        let axis = |marks: Vec<f64>| Axis {
            label: String::new(),
            scale: Scale::Log,
            write: |value| format!("mark {value}"),
            marks,
        };
        let (x, y) = (axis(vec![1.0, 1.1, 100.0]), axis(vec![1.0]));
        let spans = (x.span([1.0, 100.0].into_iter()), y.span([1.0].into_iter()));
        let svg = Frame::new("", (&x, spans.0), (&y, spans.1)).finish();
        assert!(svg.contains(">mark 100<") && svg.contains(">mark 1.1<"), "{svg}");
        assert_eq!(svg.matches(">mark 1<").count(), 1, "only beside the other axis: {svg}");
        assert_eq!(svg.matches("class=\"grid\"").count(), 4);
    }
}
