//! Timeouts, daemons and `net.ipv4.vs.*` of a director, and what lvsprov would set otherwise.

use std::collections::BTreeSet;

use super::super::draft::DraftIpvs;
use super::super::remark::{Remark, RemarkKind};
use super::super::rules::GivenTimeouts;
use super::Seen;
use crate::desired::desired_for;
use crate::state::{HostState, Sysctl, Timeouts, VsItem};
use crate::topology::Topology;

/// What has to be read of a host, beside its state, for an import.
pub fn sysctls_to_read() -> BTreeSet<Sysctl> {
    let vs = VsItem::ALL.iter().map(|item| Sysctl::Vs(*item));
    vs.chain([Sysctl::IpForward, Sysctl::Ip6Forward]).collect()
}

/// What is not as the kernel starts with.
pub(super) fn ipvs(state: &HostState) -> DraftIpvs {
    let usual = Timeouts::default();
    let differs = |value: u32, usual: u32| (value != usual).then_some(value);
    let timeouts = state.timeouts.map_or_else(GivenTimeouts::default, |found| GivenTimeouts {
        tcp: differs(found.tcp, usual.tcp),
        tcp_fin: differs(found.tcp_fin, usual.tcp_fin),
        udp: differs(found.udp, usual.udp),
    });
    let settings = VsItem::ALL.iter().filter_map(|item| {
        let value = state.sysctls.get(&Sysctl::Vs(*item))?;
        // Where it depends on the machine, nobody can tell whether somebody chose it.
        (value != item.default_value()?).then(|| (*item, value.clone()))
    });
    DraftIpvs { timeouts, daemons: state.daemons.clone(), settings: settings.collect() }
}

/// What the hosts have otherwise than the topology made of them leads to.
pub fn differences(topology: &Topology, seen: &[Seen]) -> Vec<Remark> {
    let mut remarks = Vec::new();
    for host in seen {
        let Some(resolved) = topology.hosts.get(&host.name) else { continue };
        let desired = desired_for(topology, resolved);
        for (key, wanted) in &desired.state.sysctls {
            let Some(found) = host.sighting.state.sysctls.get(key) else { continue };
            if found != wanted {
                let mut remark = Remark::general(
                    RemarkKind::Guessed,
                    format!("{key} is {found}"),
                    format!("apply would set it to {wanted}"),
                );
                remark.host = Some(host.name.to_string());
                remarks.push(remark);
            }
        }
    }
    remarks
}
