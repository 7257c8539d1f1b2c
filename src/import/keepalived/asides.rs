//! What a keepalived.conf says and a topology has no word for: told once for each kind, with how often
//! it stands there, and never with its values, some of which are passwords.

use std::collections::BTreeMap;

use super::super::remark::{Remarks, quote};
use super::tree::Statement;

/// Why something is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// Watching real servers, and what happens when one fails.
    Health,
    /// Moving the VIP between directors.
    Vrrp,
    /// Mail, scripts, SNMP, process settings: keepalived's own running.
    Process,
    /// Routes, rules and other network settings.
    Network,
    /// No word of keepalived that is known here.
    Unknown,
}

impl Topic {
    fn why(self) -> &'static str {
        match self {
            Self::Health => {
                "lvsprov does not watch real servers yet: each is set up with its weight, alive or not, \
                 and nothing replaces or notifies"
            }
            Self::Vrrp => {
                "lvsprov sets up one director and does not move the VIP to a second one yet"
            }
            Self::Process => {
                "it is about how keepalived itself runs, which a topology does not say"
            }
            Self::Network => "a topology has no word for it: set it on the host by other means",
            Self::Unknown => "no word of keepalived's that is known here",
        }
    }
}

#[derive(Debug)]
struct Kind {
    count: usize,
    line: u32,
}

/// Everything left out so far.
#[derive(Debug, Default)]
pub(super) struct Asides {
    kinds: BTreeMap<(Topic, String), Kind>,
}

impl Asides {
    /// Leaves a statement out.
    pub fn leave(&mut self, topic: Topic, statement: &Statement) {
        self.leave_as(topic, statement.keyword(), statement.line);
    }

    /// Leaves something out under a name of our own.
    pub fn leave_as(&mut self, topic: Topic, name: &str, line: u32) {
        let kind = self.kinds.entry((topic, name.to_owned())).or_insert(Kind { count: 0, line });
        kind.count += 1;
        kind.line = kind.line.min(line);
    }

    /// Leaves a statement of the outermost level out.
    pub fn outermost(&mut self, keyword: &str, statement: &Statement) {
        let topic = match keyword {
            word if word.starts_with("vrrp_") || word.starts_with("garp_") => Topic::Vrrp,
            "track_file"
            | "bfd_instance"
            | "linkbeat_interfaces"
            | "linkbeat_use_polling"
            | "static_track_group"
            | "interface_up_down_delays" => Topic::Vrrp,
            "SSL" => Topic::Health,
            "static_routes" | "static_rules" | "static_nftables" => Topic::Network,
            "net_namespace"
            | "net_namespace_ipvs"
            | "namespace_with_ipsets"
            | "instance"
            | "use_pid_dir"
            | "child_wait_time"
            | "process_names" => Topic::Process,
            _ => Topic::Unknown,
        };
        self.leave(topic, statement);
    }

    /// One remark a kind; what nobody knows, one a word.
    pub fn say(self, remarks: &mut Remarks) {
        let mut topics: BTreeMap<Topic, (u32, Vec<String>)> = BTreeMap::new();
        for ((topic, name), Kind { count, line }) in self.kinds {
            let times = if count == 1 { String::new() } else { format!(" ({count} times)") };
            if topic == Topic::Unknown {
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

/// Words about watching real servers, in a virtual server or a real server.
pub(super) fn is_health(keyword: &str) -> bool {
    const WORDS: &[&str] = &[
        "HTTP_GET",
        "SSL_GET",
        "TCP_CHECK",
        "SMTP_CHECK",
        "DNS_CHECK",
        "MISC_CHECK",
        "PING_CHECK",
        "UDP_CHECK",
        "BFD_CHECK",
        "FILE_CHECK",
        "delay_loop",
        "retry",
        "nb_get_retry",
        "delay_before_retry",
        "warmup",
        "connect_timeout",
        "inhibit_on_failure",
        "alpha",
        "omega",
        "quorum",
        "hysteresis",
        "quorum_up",
        "quorum_down",
        "notify_up",
        "notify_down",
        "smtp_alert",
        "virtualhost",
        "ha_suspend",
        "snmp_name",
        "sorry_server_inhibit",
        "sorry_server_lvs_method",
        "track_file",
        "track_bfd",
    ];
    WORDS.contains(&keyword)
}
