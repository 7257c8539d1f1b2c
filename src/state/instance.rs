//! A daemon that lvsprov starts on a host for one topology, and its configuration: keepalived with the checks of the file.
//!
//! It is a process of its own beside one that the operator runs: an *instance* of the program. It lives as long as the run
//! of the host, as what the kernel holds does, and the boot unit starts it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ServiceKey;
use super::edit::{JsonNames, KeyedEdit, SettingKind, Verbs, in_map};
use crate::names::TopologyName;
use crate::visible::visible;

/// A program of the field that carries out a part of the file. Each is handled by name: a new one does not compile until it
/// is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonProgram {
    /// keepalived, with its health checks only.
    Keepalived,
}

impl DaemonProgram {
    /// Every one.
    pub const ALL: &[Self] = &[Self::Keepalived];

    /// The name of the program and of its package.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
        }
    }

    /// The oldest version that understands what lvsprov writes.
    pub fn oldest(self) -> ProgramVersion {
        match self {
            Self::Keepalived => ProgramVersion { major: 2, minor: 2, patch: 7 },
        }
    }
}

impl fmt::Display for DaemonProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The version of a program: `2.2.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProgramVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    /// The third number.
    pub patch: u16,
}

impl fmt::Display for ProgramVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl FromStr for ProgramVersion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no version: MAJOR.MINOR.PATCH");
        let numbers: Vec<u16> =
            text.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        match numbers[..] {
            [major, minor, patch] => Ok(Self { major, minor, patch }),
            _ => Err(wrong()),
        }
    }
}

super::ipvs::text_form!(ProgramVersion);

/// Names an instance: `keepalived of web`. Those of several topologies on one host do not meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DaemonInstance {
    /// The program.
    pub program: DaemonProgram,
    /// The topology that it serves.
    pub topology: TopologyName,
}

impl fmt::Display for DaemonInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.program, self.topology)
    }
}

impl FromStr for DaemonInstance {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no instance of a daemon: PROGRAM of TOPOLOGY");
        let (program, topology) = text.split_once(" of ").ok_or_else(wrong)?;
        let named = DaemonProgram::ALL.iter().find(|known| known.as_str() == program);
        let topology = topology.parse().map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { program: *named.ok_or_else(wrong)?, topology })
    }
}

super::ipvs::text_form!(DaemonInstance);

/// The configuration with which an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonConfiguration {
    /// The lines of its file behind those that lvsprov puts first, without line ends; what a terminal would obey is escaped,
    /// as in all that a host says ([`crate::visible`]).
    pub lines: Vec<String>,
    /// Whether the process has read them. Wanted always; seen `false` where lvsprov was cut off between the file and the
    /// process, or where that has ended.
    pub loaded: bool,
}

impl DaemonConfiguration {
    /// `text`, which the process is to have read.
    pub fn of(text: &str) -> Self {
        Self { lines: text.lines().map(|line| visible(line).into_owned()).collect(), loaded: true }
    }

    /// The text.
    pub fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// How many lines `other` has that this lacks.
    fn lines_beyond(&self, other: &Self) -> usize {
        let mut own: BTreeMap<&str, usize> = BTreeMap::new();
        for line in &self.lines {
            *own.entry(line).or_default() += 1;
        }
        let mut beyond = 0;
        for line in &other.lines {
            match own.get_mut(line.as_str()) {
                Some(left) if *left > 0 => *left -= 1,
                _ => beyond += 1,
            }
        }
        beyond
    }

    /// The services that keepalived has by these lines.
    pub fn services(&self) -> BTreeSet<ServiceKey> {
        let mut all = BTreeSet::new();
        let mut open: Option<(Vec<&str>, &str, bool)> = None;
        for line in &self.lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words.as_slice(), &mut open) {
                (["virtual_server", rest @ ..], _) => {
                    let before = open.replace((rest.to_vec(), "TCP", false));
                    all.extend(before.and_then(service));
                }
                (["protocol", word, ..], Some((_, protocol, _))) => *protocol = word,
                (["ip_family", "inet6", ..], Some((_, _, ipv6))) => *ipv6 = true,
                _ => {}
            }
        }
        all.extend(open.and_then(service));
        all
    }
}

/// The key of a block: what stands behind `virtual_server`, its protocol, and whether a mark is one of IPv6.
fn service((selects, protocol, ipv6): (Vec<&str>, &str, bool)) -> Option<ServiceKey> {
    let selects: Vec<&str> = selects.into_iter().take_while(|word| *word != "{").collect();
    let family = if ipv6 { 6 } else { 4 };
    let at = |address: &str, port: &str| {
        let at = SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
        format!("{} {at}", protocol.to_ascii_lowercase()).parse().ok()
    };
    match selects[..] {
        ["fwmark", mark] => format!("fwmark{family} {mark}").parse().ok(),
        [address, port] => at(address, port),
        [address] => at(address, "0"),
        _ => None,
    }
}

/// What keepalived calls its checkers (keepalived.conf(5)).
const CHECKERS: [&str; 10] = [
    "HTTP_GET",
    "SSL_GET",
    "TCP_CHECK",
    "SMTP_CHECK",
    "DNS_CHECK",
    "MISC_CHECK",
    "BFD_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "FILE_CHECK",
];

impl fmt::Display for DaemonConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = || self.lines.iter().filter_map(|line| line.split_whitespace().next());
        let services = words().filter(|word| *word == "virtual_server").count();
        let checks = words().filter(|word| CHECKERS.contains(word)).count();
        let plural = |count| if count == 1 { "" } else { "s" };
        write!(
            f,
            "{services} virtual server{}, {checks} check{}",
            plural(services),
            plural(checks)
        )?;
        if self.loaded { Ok(()) } else { f.write_str(", not read yet") }
    }
}

impl SettingKind for DaemonConfiguration {
    type Key = DaemonInstance;
    type Value = Self;
    const VERBS: Verbs = Verbs { add: Some("start"), change: Some("reload"), remove: Some("stop") };
    const JSON: JsonNames = JsonNames { tags: ["set_instance"; 3], key: "instance", value: "" };
    in_map!(instances, Instance);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, name) = (edit.verb_text(), &edit.key);
        match (&edit.before, &edit.after) {
            (Some(before), Some(after)) => {
                let (gone, new) = (after.lines_beyond(before), before.lines_beyond(after));
                write!(f, "{verb} {name}: {before} -> {after}; {gone} lines removed, {new} added")
            }
            (None, Some(after)) => write!(f, "{verb} {name} ({after})"),
            (_, None) => write!(f, "{verb} {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::Edit;

    const TEXT: &str = "# virtual_server in a comment
virtual_server 192.0.2.1 80 {
  real_server 10.0.0.1 80 {
    TCP_CHECK {
    }
  }
}
virtual_server_group g {
}
";

    #[test]
    fn a_configuration_is_shown_by_what_it_has() {
        let one = DaemonConfiguration::of(TEXT);
        assert_eq!(one.to_string(), "1 virtual server, 1 check");
        let none = DaemonConfiguration { lines: Vec::new(), loaded: false };
        assert_eq!(none.to_string(), "0 virtual servers, 0 checks, not read yet");
    }

    #[test]
    fn a_change_counts_lines() {
        let before = DaemonConfiguration::of(TEXT);
        let after = DaemonConfiguration::of(&(TEXT.replace("10.0.0.1", "10.0.0.2") + "}\n"));
        let key = "keepalived of web".parse().unwrap();
        let edit = Edit::change::<DaemonConfiguration>(key, before, after);
        let shown = "reload keepalived of web: 1 virtual server, 1 check -> 1 virtual server, 1 check; 1 lines removed, \
                     2 added";
        assert_eq!(edit.to_string(), shown);
    }

    #[test]
    fn a_text_is_its_lines_as_a_terminal_may_show_them() {
        let read = DaemonConfiguration::of("a\n\n  b\u{1b}[0m");
        assert_eq!(read.lines, ["a", "", "  b\\x1b[0m"]);
        assert_eq!(DaemonConfiguration::of(&read.text()), read);
    }

    #[test]
    fn services_are_those_of_the_blocks() {
        let text = "virtual_server 192.0.2.1 80 {\n  protocol TCP\n}\nvirtual_server 192.0.2.1 53 {\n    protocol UDP\n}\n\
                    virtual_server 192.0.2.2 {\n}\nvirtual_server 2001:db8::1 80 {\n}\nvirtual_server fwmark 7 {\n}\n\
                    virtual_server fwmark 8 {\n  ip_family inet6\n}\nvirtual_server nonsense {\n}\n";
        let keys = DaemonConfiguration::of(text).services();
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let mut expected = [
            "tcp 192.0.2.1:80",
            "udp 192.0.2.1:53",
            "tcp 192.0.2.2:0",
            "tcp [2001:db8::1]:80",
            "fwmark4 7",
            "fwmark6 8",
        ];
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }

    #[test]
    fn names_of_instances_are_those_of_topologies() {
        let key: DaemonInstance = "keepalived of web-1.x".parse().unwrap();
        assert_eq!(key.to_string(), "keepalived of web-1.x");
        for bad in ["", "keepalived", "keepalived of", "keepalived of ", "bird of web"] {
            assert!(bad.parse::<DaemonInstance>().is_err(), "{bad:?}");
        }
        for bad in ["keepalived of ../x", "keepalived of a/b", "keepalived of a of b"] {
            assert!(bad.parse::<DaemonInstance>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        let version = |text: &str| text.parse::<ProgramVersion>().unwrap();
        assert!(version("2.2.10") > version("2.2.7") && version("2.3.0") > version("2.2.10"));
        assert!(version("2.2.4") < DaemonProgram::Keepalived.oldest());
        for bad in ["", "2", "2.2", "2.2.7.1", "2.x.7", "v2.2.7"] {
            assert!(bad.parse::<ProgramVersion>().is_err(), "{bad:?}");
        }
    }
}
