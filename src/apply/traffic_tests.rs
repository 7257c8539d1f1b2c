//! Who asks, and what answers made by hand prove.

#![allow(clippy::unwrap_used)]

use super::super::tests::{failure, host};
use super::*;
use crate::support::Cluster;
use crate::topology::{FirewallMark, Forward};

fn dr() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 2])]).topology
}

fn fetched(answers: &[(&str, u32)], failures: &[(&str, u32)]) -> Fetched {
    let map = |pairs: &[(&str, u32)]| pairs.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    Fetched { answers: map(answers), failures: map(failures) }
}

fn judged(
    service: &Service,
    answer: Result<Fetched, String>,
    options: &TrafficOptions,
) -> Verification {
    let (protocol, at) = targets(service)[0];
    let client = host("client");
    Probe { client: &client, service, protocol, at }.judge(answer, options)
}

fn verdict(service: &Service, answer: Fetched) -> (Verdict, Option<Excuse>) {
    let verification = judged(service, Ok(answer), &TrafficOptions::default());
    (verification.verdict, verification.excuse)
}

#[test]
fn traffic_holds_only_if_every_request_is_answered() {
    let service = &dr().services[0];
    let judge = |answer| {
        let verification = judged(service, answer, &TrafficOptions::default());
        (verification.verdict, verification.evidence)
    };
    let result = |verdict, text: &str| (verdict, text.to_owned());
    assert_eq!(
        judge(Ok(fetched(&[("rs1", 2), ("rs2", 2)], &[]))),
        result(Verdict::Holds, "4 of 4 requests answered")
    );
    assert_eq!(
        judge(Ok(fetched(&[("rs1", 3)], &[("timed out", 1)]))),
        result(
            Verdict::Fails,
            "3 of 4 requests answered; 1 failed: timed out (nothing came back: packets are dropped on \
             the way there or back)"
        )
    );
    assert_eq!(judge(Ok(fetched(&[], &[]))).0, Verdict::Fails, "no request at all proves nothing");
    assert_eq!(
        judge(Err("the connection broke".to_owned())),
        result(Verdict::Fails, "client: the connection broke")
    );
}

/// A refusal comes back from the VIP, so the way works; a packet that is lost proves the contrary.
#[test]
fn what_came_back_excuses_a_service_that_answered_nothing() {
    let service = &dr().services[0];
    let excused = (Verdict::Fails, Some(Excuse::Replied));
    let condemned = (Verdict::Fails, None);
    for reasons in [
        &[("refused", 4)][..],
        &[("reset", 4)],
        &[("connected, then timed out", 2)],
        &[("refused", 2), ("reset", 2)],
    ] {
        assert_eq!(verdict(service, fetched(&[], reasons)), excused, "{reasons:?}");
    }
    for reasons in [
        &[("timed out", 1)][..],
        &[("no route", 1)],
        &[("host unreachable", 1)],
        &[("rejected by 10.0.0.8", 1)],
        &[("refused", 1), ("timed out", 1)],
    ] {
        assert_eq!(verdict(service, fetched(&[], reasons)), condemned, "{reasons:?}");
    }
    // One real server answers and the other does not: clients of today are refused.
    assert_eq!(verdict(service, fetched(&[("rs1", 2)], &[("refused", 2)])), condemned);
    // The director refuses too what IPVS does not take, if others' rules set no mark.
    let mut marked = service.clone();
    let mark = |ours| {
        let (protocols, ports) = ([Protocol::Tcp].into(), [80].into());
        Some(FirewallMark { mark: 1, protocols, ports, ours })
    };
    marked.mark = mark(true);
    assert_eq!(verdict(&marked, fetched(&[], &[("refused", 4)])), excused);
    marked.mark = mark(false);
    assert_eq!(verdict(&marked, fetched(&[], &[("refused", 4)])), condemned);
}

#[test]
fn a_service_that_was_in_use_may_not_refuse_afterwards() {
    let service = &dr().services[0];
    let options =
        TrafficOptions { in_use: [service.name.clone()].into(), ..TrafficOptions::default() };
    let verification = judged(service, Ok(fetched(&[], &[("refused", 4)])), &options);
    assert!(verification.requires_abort(), "{verification:?}");
    assert!(
        verification.evidence.ends_with("clients were answered shortly before this change"),
        "{verification:?}"
    );
}

#[test]
fn the_silence_of_a_udp_service_proves_nothing() {
    let mut service = dr().services[0].clone();
    service.protocol = Protocol::Udp;
    let silence = verdict(&service, fetched(&[], &[("timed out", 1)]));
    assert_eq!(silence, (Verdict::Fails, Some(Excuse::Datagrams)));
    let half = verdict(&service, fetched(&[("rs1", 1)], &[("timed out", 1)]));
    assert_eq!(half, (Verdict::Fails, None), "one of them answers, the other does not");
    assert_eq!(verdict(&service, fetched(&[], &[("no route", 1)])), (Verdict::Fails, None));
}

#[test]
fn every_real_server_gets_its_turn_and_large_farms_are_not_flooded() {
    let mut service = dr().services[0].clone();
    assert_eq!(requests_for(&service), 4);
    service.real_servers[0].weight = 0;
    assert_eq!(requests_for(&service), 2);
    let one = service.real_servers[1].clone();
    service.real_servers = vec![one; 100];
    assert_eq!(requests_for(&service), 50);
}

#[test]
fn requests_that_fail_slowly_are_not_repeated_for_nothing() {
    let service = &dr().services[0];
    let goes = |reason, sent| goes_on(&fetched(&[], &[(reason, 1)]), sent, service);
    assert!(goes("refused", 3) && goes("reset", 3));
    assert!(goes("connected, then timed out", 1), "the other real server is to have its work");
    assert!(!goes("connected, then timed out", 2));
    assert!(!goes("timed out", 1) && !goes("no route", 1));
}

/// Why no client sends requests once the topology is changed so.
fn reason_without_client(
    change: impl FnOnce(&mut Topology),
    absent: &[(&str, HostAbsence)],
    unfit: &[(&str, &str)],
) -> String {
    let mut topology = dr();
    change(&mut topology);
    let absent = absent.iter().map(|(name, why)| (host(name), why.clone())).collect();
    let unfit = unfit.iter().map(|(name, why)| (host(name), (*why).to_owned())).collect();
    clients(&topology, &topology.services[0], &absent, &unfit).unwrap_err()
}

#[test]
fn who_cannot_send_requests_is_told_with_the_reason() {
    let topology = dr();
    let all = clients(&topology, &topology.services[0], &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(all.unwrap(), [&host("client")]);

    let none = |_: &mut Topology| {};
    let no_client = "no client can send requests: client ";
    let service = |t: &mut Topology, how: fn(&mut Service)| how(&mut t.services[0]);
    for (reason, expected) in [
        (
            reason_without_client(none, &[("client", HostAbsence::LeftOut)], &[]),
            format!("{no_client}is left out by --limit"),
        ),
        (
            reason_without_client(none, &[("client", HostAbsence::Unmanaged)], &[]),
            format!("{no_client}has no `ssh`, `local` or `netns` in the file"),
        ),
        (
            reason_without_client(
                none,
                &[("client", HostAbsence::Unreachable(failure("gone")))],
                &[],
            ),
            format!("{no_client}could not be reached"),
        ),
        (
            reason_without_client(none, &[], &[("client", "is not well")]),
            format!("{no_client}is not well"),
        ),
        (
            reason_without_client(none, &[], &[("director", "is left out")]),
            "director is left out".to_owned(),
        ),
        (
            reason_without_client(|t| drop(t.hosts.remove(&host("client"))), &[], &[]),
            "the file has no client to send requests from".to_owned(),
        ),
        (
            reason_without_client(
                |t| assert!(t.hosts.get_mut(&host("director")).unwrap().roles.insert(Role::Client)),
                &[("client", HostAbsence::LeftOut)],
                &[],
            ),
            format!("{no_client}is left out by --limit, director is its director"),
        ),
        (
            reason_without_client(
                |t| {
                    let vip = t.services[0].vip.as_mut().unwrap();
                    vip.address = "2001:db8::1".parse().unwrap();
                },
                &[],
                &[],
            ),
            format!("{no_client}has no IPv6 address"),
        ),
        (
            reason_without_client(
                |t| service(t, |s| s.real_servers.iter_mut().for_each(|rs| rs.weight = 0)),
                &[],
                &[],
            ),
            "all of its real servers have weight 0".to_owned(),
        ),
        (
            reason_without_client(|t| service(t, |s| s.protocol = Protocol::Sctp), &[], &[]),
            "lvsprov sends TCP and UDP requests only".to_owned(),
        ),
        (
            reason_without_client(|t| service(t, |s| s.port = 0), &[], &[]),
            "the file does not say which of all ports answers".to_owned(),
        ),
        (
            reason_without_client(|t| service(t, |s| s.vip = None), &[], &[]),
            "the file does not say to which address requests go: others' rules set the mark"
                .to_owned(),
        ),
    ] {
        assert_eq!(reason, expected);
    }
}
