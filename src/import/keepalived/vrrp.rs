//! `vrrp_instance`: interface and prefix length of the VIPs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::remark::quote;
use super::super::rules::VipHint;
use super::super::words;
use super::KeepalivedReader;
use super::left_out::LeftOutTopic;
use super::tree::Statement;
use crate::names::IfName;
use crate::state::{DaemonRole, SyncDaemon};

/// The addresses of all instances.
pub(super) type VrrpAddresses = BTreeMap<IpAddr, VrrpAddress>;

/// An address of an instance, with its line and hints.
pub(super) struct VrrpAddress {
    line: u32,
    owner: String,
    hint: VipHint,
}

impl KeepalivedReader {
    pub(super) fn vrrp_instance(&mut self, block: &Statement) {
        let name = format!("vrrp_instance {}", quote(block.word(1).unwrap_or_default()));
        let value = |keyword: &str| {
            block.children().iter().find(|s| s.keyword() == keyword).and_then(|s| s.word(1))
        };
        let interface: Option<IfName> = value("interface").and_then(|word| word.parse().ok());
        let id = value("virtual_router_id").and_then(|word| words::number(word, 0, 255));
        let side = match value("state") {
            Some("BACKUP") => DaemonRole::Backup,
            _ => DaemonRole::Master,
        };
        for statement in block.children() {
            self.remarks.line = Some(statement.line);
            match statement.keyword() {
                "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                    self.vrrp_addresses(statement, interface.as_ref(), &name);
                }
                "lvs_sync_daemon_interface" => self.old_sync_daemon(statement, side, id),
                "virtual_routes" | "virtual_rules" => {
                    self.left_out.add(LeftOutTopic::Network, statement);
                }
                // Used with the addresses.
                "interface" => {}
                _ => self.left_out.add(LeftOutTopic::Vrrp, statement),
            }
        }
    }

    /// `ADDRESS[/LENGTH] [dev NAME] ...`, one on each line.
    pub(super) fn vrrp_addresses(
        &mut self,
        block: &Statement,
        interface: Option<&IfName>,
        owner: &str,
    ) {
        for entry in block.children() {
            self.remarks.line = Some(entry.line);
            // An operation of ip(8) may come before the address.
            let start = usize::from(matches!(entry.keyword(), "add" | "del"));
            let text = entry.word(start).unwrap_or_default();
            let (address, prefix) = match (text.parse::<IpNet>(), words::address(text)) {
                (Ok(net), _) => (net.addr(), Some(net.prefix_len())),
                (_, Some(address)) => (address, None),
                _ => {
                    let what = format!("{} of {owner}", quote(text));
                    self.remarks.not_understood(what, "it is not an address; left out");
                    continue;
                }
            };
            let dev = entry.words.iter().position(|word| word == "dev");
            let dev = dev.and_then(|at| entry.word(at + 1)).and_then(|word| word.parse().ok());
            let hint = VipHint { prefix, interface: dev.or_else(|| interface.cloned()) };
            let place = VrrpAddress { line: entry.line, owner: owner.to_owned(), hint };
            self.vrrp.insert(address, place);
        }
    }

    /// Before keepalived 1.3 the sync daemon is part of the instance and has its id.
    fn old_sync_daemon(&mut self, statement: &Statement, side: DaemonRole, id: Option<u32>) {
        let Some(interface) = statement.word(1).and_then(|word| word.parse().ok()) else {
            self.remarks.not_understood("lvs_sync_daemon_interface", "it names no interface");
            return;
        };
        let id = id.and_then(|id| u8::try_from(id).ok()).unwrap_or(0);
        self.remarks.guessed(
            "lvs_sync_daemon_interface",
            format!(
                "a {side} daemon with the instance's id, {id}: keepalived switches its role with VRRP"
            ),
        );
        let daemon = SyncDaemon { id, ..SyncDaemon::on(interface) };
        self.rules.daemons.insert(side, daemon);
        self.rules.taken += 1;
    }

    /// Assigns the hints to the services' VIPs; other addresses get a remark.
    pub(super) fn addresses_without_service(&mut self) {
        let vips: std::collections::BTreeSet<IpAddr> = self
            .rules
            .services
            .keys()
            .filter_map(|key| match key {
                crate::state::ServiceKey::Address(_, address) => Some(address.ip()),
                crate::state::ServiceKey::Fwmark { .. } => None,
            })
            .collect();
        for (address, VrrpAddress { line, owner, hint }) in std::mem::take(&mut self.vrrp) {
            if vips.contains(&address) {
                self.rules.vips.insert(address, hint);
                self.rules.taken += 1;
                continue;
            }
            self.remarks.line = Some(line);
            self.remarks.not_expressible(
                format!("{address} of {owner}"),
                "no virtual_server has this address: lvsprov sets the addresses of services only. For a \
                 firewall-mark service, add `vip: ADDRESS` to it",
            );
        }
    }
}
