//! The key `ipvs`, of the file or of a director: IPVS settings outside the table.

use super::super::document::{Field, IpvsDoc};
use super::super::node::{At, KeyValue, YamlNode, YamlValue};
use super::super::scalar;
use super::{Loader, Mapping};
use crate::finding::Finding;
use crate::names::IfName;
use crate::state::{SyncDaemon, VsItem};

const IPVS: &[&str] = &["table", "timeouts", "sync", "settings"];
const TIMEOUTS: &[&str] = &["tcp", "tcp_fin", "udp"];
const DAEMON: &[&str] = &["interface", "id", "group", "port", "ttl", "max_length"];

/// Longest timeout in seconds: the kernel counts jiffies in 31 bits, at up to 1000 Hz.
const LONGEST: u64 = 2_147_483;

impl Loader {
    pub(super) fn ipvs(&mut self, mapping: &Mapping<'_>) -> IpvsDoc {
        let Some(node) = mapping.get("ipvs") else { return IpvsDoc::default() };
        if matches!(node.content, YamlValue::Scalar { .. }) {
            let exclusive =
                self.accept(scalar::is_exclusive(node)).map_or(Field::Invalid, Field::Value);
            return IpvsDoc { exclusive, ..IpvsDoc::default() };
        }
        let Some(mapping) = self.mapping(node, "`ipvs`", node.at, IPVS) else {
            return IpvsDoc::default();
        };
        let exclusive = self.field(&mapping, "table", scalar::is_exclusive);
        let mut doc = IpvsDoc { exclusive, ..IpvsDoc::default() };
        if let Some(node) = mapping.get("timeouts")
            && let Some(timeouts) = self.mapping(node, "`timeouts`", node.at, TIMEOUTS)
        {
            let seconds = |n: &YamlNode| {
                scalar::number_of(n, "number of seconds", "1 to 2147483", (1, LONGEST))
            };
            doc.tcp = self.field(&timeouts, "tcp", seconds);
            doc.tcp_fin = self.field(&timeouts, "tcp_fin", seconds);
            doc.udp = self.field(&timeouts, "udp", seconds);
        }
        if let Some(node) = mapping.get("sync") {
            let entries = self.map(node, "`sync`").unwrap_or_default();
            doc.daemons = entries.iter().filter_map(|entry| self.daemon(entry)).collect();
        }
        if let Some(node) = mapping.get("settings") {
            let entries = self.map(node, "`settings`").unwrap_or_default();
            doc.settings = entries.iter().filter_map(|entry| self.setting(entry)).collect();
        }
        doc
    }

    fn daemon(
        &mut self,
        KeyValue { key, value }: &KeyValue,
    ) -> Option<(At<crate::state::DaemonRole>, SyncDaemon)> {
        let role = self.accept(scalar::daemon_role(key))?;
        let what = format!("sync daemon {}", key.value);
        let before = self.findings.len();
        let mapping = self.mapping(value, &what, key.at, DAEMON)?;
        let interface =
            self.field(&mapping, "interface", |n| scalar::name::<IfName>(n, "an interface"));
        if interface == Field::Missing {
            let cure = "add `interface:` with an interface on the network of both directors";
            self.missing(&mapping, key.at, "interface", &what, cure);
        }
        let number = |n: &YamlNode, (min, max): (u64, u64)| {
            let range = format!("{min} to {max}");
            scalar::number_of::<u16>(n, "number for this", &range, (min, max))
        };
        let id = self.field(&mapping, "id", |n| number(n, (0, 255)));
        let ttl = self.field(&mapping, "ttl", |n| number(n, (1, 255)));
        let port = self.field(&mapping, "port", scalar::port);
        let length = self.field(&mapping, "max_length", |n| number(n, (1, 65_507)));
        let group = self.field(&mapping, "group", scalar::group);
        let usual = SyncDaemon::on(interface.value()?.value.clone());
        let small = |field: &Field<u16>| field.value().and_then(|n| u8::try_from(n.value).ok());
        let daemon = SyncDaemon {
            id: small(&id).unwrap_or(usual.id),
            ttl: small(&ttl).unwrap_or(usual.ttl),
            port: port.value().map_or(usual.port, |port| port.value),
            max_length: length.value().map_or(usual.max_length, |length| length.value),
            group: group.value().map_or(usual.group, |group| group.value),
            ..usual
        };
        (self.findings.len() == before).then_some((role, daemon))
    }

    fn setting(&mut self, KeyValue { key, value }: &KeyValue) -> Option<(At<VsItem>, At<String>)> {
        let item = self.accept(scalar::vs_item(key))?;
        let numbers = match &value.content {
            YamlValue::List(items) if item.value == VsItem::SyncThreshold => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let mut words = Vec::new();
        for number in numbers {
            let text = match item.value {
                VsItem::EstCpulist => {
                    self.accept(scalar::text(number, "a list of CPUs"))?.to_owned()
                }
                VsItem::EstNice => self.accept(scalar::nice(number))?,
                _ => {
                    let most = u64::from(i32::MAX.unsigned_abs());
                    let what = "value of a setting";
                    self.accept(scalar::number(number, what, "0 to 2147483647", most))?.to_string()
                }
            };
            words.push(text);
        }
        if item.value == VsItem::SyncThreshold && words.len() != 2 {
            self.findings.push(Finding::error(
                "wrong-type",
                value.at,
                "sync_threshold is two numbers",
                "the kernel sends a connection each time its number of packets modulo the second number equals the first",
                "write `sync_threshold: [3, 50]`",
            ));
            return None;
        }
        // The kernel separates them with a tab.
        Some((item, At { value: words.join("\t"), at: value.at }))
    }
}
