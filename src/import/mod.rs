//! Takes over what exists already: a dump of `ipvsadm -S`, a keepalived.conf, or running hosts become
//! a topology.
//!
//! ```text
//! ipvsadm | keepalived  text -> Rules         what an IPVS table is to hold, and what was not understood
//! guess                 Rules -> Draft        hosts and networks around the table
//! live                  Sightings -> Draft    the same from hosts that were looked at
//! express, write        Draft -> text         in the words of a topology file
//! ```
//!
//! All of it is pure and total: any text gives a result, and nothing of the text is lost silently:
//! what is not in the result is in a [`Remark`]. Reading files and hosts is the caller's business.

mod draft;
mod express;
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

pub use draft::{Draft, DraftHost, DraftInterface, DraftIpvs, DraftService};
pub use remark::{Remark, RemarkKind};
pub use rules::{GivenTimeouts, Rules, VipHint};
pub use write::{Written, write};

/// What a text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Rules as `ipvsadm -S` prints them and `ipvsadm -R` reads them.
    Ipvsadm,
    /// keepalived.conf.
    Keepalived,
}

impl Dialect {
    /// From the content: a keepalived.conf has blocks, rules have options. `None` where it looks like
    /// neither.
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
    pub fn read(self, text: &str) -> Rules {
        match self {
            Self::Ipvsadm => ipvsadm::read(text),
            Self::Keepalived => keepalived::read(text),
        }
    }
}
