//! Statements of a keepalived.conf without a key in a topology. One remark for each topic, with the
//! number of occurrences and never with values: some are passwords.

use std::collections::BTreeMap;

use super::super::remark::{Remarks, quote};
use super::tree::Statement;

/// The reason why a statement is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeftOutTopic {
    /// Messages when a real server fails, or a quorum is lost.
    Notification,
    /// Certificates of checks over TLS.
    Certificates,
    /// Failover of the VIP between directors.
    Vrrp,
    /// Mail, scripts, SNMP and process settings of keepalived itself.
    Process,
    /// Routes, rules and other network settings.
    Network,
    /// A keyword that lvsprov does not know.
    Unknown,
}

impl LeftOutTopic {
    fn why(self) -> &'static str {
        match self {
            Self::Notification => "a topology has no key for messages about failed real servers",
            Self::Certificates => "checks by https show no certificate, and accept any",
            Self::Vrrp => "lvsprov has no failover yet: it sets up one director",
            Self::Process => {
                "it is a setting of the keepalived process, which a topology does not have"
            }
            Self::Network => "a topology has no key for it: set it on the host by other means",
            Self::Unknown => "lvsprov does not know this keyword",
        }
    }
}

#[derive(Debug)]
struct Occurrences {
    count: usize,
    line: u32,
}

/// All statements left out so far.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    occurrences: BTreeMap<(LeftOutTopic, String), Occurrences>,
}

impl LeftOut {
    /// Adds a statement.
    pub fn add(&mut self, topic: LeftOutTopic, statement: &Statement) {
        self.add_as(topic, statement.keyword(), statement.line);
    }

    /// Adds a statement under another name.
    pub fn add_as(&mut self, topic: LeftOutTopic, name: &str, line: u32) {
        let kind = self
            .occurrences
            .entry((topic, name.to_owned()))
            .or_insert(Occurrences { count: 0, line });
        kind.count += 1;
        kind.line = kind.line.min(line);
    }

    /// Adds a statement of the top level.
    pub fn add_top_level(&mut self, keyword: &str, statement: &Statement) {
        let topic = match keyword {
            word if word.starts_with("vrrp_") || word.starts_with("garp_") => LeftOutTopic::Vrrp,
            "track_file"
            | "bfd_instance"
            | "linkbeat_interfaces"
            | "linkbeat_use_polling"
            | "static_track_group"
            | "interface_up_down_delays" => LeftOutTopic::Vrrp,
            "SSL" => LeftOutTopic::Certificates,
            "static_routes" | "static_rules" | "static_nftables" => LeftOutTopic::Network,
            "net_namespace"
            | "net_namespace_ipvs"
            | "namespace_with_ipsets"
            | "instance"
            | "use_pid_dir"
            | "child_wait_time"
            | "process_names" => LeftOutTopic::Process,
            _ => LeftOutTopic::Unknown,
        };
        self.add(topic, statement);
    }

    /// Adds one remark for each topic, and one for each unknown keyword.
    pub fn report(self, remarks: &mut Remarks) {
        let mut topics: BTreeMap<LeftOutTopic, (u32, Vec<String>)> = BTreeMap::new();
        for ((topic, name), Occurrences { count, line }) in self.occurrences {
            let times = if count == 1 { String::new() } else { format!(" ({count} times)") };
            if topic == LeftOutTopic::Unknown {
                remarks.line = Some(line);
                remarks.not_understood(format!("{}{times}", quote(&name)), topic.why());
                continue;
            }
            let (first, names) = topics.entry(topic).or_insert((line, Vec::new()));
            *first = line.min(*first);
            names.push(format!("{name}{times}"));
        }
        for (topic, (line, names)) in topics {
            remarks.line = Some(line);
            remarks.not_expressible(names.join(", "), topic.why());
        }
    }
}

/// Whether a keyword of a virtual or real server is about messages to people and programs.
pub(super) fn is_notification(keyword: &str) -> bool {
    const WORDS: &[&str] =
        &["quorum_up", "quorum_down", "notify_up", "notify_down", "smtp_alert", "snmp_name"];
    WORDS.contains(&keyword)
}
