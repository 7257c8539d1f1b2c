//! What a director's IPVS has beside its table: the host's own words, else the file's, key by key.

use std::collections::BTreeMap;

use crate::finding::Finding;
use crate::state::Timeouts;
use crate::topology::document::{HostDoc, IpvsDoc, Said};
use crate::topology::model::{IpvsSettings, Role};

/// What `own` says, and what `file` says where it says nothing.
pub(super) fn settings(file: &IpvsDoc, own: &IpvsDoc) -> IpvsSettings {
    let IpvsDoc { exclusive, tcp, tcp_fin, udp, daemons, settings } = own;
    let seconds = |own: &Said<u32>, file: &Said<u32>| own.or(file).value().map(|s| s.value);
    let [tcp, tcp_fin, udp] =
        [seconds(tcp, &file.tcp), seconds(tcp_fin, &file.tcp_fin), seconds(udp, &file.udp)];
    let timeouts = tcp.or(tcp_fin).or(udp).map(|_| Timeouts {
        tcp: tcp.unwrap_or(0),
        tcp_fin: tcp_fin.unwrap_or(0),
        udp: udp.unwrap_or(0),
    });
    let both = || file.settings.iter().chain(settings);
    let both_daemons = || file.daemons.iter().chain(daemons);
    IpvsSettings {
        exclusive: exclusive.or(&file.exclusive).value().is_some_and(|said| said.value),
        timeouts,
        daemons: both_daemons().map(|(role, daemon)| (role.value, daemon.clone())).collect(),
        daemons_at: both_daemons().map(|(role, _)| (role.value, role.at)).collect(),
        settings: both().map(|(item, text)| (item.value, text.value.clone())).collect(),
        settings_at: both().map(|(item, _)| (item.value, item.at)).collect::<BTreeMap<_, _>>(),
    }
}

/// `ipvs` of a host that is no director: nobody reads it. The file's own is for directors anyway.
pub(super) fn without_director(doc: &HostDoc) -> Option<Finding> {
    let IpvsDoc { exclusive, tcp, tcp_fin, udp, daemons, settings } = &doc.ipvs;
    let seconds = [tcp, tcp_fin, udp].into_iter().find_map(|said| said.value().map(|s| s.at));
    let at = exclusive
        .value()
        .map(|said| said.at)
        .or(seconds)
        .or_else(|| daemons.first().map(|(role, _)| role.at))
        .or_else(|| settings.first().map(|(item, _)| item.at))?;
    if doc.unclear || doc.roles.iter().any(|role| role.value == Role::Director) {
        return None;
    }
    let name = &doc.name.value;
    Some(Finding::error(
        "ipvs-without-director",
        at,
        format!("{name} is no director, and says something about its IPVS"),
        "IPVS runs on directors only: nothing would come of it",
        format!("add director to the roles of {name}, or move it to the host that was meant"),
    ))
}
