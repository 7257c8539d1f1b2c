//! What may have been meant by a word or a name that is not known.

use super::model::Position;
use crate::check::Finding;

/// The cure for an unknown word: the nearest known one, else all of them.
pub fn nearest_of(text: &str, known: &[&str]) -> String {
    match nearest(text, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there is none to choose from".to_owned(),
        None => {
            let mut all: Vec<&str> = known.iter().copied().take(20).collect();
            if known.len() > all.len() {
                all.push("...");
            }
            format!("one of: {}", all.join(", "))
        }
    }
}

/// The known word that `text` is a slip of the pen away from.
pub fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let text = text.to_lowercase().replace('-', "_");
    if text.len() > 64 {
        return None;
    }
    let allowed = (text.chars().count() / 3).max(1);
    let distance = |word: &str| strsim::damerau_levenshtein(&text, &word.replace('-', "_"));
    let near = known.iter().copied().min_by_key(|word| distance(word))?;
    (distance(near) <= allowed).then_some(near)
}

/// A finding about a name that nothing has.
pub fn unknown_name(what: &str, at: Position, name: &str, known: &[&str]) -> Finding {
    Finding::error(
        "unknown-name",
        at,
        format!("there is no {what} {name}"),
        "everything that is named must be described in the same file",
        nearest_of(name, known),
    )
}
