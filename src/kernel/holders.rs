//! Asks who has addresses that this host is to get: ARP probes (RFC 5227) and neighbour solicitations.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::task::JoinSet;

use super::arp::{ArpQuery, ArpSender, Mac};
use super::error::{Error, Result};
use super::ndp::NeighbourQuery;
use crate::names::IfName;
use crate::protocol::SegmentAnswers;
use crate::state::AddressKey;

/// The hardware addresses that answered on one interface, by address.
type Answers = BTreeMap<IpAddr, BTreeSet<Mac>>;

/// A query on one interface.
type Query = Box<dyn FnOnce(Duration) -> io::Result<Answers> + Send>;

/// The hardware addresses that answer for each of `addresses` on its interface within `wait`. All are asked for at once.
///
/// The sockets are opened in the calling thread's namespace; other threads wait.
pub async fn find(addresses: &BTreeSet<AddressKey>, wait: Duration) -> SegmentAnswers {
    let mut found = SegmentAnswers::default();
    let mut asking = JoinSet::new();
    let devs: BTreeSet<&IfName> = addresses.iter().map(|key| &key.dev).collect();
    for dev in devs {
        let of_dev = addresses.iter().filter(|key| key.dev == *dev).map(|key| key.net.addr());
        let of_dev: Vec<IpAddr> = of_dev.collect();
        for query in queries(dev, &of_dev) {
            match query {
                Ok(query) => {
                    let dev = dev.clone();
                    asking.spawn_blocking(move || (dev, query(wait)));
                }
                Err(error) => drop(found.failures.insert(dev.clone(), error.to_failure())),
            }
        }
    }
    while let Some(asked) = asking.join_next().await {
        // A thread that panicked has asked for nothing, and is one more interface without answers.
        let Ok((dev, answers)) = asked else { continue };
        match answers {
            Ok(answers) => {
                for key in addresses.iter().filter(|key| key.dev == dev) {
                    let macs = answers.get(&key.net.addr()).into_iter().flatten();
                    let macs = macs.map(ToString::to_string);
                    found.answers.entry(key.clone()).or_default().extend(macs);
                }
            }
            Err(error) => {
                let error = Error::new(format!("cannot send queries on {dev}")).because(error);
                found.failures.insert(dev, error.to_failure());
            }
        }
    }
    found
}

/// The queries of one interface, at most one for each family.
fn queries(dev: &IfName, addresses: &[IpAddr]) -> Vec<Result<Query>> {
    let (mut v4, mut v6) = (BTreeSet::<Ipv4Addr>::new(), BTreeSet::<Ipv6Addr>::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => drop(v4.insert(*address)),
            IpAddr::V6(address) => drop(v6.insert(*address)),
        }
    }
    let mut queries = Vec::new();
    if !v4.is_empty() {
        let query = ArpQuery::prepare(dev, v4, ArpSender::Unspecified);
        queries
            .push(query.map(|query| -> Query { Box::new(move |wait| Ok(any(query.run(wait)?))) }));
    }
    if !v6.is_empty() {
        let query = NeighbourQuery::prepare(dev, v6);
        queries
            .push(query.map(|query| -> Query { Box::new(move |wait| Ok(any(query.run(wait)?))) }));
    }
    queries
}

fn any(answers: BTreeMap<impl Into<IpAddr>, BTreeSet<Mac>>) -> Answers {
    answers.into_iter().map(|(address, macs)| (address.into(), macs)).collect()
}
