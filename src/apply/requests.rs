//! The requests of a transaction, sent to many hosts at once, and what their answers mean.

use std::collections::BTreeMap;

use super::prepare;
use super::session::{Session, disconnected};
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::{Busy, Decision, Execution, Prepare, Reply, Request};
use crate::state::{Holder, Operator, TransactionId};

/// A host that did not do what it was asked. All but [`RequestError::Lost`] changed nothing on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// Another connection holds the host's lock.
    Busy(Box<Busy>),
    /// The host no longer is what the plan was made from; the differences.
    Changed(Vec<String>),
    /// The host says why not.
    Refused(Failure),
    /// The connection broke: how far the host came is unknown.
    Lost(Failure),
}

impl RequestError {
    /// Splits a reply that says no from all others.
    ///
    /// # Errors
    /// The host says no.
    pub fn check(reply: Reply) -> Result<Reply, Self> {
        match reply {
            Reply::Busy(busy) => Err(Self::Busy(busy)),
            Reply::Changed(differences) => Err(Self::Changed(differences)),
            Reply::Refused(failure) => Err(Self::Refused(failure)),
            other => Ok(other),
        }
    }

    /// Whether the host may have done it all the same.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// For a report.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Busy(busy) => Failure {
                message: describe_busy(&busy),
                causes: Vec::new(),
                cure: Some(cure_of_busy(&busy).to_owned()),
            },
            Self::Changed(differences) => Failure {
                message: "the host has changed since it was looked at".to_owned(),
                causes: differences,
                cure: Some("look at the plan again, then run the same command again".to_owned()),
            },
            Self::Refused(failure) | Self::Lost(failure) => failure,
        }
    }
}

/// Who holds a host, since when, and until when, in one line.
pub fn describe_busy(busy: &Busy) -> String {
    let Busy { topology, transaction, holder, reverts_in_ms } = busy;
    let what = match transaction {
        Some(id) => format!("transaction {id} of {topology}"),
        None => format!("a request of {topology}"),
    };
    let who = match holder {
        Some(holder) => format!("{} is at work: {what}", describe_holder(holder)),
        None => format!("{what} is under way, and no controller works at it"),
    };
    match reverts_in_ms {
        Some(ms) => format!("{who}; unless it is confirmed the host undoes it in {} s", ms / 1000),
        None => who,
    }
}

/// The controller that works at a transaction, in a few words.
pub fn describe_holder(holder: &Holder) -> String {
    let Holder { by, from, pid: _, for_s, idle_s, idle_limit_s } = holder;
    let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
    format!(
        "{by}{from}, for {for_s} s (last request {idle_s} s ago, given up after {idle_limit_s} s)"
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

/// A reply that does not belong to the request.
pub fn unexpected(reply: &Reply) -> Failure {
    let kind = match reply {
        Reply::Observed(_) => "observed",
        Reply::Executed(_) => "executed",
        Reply::Prepared => "prepared",
        Reply::Busy(_) => "busy",
        Reply::Changed(_) => "changed",
        Reply::Voted => "voted",
        Reply::Closed => "closed",
        Reply::Answered(_) => "answered",
        Reply::Holders(_) => "holders",
        Reply::Examined(_) => "examined",
        Reply::Dropped(_) => "dropped",
        Reply::Fetched(_) => "fetched",
        Reply::Rebooting => "rebooting",
        Reply::Refused(_) => "refused",
    };
    Failure {
        message: format!("the agent answered {kind:?}, which does not fit the question"),
        causes: Vec::new(),
        cure: Some("this is a fault of lvsprov: please report it".to_owned()),
    }
}

/// What a host executed; `None`: it was not asked, because its connection broke earlier.
pub fn executed(answer: Option<Result<Reply, RequestError>>) -> Result<Execution, RequestError> {
    match answer {
        Some(Ok(Reply::Executed(outcome))) => Ok(*outcome),
        Some(Ok(other)) => Err(RequestError::Lost(unexpected(&other))),
        Some(Err(error)) => Err(error),
        None => Err(RequestError::Refused(disconnected())),
    }
}

/// Sends all requests and expects `wanted` from each host. Hosts without a connection have an entry too.
async fn ask_all(
    session: &mut Session<'_>,
    requests: BTreeMap<HostName, Request>,
    wanted: &Reply,
) -> BTreeMap<HostName, Result<(), RequestError>> {
    let names: Vec<HostName> = requests.keys().cloned().collect();
    let mut answers = session.ask(requests).await;
    let read = names.into_iter().map(|name| {
        let answer = match answers.remove(&name) {
            Some(Ok(reply)) if reply == *wanted => Ok(()),
            Some(Ok(other)) => Err(RequestError::Lost(unexpected(&other))),
            Some(Err(error)) => Err(error),
            None => Err(RequestError::Refused(disconnected())),
        };
        (name, answer)
    });
    read.collect()
}

/// Prepares each host: its journal goes to the disk.
pub async fn prepare(
    session: &mut Session<'_>,
    requests: BTreeMap<HostName, Prepare>,
) -> BTreeMap<HostName, Result<(), RequestError>> {
    let prepare = |(name, prepare)| (name, Request::Prepare(Box::new(prepare)));
    let requests = requests.into_iter().map(prepare).collect();
    ask_all(session, requests, &Reply::Prepared).await
}

/// Resumes the transaction of each host. An earlier connection of this operator that has not ended yet is
/// displaced; `force` displaces any other controller too.
pub async fn resume(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    by: &Operator,
    force: bool,
) -> BTreeMap<HostName, Result<(), RequestError>> {
    let topology = session.topology.name.clone();
    let request = |id: &TransactionId, force| Request::Resume {
        topology: topology.clone(),
        transaction: id.clone(),
        by: by.clone(),
        idle_limit_s: prepare::idle_limit_s(),
        force,
    };
    let requests = ids.iter().map(|(name, id)| (name.clone(), request(id, force))).collect();
    let mut answers = ask_all(session, requests, &Reply::Prepared).await;
    let ours = |error: &RequestError| match error {
        RequestError::Busy(busy) => busy.holder.as_ref().is_some_and(|holder| holder.by == *by),
        _ => false,
    };
    let again: BTreeMap<HostName, Request> = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().is_err_and(ours))
        .filter_map(|(name, _)| Some((name.clone(), request(ids.get(name)?, true))))
        .collect();
    answers.extend(ask_all(session, again, &Reply::Prepared).await);
    answers
}

/// Asks each host for its vote on its transaction.
pub async fn vote(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
) -> BTreeMap<HostName, Result<(), RequestError>> {
    let topology = session.topology.name.clone();
    let request = |(name, id): (&HostName, &TransactionId)| {
        let vote = Request::Vote { topology: topology.clone(), transaction: id.clone() };
        (name.clone(), vote)
    };
    let requests = ids.iter().map(request).collect();
    ask_all(session, requests, &Reply::Voted).await
}

/// Closes the transaction of each host by the decision taken.
pub async fn close(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    decision: Decision,
) -> BTreeMap<HostName, Result<(), RequestError>> {
    let topology = session.topology.name.clone();
    let request = |(name, id): (&HostName, &TransactionId)| {
        let close =
            Request::Close { topology: topology.clone(), transaction: id.clone(), decision };
        (name.clone(), close)
    };
    let requests = ids.iter().map(request).collect();
    ask_all(session, requests, &Reply::Closed).await
}
