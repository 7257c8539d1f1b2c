//! Suggestions for unknown words and names.

use std::fmt::Display;

use crate::finding::{Finding, Position};

/// Maximum number of names in one message.
const LISTED: usize = 24;
/// Budget of word comparisons for one file: bounds mistakes times known names.
const LOOKED_AT: usize = 100_000;

/// The cure for an unknown word: the nearest known one, else all of them.
pub fn nearest_of(text: &str, known: &[&str]) -> String {
    match nearest(text, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "the file has none".to_owned(),
        None => format!("one of: {}", listed(known)),
    }
}

/// The words separated by commas, cut off after the maximum.
pub fn listed<T: Display>(words: impl IntoIterator<Item = T>) -> String {
    let mut words = words.into_iter();
    let mut all: Vec<String> = words.by_ref().take(LISTED).map(|word| word.to_string()).collect();
    if words.next().is_some() {
        all.push("...".to_owned());
    }
    all.join(", ")
}

/// The known word that `text` most likely misspells.
pub fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let text = text.to_lowercase().replace('-', "_");
    if text.len() > 64 {
        return None;
    }
    let length = text.chars().count();
    let allowed = (length / 3).max(1);
    let distance = |word: &str| strsim::damerau_levenshtein(&text, &word.replace('-', "_"));
    let close = known.iter().filter(|word| word.chars().count().abs_diff(length) <= allowed);
    let (near, distance) =
        close.map(|word| (*word, distance(word))).min_by_key(|(_, distance)| *distance)?;
    (distance <= allowed).then_some(near)
}

/// Whether the budget allows a search among `known` words after `mistakes` findings.
pub fn is_worth_searching(mistakes: usize, known: usize) -> bool {
    mistakes.saturating_mul(known) <= LOOKED_AT
}

/// A finding about an unknown name, after `mistakes` findings.
pub fn unknown_name<'a>(
    what: &str,
    at: Position,
    name: &str,
    mistakes: usize,
    known: impl ExactSizeIterator<Item = &'a str>,
) -> Finding {
    let cure = if is_worth_searching(mistakes, known.len()) {
        nearest_of(name, &known.collect::<Vec<_>>())
    } else {
        format!("one of: {}", listed(known))
    };
    Finding::error(
        "unknown-name",
        at,
        format!("there is no {what} {name}"),
        "every name must be defined in the same file",
        cure,
    )
}
