//! What the walk says of a cluster, beside what requests say; and a record of both, so that the walk can be tried again
//! without a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lvsprov::desired::{ExpectedRequest, every_request};
use lvsprov::names::{HostName, IfName};
use lvsprov::state::firewall::Firewall;
use lvsprov::state::{Edit, HostState, Routing};
use lvsprov::topology::Topology;
use lvsprov::walk::{Cause, HostStates, SeenHost, WalkVerdict, World};
use serde::{Deserialize, Serialize};

/// The requests of a client to a service, one for each real server.
pub type Ways<'a> = BTreeMap<(&'a HostName, usize), Vec<ExpectedRequest<'a>>>;

/// Those of `topology`, by client and number of the service.
pub fn ways(topology: &Topology) -> Ways<'_> {
    let mut ways = Ways::new();
    for expected in every_request(topology) {
        let services = topology.services.iter();
        let number = services.take_while(|it| !std::ptr::eq(*it, expected.service)).count();
        ways.entry((&expected.client.name, number)).or_default().push(expected);
    }
    ways
}

/// VIPs that a real server names in its ARP requests: a host that learns that sends requests for every service of the
/// VIP to it.
pub fn announced(world: &World, ways: &Ways<'_>) -> BTreeSet<IpAddr> {
    let announces = |way: &&ExpectedRequest<'_>| match world.walk(&way.request).end {
        WalkVerdict::Dead { death, .. } => matches!(death.cause, Cause::Announces { .. }),
        WalkVerdict::Answered | WalkVerdict::Unknown(_) => false,
    };
    ways.values().flatten().filter(announces).map(|way| way.request.vip).collect()
}

/// Trials in which walk and kernel disagree, each with its reason: the file, how the trial begins, why.
const KNOWN: &[(&str, &str, &str)] = &[(
    "nat-two-nics",
    "set net.ipv4.conf.eth0.arp_ignore: 0 -> 8 on director",
    "a late packet of an earlier connection had the director ask for the client, with the VIP as the sender: the client \
     learned it without asking",
)];

/// Whether it is known that walk and kernel disagree there.
pub fn is_known(file: &str, what: &str) -> bool {
    KNOWN.iter().any(|(known, begins, _)| file.contains(known) && what.starts_with(begins))
}

/// The MTUs of each host, by interface.
pub type Mtus = BTreeMap<HostName, BTreeMap<IfName, u32>>;

/// The hosts of `topology` as they were seen, with MTUs as the file says.
pub fn seen_world(
    topology: &Topology,
    states: &HostStates,
    routing: &BTreeMap<HostName, Routing>,
) -> World {
    seen_world_of(topology, states, routing, &Mtus::new(), &BTreeMap::new())
}

/// The same, with MTUs and rules of other programs as they were seen.
pub fn seen_world_of(
    topology: &Topology,
    states: &HostStates,
    routing: &BTreeMap<HostName, Routing>,
    mtus: &Mtus,
    firewalls: &BTreeMap<HostName, Arc<Firewall>>,
) -> World {
    let (none, no_mtus) = (Routing::default(), BTreeMap::new());
    let seen = states.iter().map(|(name, state)| {
        let routing = routing.get(name).unwrap_or(&none);
        let mtus = mtus.get(name).unwrap_or(&no_mtus);
        (name.clone(), SeenHost { state, routing, mtus, firewall: firewalls.get(name) })
    });
    World::of_hosts(topology, &seen.collect(), &HostStates::new())
}

/// A line of a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A cluster, and its hosts as they were seen after apply.
    Cluster {
        /// The file, from the project's folder on; `random-SEED` for a random cluster.
        file: String,
        /// The text of a random cluster.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The kernel's release.
        kernel: String,
        /// What was seen.
        states: BTreeMap<HostName, HostState>,
        /// Policy rules and other tables; a host that is missing has none of its own.
        #[serde(default)]
        routing: BTreeMap<HostName, Routing>,
    },
    /// What its clients got after one thing was broken.
    Broken {
        /// Where.
        host: HostName,
        /// What.
        edit: Box<Edit>,
        /// By client and number of the service, who answered each request; `None`: none did.
        served: Vec<(HostName, usize, Vec<Option<String>>)>,
    },
    /// What its clients got after routes or policy rules were added, and what was seen of the host then.
    Routed {
        /// Where.
        host: HostName,
        /// By these commands of `ip`.
        commands: Vec<String>,
        /// Its state then.
        state: Box<HostState>,
        /// Its policy rules and other tables then.
        routing: Routing,
        /// As in `Broken`.
        served: Vec<(HostName, usize, Vec<Option<String>>)>,
    },
}

/// What the walk says of the requests of a client to a service.
#[derive(Debug, Default)]
pub struct Prediction {
    /// Real servers that answer.
    pub alive: BTreeSet<String>,
    /// Real servers that do not, with the reason.
    dead: BTreeMap<String, String>,
    /// Several hosts answer for an address, or are taken for it: who wins is chance.
    chance: bool,
    /// Not known.
    unknown: bool,
}

impl Prediction {
    /// `announced`: see [`announced`].
    pub fn of(world: &World, announced: &BTreeSet<IpAddr>, ways: &[ExpectedRequest<'_>]) -> Self {
        let chance = ways.iter().any(|way| announced.contains(&way.request.vip));
        let mut says = Self { chance, ..Self::default() };
        for way in ways {
            let server = way.real_server.host.to_string();
            let walk = world.walk(&way.request);
            says.chance |= walk.by_chance;
            match walk.end {
                WalkVerdict::Answered => {
                    says.unknown |= !walk.unclear.is_empty();
                    says.alive.insert(server);
                }
                WalkVerdict::Dead { death, .. } => {
                    says.chance |= matches!(death.cause, Cause::SeveralAnswer { .. });
                    says.dead.insert(server, death.to_string());
                }
                WalkVerdict::Unknown(_) => says.unknown = true,
            }
        }
        says
    }

    pub fn is_all_dead(&self) -> bool {
        self.alive.is_empty()
    }

    pub fn contradicted_by(&self, served: &[Option<String>]) -> Option<String> {
        if self.chance || self.unknown {
            return None;
        }
        let from_dead = served.iter().flatten().find(|server| !self.alive.contains(*server));
        if let Some(server) = from_dead {
            return Some(format!("{server} answers, which the walk calls dead"));
        }
        let lost = served.iter().any(Option::is_none);
        (lost && self.dead.is_empty())
            .then(|| "a request is lost, and the walk calls all alive".to_owned())
    }
}
