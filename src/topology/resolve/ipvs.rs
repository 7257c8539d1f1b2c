//! A director's IPVS settings: for each key the host's value, else the file's.

use std::collections::BTreeMap;

use crate::finding::Finding;
use crate::state::Timeouts;
use crate::topology::document::{Field, HostDoc, IpvsDoc};
use crate::topology::model::{IpvsSettings, Role};

/// `own` with `file` as its default, key by key.
pub(super) fn settings(file: &IpvsDoc, own: &IpvsDoc) -> IpvsSettings {
    let IpvsDoc { exclusive, tcp, tcp_fin, udp, daemons, settings } = own;
    let seconds = |own: &Field<u32>, file: &Field<u32>| own.or(file).value().map(|s| s.value);
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
        exclusive: exclusive.or(&file.exclusive).value().is_some_and(|field| field.value),
        timeouts,
        daemons: both_daemons().map(|(role, daemon)| (role.value, daemon.clone())).collect(),
        daemons_at: both_daemons().map(|(role, _)| (role.value, role.at)).collect(),
        settings: both().map(|(item, text)| (item.value, text.value.clone())).collect(),
        settings_at: both().map(|(item, _)| (item.value, item.at)).collect::<BTreeMap<_, _>>(),
    }
}

/// `ipvs` under a host that is not a director has no effect. The file's own `ipvs` applies to directors.
pub(super) fn without_director(doc: &HostDoc) -> Option<Finding> {
    let IpvsDoc { exclusive, tcp, tcp_fin, udp, daemons, settings } = &doc.ipvs;
    let seconds = [tcp, tcp_fin, udp].into_iter().find_map(|field| field.value().map(|s| s.at));
    let at = exclusive
        .value()
        .map(|field| field.at)
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
        format!("{name} has `ipvs`, but it is not a director"),
        "IPVS runs on directors only: the key would have no effect",
        format!("add director to the roles of {name}, or move `ipvs` to a director"),
    ))
}
