//! The meaning of error numbers: nf_tables sends hardly any text.

use nix::errno::Errno;

use super::codec::message;
use super::table::BatchMessage;
use crate::kernel::error::Error;
use crate::kernel::wire::WireError;

/// The cure where nf_tables is missing.
pub(super) const CURE_MISSING: &str = "packet rules need nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): \
     install the kernel's full set of modules and boot that kernel; in a container the machine's own \
     kernel must have it: `modprobe nf_tables` there";

pub(super) fn undecodable(error: WireError) -> Error {
    Error::new("cannot decode an answer of nf_tables").because(error)
}

pub(super) fn keeps_changing() -> Error {
    Error::new("the nftables rules change faster than they can be read")
        .cure("another program (a firewall, kube-proxy) rewrites them all the time: stop it, or try again")
}

pub(super) fn cannot_read(errno: Errno) -> Error {
    // No module has registered for the message (`nfnetlink_rcv_msg`).
    let errno = if errno == Errno::EINVAL { Errno::EPROTONOSUPPORT } else { errno };
    let (meaning, cure) = meaning(errno, false);
    Error::new(format!("cannot read the nftables tables{meaning}")).because(errno).maybe_cure(cure)
}

pub(super) fn explain(what: &str, refused: Option<&BatchMessage>, errno: Errno) -> Error {
    let at = refused.map(|refused| format!(", at {}", refused.what)).unwrap_or_default();
    let chain_or_rule = refused
        .is_some_and(|refused| matches!(refused.message, message::NEWCHAIN | message::NEWRULE));
    let (meaning, cure) = meaning(errno, chain_or_rule);
    Error::new(format!("cannot write {what}{at}{meaning}; nothing of it was written"))
        .because(errno)
        .maybe_cure(cure)
}

/// net/netfilter/nfnetlink.c and nf_tables_api.c.
fn meaning(errno: Errno, chain_or_rule: bool) -> (&'static str, Option<&'static str>) {
    match errno {
        Errno::EPERM | Errno::EACCES => (
            ": not allowed, or the table belongs to another process (flag owner)",
            Some(
                "it needs root with CAP_NET_ADMIN in the network namespace; `nft list tables` shows the \
                 owner of a table",
            ),
        ),
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT if chain_or_rule => (
            ": this kernel cannot do that",
            Some(
                "source NAT needs the modules nft_chain_nat, nft_masq and nft_ct and Linux 5.2, \
                 clamping the MSS needs nft_exthdr and Linux 4.14, dropping wrapped packets of strangers \
                 nft_counter: install the kernel's full set of \
                 modules and boot that kernel",
            ),
        ),
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            (": this kernel has no nftables", Some(CURE_MISSING))
        }
        Errno::EBUSY => (": a part of it is still in use", None),
        Errno::EMSGSIZE => (": too large for one transaction", None),
        _ => ("", None),
    }
}
