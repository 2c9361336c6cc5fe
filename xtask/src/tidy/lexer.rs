//! Just enough of Rust's lexical structure to tell code from comments and literals.

/// The source with comments and the contents of literals replaced by blanks. Lines keep their numbers.
pub(super) fn code_only(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < text.len() {
        let end = skipped_until(&text, at);
        if end > at {
            out.extend(text[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    out
}

/// Whether `word` stands in `text` as a whole word. A word that ends in no letter, such as `#[ignore`, is
/// bounded by itself there.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let open = word.starts_with(inner) && before.is_some_and(inner);
        let close = word.ends_with(inner) && after.is_some_and(inner);
        !open && !close
    })
}

/// End of the comment or literal that begins at `at`, or `at` where none begins.
fn skipped_until(text: &[char], at: usize) -> usize {
    match text[at] {
        '/' if text.get(at + 1) == Some(&'/') => line_end(text, at),
        '/' if text.get(at + 1) == Some(&'*') => block_end(text, at),
        '"' => string_end(text, at + 1),
        'r' if begins_word(text, at) => raw_end(text, at).unwrap_or(at),
        '\'' => char_end(text, at),
        _ => at,
    }
}

fn line_end(text: &[char], at: usize) -> usize {
    text[at..].iter().position(|c| *c == '\n').map_or(text.len(), |more| at + more)
}

/// Block comments nest.
fn block_end(text: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here < text.len() {
        match (text[here], text.get(here + 1)) {
            ('/', Some('*')) => (depth, here) = (depth + 1, here + 2),
            ('*', Some('/')) => (depth, here) = (depth - 1, here + 2),
            _ => here += 1,
        }
        if depth == 0 {
            break;
        }
    }
    here.min(text.len())
}

fn string_end(text: &[char], first: usize) -> usize {
    let mut here = first;
    while here < text.len() {
        match text[here] {
            '\\' => here += 2,
            '"' => return here + 1,
            _ => here += 1,
        }
    }
    text.len()
}

/// `r`, `br` and `cr` begin a raw string; an `r` inside a name does not.
fn begins_word(text: &[char], at: usize) -> bool {
    let inner = |at: usize| text[at].is_alphanumeric() || text[at] == '_';
    match at.checked_sub(1) {
        None => true,
        Some(before) if matches!(text[before], 'b' | 'c') => before == 0 || !inner(before - 1),
        Some(before) => !inner(before),
    }
}

fn raw_end(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return None;
    }
    let closes = |from: usize| {
        text[from] == '"' && text[from + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let close = (open + 1..text.len()).find(|from| closes(*from));
    Some(close.map_or(text.len(), |close| close + 1 + hashes))
}

/// A quote begins a character, or a lifetime, which has no second quote.
fn char_end(text: &[char], at: usize) -> usize {
    if text.get(at + 1) == Some(&'\\') {
        let close = text[(at + 3).min(text.len())..].iter().position(|c| *c == '\'');
        return close.map_or(text.len(), |more| at + 4 + more);
    }
    if text.get(at + 2) == Some(&'\'') { at + 3 } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(source: &str) -> bool {
        has_word(&code_only(source), "unsafe")
    }

    #[test]
    fn code_is_found_and_comments_and_literals_are_not() {
        assert!(finds("unsafe { x }"));
        assert!(finds("let a = 'u'; unsafe {}"));
        assert!(finds("fn f<'a>(x: &'a str) { unsafe {} }"));
        assert!(finds("let s = \"\\\"\"; unsafe {}"));
        assert!(finds("let s = r\"\\\"; unsafe {}"));
        assert!(finds("let q = '\\''; unsafe {}"));
        assert!(finds("for r in 0..2 { unsafe {} }"));
        assert!(finds("let r#type = 1; unsafe {}"));
        assert!(finds("/* a /* b */ c */ unsafe {}"));
        for hidden in [
            "// unsafe",
            "/// unsafe",
            "/* a /* b */ unsafe */",
            "\"unsafe\"",
            "r#\"a \" unsafe\"#",
            "br\"unsafe\"",
            "c\"unsafe\"",
            "\"\\\" unsafe\"",
            "#![forbid(unsafe_code)]",
            "unsafe_op",
        ] {
            assert!(!finds(hidden), "{hidden}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "a /* x\ny */ b\n\"c\nd\" e\n";
        assert_eq!(code_only(source).lines().count(), source.lines().count());
        assert!(code_only(source).lines().nth(3).is_some_and(|line| line.trim() == "e"));
    }
}
