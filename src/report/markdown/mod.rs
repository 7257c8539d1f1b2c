//! Reports as Markdown (CommonMark with GitHub's tables, <https://github.github.com/gfm/>), for a comment in a pull request.
//!
//! Text from hosts, files and operators stays text: it cannot become a heading, a link, HTML, a mention or the end of the
//! table or block in which it stands ([`text`], [`fenced`]).

pub mod cluster;
pub mod findings;
pub mod walk;

use std::fmt::Write as _;

use crate::visible::visible;

/// Characters of one text; a comment on GitHub has at most 65,536 in all.
const LONGEST: usize = 600;
/// Rows of a table, or lines of a block; the rest are counted.
const ROWS: usize = 150;
/// Nothing, between two characters that would mean something together.
const APART: &str = "<!-- -->";

/// `raw` as it is, in one line of a paragraph, a list item or a cell of a table; not at the start of a line.
///
/// What has a meaning in Markdown or HTML is escaped; what GitHub makes of finished text (mentions, references, bare
/// addresses of pages, emoji) is taken apart by an empty comment.
pub fn text(raw: &str) -> String {
    let raw = cut(raw);
    let raw = visible(raw.trim());
    let mut out = String::with_capacity(raw.len() + 16);
    for (at, c) in raw.char_indices() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // GitHub reads formulas between two of them before anything else.
            '$' => out.push_str("&#36;"),
            '@' | '#' => out.extend([c.to_string().as_str(), APART]),
            ':' if begins_name_of_emoji(&raw[at + 1..]) || raw[at + 1..].starts_with("//") => {
                out.extend([":", APART]);
            }
            '.' if at >= 3 && is_www(&raw[..at]) => out.extend([".", APART]),
            c => out.push(c),
        }
    }
    out
}

/// `db8:` of `2001:db8::1` may be one: GitHub has `:100:`.
fn begins_name_of_emoji(rest: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-');
    let after = rest.trim_start_matches(is_part);
    after.len() < rest.len() && after.starts_with(':')
}

fn is_www(before: &str) -> bool {
    let mut last = before.chars().rev();
    (0..3).all(|_| matches!(last.next(), Some('w' | 'W')))
}

fn cut(raw: &str) -> String {
    match raw.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &raw[..end]),
        None => raw.to_owned(),
    }
}

/// A block of `lines`, which nothing in them ends. `language`: for colours, `diff` or `text`.
pub fn fenced<'l>(language: &str, lines: impl IntoIterator<Item = &'l str>) -> String {
    let mut lines = lines.into_iter();
    let mut body = String::new();
    for line in lines.by_ref().take(ROWS) {
        let _ = writeln!(body, "{}", visible(line.trim_end()));
    }
    let more = lines.count();
    if more > 0 {
        let _ = writeln!(body, "... and {more} more");
    }
    let fence = "`".repeat((longest_run(&body) + 1).max(3));
    format!("{fence}{language}\n{body}{fence}\n")
}

/// How many backticks stand together at most.
fn longest_run(body: &str) -> usize {
    body.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// A table; each cell is text. Empty without rows.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let mut line = String::from("|");
        for cell in cells {
            let _ = write!(line, " {cell} |");
        }
        line.push('\n');
        line
    };
    let mut out = line(&mut head.iter().map(|cell| text(cell)));
    out.push_str(&line(&mut head.iter().map(|_| "---".to_owned())));
    for row in rows.iter().take(ROWS) {
        out.push_str(&line(&mut row.iter().map(|cell| text(cell))));
    }
    if rows.len() > ROWS {
        let _ = writeln!(out, "\nand {} more", rows.len() - ROWS);
    }
    out
}

/// `body`, folded behind a line. `title`: words of lvsprov's own.
fn folded(title: &str, body: &str) -> String {
    format!("<details>\n<summary>{title}</summary>\n\n{}\n\n</details>\n", body.trim_end())
}

/// Text with colours for a terminal as a block; empty for an empty text.
fn block_of(terminal_text: &str) -> String {
    let plain = anstream::adapter::strip_str(terminal_text).to_string();
    if plain.trim().is_empty() { String::new() } else { fenced("text", plain.trim_end().lines()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag};

    use super::*;

    /// Text and tags of Markdown; empty comments do not count.
    fn read(markdown: &str) -> (String, Vec<Tag<'_>>) {
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_MATH
            | Options::ENABLE_GFM;
        let (mut plain, mut tags) = (String::new(), Vec::new());
        for event in Parser::new_ext(markdown, options) {
            match event {
                Event::Text(text) => plain.push_str(&text),
                Event::InlineHtml(html) if &*html == APART => {}
                Event::Start(tag) => tags.push(tag),
                Event::End(_) => {}
                other => {
                    let _ = write!(plain, "\u{1}{other:?}");
                }
            }
        }
        (plain, tags)
    }

    pub(super) const HOSTILE: &[&str] = &[
        "a | b | c",
        "`code` ``` and ````",
        "</details><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!-- comment --> &lt; &amp;",
        "[link](javascript:alert(1)) ![image](x) <https://example.com>",
        "**bold** _it_ ~~gone~~ \\",
        "$x$ $$y$$",
        "line\nbreak\r\n\r\n# heading",
        "https://example.com/ www.example.com",
        "ends with a backslash \\",
        "\u{202e}drow\u{0}",
        "| --- |",
        "2001:db8:100:200::1",
    ];

    #[test]
    fn hostile_text_stays_text_in_a_paragraph_and_in_a_cell() {
        for raw in HOSTILE {
            let expected = visible(raw.trim()).into_owned();
            let item = format!("- **why**: {}\n", text(raw));
            let (plain, tags) = read(&item);
            assert_eq!(plain, format!("why: {expected}"), "{item}");
            assert_eq!(tags.len(), 3, "{item}: {tags:?}");
            let one = table(&["host", "what"], &[vec!["web1".to_owned(), (*raw).to_owned()]]);
            let (plain, tags) = read(&one);
            assert_eq!(plain, format!("hostwhatweb1{expected}"), "{one}");
            // The table, its head, its row, and the cells of both.
            assert_eq!(tags.len(), 7, "{one}: {tags:?}");
        }
    }

    #[test]
    fn what_github_makes_of_finished_text_is_taken_apart() {
        for (raw, expected) in [
            ("by @admin", "by @<!-- -->admin"),
            ("see #12", "see #<!-- -->12"),
            ("fe80:100:1", "fe80:<!-- -->100:1"),
            ("http://a.b", "http:<!-- -->//a.b"),
            ("WWW.a.b", "WWW.<!-- -->a.b"),
            ("tcp 192.0.2.1:80", "tcp 192.0.2.1:80"),
        ] {
            assert_eq!(text(raw), expected);
        }
    }

    #[test]
    fn nothing_ends_a_block_before_its_end() {
        let lines = ["+ a", "```", "`````", "</details>", "~~~"];
        let block = fenced("diff", lines);
        let (plain, tags) = read(&block);
        assert_eq!(plain, lines.join("\n") + "\n");
        assert_eq!(tags.len(), 1, "{tags:?}");
        let many: Vec<String> = (0..ROWS + 5).map(|n| n.to_string()).collect();
        assert!(fenced("text", many.iter().map(String::as_str)).contains("... and 5 more"));
    }

    proptest! {
        #[test]
        fn any_text_stays_text(raw in "\\PC{0,80}|[a-z`*_<>&|\\[\\]()!#~\\\\$:@. -]{0,80}") {
            let expected = visible(raw.trim()).into_owned();
            prop_assume!(!expected.is_empty());
            let item = format!("- **why**: {}\n", text(&raw));
            let (plain, tags) = read(&item);
            prop_assert_eq!(plain, format!("why: {expected}"));
            prop_assert_eq!(tags.len(), 3);
        }
    }
}
