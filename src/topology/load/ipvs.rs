//! What stands under `ipvs`, of the file or of a director: what IPVS has beside its table.

use super::super::document::{IpvsDoc, Said};
use super::super::node::{At, Content, Entry, Node};
use super::super::scalar;
use super::{Loader, Table};
use crate::finding::Finding;
use crate::names::IfName;
use crate::state::{SyncDaemon, VsItem};

const IPVS: &[&str] = &["table", "timeouts", "sync", "settings"];
const TIMEOUTS: &[&str] = &["tcp", "tcp_fin", "udp"];
const DAEMON: &[&str] = &["interface", "id", "group", "port", "ttl", "max_length"];

/// The kernel counts in jiffies: what is longer would not fit at 1000 Hz.
const LONGEST: u64 = 2_147_483;

impl Loader {
    pub(super) fn ipvs(&mut self, table: &Table<'_>) -> IpvsDoc {
        let Some(node) = table.get("ipvs") else { return IpvsDoc::default() };
        if matches!(node.content, Content::Scalar { .. }) {
            let exclusive = self.keep(scalar::is_exclusive(node)).map_or(Said::Unclear, Said::This);
            return IpvsDoc { exclusive, ..IpvsDoc::default() };
        }
        let Some(table) = self.table(node, "`ipvs`", node.at, IPVS) else {
            return IpvsDoc::default();
        };
        let exclusive = self.said(&table, "table", scalar::is_exclusive);
        let mut doc = IpvsDoc { exclusive, ..IpvsDoc::default() };
        if let Some(node) = table.get("timeouts")
            && let Some(timeouts) = self.table(node, "`timeouts`", node.at, TIMEOUTS)
        {
            let seconds =
                |n: &Node| scalar::number_of(n, "number of seconds", "1 to 2147483", (1, LONGEST));
            doc.tcp = self.said(&timeouts, "tcp", seconds);
            doc.tcp_fin = self.said(&timeouts, "tcp_fin", seconds);
            doc.udp = self.said(&timeouts, "udp", seconds);
        }
        if let Some(node) = table.get("sync") {
            let entries = self.map(node, "`sync`").unwrap_or_default();
            doc.daemons = entries.iter().filter_map(|entry| self.daemon(entry)).collect();
        }
        if let Some(node) = table.get("settings") {
            let entries = self.map(node, "`settings`").unwrap_or_default();
            doc.settings = entries.iter().filter_map(|entry| self.setting(entry)).collect();
        }
        doc
    }

    fn daemon(
        &mut self,
        Entry { key, value }: &Entry,
    ) -> Option<(At<crate::state::DaemonRole>, SyncDaemon)> {
        let role = self.keep(scalar::daemon_role(key))?;
        let what = format!("sync daemon {}", key.value);
        let before = self.findings.len();
        let table = self.table(value, &what, key.at, DAEMON)?;
        let interface =
            self.said(&table, "interface", |n| scalar::name::<IfName>(n, "an interface"));
        if interface == Said::Nothing {
            let cure = "add `interface:` with the one whose network both directors are on";
            self.missing(&table, key.at, "interface", &what, cure);
        }
        let number = |n: &Node, (min, max): (u64, u64)| {
            let range = format!("{min} to {max}");
            scalar::number_of::<u16>(n, "number for this", &range, (min, max))
        };
        let id = self.said(&table, "id", |n| number(n, (0, 255)));
        let ttl = self.said(&table, "ttl", |n| number(n, (1, 255)));
        let port = self.said(&table, "port", scalar::port);
        let length = self.said(&table, "max_length", |n| number(n, (1, 65_507)));
        let group = self.said(&table, "group", scalar::group);
        let usual = SyncDaemon::on(interface.value()?.value.clone());
        let small = |said: &Said<u16>| said.value().and_then(|n| u8::try_from(n.value).ok());
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

    fn setting(&mut self, Entry { key, value }: &Entry) -> Option<(At<VsItem>, At<String>)> {
        let item = self.keep(scalar::vs_item(key))?;
        let numbers = match &value.content {
            Content::List(items) if item.value == VsItem::SyncThreshold => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let mut words = Vec::new();
        for number in numbers {
            let text = match item.value {
                VsItem::EstCpulist => self.keep(scalar::text(number, "a list of CPUs"))?.to_owned(),
                VsItem::EstNice => self.keep(scalar::nice(number))?,
                _ => {
                    let most = u64::from(i32::MAX.unsigned_abs());
                    let what = "value of a setting";
                    self.keep(scalar::number(number, what, "0 to 2147483647", most))?.to_string()
                }
            };
            words.push(text);
        }
        if item.value == VsItem::SyncThreshold && words.len() != 2 {
            self.findings.push(Finding::error(
                "wrong-type",
                value.at,
                "sync_threshold is two numbers",
                "the first says after how many packets a connection is sent, the second how often again",
                "write `sync_threshold: [3, 50]`",
            ));
            return None;
        }
        // As /proc shows it.
        Some((item, At { value: words.join("\t"), at: value.at }))
    }
}
