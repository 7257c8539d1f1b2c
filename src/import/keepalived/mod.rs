//! Reads a keepalived.conf (keepalived.conf(5)): virtual servers, VIPs, timeouts and the sync daemon.
//!
//! A topology has no keys for failover and notifications, and not for every health check: remarks name them.

mod checks;
mod global;
mod groups;
mod health;
mod left_out;
mod lines;
mod methods;
mod questions;
mod servers;
mod tree;
mod vrrp;

use std::collections::BTreeMap;

use groups::ServerGroup;
use left_out::LeftOut;
use tree::Statement;

use super::remark::{Remark, Remarks};
use super::rules::IpvsRules;

/// Whether `word` is a top-level keyword that identifies a keepalived.conf.
pub(super) fn opens_a_block(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "global_defs",
        "virtual_server",
        "virtual_server_group",
        "vrrp_instance",
        "vrrp_sync_group",
        "vrrp_script",
        "vrrp_track_process",
        "vrrp_track_file",
        "track_file",
        "static_ipaddress",
        "static_routes",
        "static_rules",
        "bfd_instance",
        "linkbeat_interfaces",
        "net_namespace",
        "include",
        "SSL",
        "garp_group",
        "process_names",
    ];
    WORDS.contains(&word)
        || word.starts_with('!')
        || word.starts_with("~SEQ")
        || word.starts_with("~LST")
}

/// Reads a configuration. Total: any text gives a result.
pub fn read(text: &str) -> IpvsRules {
    let mut reader = KeepalivedReader::default();
    let lines = lines::lines(text, &mut reader.remarks);
    let statements = tree::tree(&lines, &mut reader.remarks);
    reader.collect_groups(&statements);
    reader.script_user = script_user(&statements);
    for statement in &statements {
        reader.remarks.line = Some(statement.line);
        reader.top_level(statement);
    }
    reader.finish()
}

/// `script_user` of `global_defs`, which may stand behind the scripts.
fn script_user(statements: &[Statement]) -> checks::ScriptUser {
    let global = statements.iter().filter(|it| it.keyword() == "global_defs");
    let mut all = global.flat_map(Statement::children).filter(|it| it.keyword() == "script_user");
    all.next_back()?.word(1).map(str::to_owned)
}

/// The configuration while it is read.
#[derive(Default)]
struct KeepalivedReader {
    rules: IpvsRules,
    remarks: Remarks,
    left_out: LeftOut,
    groups: BTreeMap<String, ServerGroup>,
    vrrp: vrrp::VrrpAddresses,
    /// The user that runs scripts.
    script_user: checks::ScriptUser,
    /// Remarks about health checks; equal ones become one.
    check_remarks: Vec<Remark>,
    /// Why the reader of topology files refuses a check, by its text; `None`: it takes it.
    judged_checks: BTreeMap<String, Option<String>>,
    /// Whether the remark about `via: rip` was made.
    said_via_rip: bool,
    /// Number of group members and real servers generated so far.
    generated: usize,
}

/// Maximum number of group members and real servers of one file: each address of a group gets every
/// real server.
const MAX_GENERATED: usize = 200_000;

impl KeepalivedReader {
    /// Whether `more` fit into the limit; adds a remark if not.
    fn has_room(&mut self, more: usize, what: &str) -> bool {
        self.generated = self.generated.saturating_add(more);
        let fits = self.generated <= MAX_GENERATED;
        if !fits {
            let why = "ranges and groups of this file expand to more than 200000 addresses and real servers: an accident or an attack; split the file";
            self.remarks.not_understood(what, why);
        }
        fits
    }

    fn collect_groups(&mut self, statements: &[Statement]) {
        for statement in statements.iter().filter(|s| s.keyword() == "virtual_server_group") {
            self.remarks.line = Some(statement.line);
            self.group(statement);
        }
    }

    fn top_level(&mut self, statement: &Statement) {
        match statement.keyword() {
            "virtual_server" => self.virtual_server(statement),
            // Groups were read before; a block without a keyword already has a remark.
            "virtual_server_group" | "" => {}
            "global_defs" => self.global(statement),
            "vrrp_instance" => self.vrrp_instance(statement),
            "static_ipaddress" => self.vrrp_addresses(statement, None, "static_ipaddress"),
            other => self.left_out.add_top_level(other, statement),
        }
    }

    fn finish(mut self) -> IpvsRules {
        self.addresses_without_service();
        let Self { mut rules, mut remarks, left_out, groups, check_remarks, .. } = self;
        health::add_together(check_remarks, &mut remarks);
        for (name, group) in groups.iter().filter(|(_, group)| !group.used) {
            remarks.line = Some(group.line);
            remarks.not_expressible(
                format!("virtual_server_group {}", super::remark::quote(name)),
                "no virtual_server uses it; left out",
            );
        }
        left_out.report(&mut remarks);
        rules.remarks = remarks.all;
        rules.remarks.sort_by_key(|remark| remark.line);
        // Each member of a group adds the same remarks.
        rules.remarks.dedup();
        rules
    }
}
