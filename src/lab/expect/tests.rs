#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::shares::{fewest_connections, gcd, in_cycle};
use super::*;
use crate::finding::Position;
use crate::state::Protocol;
use crate::topology::{Forward, RealServer, Scheduler, SchedulerFlag};

fn service(scheduler: Scheduler, weights: &[u32]) -> Service {
    let server = |(nth, weight): (usize, &u32)| RealServer {
        host: format!("web{}", nth + 1).parse().unwrap(),
        rip: "192.0.2.1".parse().unwrap(),
        interface: "eth0".parse().unwrap(),
        port: 80,
        weight: *weight,
        upper_threshold: 0,
        lower_threshold: 0,
        forward: Forward::Dr,
        tunnel: crate::state::Tunnel::Ipip,
        tunnel_sources: crate::topology::TunnelSources::default(),
        check: None,
        sorry: false,
        at: Position::default(),
    };
    Service {
        name: "web".parse().unwrap(),
        vip: Some(crate::topology::Vip {
            address: "192.0.2.200".parse().unwrap(),
            prefix: None,
            interface: "eth0".parse().unwrap(),
            at: Position::default(),
        }),
        ipv6: false,
        port: 80,
        protocol: Protocol::Tcp,
        mark: None,
        scheduler,
        scheduler_flags: std::collections::BTreeSet::new(),
        persistence: None,
        one_packet: false,
        pace: crate::topology::Pace { drain: crate::topology::Pace::DRAIN, ramp: 0 },
        weights: crate::topology::WeightSource::File,
        quorum: None,
        director: "director".parse().unwrap(),
        real_servers: weights.iter().enumerate().map(server).collect(),
        at: Position::default(),
    }
}

/// Without prior connections.
fn judge(service: &Service, tally: &Tally, requests: u32) -> Result<String, String> {
    super::judge(service, tally, requests, &PriorConnections::new(), 0)
}

#[test]
fn prior_connections_shift_the_shares() {
    let wlc = service(Scheduler::Wlc, &[2, 1]);
    let before = PriorConnections::from([("web1".to_owned(), 0), ("web2".to_owned(), 20)]);
    let verdict = |counts: &[u32]| super::judge(&wlc, &tally(counts), 24, &before, 0);
    assert!(verdict(&[24]).is_ok(), "web1 has 40 to go until it is even");
    assert!(verdict(&[16, 8]).is_err());
    let even = PriorConnections::from([("web1".to_owned(), 20), ("web2".to_owned(), 10)]);
    assert!(super::judge(&wlc, &tally(&[16, 8]), 24, &even, 0).is_ok());
    assert!(super::judge(&wlc, &tally(&[24]), 24, &even, 0).is_err());
}

#[test]
fn connections_of_others_take_turns_too() {
    let rr = service(Scheduler::Rr, &[1, 1]);
    let none = PriorConnections::new();
    let verdict = |counts: &[u32], others| super::judge(&rr, &tally(counts), 24, &none, others);
    assert!(verdict(&[11, 13], 0).is_err());
    assert!(verdict(&[11, 13], 1).is_ok());
    assert!(verdict(&[10, 14], 1).is_err());
    assert!(verdict(&[12, 12], 4).is_err(), "too many to say anything");
    let drained = service(Scheduler::Wrr, &[1, 0]);
    assert!(super::judge(&drained, &tally(&[23, 1]), 24, &none, 1).is_err(), "weight 0");
}

fn tally(counts: &[u32]) -> Tally {
    let mut tally = Tally::default();
    for (nth, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        tally.answers.insert(format!("web{}", nth + 1), *count);
    }
    tally
}

/// Judges counts; their sum is the number of requests.
fn verdict(scheduler: Scheduler, weights: &[u32], counts: &[u32]) -> Result<String, String> {
    judge(&service(scheduler, weights), &tally(counts), counts.iter().sum())
}

#[test]
fn messages_have_observed_and_expected_shares() {
    assert_eq!(verdict(Scheduler::Rr, &[1, 1], &[12, 12]).unwrap(), "web1 12, web2 12 (rr: even)");
    assert_eq!(
        verdict(Scheduler::Rr, &[1, 1], &[24, 0]).unwrap_err(),
        "web1 24: web1 answered 24 times; expected even: web1 12, web2 12 (rr)"
    );
    let mut with_failure = tally(&[3]);
    with_failure.failures.insert("timed out".into(), 1);
    assert_eq!(
        judge(&service(Scheduler::Fo, &[1]), &with_failure, 4).unwrap_err(),
        "web1 3; 1 timed out: 1 of 4 requests failed; \
         expected all to the heaviest: web1 (fo)"
    );
}

#[test]
fn round_robin_is_exact() {
    use Scheduler::{Rr, Wrr};
    assert!(verdict(Rr, &[1, 3], &[12, 12]).is_ok(), "rr does not look at weights");
    assert!(verdict(Rr, &[1, 3], &[6, 18]).is_err());
    assert!(verdict(Rr, &[1, 1, 1], &[3, 4, 3]).is_ok());
    assert!(verdict(Rr, &[1, 1, 1], &[2, 4, 4]).is_err());
    assert!(verdict(Wrr, &[1, 3], &[6, 18]).is_ok());
    assert!(verdict(Wrr, &[1, 3], &[7, 17]).is_err());
    assert!(verdict(Wrr, &[2, 6], &[6, 18]).is_ok());
    assert!(verdict(Wrr, &[1, 3], &[1, 1]).is_ok());
    assert!(verdict(Wrr, &[1, 3], &[2, 0]).is_err());
    assert!(verdict(Rr, &[0, 1], &[1, 5]).is_err());
    assert!(verdict(Rr, &[0, 1], &[0, 6]).is_ok());
}

#[test]
fn least_connections_go_by_weight_more_or_less() {
    use Scheduler::{Lc, Wlc};
    assert!(verdict(Wlc, &[1, 3], &[6, 18]).is_ok());
    assert!(verdict(Wlc, &[1, 3], &[8, 16]).is_ok());
    assert!(verdict(Wlc, &[1, 3], &[12, 12]).is_err());
    assert!(verdict(Wlc, &[1, 3], &[0, 24]).is_err());
    assert!(verdict(Lc, &[1, 3], &[12, 12]).is_ok());
    assert!(verdict(Lc, &[1, 3], &[6, 18]).is_err());
    assert!(verdict(Wlc, &[5], &[24]).is_ok());
}

#[test]
fn some_schedulers_send_all_to_one() {
    use Scheduler::{Dh, Fo, Lblc, Lblcr, Mh, Nq, Ovf, Sed, Sh};
    for scheduler in [Dh, Lblc, Lblcr, Mh, Nq, Sh] {
        assert!(verdict(scheduler, &[1, 3], &[24, 0]).is_ok(), "{scheduler}");
        assert!(verdict(scheduler, &[1, 3], &[0, 24]).is_ok(), "{scheduler}");
        assert!(verdict(scheduler, &[1, 3], &[12, 12]).is_err(), "{scheduler}");
    }
    for scheduler in [Fo, Ovf, Sed] {
        assert!(verdict(scheduler, &[1, 3], &[0, 24]).is_ok(), "{scheduler}");
        assert!(verdict(scheduler, &[1, 3], &[24, 0]).is_err(), "{scheduler}");
        assert!(verdict(scheduler, &[3, 3, 1], &[0, 24, 0]).is_ok(), "{scheduler}");
        assert!(verdict(scheduler, &[3, 3, 0], &[0, 23, 1]).is_err(), "{scheduler}");
    }
    // The kernel may see the end of the previous connection late.
    assert!(verdict(Sed, &[1, 3], &[3, 21]).is_ok());
    assert!(verdict(Sed, &[1, 3], &[4, 20]).is_err());
    assert!(verdict(Fo, &[1, 3], &[1, 23]).is_err());
    let mut udp = service(Sed, &[1, 3]);
    udp.protocol = Protocol::Udp;
    assert!(judge(&udp, &tally(&[1, 23]), 24).is_err());
}

#[test]
fn a_hash_may_fall_on_a_destination_of_weight_0() {
    let mut refused_all = Tally::default();
    refused_all.failures.insert("refused".into(), 24);
    assert!(judge(&service(Scheduler::Sh, &[0, 1]), &refused_all, 24).is_ok());
    assert!(judge(&service(Scheduler::Sh, &[1, 1]), &refused_all, 24).is_err());
    assert!(judge(&service(Scheduler::Mh, &[0, 1]), &refused_all, 24).is_err());
    assert!(verdict(Scheduler::Sh, &[0, 1], &[24, 0]).is_err());
}

#[test]
fn with_all_weights_0_no_server_may_answer() {
    let mut refused_all = Tally::default();
    refused_all.failures.insert("refused".into(), 4);
    for scheduler in Scheduler::ALL {
        assert!(judge(&service(*scheduler, &[0, 0]), &refused_all, 4).is_ok(), "{scheduler}");
        assert!(verdict(*scheduler, &[0, 0], &[4, 0]).is_err(), "{scheduler}");
    }
}

#[test]
fn unknown_servers_missing_results_and_failures_are_errors_under_every_scheduler() {
    for scheduler in Scheduler::ALL {
        let service = service(*scheduler, &[1]);
        assert!(judge(&service, &tally(&[4]), 4).is_ok(), "{scheduler}");
        assert!(judge(&service, &tally(&[4]), 5).is_err(), "{scheduler}");
        assert!(judge(&service, &tally(&[0, 4]), 4).is_err(), "{scheduler}");
        let mut failing = tally(&[3]);
        failing.failures.insert("reset".into(), 1);
        assert!(judge(&service, &failing, 4).is_err(), "{scheduler}");
    }
}

#[test]
fn two_ports_of_one_host_are_counted_together() {
    let mut service = service(Scheduler::Rr, &[1, 1, 1]);
    service.real_servers[1].host = "web1".parse().unwrap();
    service.real_servers[1].port = 81;
    let mut counted = tally(&[16]);
    counted.answers.insert("web3".into(), 8);
    assert!(judge(&service, &counted, 24).is_ok());
    assert!(judge(&service, &tally(&[24]), 24).is_err());
}

fn destinations(weights: &[u64]) -> Vec<(String, u64)> {
    weights.iter().enumerate().map(|(nth, weight)| (format!("web{nth}"), *weight)).collect()
}

proptest! {
    /// The kernel's wrr: passes over the list with a threshold that decreases by the greatest common
    /// divisor.
    #[test]
    fn a_window_of_the_weighted_cycle_is_in_range(
        weights in prop::collection::vec(1_u64..8, 1..5),
        skip in 0_usize..40,
        n in 0_usize..60,
    ) {
        let all = destinations(&weights);
        let most = *weights.iter().max().unwrap();
        let step = usize::try_from(weights.iter().copied().fold(0, gcd)).unwrap();
        let order = (1..=most).rev().step_by(step).flat_map(|threshold| {
            (0..weights.len()).filter(|at| weights[*at] >= threshold).collect::<Vec<_>>()
        });
        let order: Vec<usize> = order.collect();
        let mut counts = vec![0_u64; weights.len()];
        for at in order.iter().cycle().skip(skip).take(n) {
            counts[*at] += 1;
        }
        for (at, count) in counts.iter().enumerate() {
            let (low, high) = in_cycle(&all[at], &all, n as u64);
            prop_assert!(low <= *count && *count <= high, "{count} not in {low}..={high}");
        }
    }

    /// The kernel's wlc: the first host with the minimum of inactive / weight, after earlier requests;
    /// sometimes the previous connection is still active.
    #[test]
    fn the_least_loaded_gets_the_next(
        weights in prop::collection::vec(1_u64..8, 1..5),
        earlier in 0_usize..40,
        n in 0_usize..60,
        late in prop::option::of(0_usize..60),
    ) {
        let all = destinations(&weights);
        let mut inactive = vec![0_u64; weights.len()];
        let mut before = inactive.clone();
        let mut last = None;
        for request in 0..earlier + n {
            if request == earlier {
                before.clone_from(&inactive);
            }
            let still = |at: usize| u64::from(late.is_some_and(|late| late + earlier == request)
                && last == Some(at)) * 255;
            let least = (0..weights.len()).reduce(|least, at| {
                let load = |at: usize| inactive[at] + still(at);
                if load(least) * weights[at] > load(at) * weights[least] { at } else { least }
            });
            let least = least.unwrap();
            inactive[least] += 1;
            last = Some(least);
        }
        if n == 0 {
            before.clone_from(&inactive);
        }
        for at in 0..weights.len() {
            let count = inactive[at] - before[at];
            let (low, high) = fewest_connections(&all[at], &all, n as u64);
            prop_assert!(low <= count && count <= high, "{count} not in {low}..={high}");
        }
    }

    #[test]
    fn no_numbers_make_it_panic(
        scheduler in prop::sample::select(Scheduler::ALL),
        weights in prop::collection::vec(0..=2_147_483_647_u32, 0..4),
        counts in prop::collection::vec(any::<u32>(), 0..5),
        requests: u32,
    ) {
        let service = service(scheduler, &weights);
        let _ = judge(&service, &tally(&counts), requests);
    }
}

#[test]
fn a_persistent_client_gets_one_server_under_any_scheduler() {
    let persistence =
        crate::topology::Persistence { timeout: 600, netmask: u32::MAX, engine: None };
    for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Wlc] {
        let stays = Service { persistence: Some(persistence), ..service(scheduler, &[2, 5, 0]) };
        assert!(judge(&stays, &tally(&[24]), 24).is_ok(), "{scheduler}");
        assert!(judge(&stays, &tally(&[0, 24]), 24).is_ok(), "{scheduler}");
        assert!(judge(&stays, &tally(&[12, 12]), 24).is_err(), "{scheduler}");
        assert!(judge(&stays, &tally(&[0, 0, 24]), 24).is_err(), "{scheduler}: weight 0");
    }
}

#[test]
fn one_packet_datagrams_rotate_but_are_never_counted() {
    let one_packet = |scheduler| Service {
        one_packet: true,
        protocol: Protocol::Udp,
        ..service(scheduler, &[1, 1])
    };
    assert!(judge(&one_packet(Scheduler::Rr), &tally(&[12, 12]), 24).is_ok());
    assert!(judge(&one_packet(Scheduler::Rr), &tally(&[24]), 24).is_err());
    assert!(judge(&one_packet(Scheduler::Wlc), &tally(&[24]), 24).is_ok());
    assert!(judge(&one_packet(Scheduler::Wlc), &tally(&[12, 12]), 24).is_err());
}

#[test]
fn flags_change_what_a_hash_does() {
    use SchedulerFlag::{Flag1, MhPort, ShFallback, ShPort};
    let with = |scheduler, weights: &[u32], flags: &[SchedulerFlag]| Service {
        scheduler_flags: flags.iter().copied().collect(),
        ..service(scheduler, weights)
    };
    let mut refused = Tally::default();
    refused.failures.insert("refused".into(), 24);
    for (scheduler, port) in [(Scheduler::Sh, ShPort), (Scheduler::Mh, MhPort)] {
        let spread = with(scheduler, &[1, 1], &[port]);
        assert!(judge(&spread, &tally(&[7, 17]), 24).is_ok(), "{scheduler}");
        assert!(judge(&spread, &refused, 24).is_err(), "{scheduler}");
        assert!(
            judge(&with(scheduler, &[1, 0], &[port, ShFallback]), &tally(&[7, 17]), 24).is_err()
        );
    }
    assert!(judge(&with(Scheduler::Sh, &[1, 0], &[]), &refused, 24).is_ok());
    assert!(judge(&with(Scheduler::Sh, &[1, 0], &[Flag1]), &refused, 24).is_err());
    let mut some = tally(&[20]);
    some.failures.insert("refused".into(), 4);
    assert!(judge(&with(Scheduler::Sh, &[1, 0], &[ShPort]), &some, 24).is_ok());
    assert!(judge(&with(Scheduler::Sh, &[1, 0], &[ShPort, ShFallback]), &some, 24).is_err());
}

#[test]
fn with_a_threshold_only_lost_requests_are_wrong() {
    let mut limited = service(Scheduler::Rr, &[1, 1]);
    limited.real_servers[0].upper_threshold = 3;
    assert!(judge(&limited, &tally(&[2, 22]), 24).is_ok());
    let mut lost = tally(&[2, 21]);
    lost.failures.insert("refused".into(), 1);
    assert!(judge(&limited, &lost, 24).is_err());
}
