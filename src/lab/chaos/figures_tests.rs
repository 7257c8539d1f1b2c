#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(2);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// (start, end, answered) in milliseconds.
fn attempts(zero: Instant, list: &[(u64, u64, bool)]) -> Vec<Attempt> {
    let attempt = |(started, ended, ok): &(u64, u64, bool)| Attempt {
        started: zero + ms(*started),
        ended: zero + ms(*ended),
        result: if *ok { Ok("web1".to_owned()) } else { Err("timed out".to_owned()) },
    };
    list.iter().map(attempt).collect()
}

fn moments(zero: Instant) -> FaultMoments {
    FaultMoments {
        began: zero + ms(1000),
        returning: zero + ms(6000),
        answered: zero + ms(7000),
        ended: zero + ms(8000),
    }
}

#[test]
fn an_outage_lasts_from_the_last_answer_before_to_the_first_after() {
    let zero = Instant::now();
    let all = attempts(
        zero,
        &[
            (800, 900, true),
            (950, 2950, false), // under way when the part died
            (2000, 4000, false),
            (6500, 6600, true),
            (7500, 7600, true),
        ],
    );
    let it = figures(&all, &moments(zero), PATIENCE);
    assert_eq!(it.outage, ms(6600 - 900));
    assert_eq!(it.dead, RequestCount { sent: 2, failed: 2 });
    assert_eq!(it.returning, RequestCount { sent: 1, failed: 0 });
    assert_eq!(it.after, RequestCount { sent: 1, failed: 0 });
    assert_eq!((it.failing, it.failing_return), (Some(ms(1000)), None));
    // The last failure began 4 s before the return: it had come to an end.
    assert!(!it.until_return);
}

#[test]
fn a_request_that_could_be_repeated_after_the_return_is_none_of_the_dead_time() {
    let zero = Instant::now();
    let all = attempts(
        zero,
        &[(3900, 5900, false), (4100, 6100, true), (4200, 6200, false), (6300, 8300, false)],
    );
    let it = figures(&all, &moments(zero), PATIENCE);
    assert_eq!(it.dead, RequestCount { sent: 1, failed: 1 });
    assert_eq!(it.returning, RequestCount { sent: 3, failed: 2 });
    assert_eq!((it.failing, it.failing_return), (Some(ms(3200)), Some(ms(300))));
    assert!(it.until_return);
}

#[test]
fn a_share_that_fails_until_the_return_has_no_bound() {
    let zero = Instant::now();
    let list: Vec<(u64, u64, bool)> =
        (0..75).map(|n| (n * 100, n * 100 + 20, !(10..60).contains(&n) || n % 2 == 0)).collect();
    let it = figures(&attempts(zero, &list), &moments(zero), PATIENCE);
    assert_eq!(it.dead, RequestCount { sent: 30, failed: 15 });
    assert_eq!(it.returning, RequestCount { sent: 30, failed: 10 });
    assert!(it.until_return);
    assert_eq!(it.failing, Some(ms(4900)));
    assert_eq!(it.outage, ms(580), "the measurement ends that long after the last answer");
    assert_eq!(it.after.failed, 0);
}

#[test]
fn without_a_single_answer_the_outage_is_the_whole_measurement() {
    let zero = Instant::now();
    let it = figures(&attempts(zero, &[(1500, 3500, false)]), &moments(zero), PATIENCE);
    assert_eq!(it.outage, ms(7000));
    assert_eq!(figures(&[], &moments(zero), PATIENCE).outage, ms(7000));
}

#[test]
fn a_part_stays_dead_longer_than_its_promise() {
    let secs = Duration::from_secs;
    assert_eq!(time_dead(secs(5), PATIENCE, []), secs(5));
    assert_eq!(time_dead(secs(1), PATIENCE, []), secs(4), "requests must have the time to fail");
    assert_eq!(time_dead(secs(5), PATIENCE, [1]), secs(5));
    assert_eq!(time_dead(secs(5), PATIENCE, [3, 6]), secs(9));
}

#[test]
fn answered_again_needs_a_row_of_answers_at_the_end() {
    let zero = Instant::now();
    let all = attempts(zero, &[(0, 10, false), (20, 30, true), (40, 50, true), (60, 70, true)]);
    assert!(is_answered_again(&all, zero, 3));
    assert!(!is_answered_again(&all, zero, 4), "the first of them failed");
    assert!(!is_answered_again(&all, zero + ms(30), 3), "only two began since then");
    assert!(answers_in_a_row(2) >= 10 && answers_in_a_row(1000) == 60);
}

proptest! {
    /// Every request is counted once, nothing fails that was answered, and no figure exceeds the measurement.
    #[test]
    fn figures_add_up(list in proptest::collection::vec((0_u64..7900, 1_u64..2000, any::<bool>()), 0..60)) {
        let zero = Instant::now();
        let moments = moments(zero);
        let list: Vec<(u64, u64, bool)> =
            list.into_iter().map(|(start, took, ok)| (start, (start + took).min(8000), ok)).collect();
        let all = attempts(zero, &list);
        let it = figures(&all, &moments, PATIENCE);
        let counted = it.dead + it.returning + it.after;
        let before = list.iter().filter(|(_, end, _)| *end <= 1000).count();
        prop_assert_eq!(counted.sent, (list.len() - before) as u64);
        let failed = list.iter().filter(|(_, end, ok)| *end > 1000 && !*ok).count();
        prop_assert_eq!(counted.failed, failed as u64);
        let measured = moments.ended - zero;
        prop_assert!(it.outage <= measured);
        prop_assert_eq!(it.failing.is_some() || it.failing_return.is_some(), it.dead.failed + it.returning.failed > 0);
        prop_assert!(!it.until_return || it.failing.is_some());
        prop_assert!(it.failing.is_none_or(|at| at < moments.returning - moments.began));
        // One more answer never makes an outage longer.
        let mut more = all.clone();
        more.extend(attempts(zero, &[(3000, 3010, true)]));
        prop_assert!(figures(&more, &moments, PATIENCE).outage <= it.outage);
    }

    /// The order of the records has no meaning.
    #[test]
    fn order_has_no_meaning(list in proptest::collection::vec((0_u64..7900, 1_u64..2000, any::<bool>()), 0..30)) {
        let zero = Instant::now();
        let all = attempts(zero, &list.iter().map(|(s, t, ok)| (*s, s + t, *ok)).collect::<Vec<_>>());
        let mut backwards = all.clone();
        backwards.reverse();
        prop_assert_eq!(figures(&all, &moments(zero), PATIENCE), figures(&backwards, &moments(zero), PATIENCE));
    }
}
