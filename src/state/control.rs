//! What IPVS has beside its table, as a [`super::HostState`] has it: the timeouts of connections and
//! the daemons that tell a second director about them. Both are per network namespace.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::edit::{JsonNames, KeyedEdit, SettingKind, Verbs, in_map};
use super::{HostState, Item};
use crate::names::IfName;

/// How long a connection is remembered without a packet, in seconds (`ipvsadm --set`). The kernel
/// counts in jiffies: 1-2147483 at 1000 Hz (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_set_timeout`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Established TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

impl Default for Timeouts {
    /// The kernel's: 900, 120 and 300 (net/netfilter/ipvs/ip_vs_proto_tcp.c, ip_vs_proto_udp.c).
    fn default() -> Self {
        Self { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}

impl fmt::Display for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tcp, tcp_fin, udp } = self;
        write!(f, "tcp {tcp} s, tcp-fin {tcp_fin} s, udp {udp} s")
    }
}

/// Which of the two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonRole {
    /// Sends connections out.
    Master,
    /// Takes them in.
    Backup,
}

impl DaemonRole {
    /// The kernel's number: `IP_VS_STATE_MASTER`, `IP_VS_STATE_BACKUP`.
    pub fn number(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
        }
    }
}

impl fmt::Display for DaemonRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Master => "master",
            Self::Backup => "backup",
        })
    }
}

impl FromStr for DaemonRole {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "master" => Ok(Self::Master),
            "backup" => Ok(Self::Backup),
            _ => Err(()),
        }
    }
}

/// A daemon that keeps a second director's connection table in step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncDaemon {
    /// The interface whose segment carries the messages.
    pub interface: IfName,
    /// 0-255: only daemons with the same one listen to each other.
    pub id: u8,
    /// Bytes of a message at most, 1-65507; 0: what the interface's MTU allows, which the kernel then
    /// reports in its place.
    pub max_length: u16,
    /// Multicast group.
    pub group: IpAddr,
    /// UDP port, 1-65535.
    pub port: u16,
    /// 1-255.
    pub ttl: u8,
}

impl SyncDaemon {
    /// On `interface`, everything else as the kernel has it by default (`ip_vs_sync.c`,
    /// `start_sync_thread`): id 0, group 224.0.0.81, port 8848, TTL 1, length by the MTU.
    pub fn on(interface: IfName) -> Self {
        Self {
            interface,
            id: 0,
            max_length: 0,
            group: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81)),
            port: 8848,
            ttl: 1,
        }
    }
}

impl fmt::Display for SyncDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, id, max_length, group, port, ttl } = self;
        write!(f, "on {interface}, id {id}, {group} port {port}, ttl {ttl}")?;
        if *max_length == 0 { Ok(()) } else { write!(f, ", at most {max_length} bytes") }
    }
}

impl SettingKind for Timeouts {
    type Key = ();
    type Value = Self;
    const VERBS: Verbs = Verbs::SET;
    const JSON: JsonNames = JsonNames { tags: ["set_timeouts"; 3], key: "", value: "" };

    fn get(state: &HostState, (): &()) -> Option<Self> {
        state.timeouts
    }

    fn put(state: &mut HostState, (): &(), value: Option<Self>) {
        state.timeouts = value;
    }

    fn keys(state: &HostState) -> Vec<()> {
        state.timeouts.iter().map(|_| ()).collect()
    }

    fn item((): &()) -> Item {
        Item::Timeouts
    }
}

impl SettingKind for SyncDaemon {
    type Key = DaemonRole;
    type Value = Self;
    const VERBS: Verbs =
        Verbs { add: Some("start"), change: Some("restart"), remove: Some("stop") };
    const JSON: JsonNames = JsonNames { tags: ["set_daemon"; 3], key: "role", value: "" };
    in_map!(daemons, Daemon);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, role) = (edit.verb_text(), &edit.key);
        match (&edit.before, &edit.after) {
            (Some(before), Some(after)) => {
                write!(f, "{verb} sync daemon {role}: {before} -> {after}")
            }
            (None, Some(after)) => write!(f, "{verb} sync daemon {role} {after}"),
            (_, None) => write!(f, "{verb} sync daemon {role}"),
        }
    }
}
