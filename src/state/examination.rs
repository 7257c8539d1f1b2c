//! What a host's kernel is asked about packets, and what it answers: the evidence of `doctor`. Nothing of it is ever changed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::names::IfName;

/// A packet that is not sent: the kernel is asked what it would do with it, as by `ip route get TARGET from SOURCE iif DEV`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteQuestion {
    /// Where it comes in; `None`: the host sends it itself.
    pub dev: Option<IfName>,
    /// Its source; `None`: what the host would choose.
    pub source: Option<IpAddr>,
    /// Its destination.
    pub target: IpAddr,
    /// Its firewall mark; 0: none.
    pub mark: u32,
}

impl fmt::Display for RouteQuestion {
    /// The command of iproute2 that asks the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dev, source, target, mark } = self;
        write!(f, "ip route get {target}")?;
        if let Some(source) = source {
            write!(f, " from {source}")?;
        }
        if let Some(dev) = dev {
            write!(f, " iif {dev}")?;
        }
        if *mark != 0 {
            write!(f, " mark {mark}")?;
        }
        Ok(())
    }
}

/// What the kernel would do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAnswer {
    /// Take it as its own.
    Local,
    /// Send it on.
    Sent {
        /// By this device.
        dev: Option<IfName>,
        /// To this next hop; `None`: to the destination itself.
        gateway: Option<IpAddr>,
    },
    /// Drop it, for this reason.
    Refused(RouteRefusal),
    /// The question could not be asked.
    NotAsked(Failure),
}

/// Why the kernel would drop a packet, as far as the errno says (net/ipv4/route.c, `ip_route_input_slow`;
/// net/ipv4/fib_frontend.c, `fib_validate_source`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteRefusal {
    /// EXDEV: rp_filter. Up to Linux 7.1; from then on it is EINVAL.
    SourceValidation,
    /// EINVAL: an address that is never a source or destination here, such as an own one as the source.
    Martian,
    /// EHOSTUNREACH: no route, or the device where it comes in does not forward.
    Unreachable,
    /// ENETUNREACH: no route.
    NoRoute,
    /// EACCES: a route or rule prohibits it.
    Prohibited,
    /// Another one.
    Other(String),
}

impl fmt::Display for RouteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceValidation => "EXDEV: source validation (rp_filter) refuses it",
            Self::Martian => "EINVAL: its source or destination is not valid there",
            Self::Unreachable => "EHOSTUNREACH: no route, or the device does not forward",
            Self::NoRoute => "ENETUNREACH: no route",
            Self::Prohibited => "EACCES: a route or rule prohibits it",
            Self::Other(text) => text,
        })
    }
}

/// A counter of dropped packets. Each counts all traffic of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropCounter {
    /// `TcpExt: IPReversePathFilter`: refused by rp_filter (net/ipv4/ip_input.c, `ip_rcv_finish_core`).
    ReversePathFilter,
    /// `TcpExt: ArpFilter`: ARP requests that arp_filter leaves unanswered (net/ipv4/arp.c).
    ArpFilter,
    /// `Ip: InAddrErrors`: for another host, and not forwarded.
    InAddrErrors,
    /// `Ip: OutNoRoutes`: no route.
    OutNoRoutes,
    /// `Ip6InAddrErrors`: for another host, and not forwarded.
    Ip6InAddrErrors,
    /// `Ip6InNoRoutes`: no route for a packet that came in.
    Ip6InNoRoutes,
    /// `Ip6OutNoRoutes`: no route.
    Ip6OutNoRoutes,
    /// `in_martian_src` of /proc/net/stat/rt_cache: sources that cannot be. Of the whole machine, with all its namespaces.
    MartianSource,
    /// `invalid` of /proc/net/stat/nf_conntrack: packets that connection tracking does not understand.
    ConntrackInvalid,
    /// `drop` of /proc/net/stat/nf_conntrack: the table is full.
    ConntrackDrop,
}

impl DropCounter {
    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReversePathFilter => "TcpExt IPReversePathFilter",
            Self::ArpFilter => "TcpExt ArpFilter",
            Self::InAddrErrors => "Ip InAddrErrors",
            Self::OutNoRoutes => "Ip OutNoRoutes",
            Self::Ip6InAddrErrors => "Ip6InAddrErrors",
            Self::Ip6InNoRoutes => "Ip6InNoRoutes",
            Self::Ip6OutNoRoutes => "Ip6OutNoRoutes",
            Self::MartianSource => "rt_cache in_martian_src (of the whole machine)",
            Self::ConntrackInvalid => "nf_conntrack invalid",
            Self::ConntrackDrop => "nf_conntrack drop",
        }
    }
}

/// The values of the counters that the host has.
pub type DropCounters = BTreeMap<DropCounter, u64>;

/// What a host says when it is examined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// An answer to each question, in their order.
    pub routes: Vec<RouteAnswer>,
    /// Counters of drops, after the questions.
    pub drops: DropCounters,
}

/// A packet that a kernel dropped, as its drop monitor shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObservedDrop {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub target: IpAddr,
    /// Where it came in; `None`: the host sends it itself.
    pub dev: Option<String>,
    /// The kernel's function that dropped it.
    pub function: String,
    /// Why, from Linux 5.17 on.
    pub reason: Option<String>,
    /// How often.
    pub count: u32,
}

impl fmt::Display for ObservedDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, target, dev, function, reason, count } = self;
        let packets = if *count == 1 { "packet" } else { "packets" };
        write!(f, "{count} {packets} from {source} to {target} dropped in {function}")?;
        if let Some(reason) = reason {
            write!(f, " ({reason})")?;
        }
        match dev {
            Some(dev) => write!(f, ", in by {dev}"),
            None => Ok(()),
        }
    }
}
