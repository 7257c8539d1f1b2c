//! Edits as JSON, in reports, saved plans, journals and messages: `{"add_address": {"key": .., "address": ..}}`.
//!
//! A kind whose additions, changes and removals have tags of their own has the value in a member of its own
//! name, and `before` and `after` only in a change. A kind with one tag always has `before` and `after`.

use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::edit::{EditVerb, JsonNames, KeyedEdit, SettingKind};

const BEFORE: &str = "before";
const AFTER: &str = "after";

impl JsonNames {
    fn has_one_tag(&self) -> bool {
        let [add, change, _] = self.tags;
        add == change
    }

    fn tag(&self, verb: EditVerb) -> &'static str {
        let [add, change, remove] = self.tags;
        match verb {
            EditVerb::Add => add,
            EditVerb::Change => change,
            EditVerb::Remove => remove,
        }
    }

    /// Whether `tag` is one of this kind.
    pub(super) fn has(&self, tag: &str) -> bool {
        !tag.is_empty() && self.tags.contains(&tag)
    }
}

/// What stands behind the tag.
struct EditBody<'a, S: SettingKind>(&'a KeyedEdit<S>);

impl<S: SettingKind> Serialize for EditBody<'_, S> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        let Self(KeyedEdit { key, before, after }) = self;
        let mut members = serializer.serialize_map(None)?;
        match serde_json::to_value(key).map_err(T::Error::custom)? {
            Value::Null => {}
            Value::Object(parts) => {
                for (name, part) in parts {
                    members.serialize_entry(&name, &part)?;
                }
            }
            whole => members.serialize_entry(S::JSON.key, &whole)?,
        }
        match (before, after) {
            (Some(value), None) | (None, Some(value)) if !S::JSON.has_one_tag() => {
                if !S::JSON.value.is_empty() {
                    members.serialize_entry(S::JSON.value, value)?;
                }
            }
            _ => {
                members.serialize_entry(BEFORE, before)?;
                members.serialize_entry(AFTER, after)?;
            }
        }
        members.end()
    }
}

/// Writes `{TAG: MEMBERS}`.
pub(super) fn write<S: SettingKind, T: Serializer>(
    edit: &KeyedEdit<S>,
    serializer: T,
) -> Result<T::Ok, T::Error> {
    let mut whole = serializer.serialize_map(Some(1))?;
    whole.serialize_entry(S::JSON.tag(edit.verb()), &EditBody(edit))?;
    whole.end()
}

/// Reads what stands behind `tag`, which is one of `S`.
pub(super) fn read<S: SettingKind>(
    tag: &str,
    mut members: Map<String, Value>,
) -> Result<KeyedEdit<S>, serde_json::Error> {
    let names = S::JSON;
    let both = names.has_one_tag() || tag == names.tag(EditVerb::Change);
    let (before, after) = if both {
        (value(members.remove(BEFORE))?, value(members.remove(AFTER))?)
    } else {
        let one = member::<S::Value>(members.remove(names.value))?;
        if tag == names.tag(EditVerb::Add) { (None, Some(one)) } else { (Some(one), None) }
    };
    let key = match members.remove(names.key) {
        Some(whole) => whole,
        None if members.is_empty() => Value::Null,
        None => Value::Object(members),
    };
    let edit = KeyedEdit { key: serde_json::from_value(key)?, before, after };
    if names.tag(edit.verb()) != tag || S::VERBS.of(edit.verb()).is_none() {
        let wrong = format!("`{tag}` says something else with `{BEFORE}` and `{AFTER}`");
        return Err(serde::de::Error::custom(wrong));
    }
    Ok(edit)
}

fn value<V: DeserializeOwned>(of: Option<Value>) -> Result<Option<V>, serde_json::Error> {
    of.map_or(Ok(None), serde_json::from_value)
}

fn member<V: DeserializeOwned>(of: Option<Value>) -> Result<V, serde_json::Error> {
    serde_json::from_value(of.unwrap_or_default())
}
