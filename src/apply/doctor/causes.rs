//! The causes of what is not answered, from the evidence about one client and one service. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnosis::{ClusterFacts, Diagnosis, DiagnosisKind};
use super::evidence::{Evidence, KernelLookup, RealRequests, RequestWay};
use super::lines::{corroboration, drop_lines, kernel_line, rise_line};
use crate::apply::unanswered::stateful_drop;
use crate::apply::verify::Verdict;
use crate::protocol::Fetched;
use crate::state::{Protocol, StatefulDrop};
use crate::walk::{Cause, Death, WalkVerdict};

/// The causes for one client and service: none where all is answered and the walk agrees.
pub fn diagnose(facts: &ClusterFacts<'_>, evidence: &Evidence) -> Vec<Diagnosis> {
    let mut found = if evidence.is_undecided() {
        deaths(facts, evidence, |_| true)
    } else if evidence.counts().is_some() && !evidence.is_unanswered() {
        let by_chance = deaths(facts, evidence, RequestWay::is_chance);
        if by_chance.is_empty() { contradictions(evidence) } else { by_chance }
    } else {
        let deaths = deaths(facts, evidence, |_| true);
        if deaths.is_empty() { beside_the_walk(facts, evidence) } else { deaths }
    };
    if let Some(segment) = facts.segments.get(&evidence.service)
        && segment.verdict == Verdict::Fails
    {
        let line = format!("{} is not true: {}", segment.claim, segment.evidence);
        if found.is_empty() {
            found.push(Diagnosis {
                kind: DiagnosisKind::Segment,
                host: None,
                cause: format!("not so: {}; {}", segment.claim, segment.evidence),
                requests: vec![evidence.asks()],
                evidence: vec![
                    "who answers first gets the client: it is chance, and may change with the next request"
                        .to_owned(),
                ],
                cure: "take the VIP from the other machine, or give it arp_ignore=1 and the VIP on lo: \
                       `lvsprov apply FILE` does so where the file has it"
                    .to_owned(),
            });
        } else {
            for diagnosis in &mut found {
                diagnosis.evidence.push(line.clone());
            }
        }
    }
    found
}

impl RequestWay {
    /// Whether its end depends on which of several answers a host takes, and so may be another with the next request.
    fn is_chance(&self) -> bool {
        let WalkVerdict::Dead { death, .. } = &self.walk.end else { return false };
        self.walk.by_chance
            || matches!(death.cause, Cause::SeveralAnswer { .. } | Cause::Announces { .. })
    }
}

/// Deaths by the walk, each with its ways.
fn deaths(
    facts: &ClusterFacts<'_>,
    evidence: &Evidence,
    wanted: fn(&RequestWay) -> bool,
) -> Vec<Diagnosis> {
    let mut by_death: BTreeMap<(&Death, bool), Vec<&RequestWay>> = BTreeMap::new();
    for way in evidence.ways.iter().filter(|way| wanted(way)) {
        if let WalkVerdict::Dead { death, in_reply } = &way.walk.end {
            by_death.entry((death, *in_reply)).or_default().push(way);
        }
    }
    let diagnosis = |((death, in_reply), ways): ((&Death, bool), Vec<&RequestWay>)| {
        let what = if in_reply { "the reply" } else { "the request" };
        let mut lines = vec![evidence.answers()];
        let way = ways.first()?;
        let last: Vec<String> = way
            .walk
            .hops
            .iter()
            .rev()
            .take(2)
            .map(|it| format!("{} {}", it.host, it.text))
            .collect();
        let last: Vec<String> = last.into_iter().rev().collect();
        lines.push(format!("the walk: {}; there {what} dies", last.join("; ")));
        if way.is_chance() {
            lines.push("it is chance, and may be another way with the next request".to_owned());
        }
        lines.extend(evidence.instruments.iter().flat_map(|it| corroboration(it, death)));
        Some(Diagnosis {
            kind: DiagnosisKind::PacketDies,
            host: Some(death.innermost().host.clone()),
            cause: death.to_string(),
            requests: ways.iter().map(|way| evidence.by(way)).collect(),
            evidence: lines,
            cure: facts.cure(death, way.after_apply.as_ref()),
        })
    };
    by_death.into_iter().filter_map(diagnosis).collect()
}

/// Requests that were answered although each way is dead by the walk.
fn contradictions(evidence: &Evidence) -> Vec<Diagnosis> {
    let dead = |way: &RequestWay| matches!(way.walk.end, WalkVerdict::Dead { .. });
    let all_dead = evidence.ways.iter().all(dead);
    if evidence.ways.is_empty() || !all_dead {
        return Vec::new();
    }
    let deaths = evidence.ways.iter().filter_map(|way| match &way.walk.end {
        WalkVerdict::Dead { death, .. } => Some(death.to_string()),
        WalkVerdict::Answered | WalkVerdict::Unknown(_) => None,
    });
    let mut lines = vec![evidence.answers()];
    lines.extend(deaths);
    lines.dedup();
    vec![Diagnosis {
        kind: DiagnosisKind::WalkIsWrong,
        host: None,
        cause: "requests are answered that lvsprov's walk has die: lvsprov is wrong here"
            .to_owned(),
        requests: vec![evidence.asks()],
        evidence: lines,
        cure: "please report it, with `lvsprov explain FILE --live --format json`".to_owned(),
    }]
}

/// Causes where the walk has every packet arrive.
fn beside_the_walk(facts: &ClusterFacts<'_>, evidence: &Evidence) -> Vec<Diagnosis> {
    if evidence.counts().is_none() {
        return not_known(evidence);
    }
    let mut found = stateful_firewalls(facts, evidence);
    if found.is_empty() {
        found = refusals(evidence);
    }
    if found.is_empty() {
        found = listeners(evidence);
        // A missing listener refuses; it explains no silence.
        if !found.is_empty() && is_silent(evidence) && only_refused(evidence) {
            found.push(lost(facts, evidence));
        }
    }
    if found.is_empty() {
        found = not_known(evidence);
    }
    if found.is_empty() {
        found.push(lost(facts, evidence));
    }
    found
}

fn stateful_firewalls(facts: &ClusterFacts<'_>, evidence: &Evidence) -> Vec<Diagnosis> {
    let of_director = facts.stateful_drops.get(&evidence.director).into_iter().flatten();
    let diagnosis = |found: &StatefulDrop| {
        let obstacle = stateful_drop(found);
        Diagnosis {
            kind: DiagnosisKind::StatefulFirewall,
            host: Some(evidence.director.clone()),
            cause: format!("on {} {}", evidence.director, obstacle.message),
            requests: vec![evidence.asks()],
            evidence: [evidence.answers(), obstacle.why]
                .into_iter()
                .chain(evidence.rises_on(&evidence.director))
                .collect(),
            cure: obstacle.cure,
        }
    };
    of_director.map(diagnosis).collect()
}

/// Packets that a kernel refuses and the walk does not.
fn refusals(evidence: &Evidence) -> Vec<Diagnosis> {
    let Some(instruments) = &evidence.instruments else { return Vec::new() };
    let refused = instruments.lookups.iter().filter(|it| it.passes && it.refuses() == Some(true));
    let diagnosis = |lookup: &KernelLookup| Diagnosis {
        kind: DiagnosisKind::KernelRefuses,
        host: Some(lookup.host.clone()),
        cause: format!("the kernel of {} drops packets that the walk has go on", lookup.host),
        requests: vec![evidence.asks()],
        evidence: [evidence.answers(), kernel_line(lookup)]
            .into_iter()
            .chain(evidence.rises_on(&lookup.host))
            .collect(),
        cure: format!(
            "look at rules, routes and rp_filter of {} (`ip rule`, `ip route show table all`); please report what \
             lvsprov did not see there",
            lookup.host
        ),
    };
    refused.map(diagnosis).collect()
}

/// Whether a connection got no answer at all.
fn is_silent(evidence: &Evidence) -> bool {
    let RealRequests::Sent(fetched) = &evidence.probe else { return false };
    let is_tcp = evidence.target.is_some_and(|(protocol, _)| protocol == Protocol::Tcp);
    is_tcp && fetched.failures.contains_key(Fetched::TIMED_OUT)
}

/// Whether real servers that fail by themselves refuse, rather than stay silent.
fn only_refused(evidence: &Evidence) -> bool {
    let own = evidence.ways.iter().filter_map(|way| way.from_itself.as_ref()?.as_ref().ok());
    own.flat_map(|fetched| fetched.failures.keys()).all(|reason| reason == Fetched::REFUSED)
}

/// Real servers where nothing answers, even without the network between.
fn listeners(evidence: &Evidence) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for way in &evidence.ways {
        let (Some((protocol, at)), Some(Ok(fetched))) = (way.listener, &way.from_itself) else {
            continue;
        };
        let Some(reason) = fetched.failures.keys().next() else { continue };
        if protocol == Protocol::Udp && reason == Fetched::TIMED_OUT {
            continue;
        }
        let host = &way.real_server;
        let what = match reason.as_str() {
            Fetched::REFUSED => format!("no process on {host} listens on {protocol} {at}"),
            reason => {
                format!("what listens on {protocol} {at} of {host} does not answer ({reason})")
            }
        };
        found.push(Diagnosis {
            kind: DiagnosisKind::NoListener,
            host: Some(host.clone()),
            cause: what,
            requests: vec![evidence.by(way)],
            evidence: vec![
                evidence.answers(),
                format!("{host} asked itself, without the network between: {reason}"),
            ],
            cure: format!(
                "start on {host} what serves {at}, or let it listen on that address or on all (`ss -ln | grep :{}`)",
                at.port()
            ),
        });
    }
    found
}

/// What the walk lacks.
fn not_known(evidence: &Evidence) -> Vec<Diagnosis> {
    let mut found: Vec<Diagnosis> = Vec::new();
    for way in &evidence.ways {
        let WalkVerdict::Unknown(missing) = &way.walk.end else { continue };
        found.push(Diagnosis {
            kind: DiagnosisKind::NotKnown,
            host: None,
            cause: format!("not known: {missing}"),
            requests: vec![evidence.by(way)],
            evidence: vec![evidence.answers()],
            cure: match &way.after_apply {
                Some(WalkVerdict::Answered) => "lvsprov apply FILE".to_owned(),
                _ => "add to the file what is missing, then ask again".to_owned(),
            },
        });
    }
    found
}

/// No host that lvsprov reads drops it.
fn lost(facts: &ClusterFacts<'_>, evidence: &Evidence) -> Diagnosis {
    let instruments = evidence.instruments.clone().unwrap_or_default();
    let director = &evidence.director;
    let taken: Option<u64> = instruments.connections.as_ref().map(|all| all.values().sum());
    let mut lines = vec![evidence.answers()];
    lines.push("the walk has every packet arrive, and the kernels' route lookups agree".to_owned());
    lines.extend(instruments.rises.iter().map(rise_line));
    lines.extend(drop_lines(&instruments));
    lines.extend(evidence.ways.iter().filter_map(|way| {
        let fetched = way.from_itself.as_ref()?.as_ref().ok()?;
        (!fetched.answers.is_empty()).then(|| format!("{} answers itself", way.real_server))
    }));
    let (kind, cause, between) = match taken {
        Some(0) => (
            DiagnosisKind::LostBeforeDirector,
            format!("requests do not reach IPVS on {director}: they are lost on the way there"),
            vec![&evidence.client, director],
        ),
        Some(count) => {
            let all = instruments.connections.iter().flatten().filter(|(_, count)| **count > 0);
            let all: Vec<String> = all.map(|(host, count)| format!("{host} {count}")).collect();
            lines.push(format!("IPVS gave {count} new connections away: {}", all.join(", ")));
            (
                DiagnosisKind::LostBehindDirector,
                format!("IPVS on {director} takes the requests, and no answer comes back"),
                evidence.ways.iter().map(|way| &way.real_server).chain([director]).collect(),
            )
        }
        None => (
            DiagnosisKind::NotKnown,
            "the packets are lost where lvsprov does not see them".to_owned(),
            vec![director],
        ),
    };
    let unclear = evidence.ways.iter().flat_map(|way| &way.walk.unclear);
    let unclear: BTreeSet<String> = unclear
        .map(|(host, why)| format!("not known whether packets pass {host}: {why}"))
        .collect();
    lines.extend(unclear);
    lines.push(
        "what a firewall and what IPVS itself drops counts alike in the kernel: `--drop-monitor` shows the function"
            .to_owned(),
    );
    let suspects = between.into_iter().filter_map(|host| {
        let tables = facts.foreign_tables.get(host).filter(|tables| !tables.is_empty())?;
        Some(format!("{host} ({})", tables.join(", ")))
    });
    let suspects: Vec<String> = suspects.collect();
    let firewalls = if suspects.is_empty() {
        "a firewall outside nftables".to_owned()
    } else {
        format!("the firewalls of {}", suspects.join(", "))
    };
    Diagnosis {
        kind,
        host: None,
        cause,
        requests: vec![evidence.asks()],
        evidence: lines,
        cure: format!(
            "look at {firewalls}, and at what checks addresses between the hosts (port security of a cloud or switch: \
             under dr replies have the VIP as their source)"
        ),
    }
}
