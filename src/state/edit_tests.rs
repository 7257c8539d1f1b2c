//! Each kind of edit: its JSON, its line, its inverse, and what fits a state.

#![allow(clippy::unwrap_used, clippy::panic)]
use std::fmt::Debug;
use std::str::FromStr;

use serde_json::json;

use super::*;

fn key<K: FromStr<Err: Debug>>(text: &str) -> K {
    text.parse().unwrap()
}

fn j(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

type Case = (Edit, &'static str, serde_json::Value);

/// One edit of every kind and verb, with its line and its JSON.
fn every_edit() -> Vec<Case> {
    host_edits().into_iter().chain(daemon_edits()).chain(ipvs_edits()).collect()
}

fn daemon_edits() -> Vec<Case> {
    vec![
        (
            Edit::add::<DaemonConfiguration>(key("keepalived of t"), DaemonConfiguration::of("x")),
            "start keepalived of t (0 virtual servers, 0 checks)",
            json!({"set_instance": {
                "instance": "keepalived of t", "before": null, "after": {"lines": ["x"], "loaded": true},
            }}),
        ),
        (
            Edit::change::<DaemonConfiguration>(
                key("keepalived of t"),
                DaemonConfiguration { lines: vec!["x".to_owned()], loaded: false },
                DaemonConfiguration::of("x"),
            ),
            "reload keepalived of t: 0 virtual servers, 0 checks, not read yet -> 0 virtual servers, 0 checks; 0 lines \
             removed, 0 added",
            json!({"set_instance": {
                "instance": "keepalived of t",
                "before": {"lines": ["x"], "loaded": false}, "after": {"lines": ["x"], "loaded": true},
            }}),
        ),
        (
            Edit::remove::<DaemonConfiguration>(
                key("keepalived of t"),
                DaemonConfiguration::of("x"),
            ),
            "stop keepalived of t",
            json!({"set_instance": {
                "instance": "keepalived of t", "before": {"lines": ["x"], "loaded": true}, "after": null,
            }}),
        ),
    ]
}

fn host_edits() -> Vec<Case> {
    let address = || Address::plain(Scope::Host);
    let device =
        || TunnelDevice { kind: TunnelKind::Gre, local: key("192.0.2.9"), checksum: false };
    let route = |gateway: &str| Route::via(key(gateway), Some(key("eth0")));
    let rules = PacketRules::default;
    vec![
        (
            Edit::add::<Module>(Module::IpVs, Present),
            "load module ip_vs",
            json!({"load_module": {"module": "ip_vs"}}),
        ),
        (
            Edit::change::<Sysctl>(Sysctl::IpForward, "0".to_owned(), "1".to_owned()),
            "set net.ipv4.ip_forward: 0 -> 1",
            json!({"set_sysctl": {"key": "net.ipv4.ip_forward", "before": "0", "after": "1"}}),
        ),
        (
            Edit::change::<Link>(key("tunl0"), Link::Down, Link::Up),
            "set link tunl0: down -> up",
            json!({"set_link": {"dev": "tunl0", "before": "down", "after": "up"}}),
        ),
        (
            Edit::add::<Address>(key("192.0.2.1/32@lo"), address()),
            "add address 192.0.2.1/32 to lo (scope host)",
            json!({"add_address": {"key": "192.0.2.1/32@lo", "address": j(&address())}}),
        ),
        (
            Edit::remove::<Address>(key("192.0.2.1/32@lo"), address()),
            "remove address 192.0.2.1/32 from lo (scope host)",
            json!({"remove_address": {"key": "192.0.2.1/32@lo", "address": j(&address())}}),
        ),
        (
            Edit::add::<Route>(key("default"), route("192.0.2.7")),
            "add route default via 192.0.2.7 dev eth0",
            json!({"add_route": {"key": "default", "route": j(&route("192.0.2.7"))}}),
        ),
        (
            Edit::change::<Route>(key("default"), route("192.0.2.7"), route("192.0.2.8")),
            "replace route default: via 192.0.2.7 dev eth0 -> via 192.0.2.8 dev eth0",
            json!({"replace_route": {
                "key": "default", "before": j(&route("192.0.2.7")), "after": j(&route("192.0.2.8")),
            }}),
        ),
        (
            Edit::remove::<Route>(key("default"), route("192.0.2.7")),
            "remove route default via 192.0.2.7 dev eth0",
            json!({"remove_route": {"key": "default", "route": j(&route("192.0.2.7"))}}),
        ),
        (
            Edit::add::<PacketRules>(key("lvsprov-t"), rules()),
            "add nftables table lvsprov-t ()",
            json!({"set_table": {"name": "lvsprov-t", "before": null, "after": j(&rules())}}),
        ),
        (
            Edit::remove::<PacketRules>(key("lvsprov-t"), rules()),
            "remove nftables table lvsprov-t",
            json!({"set_table": {"name": "lvsprov-t", "before": j(&rules()), "after": null}}),
        ),
        (
            Edit::add::<TunnelDevice>(key("lvsgrec0000209"), device()),
            "add tunnel lvsgrec0000209 (gre local 192.0.2.9)",
            json!({"add_tunnel": {"dev": "lvsgrec0000209", "device": j(&device())}}),
        ),
        (
            Edit::remove::<TunnelDevice>(key("lvsgrec0000209"), device()),
            "remove tunnel lvsgrec0000209 (gre local 192.0.2.9)",
            json!({"remove_tunnel": {"dev": "lvsgrec0000209", "device": j(&device())}}),
        ),
        (
            Edit::add::<GuePort>(key("udp4 6080"), Present),
            "unwrap GUE on udp4 6080",
            json!({"add_gue_port": {"port": "udp4 6080"}}),
        ),
        (
            Edit::remove::<GuePort>(key("udp4 6080"), Present),
            "unwrap GUE on udp4 6080 no longer",
            json!({"remove_gue_port": {"port": "udp4 6080"}}),
        ),
    ]
}

fn ipvs_edits() -> Vec<Case> {
    let service = VirtualService::plain(&key("tcp 192.0.2.1:80"), "rr");
    let wlc = VirtualService { scheduler: "wlc".to_owned(), ..service.clone() };
    let rs = |weight| Destination::plain(ForwardingMethod::DirectRoute, weight);
    let id = || DestinationId { service: key("tcp 192.0.2.1:80"), key: key("192.0.2.9:80") };
    let one = Timeouts::default();
    let other = Timeouts { tcp: 60, ..one };
    let daemon = || SyncDaemon::on(key("eth0"));
    vec![
        (
            Edit::add::<VirtualService>(key("tcp 192.0.2.1:80"), service.clone()),
            "add service tcp 192.0.2.1:80 (rr)",
            json!({"add_service": {"key": "tcp 192.0.2.1:80", "service": j(&service)}}),
        ),
        (
            Edit::change::<VirtualService>(key("tcp 192.0.2.1:80"), service.clone(), wlc.clone()),
            "change service tcp 192.0.2.1:80: rr -> wlc",
            json!({"edit_service": {
                "key": "tcp 192.0.2.1:80", "before": j(&service), "after": j(&wlc),
            }}),
        ),
        (
            Edit::remove::<VirtualService>(key("tcp 192.0.2.1:80"), service.clone()),
            "remove service tcp 192.0.2.1:80 (rr)",
            json!({"remove_service": {"key": "tcp 192.0.2.1:80", "service": j(&service)}}),
        ),
        (
            Edit::add::<Destination>(id(), rs(1)),
            "add real server 192.0.2.9:80 to tcp 192.0.2.1:80 (dr weight 1)",
            json!({"add_destination": {
                "service": "tcp 192.0.2.1:80", "key": "192.0.2.9:80", "destination": j(&rs(1)),
            }}),
        ),
        (
            Edit::change::<Destination>(id(), rs(1), rs(2)),
            "change real server 192.0.2.9:80 of tcp 192.0.2.1:80: dr weight 1 -> dr weight 2",
            json!({"edit_destination": {
                "service": "tcp 192.0.2.1:80", "key": "192.0.2.9:80",
                "before": j(&rs(1)), "after": j(&rs(2)),
            }}),
        ),
        (
            Edit::remove::<Destination>(id(), rs(1)),
            "remove real server 192.0.2.9:80 from tcp 192.0.2.1:80 (dr weight 1)",
            json!({"remove_destination": {
                "service": "tcp 192.0.2.1:80", "key": "192.0.2.9:80", "destination": j(&rs(1)),
            }}),
        ),
        (
            Edit::change::<Timeouts>((), one, other),
            "set timeouts of IPVS: tcp 900 s, tcp-fin 120 s, udp 300 s -> tcp 60 s, tcp-fin 120 s, udp 300 s",
            json!({"set_timeouts": {"before": j(&one), "after": j(&other)}}),
        ),
        (
            Edit::add::<SyncDaemon>(DaemonRole::Master, daemon()),
            "start sync daemon master on eth0, id 0, 224.0.0.81 port 8848, ttl 1",
            json!({"set_daemon": {"role": "master", "before": null, "after": j(&daemon())}}),
        ),
        (
            Edit::remove::<SyncDaemon>(DaemonRole::Backup, daemon()),
            "stop sync daemon backup",
            json!({"set_daemon": {"role": "backup", "before": j(&daemon()), "after": null}}),
        ),
    ]
}

#[test]
fn lines_and_json_of_every_edit_stay_as_programs_know_them() {
    for (edit, line, json) in every_edit() {
        assert_eq!(edit.to_string(), line);
        assert_eq!(serde_json::to_value(&edit).unwrap(), json, "{edit}");
        assert_eq!(serde_json::from_value::<Edit>(json).unwrap(), edit);
    }
}

/// A state in which the edit can be done.
fn state_of(edit: &Edit) -> HostState {
    let mut state = HostState::default();
    if let Edit::Destination(KeyedEdit { key, .. }) = edit {
        let service = VirtualService::plain(&key.service, "rr");
        state.services.insert(key.service.clone(), service);
    }
    if edit.verb() == EditVerb::Add {
        return state;
    }
    match edit.inverse() {
        Some(back) => back.put(&mut state),
        None => panic!("{edit} has no inverse"),
    }
    state
}

#[test]
fn every_edit_is_strict_done_once_and_undone() {
    for (edit, ..) in every_edit() {
        let before = state_of(&edit);
        assert_eq!(edit.misfit(&before), None, "{edit}");
        assert!(!edit.is_done(&before), "{edit}");
        let mut after = before.clone();
        edit.put(&mut after);
        assert!(edit.is_done(&after), "{edit}");
        assert!(edit.misfit(&after).is_some(), "{edit}: twice");
        let Some(back) = edit.inverse() else {
            assert!(matches!(edit, Edit::Module(_)), "{edit}");
            continue;
        };
        assert_eq!(back.misfit(&after), None, "{back}");
        back.put(&mut after);
        assert_eq!(after, before, "{edit}");
        assert_eq!(back.inverse(), Some(edit));
    }
}

#[test]
fn a_state_is_all_of_its_items() {
    let mut state = HostState::default();
    for (edit, ..) in every_edit() {
        if edit.verb() != EditVerb::Remove {
            edit.put(&mut state);
        }
    }
    let members = serde_json::to_value(&state).unwrap();
    let empty = |value: &serde_json::Value| {
        value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
    };
    assert!(members.as_object().unwrap().values().all(|value| !empty(value)), "{members}");
    let HostState {
        modules: _,
        sysctls: _,
        links: _,
        addresses: _,
        routes: _,
        services: _,
        timeouts: _,
        daemons: _,
        tables: _,
        tunnels: _,
        gue_ports: _,
        instances: _,
    } = &state;
    assert_eq!(state.restricted_to(&state.items()), state);
    assert_eq!(members.as_object().unwrap().len(), 12);
    for item in state.items() {
        assert!(state.differs(&HostState::default(), &item), "{item}");
        assert_ne!(state.describe(&item), "absent", "{item}");
        assert_eq!(HostState::default().describe(&item), "absent");
    }
}

#[test]
fn json_that_is_no_edit_is_refused() {
    for bad in [
        json!({}),
        json!({"": {"module": "ip_vs", "after": null}}),
        json!({"fly": {}}),
        json!({"load_module": {}}),
        json!({"load_module": {"module": "ip_vs"}, "add_gue_port": {"port": "udp4 6080"}}),
        json!({"set_sysctl": {"key": "net.ipv4.ip_forward", "before": "0", "after": null}}),
        json!({"set_sysctl": {"key": "net.ipv4.ip_forward", "before": null, "after": null}}),
        json!({"replace_route": {"key": "default", "before": null, "after": null}}),
        json!({"add_address": {"key": "192.0.2.1/32@lo"}}),
        json!("load_module"),
    ] {
        assert!(serde_json::from_value::<Edit>(bad.clone()).is_err(), "{bad}");
    }
}
