//! The result of a command, as text for people, JSON for programs, Markdown for a pull request, and an HTML page. It decides
//! nothing about hosts.
//!
//! Text has ANSI colours; the caller removes them where there is no terminal.

pub mod chaos;
pub mod cluster;
#[cfg(test)]
mod cluster_tests;
pub mod costs;
pub mod doctor;
pub mod findings;
mod hosts;
pub mod lab;
pub mod maintenance;
pub mod markdown;
pub mod page;
pub mod rules;
pub mod status;
pub mod steps;
pub mod table;
mod transaction;
pub mod verify;
pub mod walk;
pub mod watch;

/// Items of a host that lvsprov did not make, a line each, aligned.
fn foreign(all: &[crate::plan::UnmanagedItem]) -> String {
    let row = |foreign: &crate::plan::UnmanagedItem| {
        vec![
            "foreign:".to_owned(),
            foreign.kind.clone(),
            foreign.name.clone(),
            foreign.what.clone(),
        ]
    };
    table::aligned(&all.iter().map(row).collect::<Vec<_>>(), 4)
}

/// The noun for so many: `step`, `steps`.
fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// Adds the `schema` member of every JSON document: its kind, and a number that counts up only when a member
/// changes its meaning or is removed.
pub fn with_schema<T: serde::Serialize>(kind: &str, value: &T) -> serde_json::Value {
    let mut document = serde_json::json!({ "schema": format!("lvsprov/{kind}/1") });
    match (serde_json::to_value(value), document.as_object_mut()) {
        (Ok(serde_json::Value::Object(members)), Some(object)) => object.extend(members),
        (Ok(other), Some(object)) => {
            object.insert("value".to_owned(), other);
        }
        (Err(error), Some(object)) => {
            object.insert("error".to_owned(), error.to_string().into());
        }
        (_, None) => {}
    }
    document
}
