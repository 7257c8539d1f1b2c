//! All that can be seen of a host's network as text, to be compared before and after: not only what
//! lvsprov owns, so that a change to anything else shows.
//!
//! Left out is what changes by itself: counters, ages, neighbours, connections, and the kernel's own
//! IPv6 link-local addresses, which come a moment after their interface.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use futures_util::TryStreamExt as _;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::LabError;
use super::network::namespace;

/// What is there, by what it is.
pub type Snapshot = BTreeMap<String, String>;

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub key: String,
    /// How it was; `None`: it was not there.
    pub before: Option<String>,
    /// How it is; `None`: it is gone.
    pub after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |side: &Option<String>| match side.as_deref() {
            None => "absent".to_owned(),
            Some("") => "present".to_owned(),
            Some(text) => text.to_owned(),
        };
        write!(f, "{}: {} -> {}", self.key, text(&self.before), text(&self.after))
    }
}

/// What differs, in the order of the keys.
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<Difference> {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &&String| before.get(*key) != after.get(*key);
    let difference = |key: &String| Difference {
        key: key.clone(),
        before: before.get(key).cloned(),
        after: after.get(key).cloned(),
    };
    keys.into_iter().filter(differs).map(difference).collect()
}

/// Reads all of a network namespace.
///
/// # Errors
/// If it cannot be entered, or rtnetlink does not answer.
pub fn snapshot(namespace: impl AsFd) -> Result<Snapshot, LabError> {
    let inside = || -> Result<Snapshot, LabError> {
        let mut all = Snapshot::new();
        settings(Path::new("/proc/sys/net/ipv4"), &mut all)?;
        settings(Path::new("/proc/sys/net/ipv6"), &mut all)?;
        ipvs(&mut all);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(LabError::io("start a runtime for rtnetlink"))?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().map_err(LabError::io("open an rtnetlink socket"))?;
            let connection = tokio::spawn(connection);
            let read = read_netlink(&handle, &mut all).await;
            connection.abort();
            read.map_err(LabError::netlink("read a host's network"))
        })?;
        Ok(all)
    };
    namespace::run_in(namespace, inside).map_err(LabError::io("enter a network namespace"))?
}

/// Every file under `folder` that can be read. Some can only be written (route/flush), some are
/// secrets: they say nothing.
fn settings(folder: &Path, all: &mut Snapshot) -> Result<(), LabError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LabError::io(format!("list {}", folder.display()))(error)),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // An interface may go while we look.
            settings(&path, all)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix("/proc/sys").unwrap_or(&path).display().to_string();
            all.insert(format!("sysctl {name}"), text.trim_end().to_owned());
        }
    }
    Ok(())
}

/// The IPVS table, where there is one, without the counts of connections.
fn ipvs(all: &mut Snapshot) {
    let Ok(text) = fs::read_to_string("/proc/thread-self/net/ip_vs") else { return };
    let mut service = String::new();
    // Below three lines of heading: services, each with its destinations behind "->".
    for line in text.lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["->", destination, method, weight, ..] => {
                let key = format!("ipvs {service} -> {destination}");
                all.insert(key, format!("{method} weight {weight}"));
            }
            [kind, address, rest @ ..] => {
                service = format!("{kind} {address}");
                all.insert(format!("ipvs {service}"), rest.join(" "));
            }
            _ => {}
        }
    }
}

async fn read_netlink(handle: &Handle, all: &mut Snapshot) -> Result<(), rtnetlink::Error> {
    let mut names = BTreeMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let name = name.unwrap_or_default();
        names.insert(link.header.index, name.clone());
        let said = link.attributes.iter().filter(|a| is_lasting_link(a)).map(|a| format!("{a:?}"));
        let text = format!("{:?} {}", link.header.flags, sorted(said));
        add(all, &format!("link {name}"), text);
    }
    let name_of = |index: u32| names.get(&index).cloned().unwrap_or_else(|| index.to_string());

    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        let lasting = |a: &&AddressAttribute| !matches!(a, AddressAttribute::CacheInfo(_));
        let said = sorted(address.attributes.iter().filter(lasting).map(|a| format!("{a:?}")));
        if is_link_local(&said) {
            continue;
        }
        let header = &address.header;
        let key = format!("address {} {said}/{}", name_of(header.index), header.prefix_len);
        add(all, &key, format!("{:?} {:?}", header.scope, header.flags));
    }
    for route in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(of_all_tables(route)).execute();
        while let Some(route) = routes.try_next().await? {
            let said = route.attributes.iter().filter_map(|attribute| match attribute {
                RouteAttribute::CacheInfo(_) => None,
                RouteAttribute::Oif(index) => Some(format!("Dev({:?})", name_of(*index))),
                other => Some(format!("{other:?}")),
            });
            let said = sorted(said);
            if !is_link_local(&said) {
                add(all, &format!("route {:?} {said}", route.header), String::new());
            }
        }
    }
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut rules = handle.rule().get(version).execute();
        while let Some(rule) = rules.try_next().await? {
            let said = sorted(rule.attributes.iter().map(|a| format!("{a:?}")));
            add(all, &format!("rule {:?} {said}", rule.header), String::new());
        }
    }
    Ok(())
}

/// A request that names no protocol, table or scope: none of them is a filter.
fn of_all_tables(mut route: RouteMessage) -> RouteMessage {
    let family = route.header.address_family;
    route.header = netlink_packet_route::route::RouteHeader::default();
    route.header.address_family = family;
    route.attributes.clear();
    route
}

/// Whether a link's attribute is a setting, not a counter or what follows from traffic and time.
fn is_lasting_link(attribute: &LinkAttribute) -> bool {
    !matches!(
        attribute,
        LinkAttribute::Stats(_)
            | LinkAttribute::Stats64(_)
            | LinkAttribute::AfSpecUnspec(_)
            | LinkAttribute::CarrierChanges(_)
            | LinkAttribute::CarrierUpCount(_)
            | LinkAttribute::CarrierDownCount(_)
            | LinkAttribute::Map(_)
            | LinkAttribute::Other(_)
    )
}

fn is_link_local(said: &str) -> bool {
    said.contains("(fe80::") || said.contains("(ff00::")
}

fn sorted(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.sort();
    words.join(" ")
}

/// Two of the same are two.
fn add(all: &mut Snapshot, key: &str, value: String) {
    let mut unique = key.to_owned();
    let mut copies = 1;
    while all.contains_key(&unique) {
        copies += 1;
        unique = format!("{key} ({copies})");
    }
    all.insert(unique, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_with_both_sides() {
        let shot = |pairs: &[(&str, &str)]| -> Snapshot {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let before = shot(&[("a", "1"), ("b", ""), ("c", "3")]);
        let after = shot(&[("a", "2"), ("c", "3"), ("d", "")]);
        let lines: Vec<String> = diff(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["a: 1 -> 2", "b: present -> absent", "d: absent -> present"]);
        assert!(diff(&after, &after).is_empty());
    }
}
