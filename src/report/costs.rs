//! What a change costs in live connections.

use std::fmt::Write as _;

use crate::apply::outcome::Cost;
use crate::apply::{ClusterReport, StepReport, StepState};

/// What one step cuts, or has cut; empty where it cuts none, or where that is unknown.
pub fn of(step: &StepReport) -> String {
    let Cost { connections, drain_seconds, connections_cut } = step.cost;
    if step.state == StepState::Done {
        return match connections_cut {
            None | Some(0) => String::new(),
            Some(cut) => format!("cut {}", count_of(cut)),
        };
    }
    match (connections, drain_seconds) {
        (None | Some(0), _) => String::new(),
        (Some(all), None) => format!("cuts {}", count_of(all)),
        (Some(all), Some(seconds)) => format!("{}, up to {seconds} s to end", count_of(all)),
    }
}

/// The costs of all steps; empty where no connection is cut.
pub fn summary(report: &ClusterReport) -> String {
    let steps = || report.hosts.values().flat_map(|host| &host.steps);
    let planned = || steps().filter(|step| step.state == StepState::Planned);
    let at_once = planned().filter(|step| step.cost.drain_seconds.is_none());
    let at_once: u64 = at_once.filter_map(|step| step.cost.connections).sum();
    let drained = || planned().filter(|step| step.cost.drain_seconds.is_some());
    let may_end: u64 = drained().filter_map(|step| step.cost.connections).sum();
    let seconds = drained().filter_map(|step| step.cost.drain_seconds).max().unwrap_or(0);
    let done = steps().filter(|step| step.state == StepState::Done);
    let cut: u64 = done.filter_map(|step| step.cost.connections_cut).sum();
    let mut text = String::new();
    if at_once > 0 {
        let _ = writeln!(text, "live connections: {} cut at once", will_be(at_once));
    }
    if may_end > 0 {
        let have = if may_end == 1 { "has" } else { "have" };
        let _ = writeln!(
            text,
            "live connections: {may_end} {have} up to {seconds} s to end, then the rest is cut"
        );
    }
    if cut > 0 {
        let were = if cut == 1 { "was" } else { "were" };
        let _ = writeln!(text, "live connections: {cut} {were} cut");
    }
    text
}

fn count_of(count: u64) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

fn will_be(count: u64) -> String {
    if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::apply::outcome::Action;
    use crate::apply::{HostReport, HostStatus};
    use crate::state::{Edit, Module, Present, Stage};

    fn step(state: StepState, cost: Cost) -> StepReport {
        StepReport {
            stage: Stage::Withdraw,
            text: String::new(),
            edit: Edit::add::<Module>(Module::IpVs, Present),
            why: String::new(),
            state,
            cost,
        }
    }

    fn cost(connections: u64, drain_seconds: Option<u32>, connections_cut: Option<u64>) -> Cost {
        Cost { connections: Some(connections), drain_seconds, connections_cut }
    }

    #[test]
    fn a_step_says_what_it_cuts_and_nothing_where_that_is_none() {
        use StepState::{Done, Planned};
        for (state, cost, expected) in [
            (Planned, cost(3, None, None), "cuts 3 connections"),
            (Planned, cost(1, None, None), "cuts 1 connection"),
            (Planned, cost(3, Some(30), None), "3 connections, up to 30 s to end"),
            (Planned, cost(0, Some(30), None), ""),
            (Planned, Cost::default(), ""),
            (Done, cost(3, Some(30), Some(2)), "cut 2 connections"),
            (Done, cost(3, Some(30), Some(0)), ""),
            (Done, cost(3, Some(30), None), ""),
        ] {
            assert_eq!(of(&step(state, cost)), expected, "{cost:?}");
        }
    }

    #[test]
    fn the_sum_tells_what_is_cut_from_what_may_end() {
        let report = |steps| ClusterReport {
            action: Action::Plan,
            topology: "t".to_owned(),
            hosts: [(
                "lvs".parse().unwrap(),
                HostReport { steps, ..HostReport::bare(HostStatus::Pending) },
            )]
            .into(),
            transaction: None,
            open_transactions: Vec::new(),
            verifications: Vec::new(),
            fingerprint: None,
        };
        let planned = |cost| step(StepState::Planned, cost);
        let both = report(vec![
            planned(cost(3, None, None)),
            planned(cost(2, Some(30), None)),
            planned(cost(5, Some(60), None)),
        ]);
        assert_eq!(
            summary(&both),
            "live connections: 3 are cut at once\n\
             live connections: 7 have up to 60 s to end, then the rest is cut\n"
        );
        let done = report(vec![step(StepState::Done, cost(7, Some(30), Some(1)))]);
        assert_eq!(summary(&done), "live connections: 1 was cut\n");
        assert_eq!(summary(&report(vec![planned(cost(0, None, None))])), "");
    }
}
