//! Changing a host: the steps in their order, and not one behind the first that fails.
//!
//! What must be on the disk before, and who may do it, is for the agent to see to.

use super::error::{Error, Result};
use super::ipvs::{self, control, table};
use super::net::{Net, fou};
use super::{fault, modules, nft, sysctls};
use crate::state::{Change, Step};

/// Does `change` by itself, outside of any transaction: as somebody would who has never heard of lvsprov,
/// which is what a lab needs to see it mended.
pub async fn alone(change: &Change) -> Result<()> {
    one(&Net::open()?, change).await
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
        ipvs::run::load_parts(steps.iter().map(|step| &step.change));
    }
    while let Some(step) = steps.get(done) {
        let result = if table::request(&step.change).is_some() {
            let run =
                steps[done..].iter().take_while(|step| table::request(&step.change).is_some());
            let mut changes: Vec<_> = run.map(|step| &step.change).collect();
            changes.truncate(fault::run_length(changes.len()));
            ipvs::run::carry_out(&changes)
        } else {
            match one(net, &step.change).await {
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

async fn one(net: &Net, change: &Change) -> Result<()> {
    match change {
        Change::LoadModule { module } => modules::load(*module),
        Change::SetSysctl { key, before, after } => sysctls::change(key, before, after),
        Change::SetLink { dev, before, after } => net.set_link(dev, *before, *after).await,
        Change::AddAddress { key, address } => net.add_address(key, address).await,
        Change::RemoveAddress { key, address } => net.remove_address(key, address).await,
        Change::AddRoute { key, route } => net.add_route(key, route).await,
        Change::ReplaceRoute { key, before, after } => net.replace_route(key, before, after).await,
        Change::RemoveRoute { key, route } => net.remove_route(key, route).await,
        Change::AddService { .. }
        | Change::EditService { .. }
        | Change::RemoveService { .. }
        | Change::AddDestination { .. }
        | Change::EditDestination { .. }
        | Change::RemoveDestination { .. } => match ipvs::run::carry_out(&[change]) {
            (_, Some(error)) => Err(error),
            (_, None) => Ok(()),
        },
        Change::SetTimeouts { before, after } => control::set_timeouts(*before, *after),
        Change::SetDaemon { role, before, after } => {
            control::set_daemon(*role, before.as_ref(), after.as_ref())
        }
        Change::AddTunnel { dev, device } => net.add_tunnel(dev, device).await,
        Change::RemoveTunnel { dev, device } => net.remove_tunnel(dev, device).await,
        Change::AddGuePort { port } => fou::add(*port),
        Change::RemoveGuePort { port } => fou::remove(*port),
        Change::SetTable { name, before, after } => nft::set(name, before.as_ref(), after.as_ref()),
    }
}
