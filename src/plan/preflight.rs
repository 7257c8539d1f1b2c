//! What must be true of a host before anything on it is touched.

use serde::{Deserialize, Serialize};

use super::ownership::{Goal, RECEIPT_VERSION};
use crate::desired::Desired;
use crate::protocol::{Capability, Sighting};
use crate::state::{Link, Module};

/// Something on a host that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// What is wrong.
    pub message: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub cure: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.message, self.why, self.cure)
    }
}

/// Everything on a host that stands in the way of `goal`; empty if nothing does.
pub fn obstacles(desired: &Desired, goal: &Goal, seen: &Sighting) -> Vec<Obstacle> {
    let mut all = Vec::new();
    receipt(seen, &mut all);
    interfaces(desired, seen, &mut all);
    capabilities(desired, seen, &mut all);
    routes(goal, seen, &mut all);
    vips(desired, seen, &mut all);
    all
}

/// A receipt of a later version says things that we would lose.
pub fn receipt(seen: &Sighting, all: &mut Vec<Obstacle>) {
    let Some(receipt) = &seen.receipt else { return };
    if receipt.version > RECEIPT_VERSION {
        all.push(Obstacle {
            message: format!("the receipt on this host has version {}", receipt.version),
            why: format!("this lvsprov reads versions up to {RECEIPT_VERSION}"),
            cure: "use the lvsprov that wrote it, or a later one".to_owned(),
        });
    }
}

fn interfaces(desired: &Desired, seen: &Sighting, all: &mut Vec<Obstacle>) {
    for (dev, nets) in &desired.needs {
        let Some(link) = seen.state.links.get(dev) else {
            // tunl0 comes with its module.
            if desired.state.links.contains_key(dev) {
                continue;
            }
            let there: Vec<_> = seen.state.links.keys().map(ToString::to_string).collect();
            all.push(Obstacle {
                message: format!("there is no interface {dev}"),
                why: "the file says that the host has it".to_owned(),
                cure: format!("name one that it has: {}", there.join(", ")),
            });
            continue;
        };
        if *link == Link::Down {
            all.push(Obstacle {
                message: format!("interface {dev} is down"),
                why: "no packet passes it".to_owned(),
                cure: format!(
                    "bring it up in the host's own network configuration (`ip link set {dev} up`)"
                ),
            });
        }
        for net in nets {
            let key = crate::state::AddressKey { dev: dev.clone(), net: *net };
            if !seen.state.addresses.contains_key(&key) {
                let there: Vec<_> = seen
                    .state
                    .addresses
                    .keys()
                    .filter(|key| key.dev == *dev)
                    .map(|key| key.net.to_string())
                    .collect();
                all.push(Obstacle {
                    message: format!("interface {dev} does not have the address {net}"),
                    why: format!(
                        "the file says that the host has it; {dev} has {}",
                        if there.is_empty() { "none".to_owned() } else { there.join(", ") }
                    ),
                    cure: "correct the file, or set the address in the host's own network configuration"
                        .to_owned(),
                });
            }
        }
    }
}

fn capabilities(desired: &Desired, seen: &Sighting, all: &mut Vec<Obstacle>) {
    for module in &desired.state.modules {
        let capability = match module {
            Module::IpVs => &seen.facts.ipvs,
            Module::Ipip => &seen.facts.ipip,
        };
        if let Capability::Missing(looked) = capability {
            all.push(Obstacle {
                message: format!("kernel {} has no {module}: {looked}", seen.facts.kernel),
                why: "the forwarding method needs it".to_owned(),
                cure:
                    "install the distribution's full kernel (cloud flavours leave it out), or its \
                       package of extra modules"
                        .to_owned(),
            });
        }
    }
}

/// A route that could not be put back as it was is not replaced.
fn routes(goal: &Goal, seen: &Sighting, all: &mut Vec<Obstacle>) {
    for (key, wanted) in &goal.wanted.routes {
        let Some(there) = seen.state.routes.get(key) else { continue };
        if there != wanted && !there.unheld.is_empty() {
            all.push(Obstacle {
                message: format!("route {key} {there} would have to be replaced"),
                why: format!("it has what lvsprov could not put back: {}", there.unheld.join(", ")),
                cure: "replace it by hand first, or leave the gateway out of the file".to_owned(),
            });
        }
    }
}

/// A VIP that stands on lo or a tunnel with a subnet cuts the host off from that subnet.
fn vips(desired: &Desired, seen: &Sighting, all: &mut Vec<Obstacle>) {
    for wanted in desired.state.addresses.keys() {
        for there in seen.state.addresses.keys() {
            let same = there.net.addr() == wanted.net.addr() && there != wanted;
            let quiet = matches!(wanted.dev.as_str(), "lo" | "tunl0");
            if same && quiet {
                all.push(Obstacle {
                    message: format!("the VIP is on this host already, as {there}"),
                    why: "there it is answered for by ARP, or makes its whole subnet local"
                        .to_owned(),
                    cure: format!("remove it: `ip address del {} dev {}`", there.net, there.dev),
                });
            }
        }
    }
}
