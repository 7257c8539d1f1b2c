//! The beginning of a transaction: every host writes down what will be done and what was there, before
//! anything is changed anywhere. Where one of them does not, all others let go again.

use std::collections::{BTreeMap, BTreeSet};

use super::acting::{Again, Course, Trouble};
use super::asking::{self, Denied};
use super::outcome::{Ended, UndoEnd};
use super::transaction::{self, Beginning, Member};
use super::{recording, undoing};
use crate::names::HostName;
use crate::protocol::Prepare;
use crate::state::TransactionId;

impl Course<'_, '_> {
    /// First on the first host by name: two controllers with the same file meet there. Then on all
    /// others at once.
    pub(super) async fn begin(&mut self) -> Result<(), (Trouble, Option<Again>)> {
        let mut begins = self.begins().map_err(|trouble| (trouble, None))?;
        let gate = begins.pop_first();
        for part in [gate.into_iter().collect(), begins] {
            let mut part: BTreeMap<HostName, Prepare> = part;
            self.tell_under_way_with(part.keys());
            // All timers end together, whenever each host has begun.
            for revert in part.values_mut().filter_map(|begin| begin.revert.as_mut()) {
                revert.sooner_by(self.started.elapsed());
            }
            let mut denied = None;
            for (name, answer) in asking::begin(self.session, part).await {
                match answer {
                    Ok(()) => drop(self.begun.insert(name)),
                    Err(why) => {
                        if matches!(why, Denied::Lost(_)) {
                            self.begun.insert(name.clone());
                        }
                        let first = self.denied(&name, why);
                        // Somebody else at work says more than what follows from it.
                        if denied
                            .as_ref()
                            .is_none_or(|(_, again): &(_, Option<Again>)| again.is_none())
                        {
                            denied = Some(first);
                        }
                    }
                }
            }
            self.tell_under_way();
            if let Some(denied) = denied {
                return Err(denied);
            }
        }
        Ok(())
    }

    fn begins(&mut self) -> Result<BTreeMap<HostName, Prepare>, Trouble> {
        let hosts: BTreeSet<HostName> = self.members.keys().cloned().collect();
        let waits = self.planned_waits();
        let beginning = Beginning {
            topology: self.session.topology,
            id: &self.id,
            action: self.plan.action,
            conduct: self.conduct,
            hosts: &hosts,
            time: self.confirm.map(|time| time + waits),
            silence: waits,
        };
        let begin = |(name, member): (&HostName, &Member<'_>)| {
            let desired = self.session.desired.get(name);
            match transaction::begin(&beginning, name, *member, desired) {
                Ok(begin) => Ok((name.clone(), begin)),
                Err(error) => Err(Trouble { host: Some(name.clone()), why: error.to_string() }),
            }
        };
        self.members.iter().map(begin).collect()
    }

    /// Writes down that a host did not begin.
    fn denied(&mut self, name: &HostName, why: Denied) -> (Trouble, Option<Again>) {
        let again = match &why {
            Denied::Busy(busy) => Some(Again::Busy { host: name.clone(), busy: busy.clone() }),
            Denied::Moved(differences) => {
                Some(Again::Moved { host: name.clone(), differences: differences.clone() })
            }
            Denied::Refused(_) | Denied::Lost(_) => None,
        };
        let failure = why.into_failure();
        let trouble = Trouble { host: Some(name.clone()), why: failure.message.clone() };
        if let Some(host) = self.report.hosts.get_mut(name) {
            recording::refused(host, failure);
        }
        (trouble, again)
    }

    pub(super) fn tell_under_way(&self) {
        self.tell_under_way_with(std::iter::empty());
    }

    /// With those that are about to begin: whoever ends this now does not hear of it any more.
    fn tell_under_way_with<'n>(&'n self, more: impl Iterator<Item = &'n HostName>) {
        let at =
            |name: &HostName| self.reverts_at().filter(|_| !self.may_have_agreed.contains(name));
        let hosts = self.begun.iter().chain(more).map(|name| (name.clone(), at(name))).collect();
        self.session.watch().under_way(&hosts);
    }

    /// Not every host has begun, and nothing was done on any. Where something unfinished was taken over
    /// it stays so: to close it is to undo it, and that is not asked for.
    pub(super) async fn let_go(&mut self, trouble: &Trouble) {
        self.give_up(trouble);
        let taken = |name: &HostName| {
            self.members.get(name).is_some_and(|member| member.seen.unfinished.is_some())
        };
        let ids: BTreeMap<HostName, TransactionId> = self
            .begun
            .iter()
            .filter(|name| !taken(name))
            .map(|name| (name.clone(), self.id.clone()))
            .collect();
        let kept: BTreeSet<HostName> =
            self.begun.iter().filter(|name| taken(name)).cloned().collect();
        let ends = undoing::undo(self.session, &self.undo_order(ids)).await;
        let mut left = !kept.is_empty();
        let in_s = self.reverts_in_s();
        for name in &kept {
            let (Some(host), Some(in_s)) = (self.report.hosts.get_mut(name), in_s) else {
                continue;
            };
            host.notes.push(format!(
                "what was unfinished here was taken over before another host was busy: this host undoes it by \
                 itself in about {in_s} s"
            ));
        }
        for (name, undoing) in ends {
            let Some(host) = self.report.hosts.get_mut(&name) else { continue };
            if let UndoEnd::Left { .. } = undoing.end {
                left = true;
                host.undoing = Some(undoing);
            }
        }
        // Whoever tries again must not meet itself.
        self.session.renew(&kept, false).await;
        self.end(if left { Ended::Unfinished } else { Ended::Undone }, Some(trouble));
    }

    pub(super) fn undo_order(&self, ids: BTreeMap<HostName, TransactionId>) -> undoing::Order {
        let untouched = self.begun.difference(&self.worked).cloned().collect();
        let by = self.conduct.by.clone();
        undoing::Order { ids, by, is_ours: true, force: false, untouched }
    }
}
