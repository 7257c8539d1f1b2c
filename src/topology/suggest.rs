//! What may have been meant by a word or a name that is not known.

use std::fmt::Display;

use crate::finding::{Finding, Position};

/// Names that one list in a message has at most.
const LISTED: usize = 20;
/// Known words looked at for one file, about: hosts times mistakes would never end.
const LOOKED_AT: usize = 100_000;

/// The cure for an unknown word: the nearest known one, else all of them.
pub fn nearest_of(text: &str, known: &[&str]) -> String {
    match nearest(text, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there is none to choose from".to_owned(),
        None => format!("one of: {}", listed(known)),
    }
}

/// The words behind commas, the first of them where there are many.
pub fn listed<T: Display>(words: impl IntoIterator<Item = T>) -> String {
    let mut words = words.into_iter();
    let mut all: Vec<String> = words.by_ref().take(LISTED).map(|word| word.to_string()).collect();
    if words.next().is_some() {
        all.push("...".to_owned());
    }
    all.join(", ")
}

/// The known word that `text` is a slip of the pen away from.
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

/// Whether to look for the nearest of `known` words, where `mistakes` were found before.
pub fn is_worth_it(mistakes: usize, known: usize) -> bool {
    mistakes.saturating_mul(known) <= LOOKED_AT
}

/// A finding about a name that nothing has, where `mistakes` were found before.
pub fn unknown_name<'a>(
    what: &str,
    at: Position,
    name: &str,
    mistakes: usize,
    known: impl ExactSizeIterator<Item = &'a str>,
) -> Finding {
    let cure = if is_worth_it(mistakes, known.len()) {
        nearest_of(name, &known.collect::<Vec<_>>())
    } else {
        format!("one of: {}", listed(known))
    };
    Finding::error(
        "unknown-name",
        at,
        format!("there is no {what} {name}"),
        "everything that is named must be described in the same file",
        cure,
    )
}
