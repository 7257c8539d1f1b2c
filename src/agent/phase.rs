//! How far a transaction is on this host, and what may still become of it. Pure.
//!
//! The table of docs/transactions.md, in code. What a connection does that works at it is decided here;
//! `Begin` of the next transaction takes over what it finds, in whatever phase. It is for the controller to
//! close one that is agreed to, or being settled, before it begins another.

use crate::kernel::error::{Error, Result};
use crate::protocol::Ending;
use crate::state::TransactionId;

/// How far a transaction is on this host, and so what may still become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Steps are done; it may be undone.
    Begun,
    /// The revert timer has begun to undo it: it is never agreed to any more.
    Reverting,
    /// All is right here; the timer never undoes it.
    Agreed,
    /// Being settled as done: whoever works at it can do only that.
    Done,
    /// Being settled as undone: whoever works at it can do only that.
    Undone,
}

impl Phase {
    pub(super) const ALL: [Self; 5] =
        [Self::Begun, Self::Reverting, Self::Agreed, Self::Done, Self::Undone];

    /// The name of the file that says so.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Reverting => "reverting",
            Self::Agreed => "agreed",
            Self::Done => "done",
            Self::Undone => "undone",
        }
    }

    pub(super) fn of(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::Done,
            Ending::Undone => Self::Undone,
        }
    }
}

/// Whether steps may be done in this phase by a connection that came to it in the phase `taken_in`.
pub(super) fn may_do(open: Phase, taken_in: Phase, id: &TransactionId) -> Result<()> {
    match open {
        Phase::Begun => Ok(()),
        // Both were seen by whoever took it up since: it is to be undone.
        Phase::Agreed | Phase::Reverting if open == taken_in => Ok(()),
        Phase::Agreed => Err(Error::new(format!(
            "the transaction {id} is agreed to: nothing is changed in it any more"
        ))
        .cure("settle it; or, where another host has not agreed, take it up again to undo it")),
        Phase::Reverting => Err(reverted(id)),
        Phase::Done | Phase::Undone => Err(Error::new(format!(
            "the transaction {id} is being settled as {}: nothing is changed in it any more",
            open.file()
        ))
        .cure("settle it")),
    }
}

/// Whether it may end so on a host where it is in the phase `open`; `hosts` take part in it.
pub(super) fn may_settle(
    open: Phase,
    taken_in: Phase,
    ending: Ending,
    hosts: usize,
    id: &TransactionId,
) -> Result<()> {
    match (open, ending) {
        (Phase::Done | Phase::Agreed, Ending::Done)
        | (Phase::Undone | Phase::Begun | Phase::Reverting, Ending::Undone) => Ok(()),
        (Phase::Begun, Ending::Done) if hosts <= 1 => Ok(()),
        (Phase::Begun, Ending::Done) => Err(Error::new(format!(
            "the transaction {id} is not agreed to here, and {hosts} hosts take part in it"
        ))
        .cure("nobody settles before all have agreed: agree first")),
        (Phase::Agreed, Ending::Undone) if taken_in == Phase::Agreed => Ok(()),
        (Phase::Agreed, Ending::Undone) => Err(Error::new(format!(
            "the transaction {id} is agreed to: it was not undone"
        ))
        .cure(
            "settle it as done; or, where another host has not agreed, take it up again to undo it",
        )),
        (Phase::Done, Ending::Undone) => Err(Error::new(format!(
            "the transaction {id} is being settled as done: it cannot be undone any more"
        ))
        .cure("settle it as done")),
        (Phase::Reverting | Phase::Undone, Ending::Done) => Err(reverted(id)),
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
    use super::Phase::{Agreed, Begun, Done, Reverting, Undone};
    use super::*;

    #[test]
    fn only_who_knows_of_the_phase_does_steps_in_it() {
        let id = TransactionId::from_bits(1);
        for open in Phase::ALL {
            for taken_in in Phase::ALL {
                let expected = match open {
                    Begun => true,
                    Agreed | Reverting => taken_in == open,
                    Done | Undone => false,
                };
                let may = may_do(open, taken_in, &id);
                assert_eq!(may.is_ok(), expected, "{open:?}, taken up in {taken_in:?}");
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
            |open, taken_in, ending, hosts| may_settle(open, taken_in, ending, hosts, &id).is_ok();
        for (open, done, undone) in [
            (Begun, false, true),
            (Reverting, false, true),
            (Agreed, true, false),
            (Done, true, false),
            (Undone, false, true),
        ] {
            assert_eq!(may(open, Begun, Ending::Done, 2), done, "{open:?}");
            assert_eq!(may(open, Begun, Ending::Undone, 2), undone, "{open:?}");
        }
        assert!(may(Begun, Begun, Ending::Done, 1), "nobody else could disagree");
        assert!(may(Agreed, Agreed, Ending::Undone, 2), "another host has not agreed");
    }
}
