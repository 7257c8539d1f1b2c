//! What is broken in a cluster, one thing at a time: each setting that lvsprov made is taken away, each interface is set down,
//! the VIP is put on hosts that must not have it, and settings are set to other values than they have.

use std::collections::BTreeMap;

use lvsprov::lab::scenario::drift;
use lvsprov::names::HostName;
use lvsprov::plan::simulate;
use lvsprov::state::{
    Address, AddressKey, ConfDev, ConfItem, Edit, HostState, Link, Receipt, Scope, Sysctl,
};
use lvsprov::topology::{Role, Topology};
use lvsprov::walk::HostStates;

/// Something that is broken on a host.
pub struct Mutant {
    pub host: HostName,
    pub edit: Edit,
}

/// All of them, of one host after the other. Values that `states` does not have yet are added to it: they are the lab's.
pub fn all(
    topology: &Topology,
    states: &mut HostStates,
    receipts: &BTreeMap<HostName, Receipt>,
) -> Vec<Mutant> {
    let mut all = Vec::new();
    for (host, receipt) in receipts {
        let state = &states[host];
        for item in &receipt.owned {
            let edits = drift::damage(item, state, &receipt.found);
            all.extend(edits.into_iter().map(|edit| Mutant { host: host.clone(), edit }));
        }
    }
    for host in topology.hosts.values() {
        let state = states.get_mut(&host.name).unwrap();
        let mut edits = Vec::new();
        for interface in host.interfaces.values().filter(|interface| interface.network.is_some()) {
            let dev = &interface.name;
            edits.push(Edit::change::<Link>(dev.clone(), Link::Up, Link::Down));
            for (item, value) in [
                (ConfItem::Forwarding, "0"),
                (ConfItem::RpFilter, "1"),
                (ConfItem::ArpIgnore, "1"),
                (ConfItem::ArpIgnore, "2"),
                (ConfItem::ArpIgnore, "8"),
                (ConfItem::ArpAnnounce, "2"),
                (ConfItem::AcceptLocal, "1"),
            ] {
                edits.extend(set(state, Sysctl::dev(dev, item), value));
            }
            for vip in topology.services.iter().filter_map(lvsprov::topology::Service::vip_address)
            {
                let key = AddressKey { dev: dev.clone(), net: vip.into() };
                let address = Address { nodad: vip.is_ipv6(), ..Address::plain(Scope::Global) };
                edits.push(Edit::add::<Address>(key, address));
            }
        }
        for (item, value) in [(ConfItem::RpFilter, "0"), (ConfItem::RpFilter, "2")] {
            edits.extend(set(state, Sysctl::all(item), value));
        }
        if host.roles.contains(&Role::Client) {
            edits.retain(|edit| edit.added::<Address>().is_none());
        }
        edits.retain(|edit| simulate(state, [edit]).is_ok());
        all.extend(edits.into_iter().map(|edit| Mutant { host: host.name.clone(), edit }));
    }
    all.retain(|mutant| simulate(&states[&mutant.host], [&mutant.edit]).is_ok());
    all
}

/// The setting with another value; a value that is not known is the one that the lab gives a bare host.
fn set(state: &mut HostState, key: Sysctl, value: &str) -> Option<Edit> {
    let bare = match &key {
        Sysctl::Conf(ConfDev::All, ConfItem::RpFilter) => "1".to_owned(),
        Sysctl::Conf(_, ConfItem::Forwarding) => {
            state.sysctls.get(&Sysctl::IpForward).cloned().unwrap_or_else(|| "0".to_owned())
        }
        _ => "0".to_owned(),
    };
    let before = state.sysctls.entry(key.clone()).or_insert(bare).clone();
    (before != value).then(|| Edit::change::<Sysctl>(key, before, value.to_owned()))
}
