//! Between the last step and the agreement of all hosts: is it right, seen over connections that were
//! made after the change? Until that is said, every host waits to undo it by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::acting::{Course, Trouble, interrupted};
use super::asking;
use super::judging::remaining;
use super::outcome::{Action, HostStatus};
use super::proving;
use super::transaction::ConfirmBy;
use super::views::Verdict;
use super::watch::Word;
use crate::topology::HostName;

/// How long before the hosts do it the controller begins to undo what nobody confirmed: it does so in
/// one go and says how it went.
const AHEAD: Duration = Duration::from_secs(2);
/// Between two looks at whether the operator has spoken.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at the hosts while the operator is awaited: somebody may confirm elsewhere.
const LOOK: Duration = Duration::from_secs(1);

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
    if course.confirm.is_none() && by == ConfirmBy::Verification {
        // What was read after the last step was judged.
        return Ok(Confirmed::ByUs);
    }
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
    let proved = tokio::select! {
        biased;
        () = stopped => Err(interrupted()),
        () = over => Err(too_late(course.confirm)),
        proved = prove(course) => proved,
    };
    proved?;
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

/// New connections to every host that takes part, the state of each, and requests through the services.
async fn prove(course: &mut Course<'_, '_>) -> Result<(), Trouble> {
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
    if let Some(trouble) = course.judge() {
        return Err(trouble);
    }
    if course.plan.action != Action::Apply {
        return Ok(());
    }
    // A service whose director is not what it should be, for reasons of before, or was left out, proves
    // nothing.
    let report = &course.report;
    let sound = |name: &HostName| {
        let status = report.hosts.get(name).map(|host| &host.status);
        matches!(status, Some(HostStatus::Unchanged | HostStatus::Changed))
    };
    let proofs =
        proving::prove_network(course.session, &seen, |service| sound(&service.director)).await;
    match proofs.into_iter().find(|proof| proof.verdict == Verdict::Fails) {
        Some(proof) => Err(Trouble {
            host: None,
            why: format!("it is not true that {}: {}", proof.claim, proof.evidence),
        }),
        None => Ok(()),
    }
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
