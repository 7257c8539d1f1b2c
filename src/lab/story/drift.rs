//! What somebody undoes by hand is mended, and only that: every single step of the apply is undone by
//! itself on its host, the plan must then name just what is missing, and apply must bring it back.

use super::chapters::{Seen, succeeded, towards};
use super::{Proof, Stage};
use crate::apply::acting::transact;
use crate::apply::outcome::{ClusterReport, StepState};
use crate::apply::transaction::{Conduct, VerifyBy};
use crate::apply::{Session, operator, planning};
use crate::kernel::act;
use crate::lab::Lab;
use crate::names::HostName;
use crate::plan::simulate;
use crate::state::{Change, ConfDev, HostState, Item, Sysctl};

/// Undoes one thing after the other and has it mended.
pub(super) async fn mended(stage: &Stage<'_>) -> Proof {
    let mut session = Session::open(stage.topology, &stage.settings).await;
    let proof = mend_all(&stage.lab, &mut session).await;
    session.close().await;
    proof
}

async fn mend_all(lab: &Lab, session: &mut Session<'_>) -> Proof {
    let damages = damages(&session.look(false).await)?;
    for (host, damage) in &damages {
        break_it(lab, host, damage)?;
        let seen = session.look(false).await;
        let plan =
            planning::plan(session.topology, &session.desired, &seen, session.absent(), towards());
        // What requests show was proven before: here it is the steps that count.
        let conduct = Conduct {
            verify: VerifyBy::State,
            ..Conduct::plain(operator::here(), operator::now())
        };
        let report = transact(session, &plan, &seen, towards(), &conduct).await.report;
        succeeded(&report)?;
        let only_this: Vec<_> =
            damage.inverse().into_iter().map(|change| (host.clone(), change)).collect();
        let mut done = done(&report);
        done.retain(|(at, change)| at != host || !goes_along(damage, change));
        if done != only_this {
            return Err(format!("after `{damage}` on {host}, apply did {done:?}"));
        }
    }
    if damages.is_empty() {
        return Err("there was nothing to undo".to_owned());
    }
    Ok(format!("{} things undone one by one, each mended by itself", damages.len()))
}

/// Whether `change` mends what went away with `damage`: with a device all that is on it.
fn goes_along(damage: &Change, change: &Change) -> bool {
    let Change::RemoveTunnel { dev: gone, .. } = damage else { return false };
    let dev = match change {
        Change::SetLink { dev, .. }
        | Change::SetSysctl { key: Sysctl::Conf(ConfDev::Dev(dev), _), .. }
        | Change::SetSysctl { key: Sysctl::Conf6(ConfDev::Dev(dev), _), .. } => Some(dev),
        Change::AddAddress { key, .. } => Some(&key.dev),
        Change::AddRoute { route, .. } => route.dev.as_ref(),
        _ => None,
    };
    dev == Some(gone)
}

/// What was done, on which host.
fn done(report: &ClusterReport) -> Vec<(HostName, Change)> {
    let all = report.hosts.iter().flat_map(|(host, of_host)| {
        of_host
            .steps
            .iter()
            .filter(|step| step.state == StepState::Done)
            .map(|step| (host.clone(), step.change.clone()))
    });
    all.collect()
}

/// For everything that is ours, the change that takes just it away or alters it.
fn damages(seen: &Seen) -> Result<Vec<(HostName, Change)>, String> {
    let mut all = Vec::new();
    for (host, sighting) in seen {
        let sighting = sighting.as_ref().map_err(|failure| format!("{host}: {failure}"))?;
        let Some(receipt) = &sighting.receipt else { continue };
        for item in &receipt.owned {
            for damage in damage(item, &sighting.state, &receipt.found) {
                if simulate(&sighting.state, [&damage]).is_ok() {
                    all.push((host.clone(), damage));
                }
            }
        }
    }
    Ok(all)
}

fn damage(item: &Item, now: &HostState, found: &HostState) -> Vec<Change> {
    let change = match item {
        Item::Module(_) => None,
        Item::Sysctl(key) => now.sysctls.get(key).and_then(|before| {
            let after = found.sysctls.get(key)?;
            (before != after).then(|| Change::SetSysctl {
                key: key.clone(),
                before: before.clone(),
                after: after.clone(),
            })
        }),
        Item::Link(dev) => now.links.get(dev).and_then(|before| {
            let after = *found.links.get(dev)?;
            (*before != after).then(|| Change::SetLink { dev: dev.clone(), before: *before, after })
        }),
        Item::Address(key) => now
            .addresses
            .get(key)
            .map(|address| Change::RemoveAddress { key: key.clone(), address: address.clone() }),
        Item::Route(key) => now
            .routes
            .get(key)
            .map(|route| Change::RemoveRoute { key: key.clone(), route: route.clone() }),
        Item::Timeouts => now.timeouts.and_then(|before| {
            let after = found.timeouts?;
            (before != after).then_some(Change::SetTimeouts { before, after })
        }),
        Item::Daemon(role) => now.daemons.get(role).map(|daemon| Change::SetDaemon {
            role: *role,
            before: Some(daemon.clone()),
            after: None,
        }),
        Item::Table(name) => now.tables.get(name).map(|rules| Change::SetTable {
            name: name.clone(),
            before: Some(rules.clone()),
            after: None,
        }),
        Item::Tunnel(dev) => now
            .tunnels
            .get(dev)
            .map(|device| Change::RemoveTunnel { dev: dev.clone(), device: device.clone() }),
        Item::GuePort(port) => {
            now.gue_ports.contains(port).then_some(Change::RemoveGuePort { port: *port })
        }
        Item::Service(key) => {
            let destinations = now.services.get(key).map(|service| &service.destinations);
            return destinations
                .into_iter()
                .flatten()
                .map(|(at, destination)| Change::RemoveDestination {
                    service: key.clone(),
                    key: *at,
                    destination: destination.clone(),
                })
                .collect();
        }
    };
    change.into_iter().collect()
}

/// Does `damage` on `host`, as somebody would who has never heard of lvsprov: the receipt stays as it is.
fn break_it(lab: &Lab, host: &HostName, damage: &Change) -> Result<(), String> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(act::alone(damage)).map_err(|error| error.to_failure().to_string())
    };
    let done = lab.run_in(host, work).map_err(|error| error.to_string());
    done.flatten().map_err(|error| format!("{damage} on {host}: {error}"))
}
