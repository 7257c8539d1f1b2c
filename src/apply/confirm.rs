//! The third phase: does the network answer as it should? Where hosts have revert timers, or the operator
//! decides, every host is first reached and verified over new connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::execute::remaining;
use super::operator::OperatorAnswer;
use super::outcome::{Action, HostStatus};
use super::prepare::Participant;
use super::requests;
use super::session::Observations;
use super::traffic::{self, TrafficOptions};
use super::transaction::{AbortReason, ClusterTransaction, ConfirmBy, VerifyBy};
use super::verify::{self, Verdict, Verification};
use crate::desired::service_key;
use crate::names::{HostName, ServiceName};
use crate::state::{Destination, DestinationKey, ForwardingMethod, Observation, Protocol};
use crate::topology::Service;

/// How long before the revert timers the controller aborts an unconfirmed transaction: it rolls back in
/// one go and reports the result.
const AHEAD: Duration = Duration::from_secs(2);
/// Between two looks at the operator's answer.
const TICK: Duration = Duration::from_millis(100);
/// Between two observations while the operator is awaited: another controller may confirm.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);

/// For how long requests to a service that fail are sent again: other_topologies with a VIP in their caches ask
/// anew within 8 s of using it (`delay_first_probe_time` 5 s, three probes).
const SETTLE: Duration = Duration::from_secs(10);
/// The time for ARP and requests together: services not tried by then are reported so. With the requests that
/// run then (45 s at most) it stays below an agent's idle limit.
const TRY: Duration = Duration::from_mins(1);
/// Why no request is sent where no step was executed.
pub(super) const NOTHING_CHANGED: &str = "nothing was changed; `lvsprov verify` sends requests";

/// The controller that decides to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// This one: the hosts are to vote now.
    Here,
    /// Another one, which has committed it on every host.
    Elsewhere,
}

/// Waits until the transaction is verified and confirmed.
pub(super) async fn confirm(
    transaction: &mut ClusterTransaction<'_, '_>,
) -> Result<Confirmation, AbortReason> {
    let by = transaction.policy.confirm;
    let limit = transaction.reverts_at().map(|at| {
        let ahead = AHEAD.min(transaction.confirm_within.unwrap_or_default() / 4);
        at.checked_sub(ahead).unwrap_or(at)
    });
    let console = transaction.session.console();
    let stopped = async {
        while !console.stop_requested() {
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
    let observed = if transaction.confirm_within.is_none() && by == ConfirmBy::Verification {
        // The state read after the last step is verified already.
        as_read_last(transaction)
    } else {
        tokio::select! {
            biased;
            () = stopped => Err(AbortReason::interrupted()),
            () = &mut over => Err(too_late(transaction.confirm_within)),
            observed = reach_anew(transaction) => observed,
        }?
    };
    // A running request ends before the operator's wish to stop counts.
    tokio::select! {
        biased;
        () = over => Err(too_late(transaction.confirm_within)),
        tried = try_network(transaction, &observed, limit) => tried,
    }?;
    if console.stop_requested() {
        return Err(AbortReason::interrupted());
    }
    match by {
        ConfirmBy::Verification => Ok(Confirmation::Here),
        ConfirmBy::Operator => {
            let confirmation = ask_operator(transaction, limit).await;
            console.show_wait(None);
            confirmation
        }
    }
}

fn too_late(within: Option<Duration>) -> AbortReason {
    let seconds = within.unwrap_or_default().as_secs();
    AbortReason { host: None, why: format!("it could not be verified within {seconds} s") }
}

/// Every host after its last stage, or before the change; empty where no request is sent.
fn as_read_last(transaction: &ClusterTransaction<'_, '_>) -> Observations {
    if transaction.policy.verify == VerifyBy::State || transaction.plan.action != Action::Apply {
        return Observations::new();
    }
    let mut observed = transaction.observed.clone();
    observed.extend(transaction.last.iter().map(|(name, last)| (name.clone(), Ok(last.clone()))));
    observed
}

/// Connects anew to every host, and verifies the state of each participant.
async fn reach_anew(
    transaction: &mut ClusterTransaction<'_, '_>,
) -> Result<Observations, AbortReason> {
    let hosts: BTreeSet<HostName> = transaction.participants.keys().cloned().collect();
    // Hosts that send requests or ask for the VIP by ARP are reached anew as well.
    let reached: BTreeSet<HostName> = transaction
        .session
        .topology
        .hosts
        .keys()
        .filter(|name| !transaction.session.absent().contains_key(*name) || hosts.contains(*name))
        .cloned()
        .collect();
    transaction.session.reconnect(&reached, true).await;
    if let Some(name) = transaction.session.lost(&hosts).pop_first() {
        let why = transaction.session.why_absent(&name);
        let why = format!("it cannot be reached over a new connection: {why}");
        return Err(AbortReason::on(&name, why));
    }
    let ids = transaction.ids();
    let by = &transaction.policy.by;
    for (name, answer) in requests::resume(transaction.session, &ids, by, false).await {
        if let Err(error) = answer {
            return Err(AbortReason::on(&name, error.into_failure()));
        }
    }
    let observed = transaction.session.observe(false).await;
    for name in &hosts {
        match observed.get(name) {
            Some(Ok(after)) => drop(transaction.last.insert(name.clone(), after.clone())),
            Some(Err(failure)) => return Err(AbortReason::on(name, failure)),
            None => return Err(AbortReason::on(name, transaction.session.why_absent(name))),
        }
    }
    transaction.verify_state()?;
    Ok(observed)
}

/// ARP, and requests through the services. `limit`: when it must be over.
async fn try_network(
    transaction: &mut ClusterTransaction<'_, '_>,
    observed: &Observations,
    limit: Option<Instant>,
) -> Result<(), AbortReason> {
    if transaction.plan.action != Action::Apply {
        return Ok(());
    }
    let topology = transaction.session.topology;
    if transaction.policy.verify == VerifyBy::State {
        transaction.report.verifications = traffic::not_sent(topology, "--verify state sends none");
        return Ok(());
    }
    // An open transaction that is finished here was never tried by its own run.
    let changes = |participant: &Participant<'_>| {
        !participant.plan.stages.is_empty() || participant.observed.open_transaction.is_some()
    };
    if !transaction.participants.values().any(changes) {
        transaction.report.verifications = traffic::not_sent(topology, NOTHING_CHANGED);
        return Ok(());
    }
    let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
    let options = TrafficOptions {
        unfit: unfit(transaction),
        in_use: in_use(transaction),
        // Early enough for the report to give the reason, rather than that the time is over.
        settle: left.map_or(SETTLE, |left| SETTLE.min(left / 3)),
        limit: Some(left.map_or(TRY, |left| TRY.min(left))),
        stops: true,
    };
    transaction.report.verifications =
        verify::verify_network(transaction.session, observed, &options).await;
    let console = transaction.session.console();
    if console.stop_requested() {
        return Err(AbortReason::interrupted());
    }
    let describe = |it: &Verification| format!("it is not true that {}: {}", it.claim, it.evidence);
    let failed = transaction.report.verifications.iter().filter(|it| it.verdict == Verdict::Fails);
    if let Some(verification) = failed.clone().find(|it| it.requires_abort()) {
        return Err(AbortReason { host: None, why: describe(verification) });
    }
    if transaction.policy.confirm == ConfirmBy::Operator {
        // Before the operator decides.
        failed.for_each(|it| console.notify(&format!("warning: {}", describe(it))));
    }
    Ok(())
}

/// Hosts that are not as the file says, because they failed before or are left out: requests through such a
/// director, or from such a client, verify nothing.
fn unfit(transaction: &ClusterTransaction<'_, '_>) -> BTreeMap<HostName, String> {
    let hosts = transaction.report.hosts.iter();
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

/// TCP services that answered clients shortly before the hosts were observed.
fn in_use(transaction: &ClusterTransaction<'_, '_>) -> BTreeSet<ServiceName> {
    let services = transaction.session.topology.services.iter();
    let used = services.filter(|service| {
        let director = transaction.observed.get(&service.director);
        director.and_then(|host| host.as_ref().ok()).is_some_and(|host| was_answered(service, host))
    });
    used.map(|service| service.name.clone()).collect()
}

/// Whether the counters show connections that were established, and not only tried.
///
/// Under DR and TUN the director does not see a real server's reset: a connection that was refused counts
/// as active (SYN-RECV) for a minute, and only an established one comes to its end and counts as inactive.
/// Under NAT it sees the reset, and a refused connection counts as inactive (CLOSE) for 10 s
/// (`tcp_state_active_table`, `set_tcp_state` in net/netfilter/ipvs/ip_vs_proto_tcp.c).
fn was_answered(service: &Service, director: &Observation) -> bool {
    let key = service_key(service);
    let known = (director.state.services.get(&key), director.counters.get(&key));
    let (Some(present), Some(counters)) = known else { return false };
    let established = |(at, destination): (&DestinationKey, &Destination)| {
        let Some(counters) = counters.get(at) else { return false };
        match destination.method {
            ForwardingMethod::Masquerade => counters.active > 0,
            _ => counters.inactive > 0,
        }
    };
    service.protocol == Protocol::Tcp && present.destinations.iter().any(established)
}

/// Until the operator answers, here or by `lvsprov confirm`, or the time is over.
async fn ask_operator(
    transaction: &mut ClusterTransaction<'_, '_>,
    limit: Option<Instant>,
) -> Result<Confirmation, AbortReason> {
    let abort = |why: String| Err(AbortReason { host: None, why });
    let console = transaction.session.console();
    console.notify(
        "everything was verified; say `yes` to keep it and `no` to undo it, here, or run `lvsprov \
         confirm FILE` or `lvsprov rollback FILE --force` anywhere",
    );
    let mut observe_at = Instant::now() + OBSERVE_EVERY;
    let mut shown = None;
    loop {
        match console.answer() {
            Some(OperatorAnswer::Yes) => return Ok(Confirmation::Here),
            Some(OperatorAnswer::No) => return abort("the operator answered no".to_owned()),
            None => {}
        }
        if console.stop_requested() {
            return Err(AbortReason::interrupted());
        }
        let now = Instant::now();
        let left = limit.map(|limit| limit.saturating_duration_since(now).as_secs());
        if limit.is_some_and(|limit| now >= limit) {
            let seconds = transaction.confirm_within.unwrap_or_default().as_secs();
            return abort(format!("it was not confirmed within {seconds} s"));
        }
        if shown != Some(left) {
            console.show_wait(Some(&match left {
                Some(left) => format!("keep it? yes/no ({left} s left)"),
                None => "keep it? yes/no".to_owned(),
            }));
            shown = Some(left);
        }
        if now >= observe_at {
            observe_at = now + OBSERVE_EVERY;
            if committed_elsewhere(transaction).await? {
                return Ok(Confirmation::Elsewhere);
            }
        }
        sleep(TICK).await;
    }
}

/// Whether another controller has committed it on every host, by an operator's word.
pub(super) async fn is_committed_elsewhere(transaction: &mut ClusterTransaction<'_, '_>) -> bool {
    transaction.policy.confirm == ConfirmBy::Operator
        && matches!(committed_elsewhere(transaction).await, Ok(true))
}

/// Whether another controller has closed it on every host as done.
///
/// # Errors
/// Another controller has rolled it back.
async fn committed_elsewhere(
    transaction: &mut ClusterTransaction<'_, '_>,
) -> Result<bool, AbortReason> {
    let hosts: BTreeSet<HostName> = transaction.participants.keys().cloned().collect();
    let lost = transaction.session.lost(&hosts);
    if !lost.is_empty() {
        transaction.session.reconnect(&lost, false).await;
        let mut ids = transaction.ids();
        ids.retain(|name, _| lost.contains(name));
        requests::resume(transaction.session, &ids, &transaction.policy.by, false).await;
    }
    let observed = transaction.session.observe_hosts(&hosts, false).await;
    let is_open = |host: &Observation| {
        host.open_transaction
            .as_ref()
            .is_some_and(|open| open.journal.transaction == transaction.id)
    };
    let any_open = observed.values().any(|host| host.as_ref().map_or(true, is_open));
    if observed.len() < hosts.len() || any_open {
        return Ok(false);
    }
    let topology = transaction.session.topology;
    let right = observed.iter().all(|(name, observation)| {
        let known = (
            observation.as_ref().ok(),
            topology.hosts.get(name),
            transaction.session.desired.get(name),
            transaction.participants.get(name),
        );
        let (Some(after), Some(host), Some(desired), Some(participant)) = known else {
            return false;
        };
        let direction = transaction.direction;
        remaining(topology, host, desired, participant.plan, after, direction).is_empty()
    });
    if right {
        return Ok(true);
    }
    Err(AbortReason { host: None, why: "another controller has undone it".to_owned() })
}
