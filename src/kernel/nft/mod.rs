//! nftables over netlink, with lvsprov's own codec: lvsprov's tables, decoded exactly and replaced as a whole.
//!
//! [`expr`], [`rule`], [`codec`] and [`table`] encode and decode, and are pure; [`socket`] sends and receives.
//! A host needs no `nft` program. Of tables that lvsprov did not make it reads family and name, and the rules that decide
//! whether routed packets pass ([`filter`]; [`foreign`]: which of them drop what connection tracking calls invalid).
//! Which crates were tried, and why none is used: docs/libraries.md.
//!
//! What the rules do, and what they do not:
//! * **Marks** are set on received packets (prerouting). Requests that the director itself makes never
//!   pass that hook: they get no mark and do not belong to the firewall-mark service.
//! * **Source NAT** of tables of family inet needs Linux 5.2; with `net.ipv4.vs.conntrack=0` IPVS takes
//!   its packets out of connection tracking, and no source NAT rule sees them.
//! * **The MSS** is clamped where segments leave their own host (output), not where they are routed.
//! * **Wrapped packets** are judged where they are delivered (input), before a tunnel unwraps them ([`guard`],
//!   [`fragments`]).
//! * Of marks that overlap the last one wins, in the order of [`crate::state::PacketRules`]: for one
//!   address and protocol a rule for some ports wins over that for all ports.

pub mod codec;
mod explain;
pub mod expr;
pub mod filter;
pub mod foreign;
mod foreign_tables;
mod fragments;
mod guard;
pub mod rule;
pub mod socket;
pub mod table;
pub(super) mod xtables;

#[cfg(test)]
mod tests;

pub use socket::{NftObservation, NftSocket};

use super::error::Result;
use super::modules;
use crate::state::{Capability, Module, PacketRules, TableName};

/// Whether nf_tables is loaded or built in. Observing must not change a host, and the first message to nf_tables loads it, as opening the socket loads nfnetlink (net/netlink/af_netlink.c,
/// `netlink_create`; net/netfilter/nfnetlink.c, `nfnetlink_rcv_msg`).
pub fn is_loaded() -> bool {
    modules::capability(Module::NfTables) == Capability::Present
}

/// Reads all tables of the network namespace of the calling thread; none where nf_tables is not loaded.
/// Loads nothing.
pub fn observe() -> Result<NftObservation> {
    if is_loaded() { NftSocket::open()?.read() } else { Ok(NftObservation::default()) }
}

/// Replaces the table `name` by `after` (`None`: removes it) in one transaction: each packet passes either
/// the old rules or the new ones. An error, without a change, if the table is not equal to `before`. Checked
/// again if another process changed any nftables rule between the check and the transaction.
pub fn set(
    name: &TableName,
    before: Option<&PacketRules>,
    after: Option<&PacketRules>,
) -> Result<()> {
    NftSocket::open()?.set(name, before, after)
}
