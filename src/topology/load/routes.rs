//! The key `routes` of a host: its static routes.

use super::super::document::{Field, RouteDoc, RoutesDoc};
use super::super::node::YamlNode;
use super::super::scalar;
use super::{Loader, Mapping};

const ROUTE: &[&str] = &["to", "via", "interface"];

impl Loader {
    pub(super) fn routes(&mut self, mapping: &Mapping<'_>) -> RoutesDoc {
        let Some(node) = mapping.get("routes") else {
            return RoutesDoc { valid: Vec::new(), unclear: mapping.mistyped.contains(&"routes") };
        };
        let before = self.findings.len();
        let items = self.list(node, "`routes`", false).unwrap_or_default();
        let valid = items.iter().filter_map(|item| self.route(item)).collect();
        RoutesDoc { valid, unclear: self.findings.len() > before }
    }

    fn route(&mut self, node: &YamlNode) -> Option<RouteDoc> {
        let mapping = self.mapping(node, "a route", node.at, ROUTE)?;
        let to = self.field(&mapping, "to", scalar::route_destination);
        let via = self.field(&mapping, "via", scalar::next_hop);
        let interface =
            self.field(&mapping, "interface", |node| scalar::name(node, "an interface's name"));
        if to == Field::Missing {
            let cure = "add `to: 198.51.100.0/24`, the network that it leads to";
            self.missing(&mapping, node.at, "to", "a route", cure);
        }
        if via == Field::Missing {
            let cure = "add `via:` with the next router: a host of this file, or an address";
            self.missing(&mapping, node.at, "via", "a route", cure);
        }
        if interface.is_invalid() {
            return None;
        }
        Some(RouteDoc {
            at: node.at,
            to: to.value()?.clone(),
            via: via.value()?.clone(),
            interface: interface.value().cloned(),
        })
    }
}
