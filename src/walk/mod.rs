//! The packet walk: follows a request from a client to a real server and the reply back, host by host, as the
//! kernel would treat it: who answers ARP, which route is taken, source validation, forwarding, IPVS, tunnels.
//!
//! It yields the way, or the host and the setting at which the packet dies, or what is not known. Pure: a
//! [`World`] is built from the file ([`World::of_file`]) or from what was seen on the hosts ([`World::of_hosts`]). What a rule makes of a
//! dead walk is decided in [`crate::check`]; which settings keep it alive in [`crate::desired`].
//!
//! [`World::large`] asks the same of packets as large as TCP makes them, and follows the ICMP messages about those that do
//! not fit.
//!
//! Rules of other programs, in nftables and iptables-legacy, are asked at each hook ([`crate::state::firewall`]). Not followed:
//! what stands in tables of bridges, devices (netdev) and ARP.

mod any_client;
mod conntrack;
mod death;
mod director;
mod filter;
mod hooked_packet;
mod hooks;
mod icmp;
mod input;
mod ipvs;
mod large;
mod machine;
mod neighbour;
mod of_file;
mod of_hosts;
mod packet;
mod registers;
mod request;
mod routes;
#[cfg(test)]
mod tests;
mod walker;
mod way;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::HostName;
use crate::state::routing::RouteKind;

pub use any_client::AnyClient;
pub use death::{Cause, Death};
pub use filter::{ESTABLISHED, FilterDrop, FilterEnd, INVALID, Judgement, NEW, UNTRACKED};
pub use hooked_packet::{HookedPacket, PacketDevice};
pub use input::{Addresses, Input, NotTaken};
pub use large::{LargeVerdict, wrapping_bytes};
pub use machine::{Device, DeviceAddress, DeviceKind, Machine, Unwraps, Wrapping};
pub use of_file::HostStates;
pub use of_hosts::{SeenHost, sysctls};
pub use request::{Hop, Lookup, Walk, WalkRequest, WalkVerdict};
pub use routes::Routes;

/// All hosts, and what lies between them.
#[derive(Debug, Default)]
pub struct World {
    machines: BTreeMap<HostName, Machine>,
    /// The hosts that have each address.
    holders: BTreeMap<IpAddr, Vec<HostName>>,
    /// Local routes to more than one address: a subnet on lo.
    local_subnets: Vec<(HostName, IpNet)>,
    /// Rules of other programs are known of a host.
    is_filtered: bool,
}

impl World {
    /// Of these hosts.
    pub fn new(machines: impl IntoIterator<Item = Machine>) -> Self {
        let mut world = Self::default();
        for machine in machines {
            for route in machine.routes.iter().filter(|route| route.kind == RouteKind::Local) {
                let net = route.destination;
                if net.prefix_len() == net.max_prefix_len() {
                    let hosts = world.holders.entry(net.addr()).or_default();
                    if hosts.last() != Some(&machine.name) {
                        hosts.push(machine.name.clone());
                    }
                } else {
                    world.local_subnets.push((machine.name.clone(), net));
                }
            }
            world.is_filtered |= !machine.firewall.is_empty();
            world.machines.insert(machine.name.clone(), machine);
        }
        world
    }

    /// A host.
    pub fn machine(&self, name: &HostName) -> Option<&Machine> {
        self.machines.get(name)
    }

    /// Whether packets meet rules of other programs on one of the hosts.
    pub fn is_filtered(&self) -> bool {
        self.is_filtered
    }

    /// The hosts that take packets to `address` as their own.
    fn holders(&self, address: IpAddr) -> impl Iterator<Item = &HostName> {
        let exact = self.holders.get(&address).into_iter().flatten();
        let within = self.local_subnets.iter().filter(move |(_, net)| net.contains(&address));
        exact.chain(within.map(|(host, _)| host))
    }
}
