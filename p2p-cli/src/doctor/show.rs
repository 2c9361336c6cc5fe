//! The report as text: for a terminal in 80 columns, for anything else one line each.

use super::line::{Line, Status};

/// Columns of a terminal that are used.
pub(super) const COLUMNS: usize = 80;
/// Columns before the text: the longest word for a status and two spaces.
const INDENT: usize = 6;

/// How the text is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Columns after which a line goes on in the next; `None` never.
    pub(super) columns: Option<usize>,
    pub(super) colours: bool,
}

/// All lines, each with its mend below it, and a summary.
pub(super) fn text(lines: &[Line], layout: Layout) -> String {
    let mut text = String::new();
    for line in lines {
        let status = format!("{:width$}", line.status.word(), width = INDENT - 2);
        let status = paint(&status, line.status, layout);
        text.push_str(&format!(
            "{status}  {}\n",
            wrapped(&format!("{}: {}", line.subject, line.found), layout)
        ));
        if let Some(mend) = &line.mend {
            let indent = " ".repeat(INDENT);
            text.push_str(&format!("{indent}{}\n", wrapped(&format!("mend: {mend}"), layout)));
        }
    }
    text.push_str(&summary(lines));
    text.push('\n');
    text
}

/// Lines with each status, in words.
fn summary(lines: &[Line]) -> String {
    let count = |status| lines.iter().filter(|line| line.status == status).count();
    let mut text =
        format!("{} OK, {} WARN, {} FAIL", count(Status::Ok), count(Status::Warn), count(Status::Fail));
    let skipped = count(Status::Skip);
    if skipped > 0 {
        text.push_str(&format!(", {skipped} not tried"));
    }
    text
}

/// Mbit/s in the unit that people say.
pub(super) fn speed(megabits: u32) -> String {
    match (megabits / 1000, megabits % 1000) {
        (0, _) => format!("{megabits} Mbit/s"),
        (gigabits, 0) => format!("{gigabits} Gbit/s"),
        (gigabits, rest) => format!("{gigabits}.{} Gbit/s", rest / 100),
    }
}

/// Bytes in the largest unit that divides them, or nearly.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

fn paint(text: &str, status: Status, layout: Layout) -> String {
    let colour = match status {
        Status::Ok => 32,
        Status::Skip => 36,
        Status::Warn => 33,
        Status::Fail => 31,
    };
    if layout.colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The text with breaks between words, where the first line begins after the indent.
fn wrapped(text: &str, layout: Layout) -> String {
    let Some(columns) = layout.columns else { return text.to_owned() };
    let room = columns.saturating_sub(INDENT).max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut used = usize::MAX;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if used + 1 + length <= room => {
                line.push(' ');
                line.push_str(word);
                used += 1 + length;
            }
            Some(_) | None => {
                lines.push(word.to_owned());
                used = length;
            }
        }
    }
    lines.join(&format!("\n{}", " ".repeat(INDENT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let long = "word ".repeat(40);
        vec![
            Line::ok("a thing", &long),
            Line::fail("another", "broken", &long),
            Line::skip("third", "not tried"),
        ]
    }

    #[test]
    fn a_terminal_gets_80_columns_and_a_file_gets_lines() {
        let text_of = |columns| text(&lines(), Layout { columns, colours: false });
        let wide = text_of(None);
        assert_eq!(wide.lines().count(), 5, "{wide}");
        assert!(wide.starts_with("OK    a thing: word word"), "{wide}");
        assert!(wide.contains("\nFAIL  another: broken\n      mend: word"), "{wide}");
        assert!(wide.ends_with("SKIP  third: not tried\n1 OK, 0 WARN, 1 FAIL, 1 not tried\n"), "{wide}");
        let narrow = text_of(Some(COLUMNS));
        assert!(narrow.lines().all(|line| line.chars().count() <= COLUMNS), "{narrow}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&narrow), words(&wide), "nothing is lost");
        assert!(narrow.lines().any(|line| line.chars().count() > COLUMNS - 6), "filled");
    }

    #[test]
    fn colours_are_around_the_status_alone() {
        let text = text(&lines(), Layout { columns: None, colours: true });
        assert!(text.contains("\n\u{1b}[31mFAIL\u{1b}[0m  another: broken\n"), "{text}");
        assert!(text.starts_with("\u{1b}[32mOK  \u{1b}[0m  a thing"), "{text}");
    }

    #[test]
    fn units_are_those_that_people_say() {
        assert_eq!(
            [100, 1000, 2500, 200_000].map(speed),
            ["100 Mbit/s", "1 Gbit/s", "2.5 Gbit/s", "200 Gbit/s"]
        );
        assert_eq!([17, 8 << 10, 8 << 20, 3 << 30].map(bytes), ["17 bytes", "8 KiB", "8 MiB", "3 GiB"]);
    }
}
