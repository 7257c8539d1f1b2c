//! Fuzzes the readers of rtnetlink dumps with damaged messages.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_DUMP, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::links::{LinksByIndex, ObservedLink};
use super::{addresses, links, routes, tunnels};
use crate::state::{Address, AddressKey, Link, Route, RouteKey, Scope, TunnelDevice, TunnelKind};
use crate::support::fuzz;

fn known() -> LinksByIndex {
    let observed = |name: &str| ObservedLink {
        name: name.parse().unwrap(),
        state: Link::Up,
        hardware: None,
        mtu: None,
        tunnel: None,
    };
    BTreeMap::from([(1, observed("lo")), (2, observed("eth0"))])
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for net in ["192.0.2.7/24", "2001:db8::7/64"] {
        let key = AddressKey { dev: "eth0".parse().unwrap(), net: net.parse().unwrap() };
        let message = addresses::message(2, &key, &Address::plain(Scope::Global)).unwrap();
        all.push(RouteNetlinkMessage::NewAddress(message));
    }
    for (to, gateway) in [("default", "192.0.2.1"), ("2001:db8:1::/48", "2001:db8::1")] {
        let key: RouteKey = to.parse().unwrap();
        let route = Route {
            gateway: Some(gateway.parse().unwrap()),
            dev: Some("eth0".parse().unwrap()),
            scope: Scope::Global,
            metric: 7,
            protocol: 4,
            source: None,
            onlink: false,
            unsupported: Vec::new(),
        };
        all.push(RouteNetlinkMessage::NewRoute(routes::message(&key, &route, &known()).unwrap()));
    }
    for (kind, local) in [
        (TunnelKind::Gre, "192.0.2.1"),
        (TunnelKind::Ip6gre, "2001:db8::1"),
        (TunnelKind::Ip6tnl, "2001:db8::1"),
    ] {
        let device = TunnelDevice { kind, local: local.parse().unwrap(), checksum: true };
        let device = TunnelDevice { checksum: kind != TunnelKind::Ip6tnl, ..device };
        let message = tunnels::message(&"g".parse().unwrap(), &device).unwrap();
        all.push(RouteNetlinkMessage::NewLink(message));
    }
    let bytes = |message| {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_DUMP;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    };
    all.into_iter().map(bytes).collect()
}

#[test]
fn fuzz_rtnetlink() {
    fuzz::target!("fuzz_rtnetlink", 5000, seeds(), |bytes| {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return };
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                let _ = links::observed(&message);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
                let _ = addresses::observed(&message, &known());
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => {
                let _ = routes::observed(&message, &known());
            }
            _ => {}
        }
    });
}
