//! What a director's IPVS has beside its table: the host's own words, else the file's, key by key.

use std::collections::BTreeMap;

use crate::state::Timeouts;
use crate::topology::document::{IpvsDoc, Said};
use crate::topology::model::IpvsSettings;

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
    IpvsSettings {
        exclusive: exclusive.or(&file.exclusive).value().is_some_and(|said| said.value),
        timeouts,
        daemons: file
            .daemons
            .iter()
            .chain(daemons)
            .map(|(role, daemon)| (role.value, daemon.clone()))
            .collect(),
        settings: both().map(|(item, text)| (item.value, text.value.clone())).collect(),
        settings_at: both().map(|(item, _)| (item.value, item.at)).collect::<BTreeMap<_, _>>(),
    }
}
