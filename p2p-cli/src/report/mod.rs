//! Pages that show figures: one self-contained HTML file, with charts as inline SVG, that loads nothing and runs no script.
//!
//! It knows no benchmark: what a page says comes from its caller, as text that is escaped here.

mod axis;
mod bars;
mod escape;
mod html;
mod lines;
mod svg;

pub(crate) use axis::{Axis, Scale};
pub(crate) use bars::Bars;
pub(crate) use lines::{Line, Lines};

/// A page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// What was measured, in a sentence.
    pub(crate) lead: String,
    /// What a reader looks for first.
    pub(crate) figures: Vec<Figure>,
    pub(crate) sections: Vec<Section>,
}

/// A figure that stands out.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) note: String,
}

/// A part of a page.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) blocks: Vec<Block>,
}

/// What a section has.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    /// A paragraph.
    Text(String),
    /// Names and what they are.
    Facts(Vec<(String, String)>),
    Table(Table),
    /// Charts that stand side by side where there is room.
    Charts(Vec<Chart>),
}

/// Rows under a head. Cells of numbers are on the right.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// A chart with its title and what has to be known to read it.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) drawing: Drawing,
}

/// What a chart shows.
#[derive(Clone, Debug)]
pub(crate) enum Drawing {
    Lines(Lines),
    Bars(Bars),
}

impl Page {
    /// The file.
    pub(crate) fn to_html(&self) -> String {
        html::of(self)
    }
}
