//! The page as markup, which is HTML and well-formed XML at once.

use std::fmt::Write as _;

use super::escape::Escaped;
use super::{Block, Chart, Drawing, Figure, Page, Table};

const STYLE: &str = include_str!("style.css");
/// Cells that are longer are words, which may be broken.
const LONG_CELL: usize = 18;

pub(super) fn of(page: &Page) -> String {
    let mut html = String::with_capacity(64 << 10);
    let title = Escaped(&page.title);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p class=\"lead\">{}</p>\n",
        Escaped(&page.lead)
    );
    if !page.figures.is_empty() {
        html.push_str("<div class=\"figures\">\n");
        page.figures.iter().for_each(|figure| self::figure(&mut html, figure));
        html.push_str("</div>\n");
    }
    for section in &page.sections {
        let _ = writeln!(html, "<section>\n<h2>{}</h2>", Escaped(&section.title));
        section.blocks.iter().for_each(|block| self::block(&mut html, block));
        html.push_str("</section>\n");
    }
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

fn figure(html: &mut String, Figure { name, value, note }: &Figure) {
    let [name, value, note] = [name, value, note].map(|text| Escaped(text));
    let _ = writeln!(
        html,
        "<div class=\"figure\"><span>{name}</span><strong>{value}</strong><small>{note}</small></div>"
    );
}

fn block(html: &mut String, block: &Block) {
    match block {
        Block::Text(text) => {
            let _ = writeln!(html, "<p>{}</p>", Escaped(text));
        }
        Block::Facts(facts) => {
            html.push_str("<dl>\n");
            for (name, text) in facts {
                let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", Escaped(name), Escaped(text));
            }
            html.push_str("</dl>\n");
        }
        Block::Table(table) => self::table(html, table),
        Block::Charts(charts) => {
            let class = if charts.len() == 1 { "charts one" } else { "charts" };
            let _ = writeln!(html, "<div class=\"{class}\">");
            charts.iter().for_each(|chart| self::chart(html, chart));
            html.push_str("</div>\n");
        }
    }
}

fn table(html: &mut String, Table { caption, head, rows }: &Table) {
    // It can be scrolled by keyboard too.
    html.push_str("<div class=\"scroll\" tabindex=\"0\">\n<table>\n");
    html.push_str("<thead><tr>");
    for cell in head {
        let _ = write!(html, "<th scope=\"col\">{}</th>", Escaped(cell));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let class = if cell.len() > LONG_CELL { " class=\"words\"" } else { "" };
            let _ = write!(html, "<td{class}>{}</td>", Escaped(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</div>\n");
    if !caption.is_empty() {
        // Outside, so that it is read without scrolling.
        let _ = writeln!(html, "<p class=\"note\">{}</p>", Escaped(caption));
    }
}

fn chart(html: &mut String, Chart { title, note, drawing }: &Chart) {
    let drawn = match drawing {
        Drawing::Lines(lines) => lines.draw(title),
        Drawing::Bars(bars) => bars.draw(title),
    };
    let _ = writeln!(html, "<figure>\n<h3>{}</h3>\n{drawn}", Escaped(title));
    if !note.is_empty() {
        let _ = writeln!(html, "<figcaption class=\"note\">{}</figcaption>", Escaped(note));
    }
    html.push_str("</figure>\n");
}
