//! How far a transaction is on this host, and what may follow. Pure.
//!
//! The table of docs/transactions.md, in code. The requests of the connection that holds it are decided
//! here; `Prepare` of the next transaction takes over an open one in any phase. The controller closes one
//! that is voted for, or being closed, before it prepares another.

use crate::kernel::error::{Error, Result};
use crate::protocol::Decision;
use crate::state::TransactionId;

/// How far a transaction is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Steps are executed; it may be undone.
    Prepared,
    /// The revert timer has begun to undo it: the host never votes for it any more.
    Reverting,
    /// The host has voted to commit; the timer never undoes it.
    Voted,
    /// The decision is to commit: closing it is all that is left.
    Committing,
    /// The decision is to abort: closing it is all that is left.
    Aborting,
}

impl Phase {
    pub(super) const ALL: [Self; 5] =
        [Self::Prepared, Self::Reverting, Self::Voted, Self::Committing, Self::Aborting];

    /// The name of its file.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Reverting => "reverting",
            Self::Voted => "voted",
            Self::Committing => "committing",
            Self::Aborting => "aborting",
        }
    }

    pub(super) fn of(decision: Decision) -> Self {
        match decision {
            Decision::Commit => Self::Committing,
            Decision::Abort => Self::Aborting,
        }
    }
}

/// Whether a connection that entered the transaction in the phase `entered` may execute steps in the phase
/// `open`.
pub(super) fn may_execute(open: Phase, entered: Phase, id: &TransactionId) -> Result<()> {
    match open {
        Phase::Prepared => Ok(()),
        // The connection resumed it knowing of the phase: to undo it.
        Phase::Voted | Phase::Reverting if open == entered => Ok(()),
        Phase::Voted => Err(Error::new(format!(
            "this host has voted to commit the transaction {id}: nothing is changed in it any more"
        ))
        .cure("commit it; or, where another host has not voted, resume it to undo it")),
        Phase::Reverting => Err(reverted(id)),
        Phase::Committing | Phase::Aborting => Err(Error::new(format!(
            "the transaction {id} is {}: nothing is changed in it any more",
            open.file()
        ))
        .cure("close it")),
    }
}

/// Whether `decision` may close the transaction on a host where it is in the phase `open`; `hosts` take
/// part in it.
pub(super) fn may_close(
    open: Phase,
    entered: Phase,
    decision: Decision,
    hosts: usize,
    id: &TransactionId,
) -> Result<()> {
    match (open, decision) {
        (Phase::Committing | Phase::Voted, Decision::Commit)
        | (Phase::Aborting | Phase::Prepared | Phase::Reverting, Decision::Abort) => Ok(()),
        (Phase::Prepared, Decision::Commit) if hosts <= 1 => Ok(()),
        (Phase::Prepared, Decision::Commit) => Err(Error::new(format!(
            "this host has not voted to commit the transaction {id}, and {hosts} hosts take part in it"
        ))
        .cure("no host commits before all have voted: vote first")),
        (Phase::Voted, Decision::Abort) if entered == Phase::Voted => Ok(()),
        (Phase::Voted, Decision::Abort) => Err(Error::new(format!(
            "this host has voted to commit the transaction {id}: it was not undone"
        ))
        .cure("commit it; or, where another host has not voted, resume it to undo it")),
        (Phase::Committing, Decision::Abort) => Err(Error::new(format!(
            "the transaction {id} is committing: it cannot be undone any more"
        ))
        .cure("commit it")),
        (Phase::Reverting | Phase::Aborting, Decision::Commit) => Err(reverted(id)),
    }
}

/// What a host does at boot with a transaction that is open there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtBoot {
    /// Nothing: this very run of the host prepared it, and it goes on.
    InProgress,
    /// Nothing: the other hosts have committed it or undone it, and only a controller can ask them.
    InDoubt,
    /// Close it: no other decision is possible.
    Close(Decision),
}

/// What a host does at boot with a transaction in the phase `open`; `lost`: whether the host was restarted since it was
/// prepared. No host commits before all have voted: what this one has not voted for is committed nowhere.
pub(super) fn at_boot(open: Phase, lost: bool) -> AtBoot {
    match open {
        _ if !lost => AtBoot::InProgress,
        Phase::Prepared | Phase::Reverting | Phase::Aborting => AtBoot::Close(Decision::Abort),
        Phase::Committing => AtBoot::Close(Decision::Commit),
        Phase::Voted => AtBoot::InDoubt,
    }
}

/// The revert timer began before the request.
pub(super) fn reverted(transaction: &TransactionId) -> Error {
    Error::new(format!(
        "the transaction {transaction} was not confirmed in time: this host has begun to undo it"
    ))
    .cure("observe the host again: it goes back to its state before the transaction")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::Phase::{Aborting, Committing, Prepared, Reverting, Voted};
    use super::*;

    #[test]
    fn only_a_connection_that_knows_the_phase_executes_steps_in_it() {
        let id = TransactionId::from_bits(1);
        for open in Phase::ALL {
            for entered in Phase::ALL {
                let expected = match open {
                    Prepared => true,
                    Voted | Reverting => entered == open,
                    Committing | Aborting => false,
                };
                let may = may_execute(open, entered, &id);
                assert_eq!(may.is_ok(), expected, "{open:?}, entered in {entered:?}");
                if let Err(error) = may {
                    assert!(error.to_failure().cure.is_some());
                }
            }
        }
    }

    /// What a host does by itself at boot no connection could have done otherwise.
    #[test]
    fn a_boot_decides_only_what_is_decided() {
        let id = TransactionId::from_bits(1);
        for open in Phase::ALL {
            assert_eq!(at_boot(open, false), AtBoot::InProgress, "{open:?}");
            let may = |decision| may_close(open, open, decision, 2, &id).is_ok();
            let both = may(Decision::Commit) && may(Decision::Abort);
            match at_boot(open, true) {
                AtBoot::Close(decision) => assert!(may(decision) && !both, "{open:?}"),
                AtBoot::InDoubt => assert!(both, "{open:?}"),
                AtBoot::InProgress => panic!("{open:?}"),
            }
        }
    }

    #[test]
    fn one_decision_excludes_the_other() {
        let id = TransactionId::from_bits(1);
        let may =
            |open, entered, decision, hosts| may_close(open, entered, decision, hosts, &id).is_ok();
        for (open, done, undone) in [
            (Prepared, false, true),
            (Reverting, false, true),
            (Voted, true, false),
            (Committing, true, false),
            (Aborting, false, true),
        ] {
            assert_eq!(may(open, Prepared, Decision::Commit, 2), done, "{open:?}");
            assert_eq!(may(open, Prepared, Decision::Abort, 2), undone, "{open:?}");
        }
        assert!(may(Prepared, Prepared, Decision::Commit, 1), "it is the only host");
        assert!(may(Voted, Voted, Decision::Abort, 2), "another host has not voted");
    }
}
