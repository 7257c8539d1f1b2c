//! Between the last step and the agreement of all hosts: does the network answer as it should? Where
//! hosts wait to undo it by themselves, or the operator has the last word, first: is it right, seen over
//! connections that were made after the change?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::acting::{Course, Trouble, interrupted};
use super::asking;
use super::judging::remaining;
use super::outcome::{Action, HostStatus};
use super::proving;
use super::requests::{self, Manner};
use super::transaction::{ConfirmBy, Member, Seen, VerifyBy};
use super::views::{Proof, Verdict};
use super::watch::Word;
use crate::desired::service_key;
use crate::names::{HostName, ServiceName};
use crate::state::{Destination, DestinationKey, ForwardingMethod, Observation, Protocol};
use crate::topology::Service;

/// How long before the hosts do it the controller begins to undo what nobody confirmed: it does so in
/// one go and says how it went.
const AHEAD: Duration = Duration::from_secs(2);
/// Between two looks at whether the operator has spoken.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at the hosts while the operator is awaited: somebody may confirm elsewhere.
const LOOK: Duration = Duration::from_secs(1);

/// For how long a service that is not answered is asked again: neighbours that had a VIP in their caches
/// ask anew within 8 s of using it (`delay_first_probe_time` 5 s, three probes).
const SETTLE: Duration = Duration::from_secs(10);
/// How long ARP and requests may take together: services not tried by then are listed as such. With the
/// requests that are under way then (45 s at most) it is below an agent's patience with its controller.
const TRY: Duration = Duration::from_mins(1);
/// Why nothing is tried where no step was done.
pub(super) const NOTHING_CHANGED: &str = "nothing was changed; `lvsprov verify` sends requests";

/// Who has found it right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// This controller: all are to agree now.
    ByUs,
    /// Another one, which has closed it everywhere.
    Elsewhere,
}

/// Waits until it is certain that the transaction is right.
pub(super) async fn confirm(course: &mut Course<'_, '_>) -> Result<Confirmed, Trouble> {
    let by = course.conduct.confirm;
    let limit = course.reverts_at().map(|at| {
        let ahead = AHEAD.min(course.confirm.unwrap_or_default() / 4);
        at.checked_sub(ahead).unwrap_or(at)
    });
    let watch = course.session.watch();
    let stopped = async {
        while !watch.wants_to_stop() {
            sleep(TICK).await;
        }
    };
    let over = async {
        match limit {
            Some(limit) => sleep_until(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let seen = if course.confirm.is_none() && by == ConfirmBy::Verification {
        // What was read after the last step was judged.
        as_read_last(course)
    } else {
        tokio::select! {
            biased;
            () = stopped => Err(interrupted()),
            () = &mut over => Err(too_late(course.confirm)),
            seen = reach_anew(course) => seen,
        }?
    };
    // The request under way comes to its end first, whatever the operator wants.
    tokio::select! {
        biased;
        () = over => Err(too_late(course.confirm)),
        tried = try_network(course, &seen, limit) => tried,
    }?;
    if watch.wants_to_stop() {
        return Err(interrupted());
    }
    match by {
        ConfirmBy::Verification => Ok(Confirmed::ByUs),
        ConfirmBy::Operator => {
            let said = ask_operator(course, limit).await;
            course.session.watch().pending(None);
            said
        }
    }
}

fn too_late(confirm: Option<Duration>) -> Trouble {
    let seconds = confirm.unwrap_or_default().as_secs();
    Trouble { host: None, why: format!("it could not be verified within {seconds} s") }
}

/// Every host as it was after its last turn, or before the change; none where nothing is tried.
fn as_read_last(course: &Course<'_, '_>) -> Seen {
    if course.conduct.verify == VerifyBy::State || course.plan.action != Action::Apply {
        return Seen::new();
    }
    let mut seen = course.seen.clone();
    seen.extend(course.last.iter().map(|(name, last)| (name.clone(), Ok(last.clone()))));
    seen
}

/// New connections to every host that takes part, and the state of each.
async fn reach_anew(course: &mut Course<'_, '_>) -> Result<Seen, Trouble> {
    let hosts: BTreeSet<HostName> = course.members.keys().cloned().collect();
    // Those that requests are sent from, and that ask for the VIP, are reached anew as well.
    let reached: BTreeSet<HostName> = course
        .session
        .topology
        .hosts
        .keys()
        .filter(|name| !course.session.absent().contains_key(*name) || hosts.contains(*name))
        .cloned()
        .collect();
    course.session.renew(&reached, true).await;
    if let Some(name) = course.session.lost(&hosts).pop_first() {
        let why = format!(
            "it cannot be reached over a new connection: {}",
            course.session.why_absent(&name)
        );
        return Err(Trouble { host: Some(name), why });
    }
    let ids = course.ids();
    for (name, answer) in asking::take_up(course.session, &ids, &course.conduct.by, false).await {
        if let Err(denied) = answer {
            let why = denied.into_failure().to_string();
            return Err(Trouble { host: Some(name), why });
        }
    }
    let seen = course.session.look(false).await;
    for name in &hosts {
        match seen.get(name) {
            Some(Ok(sighting)) => drop(course.last.insert(name.clone(), sighting.clone())),
            Some(Err(failure)) => {
                return Err(Trouble { host: Some(name.clone()), why: failure.to_string() });
            }
            None => {
                let why = course.session.why_absent(name).to_string();
                return Err(Trouble { host: Some(name.clone()), why });
            }
        }
    }
    match course.judge() {
        Some(trouble) => Err(trouble),
        None => Ok(seen),
    }
}

/// ARP, and requests through the services. `limit`: when it must be over.
async fn try_network(
    course: &mut Course<'_, '_>,
    seen: &Seen,
    limit: Option<Instant>,
) -> Result<(), Trouble> {
    if course.plan.action != Action::Apply {
        return Ok(());
    }
    let topology = course.session.topology;
    if course.conduct.verify == VerifyBy::State {
        course.report.proofs = requests::none(topology, "--verify state sends none");
        return Ok(());
    }
    // An unfinished transaction of another run is finished here: its services were never tried.
    let changes =
        |member: &Member<'_>| !member.plan.stages.is_empty() || member.seen.unfinished.is_some();
    if !course.members.values().any(changes) {
        course.report.proofs = requests::none(topology, NOTHING_CHANGED);
        return Ok(());
    }
    let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
    let manner = Manner {
        unfit: unfit(course),
        in_use: in_use(course),
        // Early enough that the report gives the reason, and not only that the time is over.
        settle: left.map_or(SETTLE, |left| SETTLE.min(left / 3)),
        limit: Some(left.map_or(TRY, |left| TRY.min(left))),
        stops: true,
    };
    course.report.proofs = proving::prove_network(course.session, seen, &manner).await;
    let watch = course.session.watch();
    if watch.wants_to_stop() {
        return Err(interrupted());
    }
    let told = |proof: &Proof| format!("it is not true that {}: {}", proof.claim, proof.evidence);
    let mut failed = course.report.proofs.iter().filter(|proof| proof.verdict == Verdict::Fails);
    if let Some(proof) = failed.clone().find(|proof| proof.condemns()) {
        return Err(Trouble { host: None, why: told(proof) });
    }
    if course.conduct.confirm == ConfirmBy::Operator {
        // Before the operator says yes.
        failed.by_ref().for_each(|proof| watch.tell(&format!("warning: {}", told(proof))));
    }
    Ok(())
}

/// Hosts that are not as they should be, for reasons of before or because they were left out: what goes
/// through such a director proves nothing.
fn unfit(course: &Course<'_, '_>) -> BTreeMap<HostName, String> {
    let hosts = course.report.hosts.iter();
    let all = hosts.filter_map(|(name, host)| {
        let why = match host.status {
            HostStatus::Unchanged | HostStatus::Changed => return None,
            HostStatus::LeftOut => "is left out by --limit",
            HostStatus::Unmanaged => "has no `ssh`, `local` or `netns` in the file",
            HostStatus::Unreachable => "could not be reached",
            HostStatus::Obstructed => "has something in its way",
            _ => "is not as the file says",
        };
        Some((name.clone(), why.to_owned()))
    });
    all.collect()
}

/// TCP services that were answered shortly before the hosts were looked at.
fn in_use(course: &Course<'_, '_>) -> BTreeSet<ServiceName> {
    let services = course.session.topology.services.iter();
    let used = services.filter(|service| {
        let director = course.seen.get(&service.director).and_then(|seen| seen.as_ref().ok());
        director.is_some_and(|seen| was_answered(service, seen))
    });
    used.map(|service| service.name.clone()).collect()
}

/// Whether the counters show connections that were made, and not only tried.
///
/// Under DR and TUN the director does not see a real server's reset: a connection that was refused counts
/// as active (SYN-RECV) for a minute, and only one that was made comes to its end and counts as inactive.
/// Under NAT it sees the reset, and what was refused counts as inactive (CLOSE) for 10 s
/// (`tcp_state_active_table`, `set_tcp_state` in net/netfilter/ipvs/ip_vs_proto_tcp.c).
fn was_answered(service: &Service, director: &Observation) -> bool {
    let key = service_key(service);
    let known = (director.state.services.get(&key), director.counters.get(&key));
    let (Some(there), Some(counters)) = known else { return false };
    let made = |(at, destination): (&DestinationKey, &Destination)| {
        let Some(counters) = counters.get(at) else { return false };
        match destination.method {
            ForwardingMethod::Masquerade => counters.active > 0,
            _ => counters.inactive > 0,
        }
    };
    service.protocol == Protocol::Tcp && there.destinations.iter().any(made)
}

/// Until the operator speaks, here or by `lvsprov confirm`, or the time is over.
async fn ask_operator(
    course: &mut Course<'_, '_>,
    limit: Option<Instant>,
) -> Result<Confirmed, Trouble> {
    let watch = course.session.watch();
    watch.tell(
        "everything was verified; say `yes` to keep it and `no` to undo it, here, or run `lvsprov \
         confirm FILE` or `lvsprov rollback FILE --force` anywhere",
    );
    let mut look_at = Instant::now() + LOOK;
    let mut said = None;
    loop {
        match watch.says() {
            Some(Word::Yes) => return Ok(Confirmed::ByUs),
            Some(Word::No) => {
                return Err(Trouble { host: None, why: "the operator said no".to_owned() });
            }
            None => {}
        }
        if watch.wants_to_stop() {
            return Err(interrupted());
        }
        let now = Instant::now();
        let left = limit.map(|limit| limit.saturating_duration_since(now).as_secs());
        if limit.is_some_and(|limit| now >= limit) {
            let seconds = course.confirm.unwrap_or_default().as_secs();
            let why = format!("nobody confirmed it within {seconds} s");
            return Err(Trouble { host: None, why });
        }
        if said != Some(left) {
            watch.pending(Some(&match left {
                Some(left) => format!("keep it? yes/no ({left} s left)"),
                None => "keep it? yes/no".to_owned(),
            }));
            said = Some(left);
        }
        if now >= look_at {
            look_at = now + LOOK;
            if let Some(confirmed) = closed_elsewhere(course).await? {
                return Ok(confirmed);
            }
        }
        sleep(TICK).await;
    }
}

/// Whether somebody else has kept it, and closed it everywhere.
pub(super) async fn is_closed_elsewhere(course: &mut Course<'_, '_>) -> bool {
    course.conduct.confirm == ConfirmBy::Operator
        && matches!(closed_elsewhere(course).await, Ok(Some(Confirmed::Elsewhere)))
}

/// Whether somebody else has closed it, and how.
async fn closed_elsewhere(course: &mut Course<'_, '_>) -> Result<Option<Confirmed>, Trouble> {
    let hosts: BTreeSet<HostName> = course.members.keys().cloned().collect();
    let lost = course.session.lost(&hosts);
    if !lost.is_empty() {
        course.session.renew(&lost, false).await;
        let mut ids = course.ids();
        ids.retain(|name, _| lost.contains(name));
        asking::take_up(course.session, &ids, &course.conduct.by, false).await;
    }
    let seen = course.session.look_at(&hosts, false).await;
    let open = seen.values().filter(|seen| match seen {
        Ok(seen) => {
            seen.unfinished.as_ref().is_some_and(|there| there.journal.transaction == course.id)
        }
        Err(_) => true,
    });
    if seen.len() < hosts.len() || open.count() > 0 {
        return Ok(None);
    }
    let topology = course.session.topology;
    let right = seen.iter().all(|(name, seen)| {
        let known = (
            seen.as_ref().ok(),
            topology.hosts.get(name),
            course.session.desired.get(name),
            course.members.get(name),
        );
        let (Some(seen), Some(host), Some(desired), Some(member)) = known else { return false };
        remaining(topology, host, desired, member.plan, seen, course.direction).is_empty()
    });
    if right {
        return Ok(Some(Confirmed::Elsewhere));
    }
    Err(Trouble { host: None, why: "somebody else has undone it".to_owned() })
}
