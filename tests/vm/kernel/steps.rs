//! Acting: what is done of a run of IPVS steps when one of them fails.

use lvsprov::state::{
    Destination, DestinationId, DestinationKey, Edit, ServiceKey, VirtualService,
};

use super::services::{add, add_rs, dr, ipvsadm, plain, saved, service_key, web};
use crate::support::netns_host::NetnsHost;

pub fn strict_before() {
    let netns = NetnsHost::with_lo();
    netns.do_all(plain("rr"));
    netns.do_all(vec![add_rs(&web(), "192.0.2.10:80", dr(1))]);
    // Somebody else changes both.
    ipvsadm(&netns, "-E -t 192.0.2.1:80 -s wlc");
    ipvsadm(&netns, "-e -t 192.0.2.1:80 -r 192.0.2.10:80 -g -w 7");
    let theirs = saved(&netns);
    let (before, after) =
        (VirtualService::plain(&web(), "rr"), VirtualService::plain(&web(), "sh"));
    let key: DestinationKey = "192.0.2.10:80".parse().unwrap();
    netns.fails(Edit::change::<VirtualService>(web(), before, after), "expected rr, found wlc");
    netns.fails(
        Edit::change::<Destination>(DestinationId { service: web(), key }, dr(1), dr(2)),
        "expected dr weight 1, found dr weight 7",
    );
    netns.fails(
        Edit::remove::<Destination>(DestinationId { service: web(), key }, dr(1)),
        "changed after it was observed",
    );
    let service = VirtualService::plain(&web(), "wlc");
    netns.fails(Edit::remove::<VirtualService>(web(), service), "no real servers any more");
    assert_eq!(saved(&netns), theirs);
}

/// 70 real servers, then one that the kernel refuses, and behind it in the same batch one of each
/// kind that it would carry out.
pub fn a_failure_in_the_middle_of_a_batch() {
    let netns = NetnsHost::with_lo();
    netns.do_all(vec![add(&service_key("fwmark4 1"), "rr")]);
    let rip = |number: u32| format!("192.0.2.{number}:80");
    let edit = |number: u32, weight| {
        Edit::change::<Destination>(
            DestinationId { service: web(), key: rip(number).parse().unwrap() },
            dr(number),
            dr(weight),
        )
    };
    let mut steps = plain("wrr");
    steps.extend((10..80).map(|number| add_rs(&web(), &rip(number), dr(number))));
    let good = steps.len();
    steps.push(add_rs(&web(), &rip(80), dr(u32::MAX)));
    steps.push(edit(10, 99));
    steps.push(add_rs(&web(), &rip(81), dr(1)));
    steps.push(add_rs(&web(), &rip(11), dr(11)).inverse().unwrap());
    let (key, service) = (service_key("fwmark4 1"), VirtualService::plain(&web(), "rr"));
    steps.push(Edit::remove::<VirtualService>(key, service));
    steps.push(edit(12, 98));

    let outcome = netns.act(steps);
    assert_eq!(outcome.done, good);
    let failure = outcome.failure.unwrap();
    assert!(failure.message.contains("192.0.2.80:80"), "{failure}");
    let mut expected: Vec<_> = (10..80)
        .map(|number| format!("-a -t 192.0.2.1:80 -r {} -g -w {number}", rip(number)))
        .collect();
    expected.push("-A -f 1 -s rr".to_owned());
    expected.push("-A -t 192.0.2.1:80 -s wrr".to_owned());
    expected.sort();
    assert_eq!(saved(&netns), expected);
}

pub fn an_unknown_scheduler_among_steps() {
    let netns = NetnsHost::with_lo();
    let other: ServiceKey = service_key("tcp 192.0.2.1:443");
    let third: ServiceKey = service_key("tcp 192.0.2.1:444");
    let outcome = netns.act(vec![
        add(&web(), "rr"),
        add_rs(&web(), "192.0.2.10:80", dr(1)),
        add(&other, "nonsense"),
        add_rs(&other, "192.0.2.10:443", dr(1)),
        add(&third, "rr"),
    ]);
    assert_eq!(outcome.done, 2);
    assert!(outcome.failure.unwrap().message.contains("nonsense"));
    let expected = ["-A -t 192.0.2.1:80 -s rr", "-a -t 192.0.2.1:80 -r 192.0.2.10:80 -g -w 1"];
    assert_eq!(saved(&netns), expected);
    assert_eq!(outcome.after.state.services.len(), 1);
}

/// A step that does not fit what is there ends the run before anything behind it is sent.
pub fn a_plan_and_its_inverse() {
    let netns = NetnsHost::with_lo();
    ipvsadm(&netns, "-A -f 77 -s lc");
    let theirs = saved(&netns);
    let mut steps = plain("wrr");
    steps.extend((1..9).map(|n| add_rs(&web(), &format!("192.0.2.{n}:80"), dr(n))));
    let mut twice = steps.clone();
    twice.insert(4, steps[2].clone());
    let outcome = netns.act(twice);
    assert_eq!(outcome.done, 4);
    assert!(outcome.failure.unwrap().message.contains("expected nothing"));
    assert_eq!(saved(&netns).len(), 1 + 4);
    // The rest, and all of it back.
    netns.do_all(steps[4..].to_vec());
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    assert_eq!(saved(&netns), theirs);
}
