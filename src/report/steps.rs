//! The steps of a report as a reader compares them: stage by stage, and hosts with the same steps together.

use std::collections::BTreeMap;

use crate::apply::{ClusterReport, StepReport, StepState};
use crate::names::HostName;
use crate::state::{Edit, EditVerb, Stage};

/// One stage of a transaction, over all hosts.
#[derive(Debug, PartialEq, Eq)]
pub struct StageSteps<'a> {
    /// Which.
    pub stage: Stage,
    /// In the order of their first host's name.
    pub groups: Vec<SameSteps<'a>>,
}

/// Hosts that have the same steps in a stage.
#[derive(Debug, PartialEq, Eq)]
pub struct SameSteps<'a> {
    /// Sorted by name, at least one.
    pub hosts: Vec<&'a HostName>,
    /// In their order; each host has all of them.
    pub steps: Vec<&'a StepReport>,
}

/// All steps, in the order of the stages. Hosts are in one group only where their steps are equal in text, reason, state
/// and cost.
pub fn by_stage(report: &ClusterReport) -> Vec<StageSteps<'_>> {
    let mut stages: BTreeMap<Stage, Vec<SameSteps<'_>>> = BTreeMap::new();
    for (name, host) in &report.hosts {
        let mut own: BTreeMap<Stage, Vec<&StepReport>> = BTreeMap::new();
        for step in &host.steps {
            own.entry(step.stage).or_default().push(step);
        }
        for (stage, steps) in own {
            let groups = stages.entry(stage).or_default();
            match groups.iter_mut().find(|group| group.steps == steps) {
                Some(group) => group.hosts.push(name),
                None => groups.push(SameSteps { hosts: vec![name], steps }),
            }
        }
    }
    stages.into_iter().map(|(stage, groups)| StageSteps { stage, groups }).collect()
}

/// Steps by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// The setting is absent before.
    pub added: usize,
    /// It has another value before.
    pub changed: usize,
    /// It is absent afterwards.
    pub removed: usize,
    /// Hosts that have them.
    pub hosts: usize,
}

impl StepCounts {
    /// Of the steps of `report` in `state`.
    pub fn of(report: &ClusterReport, state: StepState) -> Self {
        let mut counts = Self::default();
        for host in report.hosts.values() {
            let mut any = false;
            for step in host.steps.iter().filter(|step| step.state == state) {
                any = true;
                match step.edit.verb() {
                    EditVerb::Add => counts.added += 1,
                    EditVerb::Change => counts.changed += 1,
                    EditVerb::Remove => counts.removed += 1,
                }
            }
            counts.hosts += usize::from(any);
        }
        counts
    }

    /// Of all verbs.
    pub fn all(self) -> usize {
        self.added + self.changed + self.removed
    }

    /// `11 to add, 7 to change, 0 to remove`; removals are always counted, for a reader looks for them.
    pub fn describe(self) -> String {
        let Self { added, changed, removed, hosts: _ } = self;
        format!("{added} to add, {changed} to change, {removed} to remove")
    }
}

/// The planned steps that requests of clients may feel: they cut connections, or remove or replace what carries requests
/// (a service, a real server, an address, a route).
pub fn felt(report: &ClusterReport) -> Vec<(&HostName, &StepReport)> {
    let steps = report
        .hosts
        .iter()
        .flat_map(|(name, host)| host.steps.iter().map(move |step| (name, step)));
    steps.filter(|(_, step)| step.state == StepState::Planned && is_felt(step)).collect()
}

fn is_felt(step: &StepReport) -> bool {
    let carries = matches!(
        step.edit,
        Edit::Service(_) | Edit::Destination(_) | Edit::Address(_) | Edit::Route(_)
    );
    !super::costs::of(step).is_empty() || (carries && step.edit.verb() != EditVerb::Add)
}

/// Shows that a reason is cut.
const MORE: &str = " ...";

/// A reason of at most `width` characters: the first of several, cut where a part of a sentence ends. ` ...` shows that
/// there is more.
pub fn short_reason(why: &str, width: usize) -> String {
    let first = why.split_once("; ").map_or(why, |(first, _)| first);
    let fits = |text: &str| text.chars().count() <= width;
    if first.len() == why.len() && fits(why) {
        return why.to_owned();
    }
    let room = width.saturating_sub(MORE.len());
    let end = first.char_indices().nth(room).map_or(first.len(), |(at, _)| at);
    let kept = &first[..end];
    if end == first.len() {
        return format!("{kept}{MORE}");
    }
    // The part that is cut may begin right behind what fits.
    let window = first[end..].chars().next().map_or(kept, |next| &first[..end + next.len_utf8()]);
    let clause = [": ", ", ", " ("].iter().filter_map(|mark| window.rfind(mark)).max();
    let clause = clause.filter(|at| *at * 5 >= end * 3);
    let at = clause.or_else(|| window.rfind(' ')).unwrap_or(end).min(end);
    format!("{}{MORE}", &first[..at])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::apply::outcome::{Action, Cost};
    use crate::apply::{HostReport, HostStatus};
    use crate::state::{Module, Present};

    fn step(when: Stage, text: &str, state: StepState) -> StepReport {
        StepReport {
            stage: when,
            text: text.to_owned(),
            edit: Edit::add::<Module>(Module::IpVs, Present),
            why: "why".to_owned(),
            state,
            cost: Cost::default(),
        }
    }

    fn report(hosts: &[(&str, Vec<StepReport>)]) -> ClusterReport {
        let hosts = hosts.iter().map(|(name, steps)| {
            let host = HostReport { steps: steps.clone(), ..HostReport::bare(HostStatus::Pending) };
            (name.parse().unwrap(), host)
        });
        ClusterReport {
            action: Action::Plan,
            topology: "t".to_owned(),
            hosts: hosts.collect(),
            transaction: None,
            open_transactions: Vec::new(),
            verifications: Vec::new(),
            fingerprint: None,
        }
    }

    #[test]
    fn hosts_with_equal_steps_are_one_group_and_a_step_that_failed_parts_them() {
        use StepState::{Done, Failed};
        let (a, b) = (step(Stage::Ready, "a", Done), step(Stage::Ready, "b", Done));
        let live = step(Stage::Live, "a", Done);
        let failed = step(Stage::Ready, "b", Failed);
        let report = report(&[
            ("lvs", vec![live.clone()]),
            ("web1", vec![a.clone(), b.clone()]),
            ("web2", vec![a.clone(), failed]),
            ("web3", vec![a, b, live]),
        ]);
        let stages = by_stage(&report);
        let groups = |it: &StageSteps<'_>| {
            let groups =
                it.groups.iter().map(|it| it.hosts.iter().map(ToString::to_string).collect());
            groups.collect::<Vec<Vec<String>>>()
        };
        let found: Vec<_> = stages.iter().map(|it| (it.stage, groups(it))).collect();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found,
            [
                (Stage::Ready, vec![names(&["web1", "web3"]), names(&["web2"])]),
                (Stage::Live, vec![names(&["lvs", "web3"])])
            ]
        );
    }

    #[test]
    fn a_reason_is_cut_where_a_part_of_it_ends() {
        for (why, width, expected) in [
            ("it is a router", 20, "it is a router"),
            ("it is a router; and more", 40, "it is a router ..."),
            ("it is a router: all replies pass through it", 26, "it is a router ..."),
            (
                "it is a router: all replies pass through it",
                38,
                "it is a router: all replies pass ...",
            ),
            ("a, which is long enough to be cut within", 24, "a, which is long ..."),
            ("replies leave, come back, and are dropped", 30, "replies leave, come back ..."),
            ("anunbrokenwordofthirtycharacters", 12, "anunbrok ..."),
        ] {
            assert_eq!(short_reason(why, width), expected, "{why:?}");
        }
    }

    proptest! {
        #[test]
        fn a_short_reason_fits_and_begins_as_the_reason(why in any::<String>(), width in 5_usize..120) {
            let short = short_reason(&why, width);
            prop_assert!(short.chars().count() <= width, "{short:?}");
            prop_assert!(why.starts_with(short.strip_suffix(" ...").unwrap_or(&short)), "{short:?}");
        }
    }
}
