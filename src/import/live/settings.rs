//! Timeouts, sync daemons and `net.ipv4.vs.*` of a director, and sysctls that apply would change.

use std::collections::BTreeSet;

use super::super::draft::DraftIpvs;
use super::super::remark::{Remark, RemarkKind};
use super::super::rules::GivenTimeouts;
use super::ObservedHost;
use crate::desired::desired;
use crate::state::accepted::Surroundings;
use crate::state::{HostState, Sysctl, Timeouts, VsItem};
use crate::topology::Topology;

/// The sysctls that an import reads from a host, in addition to its state.
pub fn sysctls_to_read() -> BTreeSet<Sysctl> {
    let vs = VsItem::ALL.iter().map(|item| Sysctl::Vs(*item));
    vs.chain([Sysctl::IpForward, Sysctl::Ip6Forward]).collect()
}

/// The settings that differ from the kernel's defaults.
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
        // A default that depends on the machine does not show whether an operator set the value.
        (value != item.default_value()?).then(|| (*item, value.clone()))
    });
    DraftIpvs { timeouts, daemons: state.daemons.clone(), settings: settings.collect() }
}

/// Sysctls whose present value differs from the one that the imported topology leads to.
pub fn differences(topology: &Topology, observed: &[ObservedHost]) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let all = desired(topology);
    for host in observed {
        let Some(desired) = all.get(&host.name) else { continue };
        for (key, wanted) in &desired.state.sysctls {
            let state = &host.observation.state;
            let Some(found) = state.sysctls.get(key) else { continue };
            let serves = desired
                .accepted
                .get(key)
                .is_some_and(|accepted| accepted.serves(key, found, Surroundings::of(state)));
            if found != wanted && !serves {
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
