//! Drift that a host looks for by itself: what it does about it, and what its last looks found.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What a host does about drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftAction {
    /// It writes down what differs.
    Report,
    /// It also makes the settled state again, as far as the receipt owns it.
    Mend,
}

impl DriftAction {
    /// All actions.
    pub const ALL: [Self; 2] = [Self::Report, Self::Mend];

    /// The word in a topology file and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Mend => "mend",
        }
    }
}

impl fmt::Display for DriftAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a host does about drift, and how often it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftPolicy {
    /// What it does.
    pub action: DriftAction,
    /// Seconds from the end of one look to the next, [`Self::SHORTEST`] to [`Self::LONGEST`].
    pub every_s: u32,
}

impl DriftPolicy {
    /// In seconds.
    pub const SHORTEST: u32 = 10;
    /// In seconds: a day.
    pub const LONGEST: u32 = 86_400;
    /// In seconds, where the file says nothing.
    pub const USUAL: u32 = 300;
}

/// What a host's looks for drift found (`drift.json` beside the receipt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftRecord {
    /// The last look, in seconds since 1970 by the host's clock.
    pub looked_at: u64,
    /// What it does about drift.
    pub action: DriftAction,
    /// The drift that was found last; it stays here after it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundDrift>,
    /// What differed at the last look and is never mended: a health checker may have changed it. One line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

/// Drift, from the look that found it to the one that found it gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDrift {
    /// The first look that found these items, in seconds since 1970.
    pub at: u64,
    /// The steps that mend it, one line each; at most [`Self::MOST`].
    pub items: Vec<String>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    /// Units of programs that may drop such items, and that systemd started, reloaded or stopped between the look
    /// before and this one. Nothing says that they did it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitChange>,
    /// When the host mended it, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mended_at: Option<u64>,
    /// The look that found it gone, though this host did not mend it; in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<u64>,
    /// Why it was not mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A unit whose state changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitChange {
    /// Its name: `nftables.service`.
    pub unit: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl FoundDrift {
    /// So many items are written down.
    pub const MOST: usize = 100;

    /// Whether the host still had it at its last look.
    pub fn is_open(&self) -> bool {
        self.mended_at.is_none() && self.gone_at.is_none()
    }
}

/// One look of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriftLook {
    /// The steps that mend what differs, one line each.
    pub items: Vec<String>,
    /// What differs and is never mended.
    pub left: Vec<String>,
    /// Changes of units since the look before.
    pub units: Vec<UnitChange>,
    /// Whether it was mended.
    pub mended: bool,
    /// Why not.
    pub failure: Option<Failure>,
}

impl DriftRecord {
    /// The record after a look at `now`; `before`: that of the look before.
    pub fn after(before: Option<&Self>, now: u64, action: DriftAction, look: &DriftLook) -> Self {
        let DriftLook { items, left, units, mended, failure } = look;
        let cut = |lines: &[String]| lines.iter().take(FoundDrift::MOST).cloned().collect();
        let last = before.and_then(|before| before.found.clone());
        let found = if items.is_empty() {
            last.map(|last| {
                let gone_at = last.gone_at.or(last.is_open().then_some(now));
                FoundDrift { gone_at, ..last }
            })
        } else {
            let more = items.len().saturating_sub(FoundDrift::MOST);
            let items: Vec<String> = cut(items);
            let same = last.filter(|last| last.is_open() && last.items == items);
            let (at, units) =
                same.map_or_else(|| (now, units.clone()), |same| (same.at, same.units));
            let (mended_at, failure) = (mended.then_some(now), failure.clone());
            Some(FoundDrift { at, items, more, units, mended_at, gone_at: None, failure })
        };
        Self { looked_at: now, action, found, left: cut(left) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn look(items: &[&str], mended: bool) -> DriftLook {
        let items = items.iter().map(|&item| item.to_owned()).collect();
        DriftLook { items, mended, ..DriftLook::default() }
    }

    #[test]
    fn drift_has_a_beginning_and_an_end() {
        let report = DriftAction::Report;
        let clean = DriftRecord::after(None, 100, report, &look(&[], false));
        assert_eq!((clean.looked_at, clean.found.clone()), (100, None));
        let units = vec![UnitChange { unit: "nftables.service".to_owned(), at: 150 }];
        let seen = DriftLook { units: units.clone(), ..look(&["a"], false) };
        let first = DriftRecord::after(Some(&clean), 200, report, &seen);
        // The next look finds the same: it began with the first, and so did its cause.
        let second = DriftRecord::after(Some(&first), 300, report, &look(&["a"], false));
        let found = second.found.clone().unwrap();
        assert_eq!((found.at, found.units.clone(), found.is_open()), (200, units, true));
        let other = DriftRecord::after(Some(&second), 400, report, &look(&["a", "b"], false));
        assert_eq!(other.found.unwrap().at, 400);
        let gone = DriftRecord::after(Some(&second), 400, report, &look(&[], false));
        assert_eq!(gone.found.clone().unwrap().gone_at, Some(400));
        let later = DriftRecord::after(Some(&gone), 500, report, &look(&[], false));
        assert_eq!(later.found, gone.found, "it was gone at 400");
        let again = DriftRecord::after(Some(&gone), 500, DriftAction::Mend, &look(&["a"], true));
        let found = again.found.unwrap();
        assert_eq!((found.at, found.mended_at, found.gone_at), (500, Some(500), None));
    }

    #[test]
    fn of_very_many_items_some_are_named_and_all_are_counted() {
        let items: Vec<String> = (0..250).map(|number| number.to_string()).collect();
        let many = DriftLook { items, ..DriftLook::default() };
        let record = DriftRecord::after(None, 1, DriftAction::Report, &many);
        let found = record.found.clone().unwrap();
        assert_eq!((found.items.len(), found.more), (FoundDrift::MOST, 150));
        let again = DriftRecord::after(Some(&record), 2, DriftAction::Report, &many);
        assert_eq!(again.found.unwrap().at, 1);
    }
}
