//! Bare hosts as network namespaces, joined by a switch: what a topology says is there already.
//!
//! One namespace is the switch, with a bridge for each network; each host has one of its own. A host
//! gets the interfaces, addresses and names of the file, up; and nothing that lvsprov would set: no
//! gateway, no sysctl beyond what [`bare`] says. Where agents are to be reached over SSH, a host
//! also gets `mgmt0`, a network of its own that the caller's namespace is in.

mod bare;
mod cut;
mod links;

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
use self::links::{Cable, Links, links_in};
use super::LabError;
use super::child::Keeper;
pub use crate::kernel::arp::Mac;
use crate::kernel::namespace;
use crate::names::{HostName, IfName, NetworkName};
use crate::topology::Topology;

/// The interface of each host in the management network.
pub const MANAGEMENT_INTERFACE: &str = "mgmt0";
/// The bridge of the management network in the caller's namespace. Its addresses are of the block
/// that RFC 2544 sets aside for tests between devices.
const MANAGEMENT_BRIDGE: &str = "mgmt";
const MANAGEMENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const MANAGEMENT_PREFIX: u8 = 16;
/// As many host addresses as the management network has, without its own, the broadcast and ours.
const MOST_HOSTS: usize = 65_533;

/// How many labs with a management network this process has had.
static LABS: AtomicU32 = AtomicU32::new(0);
/// A new cable carries when the kernel has looked at it, which it does once in a second for most
/// (net/core/link_watch.c), and later on a machine that is busy.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The namespaces that [`isolate`] made in this process. Whether one is the machine's own cannot be
/// asked of the kernel: in a container nobody may look at the first process.
static ISOLATED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// The same for the same host and interface in every run: locally administered, unicast (IEEE 802,
/// the low bits of the first byte).
fn hardware_of(host: &HostName, interface: &str) -> Mac {
    let digest = Sha256::new()
        .chain_update(host.as_str())
        .chain_update([0])
        .chain_update(interface)
        .finalize();
    Mac([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// Bare hosts and the switch between them. All of it vanishes with this value, or with the process.
pub struct Lab {
    switch: OwnedFd,
    hosts: BTreeMap<HostName, LabHost>,
    /// By the index of the bridge in the switch's namespace.
    networks: BTreeMap<u32, NetworkName>,
    keeper: Keeper,
    /// Where the bridge of the management network is: the caller's namespace.
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

/// Whether hosts are also plugged into a management network, which agents are reached over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Management {
    /// They have the file's interfaces only.
    None,
    /// Each has `mgmt0` too, and the caller's namespace has 198.18.0.1/16.
    Bridge,
}

/// Takes the calling thread, and every thread it starts from now on, out of the machine's network
/// into a new and empty one (lo only, up). To be called before any runtime or thread is started:
/// then nothing that this process sends by accident goes anywhere.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn isolate() -> Result<(), LabError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(LabError::errno("leave the machine's network (are we root?)"))?;
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
    /// Builds every host of `topology` with its interfaces and addresses, in the order of their names.
    ///
    /// # Errors
    /// [`LabError::NotIsolated`] where [`isolate`] was not called before; whatever the kernel refuses.
    pub fn build(topology: &Topology, management: Management) -> Result<Self, LabError> {
        let mut lab = Self::empty(topology.hosts.keys(), management)?;
        lab.networks = plug(&lab, topology)?;
        for (host, wanted) in &topology.hosts {
            links_in(&lab.host(host)?.namespace, async |links| {
                for interface in wanted.interfaces.values() {
                    let name = interface.name.as_str();
                    let lonely = interface.network.is_none() && name != "lo";
                    if lonely && !links.exists(name).await {
                        links.add_dummy(host, name).await?;
                    }
                    links.set_up(name, &interface.addresses).await?;
                }
                Ok(())
            })?;
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

    /// `count` hosts `host1`, `host2`, ... with nothing but lo and the management network.
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

    /// The hosts, in the order of their names.
    pub fn host_names(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    /// The namespace of a host.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn namespace(&self, host: &HostName) -> Result<BorrowedFd<'_>, LabError> {
        Ok(self.host(host)?.namespace.as_fd())
    }

    /// A path by which other processes, and `Reach::Netns`, get to a host's namespace. It is good as
    /// long as this value lives.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn netns_path(&self, host: &HostName) -> Result<PathBuf, LabError> {
        let fd = self.host(host)?.namespace.as_raw_fd();
        Ok(PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id())))
    }

    /// The address of a host in the management network, if it is in one.
    pub fn management_address(&self, host: &HostName) -> Option<Ipv4Addr> {
        self.hosts.get(host)?.management
    }

    /// Whose interface has this hardware address.
    pub fn owner_of(&self, mac: Mac) -> Option<(&HostName, &IfName)> {
        self.hosts.iter().find_map(|(host, built)| {
            built.hardware.iter().find(|(_, m)| **m == mac).map(|(name, _)| (host, name))
        })
    }

    /// The hardware address of a host's interface.
    pub fn mac_of(&self, host: &HostName, interface: &IfName) -> Option<Mac> {
        self.hosts.get(host)?.hardware.get(interface).copied()
    }

    /// Runs `work` on a new thread in the namespace of `host`; what that thread starts is in it too.
    ///
    /// # Errors
    /// If there is no such host, or it cannot be entered.
    pub fn run_in<T: Send>(
        &self,
        host: &HostName,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        namespace::run_in(self.namespace(host)?, work)
            .map_err(LabError::io(format!("enter the network namespace of {host}")))
    }

    /// The namespace of the switch: what is captured there is seen by nobody in the lab.
    pub(super) fn switch(&self) -> BorrowedFd<'_> {
        self.switch.as_fd()
    }

    /// The networks by the interface index of their bridge in the switch's namespace.
    pub(super) fn networks_by_bridge(&self) -> &BTreeMap<u32, NetworkName> {
        &self.networks
    }

    /// Starts processes that end when this value does.
    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// A frame that is sent before both ends of its cable and the port in between are ready is lost
    /// without a word.
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
                    links.wait_until_neighbours_can_be_asked(&plugged, deadline).await?;
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

    /// The hosts as empty namespaces, lo up, in the management network if asked for.
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
        let keeper = Keeper::start().map_err(LabError::io("start a thread"))?;
        Ok(Self { switch, hosts, networks: BTreeMap::new(), keeper, home })
    }
}

/// Makes a bridge for each network and plugs the hosts in. Returns the networks by bridge index.
fn plug(lab: &Lab, topology: &Topology) -> Result<BTreeMap<u32, NetworkName>, LabError> {
    links_in(&lab.switch, async |links: Links| {
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
                    LabError::Topology(format!("{host}'s {name} is in {network}, which is unknown"))
                })?;
                let port = port_name(ports);
                ports += 1;
                let namespace = &lab.host(host)?.namespace;
                let name = interface.name.as_str();
                let mac = hardware_of(host, name);
                links.add_cable(Cable { port: &port, bridge, host: namespace, name, mac }).await?;
            }
        }
        Ok(bridges.into_iter().map(|(name, index)| (index, name.clone())).collect())
    })
}

/// The name of the switch's `nth` port.
fn port_name(nth: usize) -> String {
    format!("p{nth}")
}

/// Plugs every host into a bridge in the caller's namespace.
fn connect_management(
    home: &OwnedFd,
    hosts: &mut BTreeMap<HostName, LabHost>,
) -> Result<(), LabError> {
    let ours = management_net(MANAGEMENT_ADDRESS)?;
    // The ends of that lab's cables vanish when the kernel gets to it: never the same name twice.
    let lab = LABS.fetch_add(1, Ordering::Relaxed);
    for (nth, host) in hosts.values_mut().enumerate() {
        host.management_port = Some(management_port(lab, nth));
    }
    let hosts = &*hosts;
    links_in(home, async |links: Links| {
        // That of a lab which this process had before.
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
    // A bridge has a carrier once one of its ports forwards; without hosts it never has.
    let bridge = (!hosts.is_empty()).then(|| MANAGEMENT_BRIDGE.to_owned());
    let ours: Vec<String> = ports.chain(bridge).collect();
    links_in(home, async |links| links.wait_until_ready(&ours, deadline).await)
}

/// The name of the management bridge's `nth` port, in the `lab`th lab of this process.
fn management_port(lab: u32, nth: usize) -> String {
    format!("m{lab}-{nth}")
}

fn management_address(nth: usize) -> Result<Ipv4Addr, LabError> {
    let number = u32::try_from(nth).ok().filter(|_| nth < MOST_HOSTS);
    let number = number.ok_or_else(|| {
        LabError::Topology(format!("a lab has at most {MOST_HOSTS} hosts, this one has more"))
    })?;
    Ok(Ipv4Addr::from_bits(MANAGEMENT_ADDRESS.to_bits() + 1 + number))
}

fn management_net(address: Ipv4Addr) -> Result<IpNet, LabError> {
    let net = Ipv4Net::new(address, MANAGEMENT_PREFIX)
        .map_err(|error| LabError::Topology(error.to_string()))?;
    Ok(IpNet::V4(net))
}

/// A new namespace with `prepare` done in it.
fn new_namespace(
    prepare: impl FnOnce() -> Result<(), LabError> + Send,
) -> Result<OwnedFd, LabError> {
    let fd =
        namespace::create().map_err(LabError::io("make a network namespace (are we root?)"))?;
    namespace::run_in(&fd, prepare).map_err(LabError::io("enter a new network namespace"))??;
    Ok(fd)
}

/// The caller's namespace, if it is one that [`isolate`] made.
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

/// All IPv4 and IPv6 addresses that `host` has in the file.
pub fn addresses_of(topology: &Topology, host: &HostName) -> Vec<IpAddr> {
    let interfaces = topology.hosts.get(host).into_iter().flat_map(|h| h.interfaces.values());
    interfaces.flat_map(|i| i.addresses.iter().map(IpNet::addr)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hardware_addresses_differ_and_stay() {
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
        assert_eq!(management_address(MOST_HOSTS - 1).unwrap(), Ipv4Addr::new(198, 18, 255, 254));
        assert!(management_address(MOST_HOSTS).is_err());
    }
}
