//! nftables over netlink, in our own words: tables of our own, read exactly and replaced as a whole.
//!
//! [`expr`], [`rule`], [`codec`] and [`table`] are the language and pure; [`socket`] carries it.
//! A host needs no `nft` program for it. Tables of others are named and nothing more.
//!
//! No crate does this: `netlink-packet-netfilter` 0.4 lacks the expressions ct, masq and exthdr and
//! batches, `nf_tables` 0.1 reads nothing, `rustables` is under the GPL and `nftnl` needs a C library.
//!
//! What the rules do, and what they do not:
//! * **Marks** are put on packets that come in (prerouting). Requests that the director itself makes
//!   never pass there: they get no mark and do not belong to the firewall-mark service.
//! * **Source NAT** of tables of family inet needs Linux 5.2; with `net.ipv4.vs.conntrack=0` IPVS takes
//!   its packets out of connection tracking, and no rule for them is ever asked.
//! * **The MSS** is clamped where segments leave their own host (output), not where they are routed.
//! * Of marks that overlap the last one wins, in the order of [`crate::state::PacketRules`]: for one
//!   address and protocol a rule for some ports wins over that for all ports.

pub mod codec;
mod explain;
pub mod expr;
pub mod rule;
pub mod socket;
pub mod table;

#[cfg(test)]
mod tests;

pub use socket::{NftObservation, NftSocket};

use super::error::Result;
use super::modules;
use crate::state::{Capability, Module, PacketRules, TableName};

/// Whether nf_tables is there now, loaded or built in. Looking must not change a host, and the first
/// message to nf_tables loads it, as opening the socket loads nfnetlink (net/netlink/af_netlink.c,
/// `netlink_create`; net/netfilter/nfnetlink.c, `nfnetlink_rcv_msg`).
pub fn is_loaded() -> bool {
    modules::capability(Module::NfTables) == Capability::Present
}

/// Reads all tables of the network namespace of the calling thread; none where nf_tables is not
/// there. Loads nothing.
pub fn look() -> Result<NftObservation> {
    if is_loaded() { NftSocket::open()?.read() } else { Ok(NftObservation::default()) }
}

/// Makes the table `name` be as `after` says (`None`: not there), in one transaction: no packet sees
/// anything between the old rules and the new ones. Touches nothing unless the table is as `before`
/// says, and nobody else changed any rule since that was checked.
pub fn set(
    name: &TableName,
    before: Option<&PacketRules>,
    after: Option<&PacketRules>,
) -> Result<()> {
    NftSocket::open()?.set(name, before, after)
}
