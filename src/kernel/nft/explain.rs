//! What the kernel means by an error number: nf_tables gives hardly any text of its own.

use nix::errno::Errno;

use super::codec::message;
use super::table::BatchMessage;
use crate::kernel::error::Error;
use crate::kernel::wire::WireError;

/// What to do where nf_tables is missing.
pub(super) const CURE_MISSING: &str = "packet rules need nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): \
     install the kernel's full set of modules and boot that kernel; in a container the machine's own \
     kernel must have it: `modprobe nf_tables` there";

pub(super) fn garbled(error: WireError) -> Error {
    Error::new("what nf_tables answers cannot be understood").because(error)
}

pub(super) fn restless() -> Error {
    Error::new("the nftables rules change faster than they can be read")
        .cure("something else (a firewall, kube-proxy) rewrites them all the time: stop that, or try again")
}

pub(super) fn cannot_read(errno: Errno) -> Error {
    // Nobody feels responsible for the message (`nfnetlink_rcv_msg`).
    let errno = if errno == Errno::EINVAL { Errno::EPROTONOSUPPORT } else { errno };
    let (meaning, cure) = meaning(errno, false);
    Error::new(format!("cannot read the nftables tables{meaning}")).because(errno).maybe_cure(cure)
}

pub(super) fn explain(what: &str, piece: Option<&BatchMessage>, errno: Errno) -> Error {
    let at = piece.map(|piece| format!(", at {}", piece.what)).unwrap_or_default();
    let chain_or_rule =
        piece.is_some_and(|piece| matches!(piece.message, message::NEWCHAIN | message::NEWRULE));
    let (meaning, cure) = meaning(errno, chain_or_rule);
    Error::new(format!("cannot write {what}{at}{meaning}; nothing of it was done"))
        .because(errno)
        .maybe_cure(cure)
}

/// net/netfilter/nfnetlink.c and nf_tables_api.c.
fn meaning(errno: Errno, chain_or_rule: bool) -> (&'static str, Option<&'static str>) {
    match errno {
        Errno::EPERM | Errno::EACCES => (
            ": not allowed, or the table belongs to another process (flag owner)",
            Some(
                "it needs root with CAP_NET_ADMIN in the network namespace; `nft list tables` says \
                 whose a table is",
            ),
        ),
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT if chain_or_rule => (
            ": this kernel cannot do that",
            Some(
                "source NAT needs the modules nft_chain_nat, nft_masq and nft_ct and Linux 5.2, \
                 clamping the MSS needs nft_exthdr and Linux 4.14: install the kernel's full set of \
                 modules and boot that kernel",
            ),
        ),
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            (": this kernel has no nftables", Some(CURE_MISSING))
        }
        Errno::EBUSY => (": something still uses a part of it", None),
        Errno::EMSGSIZE => (": too much for one transaction", None),
        _ => ("", None),
    }
}
