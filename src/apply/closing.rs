//! The end of a transaction: all agree, and only then each closes its journal; or all of it is undone.

use std::collections::BTreeMap;

use super::acting::{Course, Trouble};
use super::outcome::{Ended, HostStatus, UndoEnd};
use super::session::NoAnswer;
use super::{asking, recording, undoing};
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::Decision;

impl Course<'_, '_> {
    /// From here on no host undoes it by itself. One host alone has nobody to agree with.
    pub(super) async fn agree(&mut self) -> Option<Trouble> {
        if self.members.len() == 1 && self.confirm.is_none() {
            return None;
        }
        let mut ids = self.ids();
        let mut failed: BTreeMap<HostName, Failure> = BTreeMap::new();
        self.may_have_agreed.extend(ids.keys().cloned());
        self.tell_under_way();
        // Once more for those that were lost: over a new connection it can be known. What was refused
        // stays refused, and one of these is enough.
        for _ in 0..2 {
            for (name, answer) in asking::agree(self.session, &ids).await {
                match answer {
                    Ok(()) => drop(failed.remove(&name)),
                    Err(no_answer) => {
                        if let NoAnswer::Refused(_) = &no_answer {
                            self.may_have_agreed.remove(&name);
                        }
                        failed.insert(name, no_answer.into_failure());
                    }
                }
            }
            let lost = self.session.lost(&failed.keys().cloned().collect());
            if lost.is_empty() || lost.len() < failed.len() {
                break;
            }
            self.session.renew(&lost, false).await;
            ids.retain(|name, _| lost.contains(name));
            asking::take_up(self.session, &ids, &self.conduct.by, false).await;
        }
        let (name, failure) = failed.pop_first()?;
        let why = format!("it did not agree: {failure}");
        if let Some(host) = self.report.hosts.get_mut(&name) {
            recording::refused(host, failure);
        }
        Some(Trouble { host: Some(name), why })
    }

    /// Everything is right, and all know: what is left is to close it.
    pub(super) async fn settle(&mut self) {
        let mut ids = self.ids();
        let mut trouble = None;
        for last in [false, true] {
            let mut failed = BTreeMap::new();
            for (name, answer) in asking::settle(self.session, &ids, Decision::Commit).await {
                if let Err(no_answer) = answer {
                    failed.insert(name, no_answer.into_failure());
                }
            }
            ids.retain(|name, _| failed.contains_key(name));
            if ids.is_empty() {
                break;
            }
            if !last {
                let names = ids.keys().cloned().collect();
                self.session.renew(&names, false).await;
                // First, as what a lost connection was still doing there is done then.
                asking::take_up(self.session, &ids, &self.conduct.by, false).await;
                // Of one that was lost after it had settled nothing is left to be closed.
                let seen = self.session.look_at(&names, false).await;
                let closed = |name: &HostName| matches!(seen.get(name), Some(Ok(seen)) if seen.unfinished.is_none());
                ids.retain(|name, _| !closed(name));
                continue;
            }
            for (name, failure) in failed {
                trouble
                    .get_or_insert(Trouble { host: Some(name.clone()), why: failure.to_string() });
                let Some(host) = self.report.hosts.get_mut(&name) else { continue };
                host.status = HostStatus::Failed;
                host.failure = Some(Failure {
                    message: "it is as wanted, but its journal could not be closed".to_owned(),
                    causes: vec![failure.to_string()],
                    cure: Some("run the same command again: it closes it".to_owned()),
                });
            }
        }
        let ended = if trouble.is_none() { Ended::Done } else { Ended::Unfinished };
        self.end(ended, trouble.as_ref());
    }

    /// Back to what was there before, on every host that has begun.
    pub(super) async fn undo(&mut self, trouble: &Trouble) {
        self.give_up(trouble);
        self.session.watch().tell(&format!("undoing all of it, because {trouble}"));
        let ids = self.begun.iter().map(|name| (name.clone(), self.id.clone())).collect();
        let order = self.undo_order(ids);
        let ends = undoing::undo(self.session, &order).await;
        let lost = self.session.lost(&self.begun);
        let mut all = true;
        for (name, mut undoing) in ends {
            // Of a host that cannot be asked it is known when its timer was armed; and not whether it has
            // disarmed it, if it was asked to agree.
            let armed = lost.contains(&name) && !self.may_have_agreed.contains(&name);
            let left = self.reverts_in_s().filter(|_| armed);
            let Some(host) = self.report.hosts.get_mut(&name) else { continue };
            if let UndoEnd::Left { reverts_in_s, .. } = &mut undoing.end {
                all = false;
                *reverts_in_s = reverts_in_s.or(left);
            }
            recording::undone(host, undoing, &trouble.to_string());
        }
        self.end(if all { Ended::Undone } else { Ended::Unfinished }, Some(trouble));
    }
}
