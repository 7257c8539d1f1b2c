//! Draining and ramping, case by case: a file, a host's state, and the steps that come of it.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::drain::{self, Arranged, CountedConnections, EXPIRE_TEMPLATES, PacingOptions};
use super::{order, stages};
use crate::desired::{Reasons, desired_for};
use crate::state::{Counters, HostState, Item, Observation, PacketRule, Protocol, Stage, Sysctl};
use crate::support::{Cluster, unfinished};
use crate::topology::{FirewallMark, Forward, Persistence, Scheduler, Service, Topology};

/// A service on three real servers, changed by `change`.
fn cluster(change: impl Fn(&mut Service)) -> Topology {
    let mut topology = Cluster::of(&[(Forward::Dr, 80, vec![1, 2, 3])]).topology;
    let service = &mut topology.services[0];
    service.scheduler = Scheduler::Wlc;
    for server in &mut service.real_servers {
        server.weight = 10;
    }
    change(service);
    topology
}

fn director(topology: &Topology) -> HostState {
    desired_for(topology, &topology.hosts[&"director".parse().unwrap()]).state
}

/// A director as `from` made it, with `active` connections on every real server; borrowed settings are as
/// the kernel has them at first.
fn seen(from: &Topology, active: u32) -> Observation {
    let mut state = director(from);
    for key in drain::BORROWED {
        let Sysctl::Vs(item) = key else { panic!("{key}") };
        state.sysctls.entry(key).or_insert_with(|| item.default_value().unwrap().to_owned());
    }
    let counters = Counters { active, inactive: 7, ..Counters::default() };
    let counted = state.services.iter().map(|(key, service)| {
        (key.clone(), service.destinations.keys().map(|at| (*at, counters)).collect())
    });
    Observation { counters: counted.collect(), state, ..Observation::default() }
}

/// From `from` to `to`.
fn arranged(from: &Topology, to: &Topology, active: u32) -> Arranged {
    let host = &to.hosts[&"director".parse().unwrap()];
    towards(&director(to), &PacingOptions::of(to, host), &seen(from, active))
}

/// From what is seen to `wanted`, which is the director's.
fn towards(wanted: &HostState, options: &PacingOptions<'_>, seen: &Observation) -> Arranged {
    let mut owned = wanted.items();
    owned.extend(seen.state.services.keys().cloned().map(crate::state::Item::Service));
    let steps = order::steps_between(&seen.state, wanted, &owned, &Reasons::default()).unwrap();
    let host = &cluster(|_| {}).hosts[&"director".parse().unwrap()].clone();
    drain::arrange(options, seen, stages::stage(host, steps))
}

/// `stage: change`, shortened.
fn lines(arranged: &Arranged) -> Vec<String> {
    let each = arranged.stages.iter().flat_map(|(stage, steps)| {
        steps.iter().map(move |step| format!("{stage:?}: {}", step.edit))
    });
    each.map(|text| text.replace(" of tcp 10.0.0.100:80", "").replace("real server ", "")).collect()
}

fn without(numbers: &[u8]) -> impl Fn(&mut Service) + '_ {
    |service| {
        let gone = |rip: std::net::IpAddr| {
            numbers.iter().any(|n| rip == std::net::IpAddr::from([10, 0, 0, *n]))
        };
        service.real_servers.retain(|server| !gone(server.rip));
    }
}

#[test]
fn a_real_server_has_weight_0_before_it_is_removed() {
    let arranged = arranged(&cluster(|_| {}), &cluster(without(&[3])), 4);
    assert_eq!(
        lines(&arranged),
        [
            "Drain: change 10.0.0.3:80: dr weight 10 -> dr weight 0",
            "Withdraw: remove 10.0.0.3:80 from tcp 10.0.0.100:80 (dr weight 0)",
        ]
    );
    let [leaving] = arranged.pacing.leaving.as_slice() else { panic!("{arranged:?}") };
    assert_eq!((leaving.seconds, leaving.connections), (30, Some(4)));
    assert_eq!(arranged.pacing.longest_drain_ms(), 30_000);
    assert!(arranged.notes.is_empty());
}

#[test]
fn no_time_no_drain_and_it_is_counted_all_the_same() {
    let to = cluster(|service| {
        without(&[3])(service);
        service.pace.drain = 0;
    });
    let arranged = arranged(&cluster(|_| {}), &to, 4);
    assert_eq!(
        lines(&arranged),
        ["Withdraw: remove 10.0.0.3:80 from tcp 10.0.0.100:80 (dr weight 10)"]
    );
    assert_eq!(arranged.pacing.leaving[0].connections, Some(4));
}

#[test]
fn who_has_weight_0_already_is_waited_for_while_it_has_connections() {
    let from = cluster(|service| service.real_servers[2].weight = 0);
    for (active, seconds) in [(4, 30), (0, 0)] {
        let arranged = arranged(&from, &cluster(without(&[3])), active);
        let removed = ["Withdraw: remove 10.0.0.3:80 from tcp 10.0.0.100:80 (dr weight 0)"];
        assert_eq!(lines(&arranged), removed);
        assert_eq!(arranged.pacing.leaving[0].seconds, seconds);
    }
}

#[test]
fn how_many_connections_there_are_decides_how_long_is_waited_and_nothing_else() {
    let persistent = |service: &mut Service| {
        let netmask = u32::MAX;
        service.persistence = Some(Persistence { timeout: 600, netmask, engine: None });
    };
    let hashing = |service: &mut Service| service.scheduler = Scheduler::Sh;
    for kind in [&persistent as &dyn Fn(&mut Service), &hashing] {
        let to = cluster(|service| {
            kind(service);
            without(&[3])(service);
        });
        // Somebody has set it to 0 by hand.
        let by_hand = |active: u32| {
            let mut seen = seen(&cluster(kind), active);
            let service = seen.state.services.values_mut().next().unwrap();
            service.destinations.get_mut(&"10.0.0.3:80".parse().unwrap()).unwrap().weight = 0;
            let host = &to.hosts[&"director".parse().unwrap()];
            towards(&director(&to), &PacingOptions::of(&to, host), &seen)
        };
        let (some, none) = (by_hand(4), by_hand(0));
        assert_eq!(some.stages, none.stages);
        assert_eq!(some.stages[0].0, Stage::Drain, "{some:?}");
        assert_eq!((some.pacing.longest_drain_ms(), none.pacing.longest_drain_ms()), (30_000, 0));
    }
}

#[test]
fn a_service_that_goes_away_is_drained_by_the_operators_word_only() {
    let from = cluster(|_| {});
    let mut to = from.clone();
    to.services[0].port = 81;
    let at_once = arranged(&from, &to, 4);
    assert!(at_once.pacing.leaving.iter().all(|one| one.seconds == 0), "{at_once:?}");
    assert!(!at_once.stages.iter().any(|(stage, _)| *stage == Stage::Drain));
    assert_eq!(at_once.pacing.leaving.iter().filter_map(|one| one.connections).sum::<u64>(), 12);
    to.pace.drain = Some(5);
    let slowly = arranged(&from, &to, 4);
    assert_eq!(slowly.pacing.longest_drain_ms(), 5000);
    assert!(slowly.pacing.leaving.iter().all(|one| one.seconds == 5));
}

#[test]
fn where_nobody_would_be_left_nobody_is_drained() {
    let only = |number: u8| {
        cluster(move |service| {
            service
                .real_servers
                .retain(|server| server.rip == std::net::IpAddr::from([10, 0, 0, number]));
        })
    };
    let (from, mut to) = (only(1), only(2));
    let at_once = arranged(&from, &to, 4);
    assert_eq!(at_once.pacing.leaving[0].seconds, 0);
    let [note] = at_once.notes.as_slice() else { panic!("{at_once:?}") };
    assert!(note.contains("no other real server could take new connections"), "{note}");
    to.pace.drain = Some(30);
    assert_eq!(arranged(&from, &to, 4).pacing.leaving[0].seconds, 30);
    // A change of the method of all of them is the same.
    let tun = cluster(|service| {
        service.real_servers.iter_mut().for_each(|server| server.forward = Forward::Tun);
    });
    let method = arranged(&cluster(|_| {}), &tun, 4);
    assert_eq!(method.pacing.leaving.len(), 3);
    assert_eq!(method.pacing.longest_drain_ms(), 0);
}

#[test]
fn a_change_of_method_is_drained_too() {
    let to = cluster(|service| service.real_servers[2].forward = Forward::Tun);
    assert_eq!(
        lines(&arranged(&cluster(|_| {}), &to, 4)),
        [
            "Drain: change 10.0.0.3:80: dr weight 10 -> dr weight 0",
            "Withdraw: remove 10.0.0.3:80 from tcp 10.0.0.100:80 (dr weight 0)",
            "Live: add 10.0.0.3:80 to tcp 10.0.0.100:80 (tun weight 10)",
        ]
    );
}

#[test]
fn persistence_lets_go_while_it_drains() {
    let persistent = |service: &mut crate::topology::Service| {
        let netmask = u32::MAX;
        service.persistence = Some(Persistence { timeout: 600, netmask, engine: None });
    };
    let to = cluster(|service| {
        persistent(service);
        without(&[3])(service);
    });
    let lines = lines(&arranged(&cluster(persistent), &to, 4));
    assert_eq!(lines[0], "Drain: set net.ipv4.vs.expire_quiescent_template: 0 -> 1");
    assert_eq!(lines[3], "Withdraw: set net.ipv4.vs.expire_quiescent_template: 1 -> 0");
    assert_eq!(lines.len(), 4, "{lines:?}");
    // Where the file wants it anyhow it is set earlier, and stays.
    let to = cluster(|service| {
        persistent(service);
        service.real_servers[1].weight = 0;
        without(&[3])(service);
    });
    let arranged = arranged(&cluster(persistent), &to, 4);
    let sets =
        arranged.stages.iter().flat_map(|(stage, steps)| steps.iter().map(move |s| (stage, s)));
    let sets: Vec<_> =
        sets.filter(|(_, step)| step.edit.item() == Item::Sysctl(EXPIRE_TEMPLATES)).collect();
    assert!(matches!(sets.as_slice(), [(Stage::Drain, _)]), "{sets:?}");
}

#[test]
fn who_hashes_falls_back_while_it_drains_and_dh_cannot() {
    let by = |scheduler: Scheduler| {
        move |service: &mut crate::topology::Service| {
            service.scheduler = scheduler;
        }
    };
    let to = |scheduler| {
        cluster(move |service| {
            by(scheduler)(service);
            without(&[3])(service);
        })
    };
    let sh = lines(&arranged(&cluster(by(Scheduler::Sh)), &to(Scheduler::Sh), 4));
    assert_eq!(
        sh,
        [
            "Drain: change service tcp 10.0.0.100:80: sh -> sh flag-1",
            "Drain: change 10.0.0.3:80: dr weight 10 -> dr weight 0",
            "Withdraw: remove 10.0.0.3:80 from tcp 10.0.0.100:80 (dr weight 0)",
            "Withdraw: change service tcp 10.0.0.100:80: sh flag-1 -> sh",
        ]
    );
    let dh = arranged(&cluster(by(Scheduler::Dh)), &to(Scheduler::Dh), 4);
    assert_eq!(dh.pacing.longest_drain_ms(), 0);
    assert!(dh.notes[0].contains("dh goes on choosing"), "{:?}", dh.notes);
}

#[test]
fn to_ipvs_no_datagram_is_active() {
    let udp = |service: &mut crate::topology::Service| service.protocol = Protocol::Udp;
    let to = cluster(|service| {
        udp(service);
        without(&[3])(service);
    });
    assert_eq!(arranged(&cluster(udp), &to, 0).pacing.leaving[0].connections, Some(7));
}

/// The mark 8 stands for datagrams, and `ours`: whether by our own rules.
fn datagrams(ours: bool) -> impl Fn(&mut Service) {
    move |service| {
        let protocols = [Protocol::Udp].into();
        service.mark = Some(FirewallMark { mark: 8, protocols, ports: [53].into(), ours });
    }
}

#[test]
fn what_a_mark_stands_for_is_known_where_the_file_no_longer_says_it() {
    let from = cluster(datagrams(true));
    let found = |arranged: &Arranged| -> Vec<_> {
        arranged.pacing.leaving.iter().map(|one| (one.counted, one.connections)).collect()
    };
    let all = vec![(CountedConnections::All, Some(7)); 3];
    // The service left the file, or all of it is taken back: the host's own rules say it.
    let left = arranged(&from, &cluster(|_| {}), 0);
    assert_eq!(found(&left), all);
    let nobody = cluster(|_| {});
    let back = |options: &PacingOptions<'_>, seen: &Observation| {
        towards(&HostState::default(), options, seen)
    };
    assert_eq!(found(&back(&PacingOptions::back(&nobody), &seen(&from, 0))), all);
    // Also where they speak of other marks too, and of the same one in the other family.
    let mut mixed = seen(&from, 0);
    let rules = &mut mixed.state.tables.values_mut().next().unwrap().rules;
    for (vip, mark) in [("10.0.0.100", 9), ("fd00::100", 8)] {
        let (vip, ports) = (vip.parse().unwrap(), [80].into());
        rules.insert(PacketRule::Mark { vip, protocol: Protocol::Tcp, ports, mark });
    }
    assert_eq!(found(&back(&PacingOptions::back(&nobody), &mixed)), all);
    // They say what there is now, whatever the file says of later.
    let mut to = cluster(datagrams(true));
    to.services[0].mark.as_mut().unwrap().protocols = [Protocol::Tcp].into();
    without(&[3])(&mut to.services[0]);
    assert_eq!(found(&arranged(&from, &to, 0)), all[..1]);
    // A destroy that was cut off has taken them away: its journal has them.
    let mut cut = seen(&from, 0);
    let before = cut.state.clone();
    cut.state.tables.clear();
    cut.open_transaction = Some(Box::new(unfinished(&["director"], before)));
    assert_eq!(found(&back(&PacingOptions::back(&nobody), &cut)), all);
}

#[test]
fn a_mark_of_others_stands_for_what_the_file_says_and_for_anything_where_it_says_nothing() {
    let counted = |arranged: &Arranged| arranged.pacing.leaving[0].counted;
    let mut from = cluster(datagrams(false));
    let back =
        |of: &Topology| towards(&HostState::default(), &PacingOptions::back(of), &seen(&from, 0));
    assert_eq!(counted(&back(&from)), CountedConnections::All);
    assert_eq!(counted(&back(&cluster(|_| {}))), CountedConnections::All);
    assert_eq!(counted(&arranged(&from, &cluster(|_| {}), 0)), CountedConnections::All);
    from.services[0].mark.as_mut().unwrap().protocols.insert(Protocol::Tcp);
    let streams = towards(&HostState::default(), &PacingOptions::back(&from), &seen(&from, 0));
    assert_eq!(counted(&streams), CountedConnections::Active);
}

#[test]
fn what_is_new_grows_in_few_steps() {
    let to = cluster(|service| service.pace.ramp = 60);
    let arranged = arranged(&cluster(without(&[3])), &to, 0);
    assert_eq!(
        lines(&arranged),
        [
            "Live: add 10.0.0.3:80 to tcp 10.0.0.100:80 (dr weight 2)",
            "Ramp: change 10.0.0.3:80: dr weight 2 -> dr weight 4",
            "Ramp: change 10.0.0.3:80: dr weight 4 -> dr weight 6",
            "Ramp: change 10.0.0.3:80: dr weight 6 -> dr weight 8",
            "Ramp: change 10.0.0.3:80: dr weight 8 -> dr weight 10",
        ]
    );
    let times: Vec<u64> = arranged.pacing.raises.iter().map(|raise| raise.after_ms).collect();
    assert_eq!(times, [15_000, 30_000, 45_000, 60_000]);
}

#[test]
fn what_is_raised_from_0_grows_and_others_at_the_same_time() {
    let from = cluster(|service| {
        without(&[3])(service);
        service.real_servers[1].weight = 0;
    });
    let to = cluster(|service| {
        service.pace.ramp = 60;
        service.real_servers[1].weight = 2;
    });
    let arranged = arranged(&from, &to, 0);
    let raises: Vec<(u64, usize)> =
        arranged.pacing.raises.iter().map(|raise| (raise.after_ms, raise.steps)).collect();
    assert_eq!(raises, [(15_000, 1), (30_000, 1), (45_000, 1), (60_000, 2)]);
}

#[test]
fn where_a_weight_is_no_share_nothing_is_ramped() {
    let rr = |service: &mut crate::topology::Service| {
        service.scheduler = Scheduler::Rr;
        service.pace.ramp = 60;
    };
    let from = cluster(|service| {
        rr(service);
        without(&[3])(service);
    });
    let ignored = arranged(&from, &cluster(rr), 0);
    assert_eq!(lines(&ignored), ["Live: add 10.0.0.3:80 to tcp 10.0.0.100:80 (dr weight 10)"]);
    assert!(ignored.notes[0].contains("by the scheduler rr"), "{:?}", ignored.notes);
    let small = cluster(|service| {
        service.pace.ramp = 60;
        service.real_servers[2].weight = 1;
    });
    let small = arranged(&cluster(without(&[3])), &small, 0);
    assert!(small.notes[0].contains("weight of 1 cannot be split"), "{:?}", small.notes);
    // A new service has nobody to be compared with.
    let mut to = cluster(|service| service.pace.ramp = 60);
    to.services[0].port = 81;
    let new = arranged(&cluster(|_| {}), &to, 0);
    assert!(new.pacing.raises.is_empty() && new.notes.is_empty(), "{new:?}");
}

#[test]
fn a_scheduler_is_exchanged_in_silence_and_who_loses_by_it_is_named() {
    let to = cluster(|service| service.scheduler = Scheduler::Sh);
    assert_eq!(
        lines(&arranged(&cluster(|_| {}), &to, 4)),
        [
            "Live: set net.ipv4.vs.am_droprate: 10 -> 1",
            "Live: set net.ipv4.vs.drop_packet: 0 -> 3",
            "Live: change service tcp 10.0.0.100:80: wlc -> sh",
            "Live: set net.ipv4.vs.drop_packet: 3 -> 0",
            "Live: set net.ipv4.vs.am_droprate: 1 -> 10",
        ]
    );
    assert!(arranged(&cluster(|_| {}), &to, 4).notes.is_empty());
    let udp = |scheduler| {
        cluster(move |service| {
            service.protocol = Protocol::Udp;
            service.scheduler = scheduler;
        })
    };
    let notes = arranged(&udp(Scheduler::Wlc), &udp(Scheduler::Sh), 4).notes;
    assert!(notes[0].contains("datagrams of new UDP clients are lost"), "{notes:?}");
}
