//! Comments that silence a finding: `# lvsprov: allow LVS031 the third server is being replaced`.
//!
//! The YAML parser finds the comments, so a `#` in a quoted or block scalar begins none. A comment behind a value
//! is for its own line. A comment that stands alone is for the line below it, below further such comments.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser};

use super::node;
use crate::finding::rules::{Rule, UnknownRule};
use crate::finding::{Finding, Position, Severity};

/// What such a comment begins with.
const ADDRESS: &str = "lvsprov:";

/// A comment that silences one finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowComment {
    /// The rule of the finding.
    pub rule: &'static Rule,
    /// Why the author of the file accepts it.
    pub reason: String,
    /// The line on which the finding stands.
    pub line: u32,
    /// The comment's place.
    pub at: Position,
}

/// The comments of `text` that silence a finding, and findings about those that do not say which or why.
///
/// `text` is YAML; what stands behind an error of syntax is not read.
pub fn allow_comments(text: &str) -> (Vec<AllowComment>, Vec<Finding>) {
    let (mut allowed, mut findings) = (Vec::new(), Vec::new());
    if !text.contains(ADDRESS) {
        return (allowed, findings);
    }
    let comments = comments(text);
    let below = lines_below(text, &comments);
    for (text, at) in &comments {
        let Some(words) = text.trim().strip_prefix(ADDRESS) else { continue };
        match read(words, findings.len()) {
            Ok((rule, reason)) => {
                let line = below.get(&at.line).copied().unwrap_or(at.line);
                allowed.push(AllowComment { rule, reason, line, at: *at });
            }
            Err((message, why, cure)) => {
                findings.push(Finding::error("bad-allow", *at, message, why, cure));
            }
        }
    }
    (allowed, findings)
}

/// Every comment without its `#`.
fn comments(text: &str) -> Vec<(String, Position)> {
    let mut options = node::options();
    options.set_emit_comments(true);
    // The file's size bounds them.
    options.max_buffered_comment_events = usize::MAX;
    let events = Parser::new_from_str_with_options(text, options).map_while(Result::ok);
    events
        .filter_map(|(event, span)| match event {
            Event::Comment(text, _) => Some((text.into_owned(), node::position(span))),
            _ => None,
        })
        .collect()
}

/// For each line that has only a comment: the line below it that has something else.
fn lines_below(text: &str, comments: &[(String, Position)]) -> BTreeMap<u32, u32> {
    // YAML ends a line at any of \r\n, \r and \n.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.split('\n').collect();
    let is_alone = |at: &Position| {
        let line = usize::try_from(at.line).ok().and_then(|line| lines.get(line.checked_sub(1)?));
        line.is_some_and(|line| line.trim_start_matches(['\u{feff}', ' ', '\t']).starts_with('#'))
    };
    let mut below = BTreeMap::new();
    for (_, at) in comments.iter().rev().filter(|(_, at)| is_alone(at)) {
        let next = at.line.saturating_add(1);
        let line = below.get(&next).copied().unwrap_or(next);
        below.insert(at.line, line);
    }
    below
}

/// What is wrong, why it matters, what to do.
type Refusal = (String, &'static str, String);

/// The rule and the reason behind `lvsprov:`, after `mistakes` findings.
fn read(words: &str, mistakes: usize) -> Result<(&'static Rule, String), Refusal> {
    /// Findings from which on no nearest rule is looked for.
    const MANY: usize = 100;
    const FORM: &str = "write `# lvsprov: allow CODE REASON`, such as `# lvsprov: allow LVS031 the third is being replaced`";
    let (verb, rest) = split(words);
    if verb != "allow" {
        return Err((
            format!("{verb:?} is no word for a comment to lvsprov"),
            "the only one is `allow`, which silences a finding; any other would do nothing",
            FORM.to_owned(),
        ));
    }
    let (word, reason) = split(rest);
    let rule = word.parse::<&Rule>().map_err(|unknown: UnknownRule| {
        let message = format!("there is no rule {word:?} to allow");
        let cure = if mistakes < MANY { unknown.cure() } else { FORM.to_owned() };
        (message, "a comment must name the one rule whose finding it silences", cure)
    })?;
    let why = match rule.name {
        "unused-allow" => Some("it is about such comments: remove the one that silences nothing"),
        _ if rule.severities == [Severity::Error] => {
            Some("it is an error: such a cluster would not work, whatever the reason")
        }
        _ => None,
    };
    if let Some(why) = why {
        let cure = format!("remove the comment; `lvsprov explain {}` has the cure", rule.code);
        return Err((format!("no comment can silence {rule}"), why, cure));
    }
    if reason.is_empty() {
        return Err((
            format!("no reason to allow {rule}"),
            "the next reader of the file must see why the finding is no problem here",
            format!("write it behind the code: `# lvsprov: allow {} REASON`", rule.code),
        ));
    }
    Ok((rule, node::plain(reason)))
}

/// The first word, and what follows it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    /// The lines of findings that the comments of `text` silence, with their reasons.
    fn lines(text: &str) -> Vec<(u32, String)> {
        let (allowed, findings) = allow_comments(text);
        assert!(findings.is_empty(), "{findings:?}");
        allowed.into_iter().map(|it| (it.line, it.reason)).collect()
    }

    #[test]
    fn a_comment_is_for_its_line_or_for_the_next_one_that_is_no_comment() {
        let one = |line: u32| vec![(line, "x y".to_owned())];
        assert_eq!(lines("a: 1 # lvsprov: allow LVS031 x y\n"), one(1));
        assert_eq!(lines("# lvsprov: allow LVS031 x y\na: 1\n"), one(2));
        assert_eq!(
            lines("a:\n  # lvsprov:  allow  weights-ignored  x y \n  # more\n  b: 1\n"),
            one(4)
        );
        assert_eq!(lines("\u{feff}#lvsprov: allow lvs031 x y\r\na: 1\r\n"), one(2));
        assert_eq!(lines("a: [1, # lvsprov: allow LVS031 x y\n  2]\n"), one(1));
        // A blank line ends it: the comment silences nothing.
        assert_eq!(lines("# lvsprov: allow LVS031 x y\n\na: 1\n"), one(2));
        let both = "# lvsprov: allow LVS031 x\n# lvsprov: allow LVS032 y\na: 1 # lvsprov: allow LVS033 z\n";
        let reasons = [(3, "x".to_owned()), (3, "y".to_owned()), (3, "z".to_owned())];
        assert_eq!(lines(both), reasons);
    }

    #[test]
    fn a_number_sign_in_a_scalar_begins_no_comment() {
        for text in [
            "a: \"x # lvsprov: allow LVS031 x\"\n",
            "a: 'x # lvsprov: allow nothing'\n",
            "a: |\n  # lvsprov: allow LVS031 x\n  y\n",
            "a: >-\n  x\n  # lvsprov: alow\nb: 1\n",
            "a: x# lvsprov: allow LVS031 x\n",
            "a: \"x\n  # lvsprov: allow LVS031 x\n  y\"\n",
            "# about lvsprov: allow LVS031 x\na: 1\n",
        ] {
            assert_eq!(allow_comments(text), (Vec::new(), Vec::new()), "{text:?}");
        }
        // Behind the header of a block scalar, and behind the scalar, one may stand.
        assert_eq!(lines("a: | # lvsprov: allow LVS031 x\n  y\n"), [(1, "x".to_owned())]);
        assert_eq!(lines("a: |\n  y\n# lvsprov: allow LVS031 x\nb: 1\n"), [(4, "x".to_owned())]);
    }

    #[test]
    fn a_comment_without_rule_or_reason_is_refused() {
        for (comment, expected) in [
            ("allow LVS031", "no reason to allow LVS031 weights-ignored"),
            ("allow LVS999 x", "there is no rule \"LVS999\" to allow"),
            ("allow", "there is no rule \"\" to allow"),
            ("alow LVS031 x", "\"alow\" is no word for a comment to lvsprov"),
            ("allow LVS001 x", "no comment can silence LVS001 no-answer"),
            ("allow unused-allow x", "no comment can silence LVS119 unused-allow"),
        ] {
            let (allowed, findings) = allow_comments(&format!("a: 1 # lvsprov: {comment}\n"));
            assert!(allowed.is_empty(), "{comment}");
            let [finding] = findings.as_slice() else { panic!("{comment}: {findings:?}") };
            assert!(finding.message.contains(expected), "{comment}: {}", finding.message);
            assert_eq!((finding.rule, finding.at.line, finding.at.column), ("bad-allow", 1, 6));
        }
    }

    #[test]
    fn very_many_comments_come_to_an_end() {
        let text = "#\n".repeat(200_000) + &"# lvsprov: allow LVS3 x\n".repeat(20_000) + "a: 1\n";
        assert_eq!(allow_comments(&text).1.len(), 20_000);
        let text = "# lvsprov: allow LVS031 x\n".repeat(20_000) + "a: 1\n";
        let (allowed, _) = allow_comments(&text);
        assert!(allowed.len() == 20_000 && allowed.iter().all(|it| it.line == 20_001));
    }
}
