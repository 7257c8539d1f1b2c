//! Bare hosts as network namespaces, connected by a switch: the state that a topology expects before
//! apply.
//!
//! One namespace is the switch, with a bridge for each network; each host has one namespace. A host gets
//! the interfaces and addresses of the file, and nothing that lvsprov would set: no gateway, no sysctl
//! other than those of [`bare`]. For agents over SSH a host also gets `mgmt0`, on a management network
//! with the caller's namespace.

mod bare;
mod cut;
mod links;
mod restart;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use nix::sched::{CloneFlags, unshare};
use sha2::{Digest as _, Sha256};

pub(in crate::lab) use self::links::with_rtnetlink;
use self::links::{Cable, LabLinks, links_in};
use super::LabError;
use super::child::Spawner;
pub use crate::kernel::arp::Mac;
use crate::kernel::{instances, namespace};
use crate::names::{HostName, IfName, NetworkName};
use crate::topology::{ETHERNET_MTU, Host, Interface, Topology};

/// The interface of each host in the management network.
pub const MANAGEMENT_INTERFACE: &str = "mgmt0";
/// The bridge of the management network in the caller's namespace, with addresses of the benchmark block
/// of RFC 2544.
const MANAGEMENT_BRIDGE: &str = "mgmt";
const MANAGEMENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const MANAGEMENT_PREFIX: u8 = 16;
/// Host addresses of the management network, without network, broadcast and the caller's address.
const MAX_HOSTS: usize = 65_533;

/// Number of labs with a management network that this process has built.
static LABS: AtomicU32 = AtomicU32::new(0);
/// Time limit for new cables. The kernel checks their carrier once a second (net/core/link_watch.c), later
/// on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The namespaces that [`isolate`] created in this process. The kernel does not tell whether a namespace
/// is the machine's own: a container has no access to the first process.
static ISOLATED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// A hardware address that is the same in every run: locally administered, unicast (IEEE 802, the low
/// bits of the first byte).
fn hardware_of(host: &HostName, interface: &str) -> Mac {
    let digest = Sha256::new()
        .chain_update(host.as_str())
        .chain_update([0])
        .chain_update(interface)
        .finalize();
    Mac([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// Bare hosts and their switch. Everything disappears with this value or with the process.
pub struct Lab {
    switch: OwnedFd,
    hosts: BTreeMap<HostName, LabHost>,
    /// By bridge index in the switch's namespace.
    networks: BTreeMap<u32, NetworkName>,
    spawner: Spawner,
    /// The caller's namespace, with the bridge of the management network.
    home: OwnedFd,
}

/// One bare host.
struct LabHost {
    namespace: OwnedFd,
    hardware: BTreeMap<IfName, Mac>,
    management: Option<Ipv4Addr>,
    /// Its port of the bridge of the management network.
    management_port: Option<String>,
}

impl LabHost {
    /// Ends the daemons that lvsprov started on it, as a power cut does: they would keep the namespace alive.
    fn lose_daemons(&self) {
        if instances::may_exist() {
            let _ = namespace::run_in(&self.namespace, instances::lose);
        }
    }
}

impl Drop for LabHost {
    fn drop(&mut self) {
        self.lose_daemons();
    }
}

/// Whether hosts have a management network for connections to agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Management {
    /// Hosts have the file's interfaces only.
    None,
    /// Each host also has `mgmt0`, and the caller's namespace has 198.18.0.1/16.
    Bridge,
}

/// Moves the calling thread, and every thread that it starts later, into a new network namespace with lo
/// only. Must be called before any runtime or thread is started: then no packet of this process can
/// leave the machine.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn isolate() -> Result<(), LabError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(LabError::errno("leave the machine's network (lvsprov must run as root)"))?;
    let (here, identity) = current_with_identity()?;
    if let Ok(mut known) = ISOLATED.lock() {
        known.insert(identity);
    }
    set_lo_up(here)
}

/// Sets the loopback interface of a namespace up.
pub(crate) fn set_lo_up(namespace: impl AsFd) -> Result<(), LabError> {
    links_in(namespace, async |links| links.set_up("lo", &[]).await)
}

impl Lab {
    /// Builds every host of `topology` with its interfaces and addresses, sorted by name.
    ///
    /// # Errors
    /// [`LabError::NotIsolated`] without an earlier [`isolate`]; errors of the kernel.
    pub fn build(topology: &Topology, management: Management) -> Result<Self, LabError> {
        let mut lab = Self::empty(topology.hosts.keys(), management)?;
        lab.networks = plug(&lab, topology)?;
        for (host, wanted) in &topology.hosts {
            configure(&lab.host(host)?.namespace, host, wanted)?;
            let plugged = wanted.interfaces.values().filter(|i| i.network.is_some());
            let hardware = plugged.map(|i| (i.name.clone(), hardware_of(host, i.name.as_str())));
            let hardware = hardware.collect();
            if let Some(built) = lab.hosts.get_mut(host) {
                built.hardware = hardware;
            }
        }
        lab.wait_for_cables(topology)?;
        Ok(lab)
    }

    /// `count` hosts `host1`, `host2`, ... with lo and the management network only.
    ///
    /// # Errors
    /// As [`Lab::build`].
    pub fn bare_hosts(count: usize) -> Result<Self, LabError> {
        let names = (1..=count).map(|n| format!("host{n}").parse::<HostName>());
        let names: Vec<HostName> = names
            .collect::<Result<_, _>>()
            .map_err(|error| LabError::Topology(error.to_string()))?;
        Self::empty(names.iter(), Management::Bridge)
    }

    /// The hosts, sorted by name.
    pub fn host_names(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    /// The namespace of a host.
    ///
    /// # Errors
    /// If the lab has no such host.
    pub fn namespace(&self, host: &HostName) -> Result<BorrowedFd<'_>, LabError> {
        Ok(self.host(host)?.namespace.as_fd())
    }

    /// A path to a host's namespace, for other processes and for `Reach::Netns`. Valid as long as this
    /// value lives.
    ///
    /// # Errors
    /// If the lab has no such host.
    pub fn netns_path(&self, host: &HostName) -> Result<PathBuf, LabError> {
        let fd = self.host(host)?.namespace.as_raw_fd();
        Ok(PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id())))
    }

    /// The address of a host in the management network, if it has one.
    pub fn management_address(&self, host: &HostName) -> Option<Ipv4Addr> {
        self.hosts.get(host)?.management
    }

    /// The host and interface with this hardware address.
    pub fn owner_of(&self, mac: Mac) -> Option<(&HostName, &IfName)> {
        self.hosts.iter().find_map(|(host, built)| {
            built.hardware.iter().find(|(_, m)| **m == mac).map(|(name, _)| (host, name))
        })
    }

    /// The hardware address of a host's interface.
    pub fn mac_of(&self, host: &HostName, interface: &IfName) -> Option<Mac> {
        self.hosts.get(host)?.hardware.get(interface).copied()
    }

    /// Runs `work` on a new thread in the namespace of `host`; its children inherit the namespace.
    ///
    /// # Errors
    /// If the lab has no such host, or its namespace cannot be entered.
    pub fn run_in<T: Send>(
        &self,
        host: &HostName,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        namespace::run_in(self.namespace(host)?, work)
            .map_err(LabError::io(format!("enter the network namespace of {host}")))
    }

    /// The namespace of the switch: no host of the lab notices a capture in it.
    pub(super) fn switch(&self) -> BorrowedFd<'_> {
        self.switch.as_fd()
    }

    /// The networks by the interface index of their bridge in the switch's namespace.
    pub(super) fn networks_by_bridge(&self) -> &BTreeMap<u32, NetworkName> {
        &self.networks
    }

    /// Starts processes that end when this value does.
    pub(super) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// Waits for all cables: the kernel silently drops frames while an end or the port is not ready.
    fn wait_for_cables(&self, topology: &Topology) -> Result<(), LabError> {
        let deadline = Instant::now() + READY_WITHIN;
        let interfaces = topology.hosts.values().flat_map(|host| host.interfaces.values());
        let ipv6 = interfaces.flat_map(|i| &i.addresses).any(|net| net.addr().is_ipv6());
        let ports = topology.hosts.values().flat_map(|host| host.interfaces.values());
        let ports = ports.filter(|interface| interface.network.is_some()).count();
        let ports: Vec<String> = (0..ports).map(port_name).collect();
        links_in(&self.switch, async |links| links.wait_until_ready(&ports, deadline).await)?;
        for host in self.hosts.values() {
            let plugged: Vec<String> = host.hardware.keys().map(ToString::to_string).collect();
            links_in(&host.namespace, async |links| {
                links.wait_until_ready(&plugged, deadline).await?;
                if ipv6 {
                    links.wait_for_link_local(&plugged, deadline).await?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn host(&self, host: &HostName) -> Result<&LabHost, LabError> {
        self.hosts
            .get(host)
            .ok_or_else(|| LabError::Topology(format!("the lab has no host {host}")))
    }

    /// The hosts as namespaces with lo up, and with the management network if requested.
    fn empty<'a>(
        names: impl Iterator<Item = &'a HostName>,
        management: Management,
    ) -> Result<Self, LabError> {
        let home = require_isolation()?;
        let switch = new_namespace(bare::switch_ipv6_off)?;
        let mut hosts = BTreeMap::new();
        for (nth, name) in names.enumerate() {
            let management = match management {
                Management::None => None,
                Management::Bridge => Some(management_address(nth)?),
            };
            let namespace = new_namespace(bare::reset_settings)?;
            set_lo_up(&namespace)?;
            let hardware = BTreeMap::new();
            let host = LabHost { namespace, hardware, management, management_port: None };
            hosts.insert(name.clone(), host);
        }
        if management == Management::Bridge {
            connect_management(&home, &mut hosts)?;
        }
        let spawner = Spawner::start().map_err(LabError::io("start a thread"))?;
        Ok(Self { switch, hosts, networks: BTreeMap::new(), spawner, home })
    }
}

/// Gives a host its interfaces and addresses; its cables are plugged in.
fn configure(namespace: &OwnedFd, host: &HostName, wanted: &Host) -> Result<(), LabError> {
    links_in(namespace, async |links| {
        for interface in wanted.interfaces.values() {
            let name = interface.name.as_str();
            let lonely = interface.network.is_none() && name != "lo";
            if lonely && !links.exists(name).await {
                links.add_dummy(host, name).await?;
            }
            if let Some(mtu) = interface.mtu {
                links.set_mtu(name, mtu).await?;
            }
            links.set_up(name, &interface.addresses).await?;
        }
        Ok(())
    })
}

/// The plugged interfaces of `host`, each with its port of the switch.
fn ports_of<'t>(topology: &'t Topology, host: &HostName) -> Vec<(String, &'t Interface)> {
    let hosts = topology.hosts.iter();
    let all = hosts.flat_map(|(name, host)| host.interfaces.values().map(move |it| (name, it)));
    let plugged = all.filter(|(_, interface)| interface.network.is_some()).enumerate();
    let of_host = plugged.filter(|(_, (name, _))| *name == host);
    of_host.map(|(nth, (_, interface))| (port_name(nth), interface)).collect()
}

/// Creates a bridge for each network and connects the hosts. Returns the networks by bridge index.
fn plug(lab: &Lab, topology: &Topology) -> Result<BTreeMap<u32, NetworkName>, LabError> {
    links_in(&lab.switch, async |links: LabLinks| {
        let mut bridges = BTreeMap::new();
        for (nth, name) in topology.networks.keys().enumerate() {
            bridges.insert(name, links.add_bridge(&format!("br{nth}")).await?);
        }
        let mut ports = 0_usize;
        for (host, wanted) in &topology.hosts {
            for interface in wanted.interfaces.values() {
                let Some(network) = &interface.network else { continue };
                let bridge = *bridges.get(network).ok_or_else(|| {
                    let name = &interface.name;
                    LabError::Topology(format!(
                        "{name} of {host} is on the unknown network {network}"
                    ))
                })?;
                let port = port_name(ports);
                ports += 1;
                let namespace = &lab.host(host)?.namespace;
                let name = interface.name.as_str();
                let mac = hardware_of(host, name);
                links.add_cable(Cable { port: &port, bridge, host: namespace, name, mac }).await?;
                // The switch is never what limits a packet.
                if let Some(mtu) = interface.mtu.filter(|mtu| *mtu > ETHERNET_MTU) {
                    links.set_mtu(&port, mtu).await?;
                }
            }
        }
        Ok(bridges.into_iter().map(|(name, index)| (index, name.clone())).collect())
    })
}

/// The name of the switch's `nth` port.
fn port_name(nth: usize) -> String {
    format!("p{nth}")
}

/// Connects every host to a bridge in the caller's namespace.
fn connect_management(
    home: &OwnedFd,
    hosts: &mut BTreeMap<HostName, LabHost>,
) -> Result<(), LabError> {
    let ours = management_net(MANAGEMENT_ADDRESS)?;
    // The kernel removes cables of an earlier lab asynchronously: each lab has its own port names.
    let lab = LABS.fetch_add(1, Ordering::Relaxed);
    for (nth, host) in hosts.values_mut().enumerate() {
        host.management_port = Some(management_port(lab, nth));
    }
    let hosts = &*hosts;
    links_in(home, async |links: LabLinks| {
        // The bridge of an earlier lab of this process.
        links.remove(MANAGEMENT_BRIDGE).await?;
        let bridge = links.add_bridge(MANAGEMENT_BRIDGE).await?;
        links.set_up(MANAGEMENT_BRIDGE, &[ours]).await?;
        for (nth, (name, host)) in hosts.iter().enumerate() {
            let port = management_port(lab, nth);
            let mac = hardware_of(name, MANAGEMENT_INTERFACE);
            let host = &host.namespace;
            let cable = Cable { port: &port, bridge, host, name: MANAGEMENT_INTERFACE, mac };
            links.add_cable(cable).await?;
        }
        Ok(())
    })?;
    for host in hosts.values() {
        let Some(address) = host.management else { continue };
        let address = management_net(address)?;
        links_in(&host.namespace, async |links| {
            links.set_up(MANAGEMENT_INTERFACE, &[address]).await
        })?;
    }
    let deadline = Instant::now() + READY_WITHIN;
    for host in hosts.values() {
        let ours = [MANAGEMENT_INTERFACE.to_owned()];
        links_in(&host.namespace, async |links| links.wait_until_ready(&ours, deadline).await)?;
    }
    let ports = (0..hosts.len()).map(|nth| management_port(lab, nth));
    // A bridge has a carrier when one of its ports forwards; without hosts it never has one.
    let bridge = (!hosts.is_empty()).then(|| MANAGEMENT_BRIDGE.to_owned());
    let ours: Vec<String> = ports.chain(bridge).collect();
    links_in(home, async |links| links.wait_until_ready(&ours, deadline).await)
}

/// The name of the management bridge's `nth` port, in the `lab`th lab of this process.
fn management_port(lab: u32, nth: usize) -> String {
    format!("m{lab}-{nth}")
}

fn management_address(nth: usize) -> Result<Ipv4Addr, LabError> {
    let number = u32::try_from(nth).ok().filter(|_| nth < MAX_HOSTS);
    let number =
        number.ok_or_else(|| LabError::Topology(format!("a lab has at most {MAX_HOSTS} hosts")))?;
    Ok(Ipv4Addr::from_bits(MANAGEMENT_ADDRESS.to_bits() + 1 + number))
}

fn management_net(address: Ipv4Addr) -> Result<IpNet, LabError> {
    let net = Ipv4Net::new(address, MANAGEMENT_PREFIX)
        .map_err(|error| LabError::Topology(error.to_string()))?;
    Ok(IpNet::V4(net))
}

/// A new namespace, prepared by `prepare`.
fn new_namespace(
    prepare: impl FnOnce() -> Result<(), LabError> + Send,
) -> Result<OwnedFd, LabError> {
    let fd = namespace::create()
        .map_err(LabError::io("create a network namespace (lvsprov must run as root)"))?;
    namespace::run_in(&fd, prepare).map_err(LabError::io("enter a new network namespace"))??;
    Ok(fd)
}

/// The caller's namespace, if [`isolate`] created it.
fn require_isolation() -> Result<OwnedFd, LabError> {
    let (here, identity) = current_with_identity()?;
    let ours = ISOLATED.lock().is_ok_and(|known| known.contains(&identity));
    if ours { Ok(here) } else { Err(LabError::NotIsolated) }
}

fn current_with_identity() -> Result<(OwnedFd, u64), LabError> {
    let open = || {
        let here = namespace::current()?;
        let identity = namespace::identity(&here)?;
        io::Result::Ok((here, identity))
    };
    open().map_err(LabError::io("open its own network namespace"))
}

/// All addresses of `host` in the file.
pub fn addresses_of(topology: &Topology, host: &HostName) -> Vec<IpAddr> {
    let interfaces = topology.hosts.get(host).into_iter().flat_map(|h| h.interfaces.values());
    interfaces.flat_map(|i| i.addresses.iter().map(IpNet::addr)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hardware_addresses_differ_and_are_stable() {
        let web1: HostName = "web1".parse().unwrap();
        let web: HostName = "web".parse().unwrap();
        assert_eq!(hardware_of(&web1, "eth0"), hardware_of(&web1, "eth0"));
        assert_ne!(hardware_of(&web1, "eth0"), hardware_of(&web1, "eth1"));
        assert_ne!(hardware_of(&web1, "eth0"), hardware_of(&web, "1eth0"));
        assert_eq!(hardware_of(&web, "eth0").0[0] & 0b11, 0b10);
    }

    #[test]
    fn management_addresses_end_with_the_network() {
        assert_eq!(management_address(0).unwrap(), Ipv4Addr::new(198, 18, 0, 2));
        assert_eq!(management_address(MAX_HOSTS - 1).unwrap(), Ipv4Addr::new(198, 18, 255, 254));
        assert!(management_address(MAX_HOSTS).is_err());
    }
}
