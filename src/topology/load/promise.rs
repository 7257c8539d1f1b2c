//! The key `promise`: what the file promises about the death of a part of the cluster.

use super::super::document::Field;
use super::super::node::YamlNode;
use super::super::scalar;
use super::{Loader, Mapping};
use crate::topology::model::{Promise, PromisedPart};

const PROMISE: &[&str] =
    &["director", "real_server", "router", "process", "daemon", "link", "pair", "connections"];

impl Loader {
    pub(super) fn promise(&mut self, mapping: &Mapping<'_>) -> Field<Promise> {
        self.nested(mapping, "promise", Self::promise_of)
    }

    fn promise_of(&mut self, node: &YamlNode) -> Option<Promise> {
        let mapping = self.mapping(node, "`promise`", node.at, PROMISE)?;
        let mut promise = Promise::default();
        for part in PromisedPart::ALL {
            let seconds = self.field(&mapping, part.as_str(), scalar::promised_seconds);
            if let Some(seconds) = seconds.value() {
                promise.answered_within_s.insert(part, seconds.value);
            }
        }
        let connections = self.field(&mapping, "connections", scalar::kept_connections);
        promise.keeps_connections = connections.value().is_some();
        Some(promise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_key() {
        let words = PromisedPart::ALL.map(PromisedPart::as_str);
        assert_eq!([&words[..], &["connections"]].concat(), PROMISE);
    }
}
