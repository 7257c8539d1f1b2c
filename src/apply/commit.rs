//! The last phase: every host votes, then every host closes its journal by one decision, commit or abort.

use std::collections::BTreeMap;

use super::outcome::{HostStatus, RollbackEnd, TransactionEnd};
use super::transaction::{AbortReason, ClusterTransaction};
use super::{requests, rollback, stage_work};
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::Decision;

impl ClusterTransaction<'_, '_> {
    /// All hosts vote; from here on no host reverts by itself. A single host needs no vote.
    pub(super) async fn vote(&mut self) -> Result<(), AbortReason> {
        if self.participants.len() == 1 && self.confirm_within.is_none() {
            return Ok(());
        }
        let mut ids = self.ids();
        let mut failed: BTreeMap<HostName, Failure> = BTreeMap::new();
        self.may_have_voted.extend(ids.keys().cloned());
        self.show_open_hosts();
        // Lost hosts are asked once more, over a new connection. A refusal is final, and one is enough.
        for _ in 0..2 {
            for (name, answer) in requests::vote(self.session, &ids).await {
                match answer {
                    Ok(()) => drop(failed.remove(&name)),
                    Err(error) => {
                        if !error.is_lost() {
                            self.may_have_voted.remove(&name);
                        }
                        failed.insert(name, error.into_failure());
                    }
                }
            }
            let lost = self.session.lost(&failed.keys().cloned().collect());
            if lost.is_empty() || lost.len() < failed.len() {
                break;
            }
            self.session.reconnect(&lost, false).await;
            ids.retain(|name, _| lost.contains(name));
            requests::resume(self.session, &ids, &self.policy.by, false).await;
        }
        let Some((name, failure)) = failed.pop_first() else { return Ok(()) };
        let reason = AbortReason::on(&name, format!("it did not agree: {failure}"));
        if let Some(host) = self.report.hosts.get_mut(&name) {
            stage_work::fail(host, failure);
        }
        Err(reason)
    }

    /// Every host has voted: closes each journal.
    pub(super) async fn commit(&mut self) {
        let mut ids = self.ids();
        let mut reason = None;
        for last in [false, true] {
            let mut failed = BTreeMap::new();
            for (name, answer) in requests::close(self.session, &ids, Decision::Commit).await {
                if let Err(error) = answer {
                    failed.insert(name, error.into_failure());
                }
            }
            ids.retain(|name, _| failed.contains_key(name));
            if ids.is_empty() {
                break;
            }
            if !last {
                let names = ids.keys().cloned().collect();
                self.session.reconnect(&names, false).await;
                // Resuming waits until a request of the lost connection has ended on the host.
                requests::resume(self.session, &ids, &self.policy.by, false).await;
                // A host that was lost after it closed its journal is done.
                let observed = self.session.observe_hosts(&names, false).await;
                let is_closed = |name: &HostName| matches!(observed.get(name), Some(Ok(host)) if host.open_transaction.is_none());
                ids.retain(|name, _| !is_closed(name));
                continue;
            }
            for (name, failure) in failed {
                reason.get_or_insert(AbortReason::on(&name, &failure));
                let Some(host) = self.report.hosts.get_mut(&name) else { continue };
                host.status = HostStatus::Failed;
                host.failure = Some(Failure {
                    message: "it is as wanted, but its journal could not be closed".to_owned(),
                    causes: vec![failure.to_string()],
                    cure: Some("run the same command again: it closes it".to_owned()),
                });
            }
        }
        let end = if reason.is_none() { TransactionEnd::Committed } else { TransactionEnd::Open };
        self.end(end, reason.as_ref());
    }

    /// Rolls back every prepared host.
    pub(super) async fn abort(&mut self, reason: &AbortReason) {
        self.give_up(reason);
        self.session.console().notify(&format!("undoing all of it, because {reason}"));
        let ids = self.prepared.iter().map(|name| (name.clone(), self.id.clone())).collect();
        let request = self.rollback_request(ids);
        let ends = rollback::roll_back(self.session, &request).await;
        let lost = self.session.lost(&self.prepared);
        let mut all = true;
        for (name, mut rollback) in ends {
            // The timer of an unreachable host is known from when it was armed, unless the host was asked
            // to vote: then it may have disarmed it.
            let armed = lost.contains(&name) && !self.may_have_voted.contains(&name);
            let left = self.reverts_in_s().filter(|_| armed);
            let Some(host) = self.report.hosts.get_mut(&name) else { continue };
            if let RollbackEnd::Open { reverts_in_s, .. } = &mut rollback.end {
                all = false;
                *reverts_in_s = reverts_in_s.or(left);
            }
            stage_work::record_rollback(host, rollback, &reason.to_string());
        }
        self.end(if all { TransactionEnd::Aborted } else { TransactionEnd::Open }, Some(reason));
    }
}
