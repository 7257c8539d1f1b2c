//! What several tests need.

use std::path::{Path, PathBuf};

use lvsprov::check;
use lvsprov::state::{
    Address, AddressKey, Capability, Conf6Item, ConfDev, ConfItem, Controller, HostFacts,
    HostState, Link, Observation, Route, RouteKey, Scope, Sysctl,
};
use lvsprov::topology::{Host, Topology};

/// All playbooks, in the order of their names.
pub fn playbooks() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    all.sort();
    assert!(all.len() >= 7, "playbooks are missing: {all:?}");
    all
}

pub fn load(path: &Path) -> Topology {
    let text = std::fs::read_to_string(path).unwrap();
    let examined = check::examine(&path.display().to_string(), &text);
    examined.topology.unwrap_or_else(|| panic!("{}: {:?}", path.display(), examined.findings))
}

/// Compares with a golden file; `LVSPROV_BLESS=1` writes it instead.
pub fn golden(path: &Path, actual: &str) {
    if std::env::var_os("LVSPROV_BLESS").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error} (LVSPROV_BLESS=1 writes it)", path.display()));
    assert!(
        expected == actual,
        "{} differs (LVSPROV_BLESS=1 rewrites it); now:\n{actual}",
        path.display()
    );
}

/// A host as a distribution leaves it: the file's interfaces and addresses, strict source check.
pub fn bare(host: &Host) -> Observation {
    let mut state = HostState::default();
    let lo = "lo".parse().unwrap();
    for dev in host.interfaces.keys().chain([&lo]) {
        state.links.insert(dev.clone(), Link::Up);
    }
    let devs = state.links.keys().cloned().map(ConfDev::Dev);
    for dev in devs.collect::<Vec<_>>().into_iter().chain([ConfDev::All, ConfDev::Default]) {
        for item in ConfItem::ALL {
            let value = match item {
                ConfItem::RpFilter | ConfItem::AcceptRedirects | ConfItem::SendRedirects => "1",
                _ => "0",
            };
            state.sysctls.insert(Sysctl::Conf(dev.clone(), *item), value.to_owned());
        }
        for item in Conf6Item::ALL {
            let value = match item {
                Conf6Item::AcceptRa => "1",
                Conf6Item::DisableIpv6 | Conf6Item::Forwarding => "0",
            };
            state.sysctls.insert(Sysctl::Conf6(dev.clone(), *item), value.to_owned());
        }
    }
    state.sysctls.insert(Sysctl::IpForward, "0".to_owned());
    state.sysctls.insert(Sysctl::Ip6Forward, "0".to_owned());
    for interface in host.interfaces.values() {
        for net in &interface.addresses {
            let key = AddressKey { dev: interface.name.clone(), net: *net };
            let address = Address::plain(Scope::Global);
            state.addresses.insert(key, address);
            let connected = Route {
                gateway: None,
                dev: Some(interface.name.clone()),
                scope: Scope::Link,
                metric: 0,
                protocol: 2,
                source: Some(net.addr()),
                onlink: false,
                unsupported: Vec::new(),
            };
            state.routes.insert(RouteKey(net.trunc()), connected);
        }
    }
    let facts = HostFacts {
        modules: lvsprov::state::Module::ALL
            .iter()
            .map(|module| (*module, Capability::Loadable))
            .collect(),
        controller: Controller::Pipe,
        ..HostFacts::default()
    };
    Observation { facts, state, ..Observation::default() }
}
