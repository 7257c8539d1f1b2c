//! The services of a director as keepalived's configuration, with what it leaves to others.

use std::collections::BTreeSet;

use super::{Rendered, Unsupported};
use crate::desired::service_key;
use crate::keepalived;
use crate::state::{HostState, Item, Module};
use crate::topology::{Host, Topology};

/// The services of `director`, whose desired state is `state`. The same topology gives the same text.
pub fn services(topology: &Topology, director: &Host, state: &HostState) -> Rendered {
    let text = keepalived::every_service(topology, &director.name).unwrap_or_default();
    let written: BTreeSet<_> = topology.services.iter().map(service_key).collect();
    let items = state.items();
    let left = items.iter().filter(|item| match item {
        Item::Service(key) => !written.contains(key),
        // keepalived loads it itself.
        Item::Module(module) => *module != Module::IpVs,
        _ => true,
    });
    Rendered { text, unsupported: left.map(|item| unsupported(state, item)).collect() }
}

fn unsupported(state: &HostState, item: &Item) -> Unsupported {
    const FORMAT: &str = "this configuration of keepalived";
    let how = match item {
        Item::Service(_) => {
            "health checks go through it; `lvsprov apply` makes it, or add it with ipvsadm (`lvsprov render ipvsadm`)"
        }
        Item::Timeouts | Item::Daemon(_) => "write it under `global_defs`, or set it with ipvsadm",
        _ => return Unsupported::of(state, item, FORMAT),
    };
    Unsupported::because(item.to_string(), FORMAT, how)
}
