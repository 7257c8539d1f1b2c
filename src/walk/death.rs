//! Where and why a packet dies, and what cures it.

use std::fmt;
use std::net::IpAddr;

use super::filter::FilterDrop;
use crate::names::{HostName, IfName, NetworkName};
use crate::state::firewall::HookPoint;

/// A packet that goes no further.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Death {
    /// The host that drops it, or cannot send it.
    pub host: HostName,
    /// Why.
    pub cause: Cause,
}

impl Death {
    /// A neighbour that does not answer has a reason of its own.
    pub fn innermost(&self) -> &Self {
        match &self.cause {
            Cause::NobodyAnswers { holder: Some(holder), .. } => holder.innermost(),
            _ => self,
        }
    }
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The device where it comes in is down.
    DeviceDown {
        /// Its name.
        dev: IfName,
    },
    /// There is no route.
    NoRoute {
        /// To this address.
        target: IpAddr,
    },
    /// A route or a rule refuses it: blackhole, unreachable, prohibit.
    RouteRefuses {
        /// The destination.
        target: IpAddr,
    },
    /// It is for another host, and this one does not forward.
    NotForwarding {
        /// Where it came in.
        dev: IfName,
        /// The destination.
        target: IpAddr,
    },
    /// Source validation.
    SourceInvalid {
        /// Where it came in.
        dev: IfName,
        /// Its source.
        source: IpAddr,
        /// The effective value: 1 strict, 2 loose.
        rp_filter: u32,
        /// It is the value of `all`, which is above the device's own.
        of_all: bool,
        /// Where the route to the source leads; `None`: there is none.
        towards: Option<IfName>,
        /// With 2 it would pass.
        loose_passes: bool,
        /// There is no way to the source because a route or a rule refuses it.
        refused: bool,
    },
    /// Its source is an address of this host itself.
    OwnSource {
        /// Where it came in.
        dev: IfName,
        /// Its source.
        source: IpAddr,
    },
    /// No host on the network answers for the next hop.
    NobodyAnswers {
        /// The network.
        network: NetworkName,
        /// The next hop.
        next_hop: IpAddr,
        /// The sender that the request names.
        asks_as: Option<IpAddr>,
        /// The host that has the address, and why it does not answer.
        holder: Option<Box<Death>>,
    },
    /// Several hosts answer for the next hop: who wins is chance.
    SeveralAnswer {
        /// The network.
        network: NetworkName,
        /// The next hop.
        next_hop: IpAddr,
        /// Who answers.
        hosts: Vec<HostName>,
    },
    /// The packet arrives, but its sender has named the VIP in an ARP request on the way: requests go to it from then
    /// on, past the director.
    Announces {
        /// The VIP.
        vip: IpAddr,
        /// The network.
        network: NetworkName,
        /// Who takes the sender for the VIP now.
        misled: HostName,
    },
    /// Hosts send it round in a circle.
    Loop {
        /// The destination.
        target: IpAddr,
    },
    /// The host has the address, on another device or network, and does not answer for it there.
    Silent {
        /// Where the question comes in.
        dev: IfName,
        /// The address.
        target: IpAddr,
        /// The effective value; IPv6: 0.
        arp_ignore: u32,
    },
    /// It reaches a host that has the address but does not direct the service.
    WrongHost {
        /// The address.
        target: IpAddr,
    },
    /// The director has no such service in IPVS.
    NoService {
        /// The address.
        target: IpAddr,
    },
    /// DR: the route to the real server leads by a gateway, which sends the packet back.
    DirectRouteByGateway {
        /// The real server.
        rip: IpAddr,
        /// The gateway.
        gateway: IpAddr,
    },
    /// It is wrapped, and the host that wrapped it is none of those that may.
    WrappedByStranger {
        /// The source outside.
        source: IpAddr,
        /// The destination inside.
        vip: IpAddr,
    },
    /// No device unwraps it.
    NotUnwrapped {
        /// To whom the wrapped packet was sent.
        rip: IpAddr,
    },
    /// The reply comes from another address than the request was sent to.
    WrongSource {
        /// The reply's source.
        source: IpAddr,
        /// What the client expects.
        expected: IpAddr,
    },
    /// The host has no address of the family.
    NoSource {
        /// The destination.
        target: IpAddr,
    },
    /// A rule of another program drops it.
    Filtered {
        /// Which.
        by: Box<FilterDrop>,
        /// At this hook.
        hook: HookPoint,
        /// The packet: `tcp to 192.0.2.80 port 80`.
        packet: String,
        /// What connection tracking calls it.
        state: Option<&'static str>,
        /// It is a reply of NAT that connection tracking does not know, as IPVS took the request out of it.
        is_untracked_nat: bool,
    },
    /// It is larger than the device where it comes in takes.
    TooLarge {
        /// Where it comes in.
        dev: IfName,
        /// What the device is sure to take, in bytes.
        mtu: u32,
        /// Its size.
        size: u32,
    },
    /// It is larger than what leaves by the device, and its sender does not learn that.
    TooBig {
        /// Where it would leave.
        dev: IfName,
        /// What fits, with what IPVS wraps around it.
        mtu: u32,
        /// Its size.
        size: u32,
        /// What becomes of the ICMP message.
        message: Box<Death>,
    },
    /// ICMP: the message names the real server, not the VIP: it did not pass the director.
    AboutRealServer {
        /// The real server.
        rip: IpAddr,
    },
    /// ICMPv6: nothing on the director is waiting for messages about what IPVS wrapped.
    AboutWrapped {
        /// The real server.
        rip: IpAddr,
    },
    /// ICMP: the host does not send smaller packets.
    Smallest {
        /// Its smallest, in bytes.
        size: u32,
    },
}

impl Cause {
    /// What to do about it on `host`.
    pub fn cure(&self, host: &HostName) -> String {
        match self {
            Self::DeviceDown { dev } => format!("set {dev} of {host} up"),
            Self::NoRoute { target } => {
                format!(
                    "give {host} a route to {target}: a `gateway:`, a route under `routes:`, or an address in its subnet"
                )
            }
            Self::RouteRefuses { target } => {
                format!("remove the route or rule of {host} that refuses {target}")
            }
            Self::NotForwarding { .. } => {
                format!("add router to the roles of {host}, or name another gateway")
            }
            Self::SourceInvalid { dev, loose_passes: true, .. } => {
                format!("set net.ipv4.conf.{dev}.rp_filter=2 (loose) on {host}")
            }
            Self::SourceInvalid { source, refused: true, .. } => {
                format!("remove the route or rule of {host} that refuses {source}")
            }
            Self::SourceInvalid { source, towards: None, .. } => {
                format!(
                    "give {host} a route to {source}: a `gateway:`, a route under `routes:`, or an address in its subnet"
                )
            }
            Self::SourceInvalid { dev, .. } => {
                format!(
                    "give {dev} of {host} an IPv4 address, or switch source validation off on it"
                )
            }
            Self::OwnSource { source, .. } => {
                format!("route replies from {source} past {host}, or use `forward: nat`")
            }
            Self::NobodyAnswers { holder: Some(holder), .. } => holder.cause.cure(&holder.host),
            Self::NobodyAnswers { network, next_hop, .. } => format!(
                "give a host on {network} the address {next_hop}, or correct the route of {host} that leads there"
            ),
            Self::SeveralAnswer { next_hop, .. } => format!(
                "leave {next_hop} to one of them; a real server needs arp_ignore=1 and the address on lo"
            ),
            Self::Silent { dev, target, .. } => {
                format!(
                    "give {dev} of {host} the address {target}, or leave {target} to another host"
                )
            }
            Self::Announces { .. } => format!("set net.ipv4.conf.all.arp_announce=2 on {host}"),
            Self::Loop { .. } => {
                format!("correct a `gateway:` or a route on this way; it leads back to {host}")
            }
            Self::WrongHost { target } => {
                format!("remove {target} from {host}, or let it be the director")
            }
            Self::NoService { .. } => "run `lvsprov apply`".to_owned(),
            Self::DirectRouteByGateway { .. } => {
                "put both into one subnet, or use `forward: tun`".to_owned()
            }
            Self::WrappedByStranger { source, .. } => format!(
                "give the address {source} to the director in the file, name it in `tunnel: {{sources: [{source}]}}`, and run \
                 `lvsprov apply`"
            ),
            Self::NotUnwrapped { .. } => {
                format!("run `lvsprov apply`: {host} needs a tunnel device that is up")
            }
            Self::WrongSource { .. } => {
                "let replies go back through the director, or use `forward: dr` or `tun`".to_owned()
            }
            Self::NoSource { .. } => format!("give {host} an address of that family"),
            Self::Filtered { by, packet, is_untracked_nat, .. } => {
                let FilterDrop { chain, shown_by, .. } = by.as_ref();
                let tracked = if *is_untracked_nat {
                    "say `ipvs: {settings: {conntrack: 1}}` on this host in the file, or "
                } else {
                    ""
                };
                format!(
                    "{tracked}accept {packet} in the {chain} of {host} before that (`{shown_by}` shows its rules; lvsprov \
                     changes no rules of other programs)"
                )
            }
            Self::TooLarge { dev, mtu, size } => format!(
                "set the MTU of {dev} of {host} to {size}, or that of every other interface on its network to {mtu}"
            ),
            Self::TooBig { dev, size, message, .. } => {
                let raise = format!("raise the MTU of {dev} of {host} until {size} bytes fit");
                match &message.cause {
                    Self::AboutWrapped { .. } | Self::Smallest { .. } => raise,
                    cause => format!(
                        "{raise}, or mend the way of the ICMP message: {}",
                        cause.cure(&message.host)
                    ),
                }
            }
            Self::AboutRealServer { .. } => {
                format!("route what routers send to {host} through the director")
            }
            Self::AboutWrapped { .. } | Self::Smallest { .. } => {
                "raise the MTU on this way".to_owned()
            }
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, cause } = self;
        match cause {
            Cause::DeviceDown { dev } => write!(f, "{dev} of {host} is down"),
            Cause::NoRoute { target } => write!(f, "{host} has no route to {target}"),
            Cause::RouteRefuses { target } => write!(f, "a route of {host} refuses {target}"),
            Cause::NotForwarding { dev, target } => {
                write!(f, "{host} does not forward what comes in on {dev} for {target}")
            }
            Cause::SourceInvalid { dev, source, rp_filter, of_all, towards, refused, .. } => {
                let kind = if *rp_filter == 1 { "strict" } else { "loose" };
                write!(
                    f,
                    "{host} drops it on {dev}: {kind} source validation (rp_filter={rp_filter}"
                )?;
                f.write_str(if *of_all { " of all)" } else { ")" })?;
                match towards {
                    None if *refused => {
                        write!(f, ", and a route or rule refuses the source {source}")
                    }
                    None => write!(f, ", and it has no route to the source {source}"),
                    Some(towards) if towards == dev => write!(f, " refuses the source {source}"),
                    Some(towards) => {
                        write!(f, ", and its route to the source {source} leaves by {towards}")
                    }
                }
            }
            Cause::OwnSource { dev, source } => {
                write!(
                    f,
                    "{host} drops it on {dev}: its source {source} is an address of {host} itself"
                )
            }
            Cause::NobodyAnswers { network, next_hop, asks_as, holder } => {
                write!(f, "{host} asks on {network} for {next_hop}")?;
                match holder {
                    None => f.write_str(", and no host there answers"),
                    Some(holder) => {
                        let sender = asks_as.map_or_else(String::new, |own| format!(" as {own}"));
                        write!(f, "{sender}, and {} does not answer: {holder}", holder.host)
                    }
                }
            }
            Cause::SeveralAnswer { network, next_hop, hosts } => {
                let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
                write!(
                    f,
                    "{host} asks on {network} for {next_hop}, and {} answer",
                    hosts.join(" and ")
                )
            }
            Cause::Silent { dev, target, arp_ignore: 0 } => {
                write!(f, "{target} is not on {dev} of {host}")
            }
            Cause::Silent { dev, target, arp_ignore } => {
                write!(f, "{host} keeps silent about {target} on {dev} (arp_ignore={arp_ignore})")
            }
            Cause::Announces { vip, network, misled } => write!(
                f,
                "{host} names {vip} as the sender of its ARP request on {network}: {misled} sends the next requests to it, past the director"
            ),
            Cause::Loop { target } => {
                write!(f, "packets to {target} go round in a circle at {host}")
            }
            Cause::WrongHost { target } => {
                write!(f, "{host} has {target} itself and takes the request, past the director")
            }
            Cause::NoService { target } => write!(f, "{host} has no IPVS service for {target}"),
            Cause::DirectRouteByGateway { rip, gateway } => {
                write!(
                    f,
                    "the route of {host} to {rip} leads by {gateway}, which sends requests back"
                )
            }
            Cause::WrappedByStranger { source, vip } => write!(
                f,
                "{host} drops what {source} has wrapped for {vip}: {source} is no address of a director (nftables table of \
                 lvsprov, chain wrapped)"
            ),
            Cause::NotUnwrapped { rip } => {
                write!(f, "no device of {host} unwraps what is sent to {rip}")
            }
            Cause::WrongSource { source, expected } => {
                write!(
                    f,
                    "{host} gets the reply from {source}, not from {expected}, and ignores it"
                )
            }
            Cause::Filtered { .. } => self.write_filtered(f),
            Cause::NoSource { target } => {
                write!(f, "{host} has no address to send from to {target}")
            }
            Cause::TooLarge { .. }
            | Cause::TooBig { .. }
            | Cause::AboutRealServer { .. }
            | Cause::AboutWrapped { .. }
            | Cause::Smallest { .. } => self.write_of_size(f),
        }
    }
}

impl Death {
    /// Which rule drops it.
    fn write_filtered(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, cause } = self;
        let Cause::Filtered { by, hook, packet, state, is_untracked_nat } = cause else {
            return Ok(());
        };
        write!(f, "{host} drops {packet} at the hook {hook}: {by}")?;
        let Some(state) = state else { return Ok(()) };
        let why = if *is_untracked_nat { ": net.ipv4.vs.conntrack is 0" } else { "" };
        write!(f, " (connection tracking calls it {state}{why})")
    }

    /// Where the packet is too large, or a message about that is lost.
    fn write_of_size(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, cause } = self;
        match cause {
            Cause::TooLarge { dev, mtu, size } => write!(
                f,
                "{dev} of {host} has an MTU of {mtu}, and packets of {size} bytes are sent to it"
            ),
            Cause::TooBig { dev, mtu, size, message } => write!(
                f,
                "{host} gets packets of {size} bytes where {mtu} fit through {dev}, and its ICMP message does not reach \
                 their sender: {message}"
            ),
            Cause::AboutRealServer { rip } => write!(
                f,
                "the message reaches {host} past the director and is about {rip}, with which {host} has no connection"
            ),
            Cause::AboutWrapped { rip } => {
                write!(f, "{host} ignores ICMPv6 messages about what IPVS wrapped for {rip}")
            }
            Cause::Smallest { size } => {
                write!(f, "{host} sends no packets smaller than {size} bytes when it is asked to")
            }
            _ => Ok(()),
        }
    }
}
