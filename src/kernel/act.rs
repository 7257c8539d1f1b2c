//! Changing a host: the steps in their order, and not one behind the first that fails.
//!
//! What must be on the disk before, and who may do it, is for the agent to see to.

use super::error::{Error, Result};
use super::ipvs::{self, control, table};
use super::net::{Net, fou};
use super::{fault, instances, modules, nft, sysctls};
use crate::state::{Edit, KeyedEdit, Step};

/// Does `edit` by itself, outside of any transaction, as an operator would by hand: a lab does that to see it
/// mended.
pub async fn alone(edit: &Edit) -> Result<()> {
    one(&Net::open()?, edit).await
}

/// Does the steps in order. How many were done, from the first, and why the next one was not.
pub async fn carry_out(net: &Net, steps: &[Step]) -> (usize, Option<Error>) {
    let mut done = 0;
    if !steps.is_empty() {
        fault::before_steps();
    }
    if ipvs::is_loaded() {
        // Reading modules takes its time: not between a step that keeps clients waiting and the one that
        // lets them go on.
        ipvs::run::load_parts(steps.iter().map(|step| &step.edit));
    }
    while let Some(step) = steps.get(done) {
        let result = if table::request(&step.edit).is_some() {
            let run = steps[done..].iter().take_while(|step| table::request(&step.edit).is_some());
            let mut changes: Vec<_> = run.map(|step| &step.edit).collect();
            changes.truncate(fault::run_length(changes.len()));
            ipvs::run::carry_out(&changes)
        } else {
            match one(net, &step.edit).await {
                Ok(()) => (1, None),
                Err(error) => (0, Some(error)),
            }
        };
        done += result.0;
        fault::stepped(result.0);
        if let Some(error) = result.1 {
            return (done, Some(error));
        }
    }
    (done, None)
}

async fn one(net: &Net, edit: &Edit) -> Result<()> {
    match edit {
        Edit::Module(KeyedEdit { key, .. }) => modules::load(*key),
        Edit::Sysctl(KeyedEdit { key, before, after }) => match (before, after) {
            (Some(before), Some(after)) => sysctls::change(key, before, after),
            _ => Err(impossible(edit)),
        },
        Edit::Link(KeyedEdit { key, before, after }) => match (before, after) {
            (Some(before), Some(after)) => net.set_link(key, *before, *after).await,
            _ => Err(impossible(edit)),
        },
        Edit::Address(KeyedEdit { key, before, after }) => match (before, after) {
            (None, Some(address)) => net.add_address(key, address).await,
            (Some(address), None) => net.remove_address(key, address).await,
            _ => Err(impossible(edit)),
        },
        Edit::Route(KeyedEdit { key, before, after }) => match (before, after) {
            (None, Some(route)) => net.add_route(key, route).await,
            (Some(before), Some(after)) => net.replace_route(key, before, after).await,
            (Some(route), None) => net.remove_route(key, route).await,
            (None, None) => Err(impossible(edit)),
        },
        Edit::Service(_) | Edit::Destination(_) => match ipvs::run::carry_out(&[edit]) {
            (_, Some(error)) => Err(error),
            (_, None) => Ok(()),
        },
        Edit::Timeouts(KeyedEdit { before, after, .. }) => match (before, after) {
            (Some(before), Some(after)) => control::set_timeouts(*before, *after),
            _ => Err(impossible(edit)),
        },
        Edit::Daemon(KeyedEdit { key, before, after }) => {
            control::set_daemon(*key, before.as_ref(), after.as_ref())
        }
        Edit::Tunnel(KeyedEdit { key, before, after }) => match (before, after) {
            (None, Some(device)) => net.add_tunnel(key, device).await,
            (Some(device), None) => net.remove_tunnel(key, device).await,
            _ => Err(impossible(edit)),
        },
        Edit::GuePort(KeyedEdit { key, before, after }) => match (before, after) {
            (None, Some(_)) => fou::add(*key),
            (Some(_), None) => fou::remove(*key),
            _ => Err(impossible(edit)),
        },
        Edit::Table(KeyedEdit { key, before, after }) => {
            nft::set(key, before.as_ref(), after.as_ref())
        }
        Edit::Instance(KeyedEdit { key, before, after }) => {
            instances::set(key, before.as_ref(), after.as_ref())
        }
    }
}

/// An edit that no plan makes: a controller of another version may send one.
fn impossible(edit: &Edit) -> Error {
    Error::new(format!("{edit}: the kernel cannot do that")).cure(
        "this is a fault of lvsprov, or of a controller of another version: plan again with this one",
    )
}
