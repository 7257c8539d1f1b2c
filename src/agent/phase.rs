//! How far a transaction is on this host, and what may still become of it. Pure.
//!
//! The table of docs/transactions.md, in code. What a connection does that works at it is decided here;
//! `Prepare` of the next transaction takes over what it finds, in whatever phase. It is for the controller to
//! close one that is agreed to, or being settled, before it begins another.

use crate::kernel::error::{Error, Result};
use crate::protocol::Decision;
use crate::state::TransactionId;

/// How far a transaction is on this host, and so what may still become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Steps are done; it may be undone.
    Prepared,
    /// The revert timer has begun to undo it: it is never agreed to any more.
    Reverting,
    /// All is right here; the timer never undoes it.
    Voted,
    /// Being settled as done: whoever works at it can do only that.
    Committing,
    /// Being settled as undone: whoever works at it can do only that.
    Aborting,
}

impl Phase {
    pub(super) const ALL: [Self; 5] =
        [Self::Prepared, Self::Reverting, Self::Voted, Self::Committing, Self::Aborting];

    /// The name of the file that says so.
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

/// Whether steps may be done in this phase by a connection that came to it in the phase `entered`.
pub(super) fn may_execute(open: Phase, entered: Phase, id: &TransactionId) -> Result<()> {
    match open {
        Phase::Prepared => Ok(()),
        // Both were seen by whoever took it up since: it is to be undone.
        Phase::Voted | Phase::Reverting if open == entered => Ok(()),
        Phase::Voted => Err(Error::new(format!(
            "the transaction {id} is agreed to: nothing is changed in it any more"
        ))
        .cure("settle it; or, where another host has not agreed, take it up again to undo it")),
        Phase::Reverting => Err(reverted(id)),
        Phase::Committing | Phase::Aborting => Err(Error::new(format!(
            "the transaction {id} is being settled as {}: nothing is changed in it any more",
            open.file()
        ))
        .cure("settle it")),
    }
}

/// Whether it may end so on a host where it is in the phase `open`; `hosts` take part in it.
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
            "the transaction {id} is not agreed to here, and {hosts} hosts take part in it"
        ))
        .cure("nobody settles before all have agreed: agree first")),
        (Phase::Voted, Decision::Abort) if entered == Phase::Voted => Ok(()),
        (Phase::Voted, Decision::Abort) => Err(Error::new(format!(
            "the transaction {id} is agreed to: it was not undone"
        ))
        .cure(
            "settle it as done; or, where another host has not agreed, take it up again to undo it",
        )),
        (Phase::Committing, Decision::Abort) => Err(Error::new(format!(
            "the transaction {id} is being settled as done: it cannot be undone any more"
        ))
        .cure("settle it as done")),
        (Phase::Reverting | Phase::Aborting, Decision::Commit) => Err(reverted(id)),
    }
}

/// The timer was there first.
pub(super) fn reverted(transaction: &TransactionId) -> Error {
    Error::new(format!(
        "the transaction {transaction} was not confirmed in time: this host has begun to undo it"
    ))
    .cure("look at the host again: it goes back to what was there before the transaction")
}

#[cfg(test)]
mod tests {
    use super::Phase::{Aborting, Committing, Prepared, Reverting, Voted};
    use super::*;

    #[test]
    fn only_who_knows_of_the_phase_does_steps_in_it() {
        let id = TransactionId::from_bits(1);
        for open in Phase::ALL {
            for entered in Phase::ALL {
                let expected = match open {
                    Prepared => true,
                    Voted | Reverting => entered == open,
                    Committing | Aborting => false,
                };
                let may = may_execute(open, entered, &id);
                assert_eq!(may.is_ok(), expected, "{open:?}, taken up in {entered:?}");
                if let Err(error) = may {
                    assert!(error.to_failure().cure.is_some());
                }
            }
        }
    }

    #[test]
    fn one_ending_excludes_the_other() {
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
        assert!(may(Prepared, Prepared, Decision::Commit, 1), "nobody else could disagree");
        assert!(may(Voted, Voted, Decision::Abort, 2), "another host has not agreed");
    }
}
