//! The requests of a transaction to many hosts at once, and what their answers mean.

use std::collections::BTreeMap;

use super::session::{NoAnswer, Session, gone, unexpected};
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::{Busy, Decision, Execution, Prepare, Reply, Request};
use crate::state::{Holder, Operator, TransactionId};

/// Why a host does not let a transaction begin, or be taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// Somebody else is at work. Nothing was changed.
    Busy(Box<Busy>),
    /// The host is not as the plan saw it, by these differences. Nothing was changed.
    Moved(Vec<String>),
    /// It said why not; nothing was changed.
    Refused(Failure),
    /// It went away: whether it has begun is not known.
    Lost(Failure),
}

impl Denied {
    /// For a report.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Busy(busy) => Failure {
                message: describe_busy(&busy),
                causes: Vec::new(),
                cure: Some(cure_of_busy(&busy).to_owned()),
            },
            Self::Moved(differences) => Failure {
                message: "the host has changed since it was looked at".to_owned(),
                causes: differences,
                cure: Some("look at the plan again, then run the same command again".to_owned()),
            },
            Self::Refused(failure) | Self::Lost(failure) => failure,
        }
    }
}

/// Who is at work on a host, since when, and until when, in one line.
pub fn describe_busy(busy: &Busy) -> String {
    let Busy { topology, transaction, holder, reverts_in_ms } = busy;
    let what = match transaction {
        Some(id) => format!("transaction {id} of {topology}"),
        None => format!("a request of {topology}"),
    };
    let who = match holder {
        Some(holder) => format!("{} is at work: {what}", describe_holder(holder)),
        None => format!("{what} is under way, and nobody works at it"),
    };
    match reverts_in_ms {
        Some(ms) => format!("{who}; unless it is confirmed the host undoes it in {} s", ms / 1000),
        None => who,
    }
}

/// Who works at a transaction, in a few words.
pub fn describe_holder(holder: &Holder) -> String {
    let Holder { by, from, pid: _, for_s, idle_s, idle_limit_s } = holder;
    let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
    format!(
        "{by}{from}, for {for_s} s (last heard of {idle_s} s ago, given up after {idle_limit_s} s)"
    )
}

fn cure_of_busy(busy: &Busy) -> &'static str {
    match (&busy.holder, busy.reverts_in_ms) {
        (Some(_), _) => {
            "wait for it (`--wait SECONDS`); if it hangs for good, `lvsprov rollback --force` takes it over"
        }
        (None, Some(_)) => {
            "`lvsprov confirm` keeps it, `lvsprov rollback` undoes it now; or wait until the host does"
        }
        (None, None) => "run the same command again",
    }
}

fn begun(answer: Result<Reply, NoAnswer>) -> Result<(), Denied> {
    match answer {
        Ok(Reply::Prepared) => Ok(()),
        Ok(Reply::Busy(busy)) => Err(Denied::Busy(busy)),
        Ok(Reply::Changed(differences)) => Err(Denied::Moved(differences)),
        Ok(other) => Err(Denied::Lost(unexpected(&other))),
        Err(NoAnswer::Refused(failure)) => Err(Denied::Refused(failure)),
        Err(NoAnswer::Lost(failure)) => Err(Denied::Lost(failure)),
    }
}

/// What came of steps; `None` is a host that was not asked.
pub fn outcome(answer: Option<Result<Reply, NoAnswer>>) -> Result<Execution, NoAnswer> {
    match answer {
        Some(Ok(Reply::Executed(outcome))) => Ok(*outcome),
        Some(Ok(other)) => Err(NoAnswer::Lost(unexpected(&other))),
        Some(Err(no_answer)) => Err(no_answer),
        // It went away earlier, so it was not asked.
        None => Err(NoAnswer::Refused(gone())),
    }
}

/// Asks all; who cannot be asked is among the answers too.
async fn all<T>(
    session: &mut Session<'_>,
    requests: BTreeMap<HostName, Request>,
    read: impl Fn(Result<Reply, NoAnswer>) -> T,
) -> BTreeMap<HostName, T> {
    let names: Vec<HostName> = requests.keys().cloned().collect();
    let mut answers = session.ask(requests).await;
    let read = names.into_iter().map(|name| {
        let answer = answers.remove(&name).unwrap_or_else(|| Err(NoAnswer::Refused(gone())));
        (name, read(answer))
    });
    read.collect()
}

/// Begins on each host.
pub async fn begin(
    session: &mut Session<'_>,
    begins: BTreeMap<HostName, Prepare>,
) -> BTreeMap<HostName, Result<(), Denied>> {
    let requests =
        begins.into_iter().map(|(name, begin)| (name, Request::Prepare(Box::new(begin)))).collect();
    all(session, requests, begun).await
}

/// Takes up the transaction of each host. A connection of our own that has not ended yet is no
/// hindrance, and with `force` nobody's is.
pub async fn take_up(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    by: &Operator,
    force: bool,
) -> BTreeMap<HostName, Result<(), Denied>> {
    let topology = session.topology.name.clone();
    let request = |id: &TransactionId, force| Request::Resume {
        topology: topology.clone(),
        transaction: id.clone(),
        by: by.clone(),
        idle_limit_s: super::transaction::idle_limit_s(),
        force,
    };
    let requests = ids.iter().map(|(name, id)| (name.clone(), request(id, force))).collect();
    let mut answers = all(session, requests, begun).await;
    let ours = |denied: &Denied| match denied {
        Denied::Busy(busy) => busy.holder.as_ref().is_some_and(|holder| holder.by == *by),
        _ => false,
    };
    let again: BTreeMap<HostName, Request> = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().is_err_and(ours))
        .filter_map(|(name, _)| Some((name.clone(), request(ids.get(name)?, true))))
        .collect();
    answers.extend(all(session, again, begun).await);
    answers
}

/// Has each host agree to its transaction.
pub async fn agree(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
) -> BTreeMap<HostName, Result<(), NoAnswer>> {
    let topology = session.topology.name.clone();
    let request = |(name, id): (&HostName, &TransactionId)| {
        let agree = Request::Vote { topology: topology.clone(), transaction: id.clone() };
        (name.clone(), agree)
    };
    let requests = ids.iter().map(request).collect();
    all(session, requests, |answer| expect(answer, &Reply::Voted)).await
}

/// Closes the transaction of each host.
pub async fn settle(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    ending: Decision,
) -> BTreeMap<HostName, Result<(), NoAnswer>> {
    let topology = session.topology.name.clone();
    let request = |(name, id): (&HostName, &TransactionId)| {
        let settle = Request::Close {
            topology: topology.clone(),
            transaction: id.clone(),
            decision: ending,
        };
        (name.clone(), settle)
    };
    let requests = ids.iter().map(request).collect();
    all(session, requests, |answer| expect(answer, &Reply::Closed)).await
}

fn expect(answer: Result<Reply, NoAnswer>, wanted: &Reply) -> Result<(), NoAnswer> {
    match answer {
        Ok(reply) if reply == *wanted => Ok(()),
        Ok(Reply::Busy(busy)) => Err(NoAnswer::Refused(Denied::Busy(busy).into_failure())),
        Ok(other) => Err(NoAnswer::Lost(unexpected(&other))),
        Err(no_answer) => Err(no_answer),
    }
}
