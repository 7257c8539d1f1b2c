//! What follows from health checks: who sets the weights, and the sorry server.

use super::Resolver;
use super::rips::ServiceDefaults;
use crate::finding::Finding;
use crate::names::HostName;
use crate::topology::document::{CheckDoc, Defaults, Field, ServiceDoc};
use crate::topology::model::{RealServer, WeightSource};

impl Resolver {
    /// The sorry server of an entry, if it has one.
    pub(super) fn sorry_server(
        &mut self,
        doc: &ServiceDoc,
        director: Option<&HostName>,
        defaults: &ServiceDefaults,
    ) -> Option<RealServer> {
        let sorry = doc.sorry_server.value()?;
        let defaults = ServiceDefaults { weight: Some(0), check: Some(None), ..defaults.clone() };
        let found = self.real_server(&sorry.value, director, &defaults)?;
        Some(RealServer { sorry: true, weight: 0, ..found })
    }

    /// Which program sets the weights: with a check it is keepalived. `None` if not valid.
    pub(super) fn weights(
        &mut self,
        doc: &ServiceDoc,
        defaults: &Defaults,
    ) -> Option<WeightSource> {
        let checked = has_checks(doc, defaults);
        match (doc.weights.or(&defaults.weights), checked) {
            (Field::Invalid, _) => None,
            (Field::Missing, true) => Some(WeightSource::External),
            (Field::Missing, false) => Some(WeightSource::File),
            (Field::Value(said), true) if said.value == WeightSource::File => {
                self.findings.push(Finding::error(
                    "check-contradicts",
                    said.at,
                    "`weights: file` for a service with `check`",
                    "keepalived takes a real server out whose check fails: each apply would put it back and send clients to a dead server",
                    "remove `weights`, or write `check: none` for this service",
                ));
                None
            }
            (Field::Value(said), _) => Some(said.value),
        }
    }

    /// `quorum` and `sorry_server` without a check have no effect.
    pub(super) fn idle_quorum(&mut self, doc: &ServiceDoc, defaults: &Defaults) {
        let quorum = doc.quorum.value().map(|it| ("quorum", it.at));
        let sorry = doc.sorry_server.value().map(|it| ("sorry_server", it.at));
        if has_checks(doc, defaults) || may_have_checks(doc, defaults) {
            return;
        }
        for (key, at) in quorum.into_iter().chain(sorry) {
            self.findings.push(Finding::error(
                "check-contradicts",
                at,
                format!("this service has `{key}`, but no `check`"),
                "without a check no real server is ever found dead, so the key has no effect",
                format!("add `check: tcp`, or remove `{key}`"),
            ));
        }
    }
}

fn fields<'a>(
    doc: &'a ServiceDoc,
    defaults: &'a Defaults,
) -> impl Iterator<Item = &'a Field<CheckDoc>> {
    let of_all = doc.check.or(&defaults.check);
    doc.real_servers.iter().map(move |real_server| real_server.check.or(of_all))
}

fn has_checks(doc: &ServiceDoc, defaults: &Defaults) -> bool {
    fields(doc, defaults).any(|it| it.value().is_some_and(|check| check.value.is_some()))
}

/// Whether a check is not valid: the keys beside it are not judged then.
fn may_have_checks(doc: &ServiceDoc, defaults: &Defaults) -> bool {
    fields(doc, defaults).any(Field::is_invalid)
}
