//! One edit of one setting: its key, its value before and its value after.
//!
//! [`SettingKind`] says what a kind of setting is; all else follows from it: the inverse of an edit, whether a
//! state has it, whether it fits a state, its line for people and its JSON. [`super::settings`] lists the kinds.

use std::fmt::{self, Debug, Display};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::HostState;
use super::settings::{Edit, Item};

/// A kind of setting, named by its value or its key.
pub trait SettingKind: InEdit {
    /// Names one setting of this kind on a host.
    type Key: Clone + PartialEq + Debug + Serialize + DeserializeOwned;
    /// The value, without the key. Of a kind that has none: [`Present`].
    type Value: Clone + PartialEq + Debug + Display + Serialize + DeserializeOwned;

    /// What the kernel can do with it, in words for people.
    const VERBS: Verbs = Verbs::ADDED_CHANGED_REMOVED;
    /// Its names in JSON.
    const JSON: JsonNames;

    /// The value of `key` in `state`.
    fn get(state: &HostState, key: &Self::Key) -> Option<Self::Value>;

    /// Makes `key` have `value` in `state`; `None`: absent.
    fn put(state: &mut HostState, key: &Self::Key, value: Option<Self::Value>);

    /// All keys in `state`.
    fn keys(state: &HostState) -> Vec<Self::Key>;

    /// The item that `key` belongs to.
    fn item(key: &Self::Key) -> Item;

    /// Names `key` for people; finer than [`SettingKind::item`] where that has several keys.
    fn precise_name(key: &Self::Key) -> String {
        Self::item(key).to_string()
    }

    /// Makes `key` in `into` what it is in `from`, with everything that belongs to it.
    fn copy(into: &mut HostState, key: &Self::Key, from: &HostState) {
        Self::put(into, key, Self::get(from, key));
    }

    /// The value of `key`, with everything that belongs to it, in one line for people.
    fn describe(state: &HostState, key: &Self::Key) -> Option<String> {
        Self::get(state, key).map(|value| value.to_string())
    }

    /// What else than presence and value the kernel asks for.
    fn misfit(_state: &HostState, _edit: &KeyedEdit<Self>) -> Option<Misfit> {
        None
    }

    /// One line for people, with before and after.
    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, name) = (edit.verb_text(), Self::precise_name(&edit.key));
        match (&edit.before, &edit.after) {
            (Some(before), Some(after)) => write!(f, "{verb} {name}: {before} -> {after}"),
            (Some(value), None) | (None, Some(value)) => write!(f, "{verb} {name} ({value})"),
            (None, None) => write!(f, "{verb} {name}"),
        }
    }
}

/// The place of a [`SettingKind`] in the closed set of edits; written by the list of kinds.
pub trait InEdit: Clone + PartialEq + Eq + Debug + 'static {
    /// `edit` as one of the closed set.
    fn into_edit(edit: KeyedEdit<Self>) -> Edit
    where
        Self: SettingKind;

    /// `edit`, if it is of this kind.
    fn from_edit(edit: &Edit) -> Option<&KeyedEdit<Self>>
    where
        Self: SettingKind;

    /// The same, to change it.
    fn from_edit_mut(edit: &mut Edit) -> Option<&mut KeyedEdit<Self>>
    where
        Self: SettingKind;
}

/// The value of a setting that has none beside its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present;

impl Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("there")
    }
}

/// What an edit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditVerb {
    /// The setting was absent.
    Add,
    /// It has another value, without a moment in between.
    Change,
    /// It is absent afterwards.
    Remove,
}

/// The verbs of a kind of setting, for people; `None`: the kernel cannot do that with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbs {
    /// From absent to a value.
    pub add: Option<&'static str>,
    /// From one value to another.
    pub change: Option<&'static str>,
    /// From a value to absent.
    pub remove: Option<&'static str>,
}

impl Verbs {
    /// The kernel can do all three.
    pub const ADDED_CHANGED_REMOVED: Self =
        Self { add: Some("add"), change: Some("change"), remove: Some("remove") };
    /// The kernel changes none in place.
    pub const ADDED_REMOVED: Self = Self { change: None, ..Self::ADDED_CHANGED_REMOVED };
    /// It is always there.
    pub const SET: Self = Self { add: None, change: Some("set"), remove: None };

    /// The word for `verb`.
    pub fn of(self, verb: EditVerb) -> Option<&'static str> {
        match verb {
            EditVerb::Add => self.add,
            EditVerb::Change => self.change,
            EditVerb::Remove => self.remove,
        }
    }
}

/// How an edit of a kind is written in JSON: `{TAG: {KEY: .., VALUE: ..}}`, see `state::edit_json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonNames {
    /// The tags of an addition, a change and a removal; of one name for all, `before` and `after` tell which.
    pub tags: [&'static str; 3],
    /// The member with the key; empty: the key has members of its own, or none.
    pub key: &'static str,
    /// The member with the value that is added or removed; empty: there is none.
    pub value: &'static str,
}

/// One edit of a setting of kind `S`. A plan has none whose `before` and `after` are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedEdit<S: SettingKind> {
    /// Names the setting.
    pub key: S::Key,
    /// The value that must be present; `None`: absent.
    pub before: Option<S::Value>,
    /// The value that it leaves; `None`: absent.
    pub after: Option<S::Value>,
}

/// Why an edit cannot be done in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It would be added and exists.
    Exists,
    /// It would be changed or removed and does not exist.
    Absent,
    /// It has another value than `before`.
    Different,
    /// A service would be removed that still has destinations.
    Occupied,
    /// The kernel has no such edit.
    Impossible,
}

impl<S: SettingKind> KeyedEdit<S> {
    /// What it does.
    pub fn verb(&self) -> EditVerb {
        match (&self.before, &self.after) {
            (None, _) => EditVerb::Add,
            (Some(_), Some(_)) => EditVerb::Change,
            (Some(_), None) => EditVerb::Remove,
        }
    }

    /// The word for that.
    pub fn verb_text(&self) -> &'static str {
        S::VERBS.of(self.verb()).unwrap_or("cannot")
    }

    /// What undoes it; `None` where the kernel cannot: a module stays.
    pub fn inverse(&self) -> Option<Self> {
        let Self { key, before, after } = self.clone();
        let back = Self { key, before: after, after: before };
        S::VERBS.of(back.verb()).map(|_| back)
    }

    /// Whether `state` is as this leaves it.
    pub fn is_done(&self, state: &HostState) -> bool {
        S::get(state, &self.key) == self.after
    }

    /// Why it cannot be done in `state`; `None`: it can.
    pub fn misfit(&self, state: &HostState) -> Option<Misfit> {
        if S::VERBS.of(self.verb()).is_none() {
            return Some(Misfit::Impossible);
        }
        S::misfit(state, self).or_else(|| match (&self.before, S::get(state, &self.key)) {
            (None, Some(_)) => Some(Misfit::Exists),
            (Some(_), None) => Some(Misfit::Absent),
            (Some(before), Some(present)) if present != *before => Some(Misfit::Different),
            (None, None) | (Some(_), Some(_)) => None,
        })
    }

    /// Gives the setting its value afterwards in `state`, whatever it is now.
    pub fn put(&self, state: &mut HostState) {
        S::put(state, &self.key, self.after.clone());
    }
}

impl<S: SettingKind> Display for KeyedEdit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        S::write(self, f)
    }
}

impl Edit {
    /// From absent to `value`.
    pub fn add<S: SettingKind>(key: S::Key, value: S::Value) -> Self {
        S::into_edit(KeyedEdit { key, before: None, after: Some(value) })
    }

    /// From one value to another.
    pub fn change<S: SettingKind>(key: S::Key, before: S::Value, after: S::Value) -> Self {
        S::into_edit(KeyedEdit { key, before: Some(before), after: Some(after) })
    }

    /// From `value` to absent.
    pub fn remove<S: SettingKind>(key: S::Key, value: S::Value) -> Self {
        S::into_edit(KeyedEdit { key, before: Some(value), after: None })
    }

    /// From `before` to `after`; `None` where they are equal.
    pub fn between<S: SettingKind>(
        key: S::Key,
        before: Option<S::Value>,
        after: Option<S::Value>,
    ) -> Option<Self> {
        (before != after).then(|| S::into_edit(KeyedEdit { key, before, after }))
    }

    /// From the value of `key` in one state to its value in another; `None` where they are equal.
    pub fn between_states<S: SettingKind>(
        key: &S::Key,
        from: &HostState,
        to: &HostState,
    ) -> Option<Self> {
        Self::between::<S>(key.clone(), S::get(from, key), S::get(to, key))
    }

    /// This edit, if it is of kind `S`.
    pub fn of<S: SettingKind>(&self) -> Option<&KeyedEdit<S>> {
        S::from_edit(self)
    }

    /// The same, to change it.
    pub fn of_mut<S: SettingKind>(&mut self) -> Option<&mut KeyedEdit<S>> {
        S::from_edit_mut(self)
    }

    /// Key and value, if it adds one of kind `S`.
    pub fn added<S: SettingKind>(&self) -> Option<(&S::Key, &S::Value)> {
        match self.of::<S>()? {
            KeyedEdit { key, before: None, after: Some(value) } => Some((key, value)),
            _ => None,
        }
    }

    /// Key, value before and value after, if it changes one of kind `S`.
    pub fn changed<S: SettingKind>(&self) -> Option<(&S::Key, &S::Value, &S::Value)> {
        match self.of::<S>()? {
            KeyedEdit { key, before: Some(before), after: Some(after) } => {
                Some((key, before, after))
            }
            _ => None,
        }
    }

    /// Key and value, if it removes one of kind `S`.
    pub fn removed<S: SettingKind>(&self) -> Option<(&S::Key, &S::Value)> {
        match self.of::<S>()? {
            KeyedEdit { key, before: Some(value), after: None } => Some((key, value)),
            _ => None,
        }
    }
}

/// [`SettingKind::get`], [`SettingKind::put`], [`SettingKind::keys`] and [`SettingKind::item`] of a kind that a map of
/// [`HostState`] holds.
macro_rules! in_map {
    ($field:ident, $item:ident) => {
        fn get(state: &$crate::state::HostState, key: &Self::Key) -> Option<Self::Value> {
            state.$field.get(key).cloned()
        }

        fn put(state: &mut $crate::state::HostState, key: &Self::Key, value: Option<Self::Value>) {
            match value {
                Some(value) => drop(state.$field.insert(key.clone(), value)),
                None => drop(state.$field.remove(key)),
            }
        }

        fn keys(state: &$crate::state::HostState) -> Vec<Self::Key> {
            state.$field.keys().cloned().collect()
        }

        fn item(key: &Self::Key) -> $crate::state::Item {
            $crate::state::Item::$item(key.clone())
        }
    };
}
pub(super) use in_map;

/// The same of a kind that a set holds.
macro_rules! in_set {
    ($field:ident, $item:ident) => {
        fn get(state: &$crate::state::HostState, key: &Self::Key) -> Option<Self::Value> {
            state.$field.contains(key).then_some($crate::state::Present)
        }

        fn put(state: &mut $crate::state::HostState, key: &Self::Key, value: Option<Self::Value>) {
            match value {
                Some(_) => state.$field.insert(*key),
                None => state.$field.remove(key),
            };
        }

        fn keys(state: &$crate::state::HostState) -> Vec<Self::Key> {
            state.$field.iter().copied().collect()
        }

        fn item(key: &Self::Key) -> $crate::state::Item {
            $crate::state::Item::$item(*key)
        }
    };
}
pub(super) use in_set;
