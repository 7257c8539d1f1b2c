//! Whether the application of a real server answers: its director asks it at its own address.
//!
//! Under NAT and FULLNAT requests go to just that address. Under DR and TUN an application may listen at the VIP alone, so
//! there a refusal counts only where the same question was answered before (before a reboot, say).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ExpectedApplications;
use super::change::MaintenanceRun;
use crate::desired::destination_key;
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::{Fetched, Reply, Request};
use crate::state::Protocol;

/// How long one question may take, in milliseconds.
const PATIENCE_MS: u32 = 3000;
/// Between two questions.
const AGAIN: Duration = Duration::from_secs(1);

/// A TCP application of a real server, and the director that asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApplicationAddress {
    director: HostName,
    host: HostName,
    at: SocketAddr,
}

/// How an application answers its director.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ApplicationState {
    /// It accepts connections.
    Accepts,
    /// It does not; how.
    Refuses(String),
}

impl MaintenanceRun<'_, '_> {
    /// How the TCP applications of `hosts` answer their directors. Services that take every port are not asked.
    pub(super) async fn ask_applications(
        &mut self,
        hosts: &BTreeSet<HostName>,
    ) -> ExpectedApplications {
        let mut all = BTreeMap::new();
        for (address, _) in self.applications_of(hosts) {
            let request = Request::Fetch {
                target: address.at,
                protocol: Protocol::Tcp,
                count: 1,
                timeout_ms: PATIENCE_MS,
            };
            let ask = BTreeMap::from([(address.director.clone(), request)]);
            let answer = self.session.ask(ask).await.remove(&address.director);
            let state = match answer {
                Some(Ok(Reply::Fetched(fetched))) => state_of(&fetched),
                // The director cannot ask: that says nothing of the application.
                _ => continue,
            };
            all.insert(address, state);
        }
        all
    }

    /// Waits until every application of `hosts` accepts connections that must: those of `before` that did, and those where
    /// requests go to the very address.
    ///
    /// # Errors
    /// One does not within the time: its host, and why.
    pub(super) async fn wait_for_applications(
        &mut self,
        hosts: &BTreeSet<HostName>,
        before: &ExpectedApplications,
        within: Duration,
    ) -> Result<(), (HostName, Failure)> {
        let deadline = Instant::now() + within;
        loop {
            let rewrites = self.applications_of(hosts);
            let found = self.ask_applications(hosts).await;
            let missing = found.iter().find_map(|(address, state)| {
                let ApplicationState::Refuses(how) = state else { return None };
                let must = match before.get(address) {
                    Some(before) => *before == ApplicationState::Accepts,
                    None => rewrites.get(address).copied().unwrap_or(false),
                };
                must.then(|| (address.clone(), how.clone()))
            });
            let Some((address, how)) = missing else { break };
            let ApplicationAddress { director, host, at } = address;
            if Instant::now() >= deadline || self.session.console().stop_requested() {
                self.session.console().show_wait(None);
                let failure = Failure {
                    message: format!(
                        "the application of {host} does not answer {director} at {at}: {how}"
                    ),
                    causes: vec!["requests that are sent there would fail".to_owned()],
                    cure: Some(format!(
                        "start it on {host}, then `lvsprov return FILE {host}`; with `--verify state` it is not asked"
                    )),
                };
                return Err((host, failure));
            }
            let wait = format!("waiting for the application of {host} at {at}: {how}");
            self.session.console().show_wait(Some(&wait));
            sleep(AGAIN).await;
        }
        self.session.console().show_wait(None);
        Ok(())
    }

    /// The TCP applications of `hosts`, and whether requests go to the very address.
    fn applications_of(&self, hosts: &BTreeSet<HostName>) -> BTreeMap<ApplicationAddress, bool> {
        let mut all = BTreeMap::new();
        for service in &self.versions.file().services {
            for server in service.real_servers.iter().filter(|it| hosts.contains(&it.host)) {
                let at = destination_key(service, server).0;
                if service.protocol != Protocol::Tcp || at.port() == 0 || server.weight == 0 {
                    continue;
                }
                let (director, host) = (service.director.clone(), server.host.clone());
                if director != host {
                    let address = ApplicationAddress { director, host, at };
                    all.insert(address, server.forward.rewrites());
                }
            }
        }
        all
    }
}

/// A connection that was made shows an application, whatever it says to a request of HTTP.
fn state_of(fetched: &Fetched) -> ApplicationState {
    let made = |why: &str| why == Fetched::SILENT || why == Fetched::RESET;
    match fetched.failures.keys().find(|why| !made(why)) {
        Some(why) if fetched.answers.is_empty() => ApplicationState::Refuses(why.clone()),
        _ => ApplicationState::Accepts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_made_is_enough() {
        let failed =
            |why: &str| Fetched { failures: [(why.to_owned(), 1)].into(), ..Fetched::default() };
        for why in [Fetched::SILENT, Fetched::RESET] {
            assert_eq!(state_of(&failed(why)), ApplicationState::Accepts, "{why}");
        }
        for why in [Fetched::REFUSED, Fetched::TIMED_OUT, Fetched::NO_ROUTE] {
            assert_eq!(state_of(&failed(why)), ApplicationState::Refuses(why.to_owned()));
        }
    }
}
