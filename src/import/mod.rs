//! Import: a dump of `ipvsadm -S`, a keepalived.conf, or running hosts become a topology.
//!
//! ```text
//! ipvsadm | keepalived  text -> IpvsRules                 the IPVS table, with remarks
//! guess                 IpvsRules -> DraftTopology        adds guessed hosts and networks
//! live                  observations -> DraftTopology     hosts and networks as observed
//! entries, write        DraftTopology -> text             a topology file
//! ```
//!
//! Everything is pure and total: any text gives a result, and a [`Remark`] names each part that is not
//! in the result. The caller reads files and hosts.

mod checks;
mod draft;
mod entries;
pub mod guess;
pub mod ipvsadm;
pub mod keepalived;
pub mod live;
mod remark;
mod rules;
#[cfg(test)]
mod tests;
mod words;
mod write;

pub use draft::{DraftHost, DraftInterface, DraftIpvs, DraftService, DraftTopology};
pub use remark::{Remark, RemarkKind};
pub use rules::{GivenTimeouts, IpvsRules, ServiceHealth, VipHint};
pub use write::{WrittenTopology, write};

/// The format of an imported text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Rules as `ipvsadm -S` prints them and `ipvsadm -R` reads them.
    Ipvsadm,
    /// keepalived.conf.
    Keepalived,
}

impl Dialect {
    /// The format by the content: a keepalived.conf has blocks, rules have options. `None` if neither.
    pub fn guess(text: &str) -> Option<Self> {
        for line in text.lines() {
            let Some(first) = ipvsadm::first_word(line) else { continue };
            if keepalived::opens_a_block(first) {
                return Some(Self::Keepalived);
            }
            if ipvsadm::is_command(first) {
                return Some(Self::Ipvsadm);
            }
        }
        None
    }

    /// Reads `text`.
    pub fn read(self, text: &str) -> IpvsRules {
        match self {
            Self::Ipvsadm => ipvsadm::read(text),
            Self::Keepalived => keepalived::read(text),
        }
    }
}
