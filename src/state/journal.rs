//! The journal: what a transaction writes on each of its hosts before it changes anything.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stage::Stage;
use super::step::Step;
use super::{HostState, Owned};
use crate::names::{HostName, TopologyName};

/// The format of a journal and of `prepared.json` beside it. Format 1, which leaves the settled state as it is, and
/// format 2, whose tables guard no tunnel, are read too.
pub const JOURNAL_VERSION: u32 = 4;

/// The name of one transaction: 16 random hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TransactionId(String);

/// A text that is no name of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no transaction: that is 16 hexadecimal digits")]
pub struct BadTransactionId(String);

impl TransactionId {
    /// From 64 random bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:016x}"))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TransactionId {
    type Err = BadTransactionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() == 16 && digits {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadTransactionId(text.to_owned()))
        }
    }
}

impl TryFrom<String> for TransactionId {
    type Error = BadTransactionId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TransactionId> for String {
    fn from(id: TransactionId) -> Self {
        id.0
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The operator who prepared a transaction, as the controller reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// The user's name there.
    pub user: String,
    /// The controller's host name.
    pub host: String,
    /// The controller's process id.
    pub pid: u32,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, pid } = self;
        write!(f, "{user}@{host} (process {pid})")
    }
}

/// What a transaction is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Bring the hosts to the topology's file.
    Apply,
    /// Bring the hosts back to what was found before the first apply.
    Destroy,
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "apply",
            Self::Destroy => "destroy",
        })
    }
}

/// The file that a host has while a transaction is open there.
///
/// Every new key, and every new kind of step, item or setting in it, raises [`JOURNAL_VERSION`]: see
/// [`Receipt`](super::Receipt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// [`JOURNAL_VERSION`].
    pub version: u32,
    /// The topology whose hosts are changed.
    pub topology: TopologyName,
    /// The transaction.
    pub transaction: TransactionId,
    /// What it is to do.
    pub intent: Intent,
    /// The operator who prepared it.
    pub by: Operator,
    /// When, in seconds since 1970 by the controller's clock. Only shown: no decision depends on it.
    pub since: u64,
    /// Every host that takes part; none commits before all of them have voted.
    pub hosts: BTreeSet<HostName>,
    /// The steps of this host, in their order.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// What an abort puts back: everything that the steps change or move along, and what an open
    /// transaction that this one takes over had touched.
    pub touched: Owned,
    /// How all of that was before; an item that is touched and not in here was absent.
    pub before: HostState,
}

impl Journal {
    /// All steps, in their order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|(_, steps)| steps)
    }
}
