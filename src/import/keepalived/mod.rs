//! Reads a keepalived.conf: its virtual servers, and what it says about the VIPs and the director
//! besides. keepalived.conf(5) has the words.
//!
//! What keepalived does over time (health checks, quorum, moving the VIP) has no word in a topology
//! yet: it is named, once for each kind.

mod asides;
mod global;
mod groups;
mod lines;
mod servers;
mod tree;
mod vrrp;

use std::collections::BTreeMap;

use asides::Asides;
use groups::Group;
use tree::Statement;

use super::remark::Remarks;
use super::rules::Rules;

/// Keywords at the outermost level, as far as a file can be told by them.
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
pub fn read(text: &str) -> Rules {
    let mut reader = Reader::default();
    let lines = lines::lines(text, &mut reader.remarks);
    let statements = tree::tree(&lines, &mut reader.remarks);
    reader.collect_groups(&statements);
    for statement in &statements {
        reader.remarks.line = Some(statement.line);
        reader.top(statement);
    }
    reader.finish()
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    rules: Rules,
    remarks: Remarks,
    asides: Asides,
    groups: BTreeMap<String, Group>,
    vrrp: vrrp::Addresses,
    /// Members of groups, and real servers of services, written out so far.
    made: usize,
}

/// Members of groups, and real servers of services, written out of one file at most: a group stands for
/// many addresses, and each of them gets every real server.
const MADE: usize = 200_000;

impl Reader {
    /// Whether `more` may be written out; a remark where not.
    fn has_room(&mut self, more: usize, what: &str) -> bool {
        self.made = self.made.saturating_add(more);
        let fits = self.made <= MADE;
        if !fits {
            let why = "ranges and groups of this file stand for more than 200000 addresses and real servers: an accident or an attack; split the file";
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

    fn top(&mut self, statement: &Statement) {
        match statement.keyword() {
            "virtual_server" => self.virtual_server(statement),
            // Groups were read before; a block without a keyword was remarked upon.
            "virtual_server_group" | "" => {}
            "global_defs" => self.global(statement),
            "vrrp_instance" => self.vrrp_instance(statement),
            "static_ipaddress" => self.vrrp_addresses(statement, None, "static_ipaddress"),
            other => self.asides.outermost(other, statement),
        }
    }

    fn finish(mut self) -> Rules {
        self.addresses_without_service();
        let Self { mut rules, mut remarks, asides, groups, vrrp: _, made: _ } = self;
        for (name, group) in groups.iter().filter(|(_, group)| !group.used) {
            remarks.line = Some(group.line);
            remarks.not_expressible(
                format!("virtual_server_group {}", super::remark::quote(name)),
                "no virtual_server uses it, so there is no service to make of it",
            );
        }
        asides.say(&mut remarks);
        rules.remarks = remarks.all;
        rules.remarks.sort_by_key(|remark| remark.line);
        // Each member of a group says the same.
        rules.remarks.dedup();
        rules
    }
}
