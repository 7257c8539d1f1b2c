//! The decision that leads out of a transaction that was cut off.

#![allow(clippy::unwrap_used)]

use super::super::tests::host;
use super::*;
use crate::failure::Failure;
use crate::state::OpenTransaction;

fn unfinished(hosts: &[&str], agreed: bool) -> OpenTransaction {
    OpenTransaction {
        voted: agreed,
        ..crate::support::unfinished(hosts, crate::state::HostState::default())
    }
}

/// `a`, `b`, `c` in this order: agreed, not agreed, settled (no journal), or not to be asked.
fn observed(text: &str) -> Observations {
    let all = ["a", "b", "c"];
    let hosts = all.iter().zip(text.chars()).map(|(name, what)| {
        let failure = Failure { message: "gone".to_owned(), causes: Vec::new(), cure: None };
        let observation = match what {
            'A' => Ok(Some(unfinished(&all, true))),
            'n' => Ok(Some(unfinished(&all, false))),
            '-' => Ok(None),
            _ => Err(failure),
        };
        let observation = observation.map(|unfinished| Observation {
            open_transaction: unfinished.map(Box::new),
            ..Observation::default()
        });
        (host(name), observation)
    });
    hosts.collect()
}

#[test]
fn only_what_all_have_agreed_to_is_settled_and_only_what_somebody_has_not_is_undone() {
    let out = |text: &str, right: bool| {
        let observed = observed(text);
        let all = open_transactions(&observed);
        all[&TransactionId::from_bits(1)].recovery(|_| right)
    };
    for undone in ["nnn", "Ann", "AAn", "n--", "An-", "n??", "A?n"] {
        assert_eq!(out(undone, true), Recovery::Abort, "{undone}");
    }
    for settled in ["AAA", "AA-", "A--"] {
        assert_eq!(out(settled, true), Recovery::Commit, "{settled}");
    }
    // Whether those without a journal settled it or undid it cannot be seen.
    for unclear in ["AA-", "A--"] {
        assert!(matches!(out(unclear, false), Recovery::InDoubt(_)), "{unclear}");
    }
    for unclear in ["AA?", "A-?"] {
        let Recovery::InDoubt(why) = out(unclear, true) else { unreachable!("{unclear}") };
        assert!(why.contains("c cannot be asked"), "{why}");
    }
}
