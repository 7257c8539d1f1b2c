//! The kernel edge: netlink, /proc/sys, modules, and daemons beside them. It obeys and decides nothing.
//!
//! [`observe`] reads the kernel's state, [`act`] changes it, [`announce`] shows neighbours what changed, [`arp`], [`ndp`],
//! [`holders`] and [`traffic`] test it with packets.
//! Below them: [`net`] (rtnetlink), [`ipvs`] and [`nft`] (lvsprov's own codecs, framed by [`wire`], sent by
//! [`netlink`]), [`sysctls`], [`modules`] and [`instances`] of daemons. All functions work in the network namespace of the calling thread,
//! which [`namespace`] chooses. [`sys`] holds the only unsafe code. [`crate::agent`] has the files that lvsprov
//! keeps on a host, and transactions.

pub mod act;
pub mod announce;
pub mod arp;
pub mod drop_counters;
pub mod drop_monitor;
pub mod error;
pub mod fault;
#[cfg(test)]
mod fuzz;
pub mod generic;
pub mod holders;
pub mod instances;
pub mod iptables;
pub mod ipvs;
pub mod modules;
pub mod namespace;
pub mod ndp;
pub mod net;
pub mod netlink;
pub mod nft;
pub mod observe;
pub mod offloads;
pub mod sys;
pub mod sysctls;
pub mod traffic;
pub mod wire;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::names::IfName;

pub use error::{Error, Result};

/// The hardware addresses that answer for `target` on the link of `dev`, by ARP or neighbour discovery.
///
/// The socket is opened in the calling thread's namespace; another thread waits.
pub async fn who_has(
    dev: &IfName,
    target: IpAddr,
    wait: Duration,
) -> error::Result<BTreeSet<String>> {
    let run: Box<dyn FnOnce() -> std::io::Result<_> + Send> = match target {
        IpAddr::V4(target) => {
            let query = arp::ArpQuery::prepare(dev, [target], arp::ArpSender::Own)?;
            Box::new(move || Ok(query.run(wait)?.remove(&target)))
        }
        IpAddr::V6(target) => {
            let query = ndp::NeighbourQuery::prepare(dev, [target])?;
            Box::new(move || Ok(query.run(wait)?.remove(&target)))
        }
    };
    let failed = || Error::new(format!("cannot query {target} over {dev}"));
    let answers = tokio::task::spawn_blocking(run)
        .await
        .map_err(|error| failed().because(error))?
        .map_err(|error| failed().because(error))?;
    Ok(answers.into_iter().flatten().map(|mac| mac.to_string()).collect())
}
