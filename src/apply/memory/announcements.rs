//! Which hosts announce addresses, and whether hosts are asked before they get one.

use super::super::cluster_plan::{self, Direction, HostPlanResult};
use super::super::holders;
use super::super::session::Session;
use super::super::transaction::{TransactionPolicy, VerifyBy};
use super::laws::{APPLY, Silent, larger, policy, run, runtime};
use super::*;
use crate::desired::desired_for;
use crate::state::announcement::is_announced;
use crate::state::{Address, AddressKey, Scope};

fn director() -> HostName {
    "director".parse().unwrap()
}

/// The VIPs of the director, in their order.
fn vips(topology: &Topology) -> Vec<AddressKey> {
    let desired = desired_for(topology, &topology.hosts[&director()]);
    desired.state.addresses.into_keys().filter(is_announced).collect()
}

#[test]
fn the_director_announces_its_vips_once_and_no_other_host_announces() {
    runtime().block_on(async {
        let (world, topology) = (World::bare(&larger()), larger());
        let others = topology.hosts.keys().filter(|name| **name != director());
        let others: Vec<_> = others.cloned().collect();
        let expected = vips(&topology);
        assert!(!expected.is_empty());
        // An undone one has announced what it added, and nothing as it took that away.
        world.serve(Serves::Drops);
        let policy = TransactionPolicy { verify: VerifyBy::Traffic, ..policy() };
        let undone = run(&world, &topology, APPLY, &policy).await;
        assert!(undone.report.has_failures());
        assert_eq!(world.announced(&director()), expected);
        world.serve(Serves::Answers);
        for direction in [APPLY, APPLY, Direction::Destroy] {
            let outcome = run(&world, &topology, direction, &policy).await;
            assert!(!outcome.report.has_failures(), "{:#?}", outcome.report);
            assert_eq!(world.announced(&director()), [&expected[..], &expected].concat());
        }
        for name in others {
            assert_eq!(world.announced(&name), [], "{name}");
        }
    });
}

#[test]
fn a_host_that_has_the_vip_keeps_the_director_from_it_until_it_gives_it_up() {
    runtime().block_on(async {
        let (world, topology) = (World::bare(&larger()), larger());
        let vip = vips(&topology).remove(0);
        let client: HostName = "client".parse().unwrap();
        let memory = world.inner.lock().unwrap().hosts[&client].memory.clone();
        let mut kernel = memory.kernel();
        kernel.state.addresses.insert(vip.clone(), Address::plain(Scope::Global));
        memory.set_kernel(kernel);
        let mut session = Session::open_with_console(&topology, &world, &Silent).await;
        let asked = async |session: &mut Session<'_>| {
            let observed = session.observe(false).await;
            let absent = session.absent();
            let mut plan =
                cluster_plan::plan(&topology, &session.desired, &observed, absent, APPLY);
            let found = holders::find(session, &plan, &observed).await;
            holders::add_to_plan(&mut plan, &session.desired, &observed, &found);
            plan.hosts.remove(&director()).unwrap()
        };
        match asked(&mut session).await {
            HostPlanResult::Obstructed(obstacles) => {
                assert_eq!(obstacles.len(), 1, "{obstacles:?}");
                let message = &obstacles[0].message;
                assert!(message.starts_with("client has "), "{message}");
            }
            other => panic!("{other:?}"),
        }
        let mut kernel = memory.kernel();
        kernel.state.addresses.remove(&vip);
        memory.set_kernel(kernel);
        match asked(&mut session).await {
            HostPlanResult::Plan(plan) => {
                let is_of_the_unit = |caution: &String| caution.contains("lvsprov-boot.service");
                assert!(plan.cautions.iter().all(is_of_the_unit), "{:?}", plan.cautions);
            }
            other => panic!("{other:?}"),
        }
    });
}
