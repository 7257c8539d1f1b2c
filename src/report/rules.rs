//! The rules of `check`: the list of them, and the page of each as text for a terminal.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::{markdown, table};
use crate::finding::Severity;
use crate::finding::rules::{self, Rule};

/// A section for each rule.
const PAGES: &str = include_str!("../../docs/diagnostics.md");
/// Columns of a paragraph.
const WIDTH: usize = 100;

/// The page of `rule` as it stands in docs/diagnostics.md, without its heading.
pub fn page(rule: &Rule) -> Option<&'static str> {
    let (_, rest) = PAGES.split_once(&format!("\n### {rule}\n"))?;
    let end = ["\n### ", "\n## "].iter().filter_map(|heading| rest.find(heading)).min();
    Some(rest[..end.unwrap_or(rest.len())].trim())
}

/// The page of `rule` for a terminal: its severity, what it finds, and the page.
pub fn page_text(rule: &Rule) -> String {
    let mut text = format!("{}  {}\n\n", rule.bold(), severities(rule).join(" or "));
    text.push_str(&wrapped(&format!("It finds: {}.", rule.title), ""));
    if let Some(page) = page(rule) {
        let _ = write!(text, "\n{}", plain(page));
    }
    text
}

/// The page of `rule` as Markdown.
pub fn page_markdown(rule: &Rule) -> String {
    let severities = severities(rule).join(" or ");
    let page = page(rule).unwrap_or_default();
    format!("### {rule}\n\n**{severities}**. It finds: {}.\n\n{page}\n", markdown::text(rule.title))
}

/// All rules as Markdown: a table a group.
pub fn list_markdown() -> String {
    let mut out = String::from("### lvsprov explain --list\n");
    for group in rules::GROUPS {
        let row = |rule: &Rule| {
            let severities = severities(rule).join(", ");
            [rule.code, rule.name, &severities, rule.title].map(str::to_owned).to_vec()
        };
        let rows: Vec<Vec<String>> = group.rules.iter().map(row).collect();
        let table = markdown::table(&["code", "rule", "severity", "finds"], &rows);
        let _ = write!(out, "\n#### {}\n\n{table}", markdown::text(group.title));
    }
    out
}

/// Schema `lvsprov/rules/1`: a list of this one, with its page.
pub fn page_json(rule: &Rule) -> Value {
    let mut row = row(rule);
    if let Some(members) = row.as_object_mut() {
        members.insert("page".to_owned(), page(rule).unwrap_or_default().into());
    }
    super::with_schema("rules", &json!({ "rules": [row] }))
}

/// All rules: code, name, severity, and what each finds.
pub fn list_text() -> String {
    let mut text = String::new();
    for group in rules::GROUPS {
        let _ = writeln!(text, "{}", group.title.bold());
        let row = |rule: &Rule| {
            let severities = severities(rule).join(", ");
            [rule.code, rule.name, &severities, rule.title].map(str::to_owned).to_vec()
        };
        let rows: Vec<Vec<String>> = group.rules.iter().map(row).collect();
        text.push_str(&table::aligned(&rows, 2));
        text.push('\n');
    }
    text.push_str("lvsprov explain CODE prints the page of a rule\n");
    text
}

/// Schema `lvsprov/rules/1`: `{"rules": [{"code": ..., "rule": ..., "severities": [...], "group": ..., "finds": ...}]}`.
pub fn list_json() -> Value {
    super::with_schema("rules", &json!({ "rules": rules::all().map(row).collect::<Vec<_>>() }))
}

fn row(rule: &Rule) -> Value {
    let group = rules::GROUPS.iter().find(|group| group.rules.contains(rule));
    json!({
        "code": rule.code,
        "rule": rule.name,
        "severities": rule.severities,
        "group": group.map(|group| group.title),
        "finds": rule.title,
    })
}

/// As reports of findings have them.
fn severities(rule: &Rule) -> Vec<&'static str> {
    let word = |severity: &Severity| match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "info",
    };
    rule.severities.iter().map(word).collect()
}

/// Markdown as plain text: paragraphs and list items wrapped, code indented, links without their target.
fn plain(page: &str) -> String {
    let mut text = String::new();
    let mut paragraph = String::new();
    let mut in_code = false;
    let flush = |paragraph: &mut String, text: &mut String| {
        let is_item = paragraph.starts_with("* ");
        text.push_str(&wrapped(&without_marks(paragraph), if is_item { "  " } else { "" }));
        paragraph.clear();
    };
    for line in page.lines() {
        let is_fence = line.starts_with("```");
        if in_code && !is_fence {
            let _ = writeln!(text, "    {line}");
            continue;
        }
        if is_fence || line.is_empty() || line.starts_with("* ") {
            flush(&mut paragraph, &mut text);
        }
        if is_fence {
            in_code = !in_code;
        } else if line.is_empty() {
            text.push('\n');
        } else {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line.trim());
        }
    }
    flush(&mut paragraph, &mut text);
    text
}

/// Without `**`, and of a link only its text.
fn without_marks(paragraph: &str) -> String {
    let mut text = String::new();
    let mut rest = paragraph;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        match link.split_once("](").and_then(|(label, end)| Some((label, end.split_once(')')?.1))) {
            Some((label, after)) if !label.contains('[') => {
                text.push_str(label);
                rest = after;
            }
            _ => {
                text.push('[');
                rest = link;
            }
        }
    }
    text.push_str(rest);
    text.replace("**", "")
}

/// Words in lines of at most [`WIDTH`] columns; further lines begin with `indent`. Empty for no words.
fn wrapped(paragraph: &str, indent: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(indent);
            column = indent.len();
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_wrapped_and_has_no_marks() {
        let page = "**Why:** a [link](x.md#y), [no link] and `code`\nin two lines.\n\n* one\n  more\n* two\n\n\
                    ```yaml part\na: {b: 1}\n```\n\nEnd.\n";
        let expected = "Why: a link, [no link] and `code` in two lines.\n\n* one more\n* two\n\n    a: {b: 1}\n\nEnd.\n";
        assert_eq!(plain(page), expected);
        let long = wrapped(&format!("* {}", "word ".repeat(40)), "  ");
        assert!(long.lines().all(|line| line.chars().count() <= WIDTH), "{long}");
        assert!(long.lines().skip(1).all(|line| line.starts_with("  word")), "{long}");
    }

    #[test]
    fn every_rule_has_a_row_and_a_page_in_markdown() {
        let list = list_markdown();
        for rule in rules::GROUPS.iter().flat_map(|group| group.rules) {
            assert!(list.contains(&format!("\n| {} | {} | ", rule.code, rule.name)), "{rule}");
            let markdown = page_markdown(rule);
            assert!(markdown.starts_with(&format!("### {rule}\n\n**")), "{markdown}");
            let page = page(rule).unwrap_or_default();
            assert!(!page.is_empty() && markdown.ends_with(&format!("\n\n{page}\n")), "{rule}");
        }
    }
}
