//! Firewall marks that lvsprov sets itself: packets to the VIP are marked as they come in, before IPVS
//! looks at them. Marks that others set are theirs: of those services there is the rule of IPVS only.

use crate::desired::Desired;
use crate::state::{Module, PacketRule};
use crate::topology::{Service, Topology};

/// Adds the rules that mark packets of `service` on its director.
pub(super) fn settle(topology: &Topology, service: &Service, desired: &mut Desired) {
    let (Some(mark), Some(vip)) = (&service.mark, service.vip_address()) else { return };
    if !mark.ours {
        return;
    }
    let ports: Vec<String> = mark.ports.iter().map(u16::to_string).collect();
    let ports = match ports.as_slice() {
        [] => "every port".to_owned(),
        [one] => format!("port {one}"),
        several => format!("ports {}", several.join(", ")),
    };
    let why = format!(
        "packets to {ports} of {vip} get the mark {}, by which IPVS knows them as {}",
        mark.mark,
        service.display_name()
    );
    for protocol in &mark.protocols {
        let rule = PacketRule::Mark {
            vip,
            protocol: *protocol,
            ports: mark.ports.clone(),
            mark: mark.mark,
        };
        desired.packet_rule(topology, rule, &why);
    }
    desired.module(Module::NfTables, "packets get their firewall mark from nftables");
}
