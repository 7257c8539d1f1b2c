//! Golden plans: what `plan` says of every playbook on bare hosts, byte for byte.
//!
//! `LVSPROV_BLESS=1 cargo test --test pure plans` writes them anew; read the difference before you commit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use lvsprov::apply::cluster_plan::{self, Direction, HostPlanResult};
use lvsprov::desired::desired_for;
use lvsprov::plan::simulate;
use lvsprov::report::{self, cluster::ReasonDetail};
use lvsprov::state::Edit;
use lvsprov::state::announcement::announced_by;
use lvsprov::topology::Service;

use crate::support::cases::{Case, cases};
use crate::support::playbooks::{bare, load, playbooks};

pub fn cases() -> Vec<Case> {
    cases![
        every_playbook_has_the_plan_that_was_read_and_found_right,
        every_plan_can_be_carried_out_and_then_nothing_is_left,
        only_a_director_announces_and_only_its_vips
    ]
}

fn every_playbook_has_the_plan_that_was_read_and_found_right() {
    for path in playbooks() {
        let topology = load(&path);
        let desired: BTreeMap<_, _> = topology
            .hosts
            .values()
            .map(|host| (host.name.clone(), desired_for(&topology, host)))
            .collect();
        let seen =
            topology.hosts.values().map(|host| (host.name.clone(), Ok(bare(host)))).collect();
        let direction = Direction::Apply { now: 0 };
        let plan = cluster_plan::plan(&topology, &desired, &seen, &BTreeMap::new(), direction);
        let report = plan.report(&topology);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for (folder, detail) in
            [("plan", ReasonDetail::Short), ("plan/explain", ReasonDetail::Full)]
        {
            let text = report::cluster::text_with(&report, detail);
            let shown = anstream::adapter::strip_str(&text).to_string();
            let golden = format!("tests/cases/{folder}/{name}.txt");
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(golden);
            crate::support::playbooks::golden(&golden, &shown);
        }
    }
}

fn every_plan_can_be_carried_out_and_then_nothing_is_left() {
    for path in playbooks() {
        let topology = load(&path);
        for host in topology.hosts.values() {
            let desired = desired_for(&topology, host);
            let mut seen = bare(host);
            let direction = Direction::Apply { now: 0 };
            let HostPlanResult::Plan(plan) =
                cluster_plan::plan_host(&topology, host, &desired, &seen, direction)
            else {
                panic!("{}: {} cannot be planned", path.display(), host.name)
            };
            let changes: Vec<Edit> = plan
                .stages
                .iter()
                .flat_map(|(_, steps)| steps.iter().map(|step| step.edit.clone()))
                .collect();
            seen.state = simulate(&seen.state, &changes).unwrap();
            seen.receipt.clone_from(&plan.goal.receipt_after);
            let again = cluster_plan::plan_host(&topology, host, &desired, &seen, direction);
            let HostPlanResult::Plan(again) = again else {
                panic!("{}: no second plan", host.name)
            };
            assert_eq!(again.stages, vec![], "{}: {}", path.display(), host.name);
        }
    }
}

/// On the way to the file's state, and back from it.
fn only_a_director_announces_and_only_its_vips() {
    let mut announced = 0;
    for path in playbooks() {
        let topology = load(&path);
        for host in topology.hosts.values() {
            let mut seen = bare(host);
            let direction = Direction::Apply { now: 0 };
            let desired = desired_for(&topology, host);
            let plan = |seen: &_, direction| match cluster_plan::plan_host(
                &topology, host, &desired, seen, direction,
            ) {
                HostPlanResult::Plan(plan) => plan,
                other => panic!("{}: {}: {other:?}", path.display(), host.name),
            };
            let there = plan(&seen, direction);
            let vips: BTreeSet<IpAddr> = topology
                .services
                .iter()
                .filter(|service| service.director == host.name)
                .filter_map(Service::vip_address)
                .collect();
            for key in announced_by(there.edits()) {
                assert!(vips.contains(&key.net.addr()), "{}: {key}", host.name);
                announced += 1;
            }
            seen.state = simulate(&seen.state, there.edits()).unwrap();
            seen.receipt.clone_from(&there.goal.receipt_after);
            if seen.receipt.is_some() {
                let back = plan(&seen, Direction::Destroy);
                assert_eq!(announced_by(back.edits()), BTreeSet::new(), "{}", host.name);
            }
        }
    }
    assert!(announced >= 5, "only {announced} VIPs are announced");
}
