//! The kernel edge: netlink, /proc/sys and modules. It obeys and decides nothing.
//!
//! [`observe`] reads the kernel, [`act`] changes it, [`arp`], [`ndp`] and [`traffic`] try it. Below them [`net`]
//! (rtnetlink), [`ipvs`] and [`nft`] (netlink in our own words, framed by [`wire`], carried by
//! [`netlink`]), [`sysctls`] and [`modules`]. [`namespace`] chooses where all of that happens: everything here
//! works in the network namespace of the thread that calls it. [`sys`] holds the only unsafe code.
//! Files that lvsprov keeps on a host, and transactions, are the business of [`crate::agent`].

pub mod act;
pub mod arp;
pub mod error;
pub mod fault;
#[cfg(test)]
mod fuzz;
pub mod generic;
pub mod ipvs;
pub mod modules;
pub mod namespace;
pub mod ndp;
pub mod net;
pub mod netlink;
pub mod nft;
pub mod observe;
pub mod sys;
pub mod sysctls;
pub mod traffic;
pub mod wire;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::names::IfName;

pub use error::{Error, Result};

/// Every hardware address that answers for `target` on the link of `dev`, by ARP or neighbour discovery.
///
/// The socket is opened here, in the right namespace; only the waiting goes to another thread.
pub async fn who_has(
    dev: &IfName,
    target: IpAddr,
    wait: Duration,
) -> error::Result<BTreeSet<String>> {
    let ask: Box<dyn FnOnce() -> std::io::Result<_> + Send> = match target {
        IpAddr::V4(target) => {
            let query = arp::ArpQuery::prepare(dev, target)?;
            Box::new(move || query.ask(wait))
        }
        IpAddr::V6(target) => {
            let query = ndp::NeighbourQuery::prepare(dev, target)?;
            Box::new(move || query.ask(wait))
        }
    };
    let failed = || Error::new(format!("cannot ask for {target} over {dev}"));
    let answers = tokio::task::spawn_blocking(ask)
        .await
        .map_err(|error| failed().because(error))?
        .map_err(|error| failed().because(error))?;
    Ok(answers.into_iter().map(|mac| mac.to_string()).collect())
}
