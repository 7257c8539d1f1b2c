//! What `check` and the walk say of a random cluster, beside what its clients got; and the record of both.

use std::collections::{BTreeMap, BTreeSet};

use lvsprov::check;
use lvsprov::desired::{ExpectedRequest, world};
use lvsprov::finding::{Finding, Severity};
use lvsprov::names::HostName;
use lvsprov::state::{HostState, Routing};
use lvsprov::topology::{self, Forward, Role, Topology};
use lvsprov::walk::{Cause, WalkVerdict, World};
use serde::{Deserialize, Serialize};

use super::prediction::{Ways, announced, seen_world, ways};

/// A line of the record: a cluster that was brought up, whatever `check` said of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RandomTrial {
    /// What the generator made it of.
    pub seed: u64,
    /// The file.
    pub text: String,
    /// The kernel's release.
    pub kernel: String,
    /// Why `apply` did not come to its end.
    #[serde(default)]
    pub failed: Option<String>,
    /// The hosts as they were seen afterwards.
    pub states: BTreeMap<HostName, HostState>,
    /// Their policy rules and other tables.
    #[serde(default)]
    pub routing: BTreeMap<HostName, Routing>,
    /// By client and number of the service, who answered each request; `None`: none did.
    pub served: Vec<(HostName, usize, Vec<Option<String>>)>,
}

/// The topology and the errors of `check`; `Err`: what the text itself is refused for.
pub fn examine(text: &str) -> Result<(Topology, Vec<Finding>), Vec<Finding>> {
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    let parsed = topology::read("random.yaml", text);
    let of_text: Vec<Finding> = parsed.findings.into_iter().filter(is_error).collect();
    match parsed.topology {
        Some(topology) if of_text.is_empty() => {
            let errors = check::check(&topology).into_iter().filter(is_error).collect();
            Ok((topology, errors))
        }
        _ => Err(of_text),
    }
}

/// Rules that say that requests of the pairs that they name are not answered.
const ABOUT_PACKETS: &[&str] = &[
    "no-answer",
    "dr-not-on-link",
    "tun-no-route",
    "fullnat-no-route",
    "nat-gateway",
    "nat-client-on-link",
    "director-is-gateway",
    "vip-unreachable",
    "no-way-back",
    "vip-wrong-network",
    "port-mapping",
];

/// Whether all refusals are about packets, so that traffic can show whether they are right.
pub fn are_about_packets(errors: &[Finding]) -> bool {
    errors.iter().all(|error| ABOUT_PACKETS.contains(&error.rule))
}

/// A request by one real server, and whether it was answered; `None`: the requests do not show it.
struct Pair<'a> {
    expected: &'a ExpectedRequest<'a>,
    alive: Option<bool>,
}

impl Pair<'_> {
    fn describe(&self) -> String {
        let ExpectedRequest { client, service, real_server, .. } = self.expected;
        format!(
            "{} asks {} by {} ({})",
            client.name,
            service.display_name(),
            real_server.host,
            real_server.forward
        )
    }
}

fn pairs<'a>(
    all_ways: &'a Ways<'a>,
    served: &'a [(HostName, usize, Vec<Option<String>>)],
) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    for (client, number, answers) in served {
        let Some(ways) = all_ways.get(&(client, *number)) else { continue };
        let by: BTreeSet<&str> = answers.iter().flatten().map(String::as_str).collect();
        // Round robin: each real server has got one. A client that has the VIP answers itself.
        let is_server = ways.iter().any(|way| way.real_server.host == *client);
        let each =
            !is_server && ways[0].service.persistence.is_none() && answers.len() >= ways.len();
        for way in ways {
            let answers = by.contains(way.real_server.host.as_str());
            let is_dead = each || by.is_empty();
            let alive = (answers || is_dead).then_some(answers);
            pairs.push(Pair { expected: way, alive });
        }
    }
    pairs
}

/// Whether the walk says that it is answered; `None`: chance, or not known.
fn walked(world: &World, expected: &ExpectedRequest<'_>) -> Option<Result<(), String>> {
    let walk = world.walk(&expected.request);
    match walk.end {
        _ if walk.by_chance => None,
        WalkVerdict::Answered => Some(Ok(())),
        WalkVerdict::Unknown(_) => None,
        WalkVerdict::Dead { death, .. } => match death.cause {
            Cause::Announces { .. } | Cause::SeveralAnswer { .. } => None,
            // A real server on the way of requests takes them past the director: it answers if it listens.
            Cause::WrongHost { .. } if serves(expected, &death.host) => None,
            _ => Some(Err(death.to_string())),
        },
    }
}

fn serves(expected: &ExpectedRequest<'_>, host: &HostName) -> bool {
    expected.service.real_servers.iter().any(|real_server| real_server.host == *host)
}

impl RandomTrial {
    /// Where `check`, the walk through the file, the walk through the hosts and the kernel disagree.
    pub fn disagreements(&self) -> Vec<String> {
        let (topology, errors) = match examine(&self.text) {
            Ok(examined) => examined,
            Err(findings) => {
                return vec![format!("seed {}: the text is refused: {findings:?}", self.seed)];
            }
        };
        let mut wrong = Vec::new();
        let all_ways = ways(&topology);
        let pairs = pairs(&all_ways, &self.served);
        if let Some(failed) = &self.failed {
            if are_about_packets(&errors) {
                wrong.push(format!("apply fails: {failed}"));
            }
        } else {
            self.compare_walks(&topology, &all_ways, &pairs, &mut wrong);
        }
        compare_check(&topology, &errors, &pairs, &mut wrong);
        wrong.into_iter().map(|what| format!("seed {}: {what}", self.seed)).collect()
    }

    fn compare_walks(
        &self,
        topology: &Topology,
        all_ways: &Ways<'_>,
        pairs: &[Pair<'_>],
        wrong: &mut Vec<String>,
    ) {
        let seen = seen_world(topology, &self.states, &self.routing);
        for (name, world) in [("hosts", &seen), ("file", &world(topology))] {
            let announced = announced(world, all_ways);
            for pair in pairs.iter().filter(|it| !announced.contains(&it.expected.request.vip)) {
                // The walk asks no listener: the real server takes the port that the client asked.
                let ExpectedRequest { service, real_server, .. } = pair.expected;
                if !real_server.forward.rewrites() && real_server.port != service.port {
                    continue;
                }
                let what = match (walked(world, pair.expected), pair.alive) {
                    (Some(Ok(())), Some(false)) => {
                        "the walk calls it answered, and it is not".to_owned()
                    }
                    (Some(Err(death)), Some(true)) => {
                        format!("it is answered, and the walk says: {death}")
                    }
                    _ => continue,
                };
                wrong.push(format!("walk of the {name}: {}: {what}", pair.describe()));
            }
        }
    }
}

fn compare_check(
    topology: &Topology,
    errors: &[Finding],
    pairs: &[Pair<'_>],
    wrong: &mut Vec<String>,
) {
    if errors.is_empty() {
        for pair in pairs.iter().filter(|pair| pair.alive == Some(false)) {
            wrong.push(format!("check finds nothing: {}: no answer", pair.describe()));
        }
    }
    for error in errors.iter().filter(|error| ABOUT_PACKETS.contains(&error.rule)) {
        let is_past_director = error.message.contains("takes the request, past the director");
        let is_right = pairs
            .iter()
            .any(|pair| pair.alive != Some(true) && is_about(topology, error, pair.expected));
        if !is_right && !is_past_director {
            wrong
                .push(format!("check refuses what is answered: {}: {}", error.rule, error.message));
        }
    }
}

/// Whether `error` may be the reason why that request is not answered: the method fits, and each host, service and VIP
/// that its message names takes part; routers may.
fn is_about(topology: &Topology, error: &Finding, expected: &ExpectedRequest<'_>) -> bool {
    let ExpectedRequest { client, service, real_server, request } = expected;
    let method = real_server.forward;
    let fits = match error.rule {
        "dr-not-on-link" => method == Forward::Dr,
        "tun-no-route" => method == Forward::Tun,
        "fullnat-no-route" => method == Forward::Fullnat,
        "nat-gateway" | "nat-client-on-link" => method == Forward::Nat,
        "director-is-gateway" => !method.rewrites(),
        _ => true,
    };
    let apart = |c: char| !(c.is_ascii_alphanumeric() || ".:-".contains(c));
    let words: Vec<&str> =
        error.message.split(apart).map(|word| word.trim_matches([':', '.'])).collect();
    let hosts = topology.hosts.values().filter(|host| words.contains(&host.name.as_str()));
    let takes_part = |host: &lvsprov::topology::Host| {
        let own = [&client.name, &service.director, &real_server.host];
        // The gateway that a NAT real server has instead of its director may be any host.
        let may_be_any = error.rule == "nat-gateway" && words.contains(&service.director.as_str());
        own.contains(&&host.name) || host.roles.contains(&Role::Router) || may_be_any
    };
    let services: Vec<&str> = topology
        .services
        .iter()
        .map(|it| it.name.as_str())
        .filter(|name| words.contains(name))
        .collect();
    let vips: Vec<String> = topology
        .services
        .iter()
        .filter_map(lvsprov::topology::Service::vip_address)
        .map(|vip| vip.to_string())
        .filter(|vip| words.contains(&vip.as_str()))
        .collect();
    let is_its = if services.is_empty() {
        vips.is_empty() || vips.contains(&request.vip.to_string())
    } else {
        services.contains(&service.name.as_str())
    };
    fits && is_its && hosts.into_iter().all(takes_part)
}
