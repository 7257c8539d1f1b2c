//! Looking at a host: everything a plan needs, and nothing is changed by it, no module loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::error::{Error, Result};
use super::ipvs::control::{self, Control};
use super::ipvs::{self, IpvsSocket};
use super::net::{Net, NetState, fou};
use super::{journal, modules, nft, others, receipt, records, sysctls};
use crate::protocol::{Capability, Controller, HostFacts, Receipt, Sighting};
use crate::state::{Conf6Item, ConfDev, ConfItem, HostState, Item, Module, Owned, Sysctl};
use crate::topology::{IfName, TopologyName};

/// How often a host is looked at again whose receipt or journal was written meanwhile.
const LOOKS: u32 = 5;

/// Reads the host, in the network namespace of the calling thread.
///
/// Receipt and host belong together: without the receipt, what another run has just changed would be
/// taken for what was there before any. So it is looked again if the receipt was written meanwhile, or
/// the journal, or that was brought to another phase.
pub async fn look(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
) -> Result<Sighting> {
    look_as(state_dir, topology, asked, counters, Others::Read).await
}

/// The same without what other topologies have on this host: undoing what is ours asks nothing of them.
pub(super) async fn look_at_own(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
) -> Result<Sighting> {
    look_as(state_dir, topology, asked, false, Others::LeftOut).await
}

/// Whether other topologies' receipts and journals are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Read,
    LeftOut,
}

async fn look_as(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
    others: Others,
) -> Result<Sighting> {
    for _ in 0..LOOKS {
        let before = journal::marks(state_dir, topology);
        let seen = look_once(state_dir, topology, asked, counters, others).await;
        // What cannot be read may have been taken away meanwhile.
        if journal::marks(state_dir, topology) == before {
            return seen;
        }
    }
    Err(Error::new(format!("the receipt of {topology} changes faster than this host can be read"))
        .cure("another lvsprov is at work here: wait for it"))
}

async fn look_once(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
    others: Others,
) -> Result<Sighting> {
    let receipt = receipt::read(state_dir, topology)?;
    let others = match others {
        Others::Read => others::read(state_dir, topology)?,
        Others::LeftOut => others::Others::default(),
    };
    let open = journal::read(state_dir, topology)?;
    let unfinished = open.map(journal::Open::into_unfinished).transpose()?.map(Box::new);
    let reverted = records::reverted(&state_dir.join(topology.as_str()));
    let NetState { links, hardware, tunnels, addresses, routes } = Net::open()?.read().await?;
    let (ipvs, control) = if ipvs::is_loaded() {
        let mut socket = IpvsSocket::open()?;
        (socket.look(counters)?, control::read(&mut socket)?)
    } else {
        (ipvs::Seen::default(), Control::default())
    };
    let nft = nft::look()?;
    let facts = HostFacts { foreign_tables: nft.foreign, ..facts(hardware) };
    // Asking for the family would load the module.
    let gue_ports = match facts.capability(Module::Fou) {
        Capability::Present => fou::gue_ports()?,
        _ => BTreeSet::new(),
    };
    let present = |(module, capability): (&Module, &Capability)| {
        (*capability == Capability::Present).then_some(*module)
    };
    let state = HostState {
        modules: facts.modules.iter().filter_map(present).collect(),
        sysctls: {
            let touched = unfinished.as_ref().map(|there| &there.journal.touched);
            read_sysctls(&wanted_sysctls(asked, receipt.as_ref(), touched, links.keys()))?
        },
        links,
        addresses,
        routes,
        services: ipvs.table,
        timeouts: control.timeouts,
        daemons: control.daemons,
        tables: nft.tables,
        tunnels,
        gue_ports,
    };
    Ok(Sighting {
        facts,
        state,
        receipt,
        others: others.receipts,
        unreadable: others.unreadable,
        strays: others.strays,
        unfinished,
        reverted,
        unfinished_elsewhere: others.unfinished,
        counters: ipvs.counters,
    })
}

fn facts(hardware: BTreeMap<IfName, String>) -> HostFacts {
    let (kernel, machine) = nix::sys::utsname::uname().map_or_else(
        |_| (String::new(), String::new()),
        |name| {
            let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
            (text(name.release()), text(name.machine()))
        },
    );
    HostFacts {
        kernel,
        machine,
        hardware,
        modules: Module::ALL.iter().map(|module| (*module, modules::capability(*module))).collect(),
        parts: modules::available_parts(),
        foreign_tables: BTreeSet::new(),
        controller: controller().map_or(Controller::Unknown, Controller::Address),
    }
}

/// From where the controller is logged in, where that is known.
pub(super) fn controller() -> Option<std::net::IpAddr> {
    std::env::var("SSH_CONNECTION").ok().and_then(|text| client_of(&text))
}

/// `SSH_CONNECTION` is "client address, client port, server address, server port" (ssh(1)). A link-local
/// address has its zone behind it (`fe80::1%eth0`), which is no part of the address.
fn client_of(connection: &str) -> Option<std::net::IpAddr> {
    let address = connection.split(' ').next()?;
    address.split_once('%').map_or(address, |(address, _)| address).parse().ok()
}

/// What was asked for, what the receipt speaks of, what undoing puts back, and what would change along with
/// those: writing ip_forward writes every `forwarding` and `conf.all.accept_redirects` too
/// (net/ipv4/devinet.c, `inet_forward_change`), IPv6's own one every other `forwarding` of IPv6
/// (net/ipv6/addrconf.c, `addrconf_fixup_forwarding`), and whoever plans that must know what they were. So it
/// is with what an interface starts with that undoing makes again.
fn wanted_sysctls<'a>(
    asked: &BTreeSet<Sysctl>,
    receipt: Option<&Receipt>,
    touched: Option<&Owned>,
    links: impl Iterator<Item = &'a IfName> + Clone,
) -> BTreeSet<Sysctl> {
    let mut wanted = asked.clone();
    for item in touched.into_iter().flatten() {
        let Item::Sysctl(key) = item else { continue };
        match key {
            Sysctl::Conf(ConfDev::Dev(_), item) => {
                wanted.insert(Sysctl::Conf(ConfDev::Default, *item));
            }
            Sysctl::Conf6(ConfDev::Dev(_), item) => {
                wanted.insert(Sysctl::Conf6(ConfDev::Default, *item));
            }
            Sysctl::IpForward
            | Sysctl::Conf(..)
            | Sysctl::Conf6(..)
            | Sysctl::Ip6Forward
            | Sysctl::Vs(_) => {}
        }
        wanted.insert(key.clone());
    }
    if let Some(Receipt { version: _, topology: _, since: _, owned, found }) = receipt {
        wanted.extend(found.sysctls.keys().cloned());
        wanted.extend(owned.iter().filter_map(|item| match item {
            Item::Sysctl(key) => Some(key.clone()),
            _ => None,
        }));
    }
    if wanted.contains(&Sysctl::IpForward) {
        wanted.insert(Sysctl::all(ConfItem::AcceptRedirects));
        wanted.insert(Sysctl::all(ConfItem::Forwarding));
        wanted.insert(Sysctl::Conf(ConfDev::Default, ConfItem::Forwarding));
        wanted.extend(links.clone().map(|dev| Sysctl::dev(dev, ConfItem::Forwarding)));
    }
    if wanted.contains(&Sysctl::Ip6Forward) {
        let forwarding = |dev| Sysctl::Conf6(dev, Conf6Item::Forwarding);
        wanted.insert(forwarding(ConfDev::Default));
        wanted.extend(links.map(|dev| forwarding(ConfDev::Dev(dev.clone()))));
    }
    wanted
}

fn read_sysctls(wanted: &BTreeSet<Sysctl>) -> Result<BTreeMap<Sysctl, String>> {
    let mut values = BTreeMap::new();
    for key in wanted {
        if let Some(value) = sysctls::read(key)? {
            values.insert(key.clone(), value);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_asks_for_ip_forward_gets_what_it_writes_as_well() {
        let dev: IfName = "eth0.100".parse().unwrap();
        let asked = BTreeSet::from([Sysctl::IpForward]);
        let wanted = wanted_sysctls(&asked, None, None, [&dev].into_iter());
        for key in [
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.accept_redirects",
            "net.ipv4.conf.all.forwarding",
            "net.ipv4.conf.default.forwarding",
            "net/ipv4/conf/eth0.100/forwarding",
        ] {
            assert!(wanted.contains(&key.parse().unwrap()), "{key} is missing");
        }
        assert_eq!(wanted.len(), 5);
        assert!(wanted_sysctls(&BTreeSet::new(), None, None, [&dev].into_iter()).is_empty());
    }

    #[test]
    fn who_asks_for_ipv6_forwarding_gets_every_interfaces_as_well() {
        let dev: IfName = "eth0.100".parse().unwrap();
        let asked = BTreeSet::from([Sysctl::Ip6Forward]);
        let expected = [
            "net.ipv6.conf.all.forwarding",
            "net.ipv6.conf.default.forwarding",
            "net/ipv6/conf/eth0.100/forwarding",
        ];
        let expected = expected.iter().map(|key| key.parse().unwrap()).collect();
        assert_eq!(wanted_sysctls(&asked, None, None, [&dev].into_iter()), expected);
    }

    /// A tunnel device is made again, and starts with the values of `default`: those that it had otherwise
    /// are set before it is up.
    #[test]
    fn undoing_the_removal_of_a_device_knows_what_a_new_one_starts_with() {
        use crate::desired::Reasons;
        use crate::plan::order::steps_between;
        use crate::plan::{Change, Step};
        use crate::state::{Link, TunnelDevice, TunnelKind};

        let dev: IfName = "gre1".parse().unwrap();
        let (v4, v6) = (
            Sysctl::dev(&dev, ConfItem::RpFilter),
            Sysctl::Conf6(ConfDev::Dev(dev.clone()), Conf6Item::Forwarding),
        );
        let touched: Owned = [v4.clone(), v6.clone()].map(Item::Sysctl).into();
        let read = wanted_sysctls(&BTreeSet::new(), None, Some(&touched), std::iter::empty());
        let defaults = BTreeSet::from([
            Sysctl::Conf(ConfDev::Default, ConfItem::RpFilter),
            Sysctl::Conf6(ConfDev::Default, Conf6Item::Forwarding),
        ]);
        assert_eq!(read, defaults.union(&[v4.clone(), v6].into()).cloned().collect());

        // What is read of the two is all that is known of a host without the device.
        let values = [(Sysctl::Conf(ConfDev::Default, ConfItem::RpFilter), "1".to_owned())];
        let sysctls = values.into_iter().filter(|(key, _)| read.contains(key)).collect();
        let seen = HostState { sysctls, ..HostState::default() };
        let mut before = HostState::default();
        before.links.insert(dev.clone(), Link::Up);
        before.sysctls.insert(v4, "0".to_owned());
        let local = "192.0.2.1".parse().unwrap();
        let device = TunnelDevice { kind: TunnelKind::Gre, local, checksum: false };
        before.tunnels.insert(dev, device);
        let steps = steps_between(&seen, &before, &before.items(), &Reasons::default()).unwrap();
        let steps: Vec<Change> =
            steps.into_all().into_iter().map(|Step { change, why: _ }| change).collect();
        let at = |is: &dyn Fn(&Change) -> bool| steps.iter().position(is);
        let set = at(&|change| matches!(change, Change::SetSysctl { .. }));
        let up = at(&|change| matches!(change, Change::SetLink { .. }));
        assert!(set.is_some() && set < up, "{steps:?}");
    }

    #[test]
    fn the_controller_is_the_first_of_what_sshd_says() {
        assert_eq!(client_of("192.0.2.7 50000 192.0.2.1 22"), "192.0.2.7".parse().ok());
        let link_local = client_of("fe80::1%eth0 50000 fe80::2%eth0 22");
        assert_eq!(link_local, "fe80::1".parse().ok());
        for nothing in ["", " ", "x 1 y 2", "%eth0 1 y 2", "$(id) 1 y 2"] {
            assert_eq!(client_of(nothing), None);
        }
    }

    #[test]
    fn the_receipt_adds_what_it_owns_and_what_it_found() {
        let owned: Sysctl = "net.ipv4.conf.lo.arp_ignore".parse().unwrap();
        let found: Sysctl = "net.ipv4.conf.all.arp_ignore".parse().unwrap();
        let receipt = Receipt {
            version: 1,
            topology: "t".parse().unwrap(),
            since: 0,
            owned: [Item::Sysctl(owned.clone()), Item::Module(Module::IpVs)].into(),
            found: HostState {
                sysctls: [(found.clone(), "0".to_owned())].into(),
                ..HostState::default()
            },
        };
        let wanted = wanted_sysctls(&BTreeSet::new(), Some(&receipt), None, std::iter::empty());
        assert_eq!(wanted, BTreeSet::from([owned, found]));
    }
}
