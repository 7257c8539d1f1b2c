//! The journal: what a transaction writes on each of its hosts before anything is touched.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stage::Stage;
use super::step::Step;
use super::{HostState, Owned};
use crate::names::{HostName, TopologyName};

/// The format of a journal and of `begun.json` beside it. 2: the latter names the network namespace.
/// Format 1 is read as well: it knows less of restarts.
pub const JOURNAL_VERSION: u32 = 2;

/// Names one transaction: 16 lower-case hexadecimal digits, by chance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TransactionId(String);

/// What is no name of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no transaction: that is 16 hexadecimal digits")]
pub struct BadTransactionId(String);

impl TransactionId {
    /// From 64 bits of chance.
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

/// Who began a transaction, by the controller's word.
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

/// Which way a transaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// To what the file says.
    Apply,
    /// Back to what was found before the first apply.
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

/// What lies on a host while a transaction is under way there.
///
/// Every new key, and every new kind of step, item or setting in it, raises [`JOURNAL_VERSION`]: see
/// [`Receipt`](super::Receipt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Format of this file: 1.
    pub version: u32,
    /// Whose hosts are changed.
    pub topology: TopologyName,
    /// Which transaction.
    pub transaction: TransactionId,
    /// Which way it goes.
    pub intent: Intent,
    /// Who began it.
    pub by: Operator,
    /// When, in seconds since 1970 by the controller's clock. Only ever shown to people: no decision
    /// hangs on it.
    pub since: u64,
    /// Every host that takes part; nobody settles before all of them have agreed.
    pub hosts: BTreeSet<HostName>,
    /// What will be done here, in this order.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// What undoing puts back: everything that the steps touch or move along, and what an unfinished
    /// transaction that this one takes over had touched.
    pub touched: Owned,
    /// How all of that was before; what is touched and not in here was absent.
    pub before: HostState,
}

impl Journal {
    /// All steps, in their order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|(_, steps)| steps)
    }
}
