//! Words that hide who acts on what do not come back: in the documents, in the messages of the program, in
//! doc comments. CONTRIBUTING.md says what to write instead.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::examples::{Block, blocks};
use super::{pages, prose, quoted, read, root};

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        documents_name_who_acts,
        messages_and_doc_comments_name_who_acts,
        literals_and_doc_comments_are_found_and_nothing_else,
        output_that_is_not_run_has_the_words_of_the_program,
        quoted_messages_are_messages_of_the_program
    ]
}

/// Each is a place where a noun is missing, or a name of ours for something that has one in the field.
const AVOIDED: &[&str] = &[
    "somebody",
    "somebody's",
    "nobody",
    "nobody's",
    "everybody",
    "everybody's",
    "anybody",
    "anybody's",
    "whoever",
    "whoever's",
    "someone",
    "anyone",
    "what is there",
    "what was there",
    "what others made",
    "said",
    "told",
    "heard",
    "spoken",
    "unheld",
    "sighting",
    "prospect",
    "course of",
];

/// The avoided words of a text, each once. What stands in braces is a name in code.
fn avoided(text: &str) -> BTreeSet<&'static str> {
    let mut depth = 0_u32;
    let text = text.replace(
        |c| {
            depth = if c == '{' { depth + 1 } else { depth };
            let inside = depth > 0;
            depth = if c == '}' { depth.saturating_sub(1) } else { depth };
            inside
        },
        " ",
    );
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || matches!(c, '\'' | '_') {
                c.to_ascii_lowercase()
            } else {
                ' '
            }
        })
        .collect();
    let padded = format!(" {} ", plain.split_whitespace().collect::<Vec<_>>().join(" "));
    AVOIDED.iter().copied().filter(|word| padded.contains(&format!(" {word} "))).collect()
}

fn documents_name_who_acts() {
    let mut found = Vec::new();
    for (name, page) in pages() {
        // What the program prints is its own matter, and so are names in code.
        for (at, line) in prose(&page).lines().enumerate() {
            let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
            for word in avoided(&plain) {
                found.push(format!("{name}: {word:?} in {line:?} (line {at} of its prose)"));
            }
        }
    }
    assert!(found.is_empty(), "name who or what is meant:\n{}", found.join("\n"));
}

fn messages_and_doc_comments_name_who_acts() {
    let mut found = Vec::new();
    for path in sources() {
        let text = read(&path);
        for (line, text) in texts(&text) {
            // A name in code: a file, a word of the protocol.
            if !text.contains(' ') {
                continue;
            }
            let plain: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
            for word in avoided(&plain) {
                found.push(format!("{path}:{line}: {word:?} in {text:?}"));
            }
        }
    }
    assert!(found.is_empty(), "name who or what is meant:\n{}", found.join("\n"));
}

/// Every Rust file under src/, by path from the root.
fn sources() -> Vec<String> {
    fn gather(folder: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, into);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                into.push(path.strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    let mut all = Vec::new();
    gather(&root().join("src"), &mut all);
    all.sort();
    all
}

/// The string literals and doc comments of a Rust file, each with the line where it begins.
fn texts(source: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, text) = token(rest);
        all.extend(text.map(|text| (line, text)));
        let (passed, after) = rest.split_at(length.max(first.len_utf8()));
        line += passed.matches('\n').count();
        rest = after;
    }
    all
}

/// The length of what `rest` begins with, and its text if it is a string literal or a doc comment.
fn token(rest: &str) -> (usize, Option<String>) {
    if rest.starts_with("//") {
        let line = rest.lines().next().unwrap_or_default();
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        return (line.len(), doc.map(str::to_owned));
    }
    if rest.starts_with("/*") {
        return (rest.find("*/").map_or(rest.len(), |at| at + 2), None);
    }
    if let Some(inner) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = inner.find(|c| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        });
        let end = end.unwrap_or(inner.len());
        return (end + 2, Some(unescape(&inner[..end])));
    }
    if let Some((length, text)) = raw(rest) {
        return (length, Some(text.to_owned()));
    }
    // A word whole, so that the r of `for"` or `br` begins no raw string.
    let word =
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
    if word > 0 {
        return (word, None);
    }
    (character(rest), None)
}

/// `r"..."`, `r#"..."#`, with a `b` or without.
fn raw(rest: &str) -> Option<(usize, &str)> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.chars().take_while(|c| *c == '#').count();
    let inner = after[hashes..].strip_prefix('"')?;
    let end = inner.find(&format!("\"{}", "#".repeat(hashes)))?;
    let before = rest.len() - inner.len();
    Some((before + end + 1 + hashes, &inner[..end]))
}

/// The length of a character literal; of a lifetime's quote or anything else one character.
fn character(rest: &str) -> usize {
    let Some(inner) = rest.strip_prefix('\'') else { return 0 };
    let mut all = inner.char_indices();
    let body = match all.next() {
        Some((_, '\\')) => inner[1..].find('\'').map(|at| {
            // '\'' has a quote that does not end it.
            if inner[1..].starts_with('\'') { at + 2 } else { at + 1 }
        }),
        Some(_) => all.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at),
        None => None,
    };
    body.map_or(1, |body| body + 2)
}

/// What a literal says: a line that goes on below is one line, braces are written once.
fn unescape(literal: &str) -> String {
    let mut text = String::new();
    let mut rest = literal.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek().copied()) {
            ('\\', Some('\n')) => {
                while rest.peek().is_some_and(|c| c.is_whitespace()) {
                    rest.next();
                }
            }
            ('\\', Some('n' | 't')) => {
                rest.next();
                text.push(' ');
            }
            ('\\', Some(other)) => {
                rest.next();
                text.push(other);
            }
            ('{', Some('{')) | ('}', Some('}')) => {
                rest.next();
                text.push(c);
            }
            _ => text.push(c),
        }
    }
    text
}

fn literals_and_doc_comments_are_found_and_nothing_else() {
    let source = "/// One \"two\".\n// no\nlet a = \"x\\\"y \\\n    z\"; let b = '\"'; fn f<'a>() {}\n\
                  let c = r#\"raw \"one\"\"#; let d = '\\''; /* \"no\" */ let e = b\"bytes\";";
    let found: Vec<String> = texts(source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, [" One \"two\".", "x\"y z", "raw \"one\"", "bytes"]);
    assert_eq!(avoided("Nobody said: WHAT\nis there?").len(), 3);
    assert!(avoided("unsaid, toldname, of course").is_empty());
}

/// Three words in a row that a message has; names, numbers and what a placeholder stands for end a row.
fn triples(text: &str) -> BTreeSet<String> {
    let is_name = |word: &str| ["client", "dr", "lvs", "router", "web"].contains(&word);
    let words: Vec<Option<String>> = text
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '{'))
        .map(|word| {
            let plain = word.chars().all(|c| c.is_alphabetic() || c == '\'' || c == '-');
            (plain && !word.is_empty() && !is_name(word)).then(|| word.to_lowercase())
        })
        .collect();
    let rows = words.windows(3);
    rows.filter_map(|row| Some([row[0].clone()?, row[1].clone()?, row[2].clone()?].join(" ")))
        .collect()
}

/// The output of commands that no test runs goes stale when a message changes. So of each line at least half
/// of its words, taken by three, must be words of a message.
fn output_that_is_not_run_has_the_words_of_the_program() {
    let literals = sources().into_iter().flat_map(|path| texts(&read(&path)));
    let known: BTreeSet<String> = literals.flat_map(|(_, text)| triples(&text)).collect();
    let mut stale = Vec::new();
    let mut count = 0;
    for (name, page) in pages() {
        let is_output =
            |block: &&Block<'_>| block.info.contains("output") || block.info.contains("no-run");
        for block in blocks(&page).iter().filter(is_output) {
            for line in block.lines.iter().filter(|line| !line.starts_with('$')) {
                let all = triples(line);
                let found = all.iter().filter(|words| known.contains(*words)).count();
                count += found;
                if all.len() >= 2 && found * 2 < all.len() {
                    stale.push(format!("{name}: {line}"));
                }
            }
        }
    }
    assert!(stale.is_empty(), "no message has these words:\n{}", stale.join("\n"));
    assert!(count >= 100, "only {count} words were compared");
}

/// The pages in which the first cell of a row quotes messages of the program. `…` stands for what differs.
const QUOTES: &[&str] = &["docs/troubleshooting.md"];

fn quoted_messages_are_messages_of_the_program() {
    let mut known = String::new();
    for path in sources() {
        for (_, text) in texts(&read(&path)) {
            known.push_str(&text.split_whitespace().collect::<Vec<_>>().join(" "));
            known.push('\n');
        }
    }
    let mut missing = Vec::new();
    let mut count = 0;
    for page in QUOTES {
        let text = prose(&read(page));
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let cell = row.trim_start_matches('|').split(" | ").next().unwrap_or_default();
            for message in quoted(cell) {
                count += 1;
                let parts = message.split('…').map(str::trim).filter(|part| part.len() > 2);
                missing.extend(
                    parts
                        .filter(|part| !known.contains(part))
                        .map(|part| format!("{page}: {part:?}")),
                );
            }
        }
    }
    assert!(missing.is_empty(), "no message says:\n{}", missing.join("\n"));
    assert!(count >= 20, "only {count} messages were found");
}
