//! The key `drift`, of the file or of a host: what hosts do by themselves about drift.

use super::super::document::{DriftDoc, Field};
use super::super::node::{YamlNode, YamlValue};
use super::super::scalar;
use super::{Loader, Mapping};
use crate::state::DriftPolicy;

const DRIFT: &[&str] = &["do", "every"];

impl Loader {
    /// A word, or a mapping with the interval too.
    pub(super) fn drift(&mut self, mapping: &Mapping<'_>) -> Field<DriftDoc> {
        self.nested(mapping, "drift", Self::drift_doc)
    }

    fn drift_doc(&mut self, node: &YamlNode) -> Option<DriftDoc> {
        if !matches!(node.content, YamlValue::Map(_)) {
            let action = self.accept(scalar::drift_action(node))?.value;
            return Some(DriftDoc { action, every_s: None });
        }
        let mapping = self.mapping(node, "`drift`", node.at, DRIFT)?;
        let action = self.field(&mapping, "do", scalar::drift_action);
        if action == Field::Missing {
            let cure = "add `do: report` or `do: mend`";
            self.missing(&mapping, node.at, "do", "`drift`", cure);
        }
        let every = self.field(&mapping, "every", |node| {
            let range = (u64::from(DriftPolicy::SHORTEST), u64::from(DriftPolicy::LONGEST));
            scalar::number_of(node, "number of seconds", "10 to 86400", range)
        });
        let every_s = every.value().map(|every| every.value);
        Some(DriftDoc { action: action.value()?.value, every_s })
    }
}
