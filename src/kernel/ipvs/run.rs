//! Carrying out a run of IPVS edits: each is checked against the present table first, then they go to
//! the kernel in large batches, and not one is done behind the first that fails.
//!
//! The kernel does not stop at an error, so what it did behind one is taken back. To keep that rare
//! and harmless, a batch ends behind a service of a kind that was not tried yet (its scheduler may
//! not exist), and nothing is deleted in a batch in which something else may fail.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::codec::IpvsRequest as Request;
use super::explain::explain;
use super::socket::{self, IpvsSocket};
use super::table::{self, Table};
use crate::kernel::error::{Error, Result};
use crate::kernel::modules;
use crate::state::{Edit, Protocol, ServiceKey, VirtualService};

/// Does `edits` in their order. How many were done, from the first, and why the next one was not.
///
/// They are checked against the table first, all of them: what does not fit ends the run before it,
/// and nothing behind is sent.
pub fn carry_out(edits: &[&Edit]) -> (usize, Option<Error>) {
    let named: BTreeSet<&ServiceKey> =
        edits.iter().filter_map(|edit| table::service(edit)).collect();
    let opened = IpvsSocket::open().and_then(|mut ipvs| ipvs.part(&named).map(|part| (ipvs, part)));
    let (mut ipvs, mut table) = match opened {
        Ok(opened) => opened,
        Err(error) => return (0, Some(error)),
    };
    let mut planned = Vec::with_capacity(edits.len());
    let mut misfit = None;
    for edit in edits {
        match plan_one(&mut table, edit) {
            Ok(one) => planned.push(one),
            Err(error) => {
                misfit = Some(error);
                break;
            }
        }
    }
    let (done, failed) = send(&mut ipvs, &planned);
    (done, failed.or(misfit))
}

/// An edit with what is asked of the kernel for it.
struct Planned<'a> {
    edit: &'a Edit,
    request: Request,
}

impl Planned<'_> {
    fn undo(&self) -> Option<Request> {
        self.edit.inverse().as_ref().and_then(table::request)
    }
}

fn plan_one<'a>(table: &mut Table, edit: &'a Edit) -> Result<Planned<'a>> {
    let not_ipvs = || Error::new(format!("{edit}: not an edit of IPVS"));
    let request = table::request(edit).ok_or_else(not_ipvs)?;
    table::apply(table, edit)?;
    Ok(Planned { edit, request })
}

/// What decides whether the kernel can have such a service at all: its scheduler and engine, which
/// are modules, and its protocol and family, which it may be built without.
type Kind<'a> = (&'a str, Option<&'a str>, Option<Protocol>, bool);

fn kind(request: &Request) -> Option<Kind<'_>> {
    let (Request::NewService(key, service) | Request::SetService(key, service)) = request else {
        return None;
    };
    let protocol = match key {
        ServiceKey::Address(protocol, _) => Some(*protocol),
        ServiceKey::Fwmark { .. } => None,
    };
    let VirtualService { scheduler, engine, .. } = service;
    Some((scheduler, engine.as_deref(), protocol, key.is_ipv6()))
}

/// How many of `rest` go out together: see the module.
fn batch(rest: &[Planned<'_>], proven: &BTreeSet<Kind<'_>>) -> usize {
    let mut may_fail = false;
    for (at, one) in rest.iter().enumerate() {
        let delete =
            matches!(one.request, Request::DeleteService(_) | Request::DeleteDestination(..));
        if at == socket::BATCH || (delete && may_fail) {
            return at;
        }
        if kind(&one.request).is_some_and(|kind| !proven.contains(&kind)) {
            return at + 1;
        }
        may_fail |= !delete;
    }
    rest.len()
}

fn send(ipvs: &mut IpvsSocket, planned: &[Planned<'_>]) -> (usize, Option<Error>) {
    load_parts(planned.iter().map(|one| one.edit));
    let mut proven = BTreeSet::new();
    let mut done = 0;
    while done < planned.len() {
        let rest = &planned[done..];
        let batch = &rest[..batch(rest, &proven)];
        let results = match ipvs.carry_out(batch.iter().map(|one| &one.request)) {
            Ok(results) => results,
            Err(error) => return (done, Some(unknown(batch.len(), error))),
        };
        let Some((at, errno)) = first_error(&results) else {
            proven.extend(batch.iter().filter_map(|one| kind(&one.request)));
            done += batch.len();
            continue;
        };
        let error = batch.get(at).map_or_else(
            || Error::new("IPVS answers a request that was not sent"),
            |one| explain(&one.request, errno),
        );
        let error = take_back(ipvs, batch, &results, at, error);
        return (done + at, Some(error));
    }
    (done, None)
}

/// Loads what the services are made of that `edits` leave: see [`modules::load_part`].
pub fn load_parts<'c>(edits: impl Iterator<Item = &'c Edit>) {
    for name in parts(edits) {
        modules::load_part(&name);
    }
}

fn parts<'c>(edits: impl Iterator<Item = &'c Edit>) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    let of = |edit: &'c Edit| edit.of::<VirtualService>()?.after.as_ref();
    for VirtualService { scheduler, engine, .. } in edits.filter_map(of) {
        parts.extend(engine.iter().map(|name| format!("pe_{name}")));
        parts.insert(scheduler.clone());
    }
    parts
}

fn unknown(count: usize, error: Error) -> Error {
    Error::new(format!("{error}; which of the next {count} edits were done is not known"))
        .because(error)
        .cure("plan again: a new plan starts from the present state")
}

fn first_error(results: &[std::result::Result<(), Errno>]) -> Option<(usize, Errno)> {
    results.iter().enumerate().find_map(|(at, result)| result.err().map(|errno| (at, errno)))
}

/// What ran behind `failed` is undone, the last first, so that exactly the edits before it are done.
fn take_back(
    ipvs: &mut IpvsSocket,
    batch: &[Planned<'_>],
    results: &[std::result::Result<(), Errno>],
    failed: usize,
    error: Error,
) -> Error {
    let undo: Vec<Request> = batch
        .iter()
        .zip(results)
        .skip(failed + 1)
        .filter(|(_, result)| result.is_ok())
        .filter_map(|(one, _)| one.undo())
        .rev()
        .collect();
    let left = match ipvs.carry_out(&undo) {
        Err(lost) => Some(lost.to_string()),
        Ok(results) => first_error(&results)
            .and_then(|(at, errno)| undo.get(at).map(|one| explain(one, errno).to_string())),
    };
    match left {
        None => error,
        Some(left) => Error::new(format!(
            "{error}; and what the kernel had done behind it could not be taken back: {left}"
        ))
        .because(error)
        .cure("plan again: a new plan starts from the present state"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{Destination, DestinationId, DestinationKey, ForwardingMethod};

    fn service(number: u16, scheduler: &str) -> Edit {
        let key = key(number);
        let service = VirtualService::plain(&key, scheduler);
        Edit::add::<VirtualService>(key, service)
    }

    fn key(number: u16) -> ServiceKey {
        format!("tcp 192.0.2.1:{number}").parse().unwrap()
    }

    fn server(number: u16, last: u8) -> Edit {
        let destination = Destination::plain(ForwardingMethod::DirectRoute, 1);
        let rip = DestinationKey::new([198, 51, 100, last].into(), number);
        Edit::add::<Destination>(DestinationId { service: key(number), key: rip }, destination)
    }

    /// The lengths of the batches in which `changes` go out, if all goes well.
    fn lengths(changes: &[Edit]) -> Vec<usize> {
        let planned: Vec<_> = changes
            .iter()
            .map(|edit| Planned { edit, request: table::request(edit).unwrap() })
            .collect();
        let mut proven = BTreeSet::new();
        let mut lengths = Vec::new();
        let mut rest = planned.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch(rest, &proven));
            proven.extend(now.iter().filter_map(|one| kind(&one.request)));
            lengths.push(now.len());
            rest = later;
        }
        lengths
    }

    #[test]
    fn only_the_first_service_of_a_kind_goes_out_by_itself() {
        let mut changes = Vec::new();
        for (number, scheduler) in [(1, "rr"), (2, "rr"), (3, "sh"), (4, "rr")] {
            changes.extend([service(number, scheduler), server(number, 1), server(number, 2)]);
        }
        // rr alone; up to sh; the rest.
        assert_eq!(lengths(&changes), [1, 6, 5]);
        assert_eq!(lengths(&[]), [0; 0]);
    }

    #[test]
    fn nothing_is_deleted_where_something_else_may_fail() {
        let removals = |number| [2, 1].map(|last| server(number, last).inverse().unwrap());
        let mut changes = removals(1).to_vec();
        changes.push(service(1, "rr").inverse().unwrap());
        changes.extend(removals(2));
        // Removals alone go together, and additions may follow.
        assert_eq!(lengths(&changes), [5]);
        changes.extend([server(2, 7), server(2, 8)]);
        assert_eq!(lengths(&changes), [7]);
        changes.extend(removals(2));
        assert_eq!(lengths(&changes), [7, 2]);
    }

    #[test]
    fn a_batch_has_an_end() {
        let mut changes = vec![service(1, "rr")];
        changes.extend((0..=255).map(|last| server(1, last)));
        changes.extend((0..=255).map(|last| server(2, last)));
        assert_eq!(lengths(&changes), [1, socket::BATCH, 512 - socket::BATCH]);
    }
}
