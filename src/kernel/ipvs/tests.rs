//! The codec and the table, without a kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::codec::{IpvsRequest, command};
use super::wire::{self, AttributeList, WireError};
use super::{Table, table};
use super::{control, decode};
use crate::state::{
    Counters, Destination, DestinationId, DestinationKey, Edit, ForwardingMethod, Protocol,
    ServiceFlags, ServiceKey, Timeouts, Tunnel, VirtualService,
};
use crate::support::fuzz;

fn service_key() -> impl Strategy<Value = ServiceKey> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    prop_oneof![
        (protocol, any::<IpAddr>(), any::<u16>())
            .prop_map(|(p, ip, port)| ServiceKey::Address(p, SocketAddr::new(ip, port))),
        (any::<bool>(), 1..=u32::MAX).prop_map(|(v6, mark)| ServiceKey::Fwmark { v6, mark }),
    ]
}

prop_compose! {
    fn service()(
        scheduler in "[a-z][a-z0-9_-]{0,14}",
        flags: u32,
        timeout: u32,
        netmask: u32,
        engine in proptest::option::of("[a-z]{1,15}"),
    ) -> VirtualService {
        let flags = ServiceFlags::new(flags);
        let destinations = std::collections::BTreeMap::new();
        VirtualService { scheduler, flags, timeout, netmask, engine, destinations }
    }
}

fn destination() -> impl Strategy<Value = Destination> {
    let method = (0_u32..=4).prop_map(|number| ForwardingMethod::from_number(number).unwrap());
    let tunnel = prop_oneof![
        Just(Tunnel::Ipip),
        any::<(u16, u16)>().prop_map(|(port, flags)| Tunnel::Gue { port, flags }),
        any::<u16>().prop_map(|flags| Tunnel::Gre { flags }),
    ];
    (method, tunnel, any::<(u32, u32, u32)>()).prop_map(
        |(method, tunnel, (weight, upper, lower))| Destination {
            method,
            weight,
            upper_threshold: upper,
            lower_threshold: lower,
            tunnel,
        },
    )
}

fn destination_key() -> impl Strategy<Value = DestinationKey> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| DestinationKey::new(ip, port))
}

fn request() -> impl Strategy<Value = IpvsRequest> {
    prop_oneof![
        (service_key(), service()).prop_map(|(k, s)| IpvsRequest::NewService(k, s)),
        (service_key(), service()).prop_map(|(k, s)| IpvsRequest::SetService(k, s)),
        service_key().prop_map(IpvsRequest::DeleteService),
        Just(IpvsRequest::GetServices),
        service_key().prop_map(IpvsRequest::GetService),
        (service_key(), destination_key(), destination())
            .prop_map(|(s, k, d)| IpvsRequest::NewDestination(s, k, d)),
        (service_key(), destination_key(), destination())
            .prop_map(|(s, k, d)| IpvsRequest::SetDestination(s, k, d)),
        (service_key(), destination_key()).prop_map(|(s, k)| IpvsRequest::DeleteDestination(s, k)),
        service_key().prop_map(IpvsRequest::GetDestinations),
        Just(IpvsRequest::GetTimeouts),
        any::<(u32, u32, u32)>().prop_map(|(tcp, tcp_fin, udp)| IpvsRequest::SetTimeouts(
            Timeouts { tcp, tcp_fin, udp }
        )),
        Just(IpvsRequest::GetInfo),
    ]
}

fn read_everything(bytes: &[u8]) {
    let key = ServiceKey::Fwmark { v6: false, mark: 1 };
    let _ = decode::service(bytes);
    let _ = decode::service_key(bytes);
    let _ = decode::destination(bytes, &key);
    let _ = decode::timeouts(bytes);
    let _ = decode::info(bytes);
    let _ = control::decode_daemon(bytes);
    for command in 0..=u8::MAX {
        let _ = IpvsRequest::decode(command, bytes);
    }
    for message in wire::messages(bytes).flatten() {
        let _ = message.errno();
        let _ = message.generic();
    }
}

proptest! {
    #[test]
    fn a_request_survives_its_encoding(request in request()) {
        let decoded = IpvsRequest::decode(request.command(), &request.encode()).unwrap();
        prop_assert_eq!(decoded, request);
    }

    #[test]
    fn a_frame_survives_its_encoding(request in request(), family: u16, seq: u32) {
        prop_assume!(family != wire::ERROR && family != wire::DONE);
        let bytes = wire::frame(family, 1, seq, request.command(), 1, &request.encode());
        let messages: Vec<_> = wire::messages(&bytes).collect::<Result<_, _>>().unwrap();
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        prop_assert_eq!((message.kind, message.seq, message.flags), (family, seq, 1));
        let (command, body) = message.generic().unwrap();
        prop_assert_eq!(IpvsRequest::decode(command, body).unwrap(), request);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
    }

    #[test]
    fn a_damaged_request_is_an_error_or_another_request(
        request in request(),
        at: prop::sample::Index,
        with: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = request.encode();
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] = with;
        read_everything(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_everything(&bytes);
    }

    #[test]
    fn a_change_and_its_inverse_leave_the_table_as_it_was(
        key in service_key(),
        (before, after) in (service(), service()),
        name in destination_key(),
        (old, new) in (destination(), destination()),
    ) {
        let steps = [
            Edit::add::<VirtualService>(key.clone(), before.clone()),
            Edit::change::<VirtualService>(key.clone(), before, after),
            Edit::add::<Destination>(DestinationId { service: key.clone(), key: name }, old.clone()),
            Edit::change::<Destination>(DestinationId { service: key, key: name }, old, new),
        ];
        let mut table = Table::new();
        let mut states = Vec::new();
        for step in &steps {
            states.push(table.clone());
            table::apply(&mut table, step).unwrap();
        }
        for step in steps.iter().rev() {
            table::apply(&mut table, &step.inverse().unwrap()).unwrap();
            let before = states.pop();
            prop_assert_eq!(Some(&table), before.as_ref());
        }
    }
}

/// Of the 32-bit statistics only bytes have 64 bits; where both kinds are there the wider one counts.
#[test]
fn counters_have_the_width_that_the_kernel_gives_them() {
    let past = |first: u64, wide: bool| {
        let mut list = AttributeList::default();
        for (kind, value) in (1..=5).zip(first..) {
            match u32::try_from(value) {
                Ok(short) if kind < 4 && !wide => list.put_u32(kind, short),
                _ => list.put(kind, &value.to_ne_bytes()),
            }
        }
        // Rates, which are not read.
        list.put_u32(6, 9);
        list
    };
    let counted = |wide: bool| {
        let mut destination = AttributeList::default();
        destination.put(1, &[192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        destination.put(2, &80_u16.to_be_bytes());
        for (kind, value) in [(3, 3), (4, 1), (5, 0), (6, 0), (7, 4), (8, 5), (9, 6)] {
            destination.put_u32(kind, value);
        }
        destination.put_nested(10, &past(10, false));
        if wide {
            destination.put_nested(12, &past(u64::MAX - 10, true));
        }
        let mut body = AttributeList::default();
        body.put_nested(2, &destination);
        let service = "tcp 192.0.2.1:80".parse().unwrap();
        decode::destination(&body.into_bytes(), &service).unwrap().2
    };
    let connections = Counters { active: 4, inactive: 5, persistent: 6, ..Counters::default() };
    let expected = |first: u64| Counters {
        total: first,
        packets_in: first + 1,
        packets_out: first + 2,
        bytes_in: first + 3,
        bytes_out: first + 4,
        ..connections
    };
    assert_eq!(counted(false), expected(10));
    assert_eq!(counted(true), expected(u64::MAX - 10));
}

#[test]
fn a_truncated_frame_is_an_error() {
    let bytes = wire::frame(30, 1, 1, command::GET_SERVICE, 1, &[0; 8]);
    let cut = wire::messages(&bytes[..20]).next().unwrap();
    let expected = WireError::Truncated { what: "a netlink message", needed: 28, present: 20 };
    assert_eq!(cut, Err(expected.clone()));
    assert_eq!(expected.to_string(), "a netlink message is truncated: 20 of 28 bytes");
    // Iteration ends after an error.
    let mut all = wire::messages(&bytes[..20]);
    assert!(all.next().is_some_and(|first| first.is_err()) && all.next().is_none());
}

fn web() -> ServiceKey {
    "tcp 192.0.2.1:80".parse().unwrap()
}

fn rs(weight: u32) -> Destination {
    Destination::plain(ForwardingMethod::DirectRoute, weight)
}

fn add_rs(weight: u32) -> Edit {
    let key = "192.0.2.9:80".parse().unwrap();
    Edit::add::<Destination>(DestinationId { service: web(), key }, rs(weight))
}

#[test]
fn the_table_is_strict() {
    let plain = VirtualService::plain(&web(), "rr");
    let add = Edit::add::<VirtualService>(web(), plain.clone());
    let mut table = Table::new();
    let refused = |table: &mut Table, change: &Edit, part: &str| {
        let before = table.clone();
        let error = table::apply(table, change).unwrap_err().to_string();
        assert!(error.contains(part), "{change}: {error}");
        assert_eq!(*table, before, "{change} was refused and still did something");
    };
    refused(&mut table, &add_rs(1), "service tcp 192.0.2.1:80 changed after it was observed");
    refused(&mut table, &add.inverse().unwrap(), "found nothing");
    table::apply(&mut table, &add).unwrap();
    refused(&mut table, &add, "expected nothing, found rr");
    table::apply(&mut table, &add_rs(1)).unwrap();
    refused(&mut table, &add_rs(1), "expected nothing, found dr weight 1");
    refused(&mut table, &add.inverse().unwrap(), "expected no real servers any more, found 1");
    refused(&mut table, &add_rs(2).inverse().unwrap(), "expected dr weight 2, found dr weight 1");
    let wlc = VirtualService::plain(&web(), "wlc");
    let edit = Edit::change::<VirtualService>(web(), wlc, plain);
    refused(&mut table, &edit, "expected wlc, found rr");
}

#[test]
fn the_method_local_stands_for_any_method() {
    let mut table = Table::new();
    let service = VirtualService::plain(&web(), "rr");
    table::apply(&mut table, &Edit::add::<VirtualService>(web(), service)).unwrap();
    table::apply(&mut table, &add_rs(1)).unwrap();
    for service in table.values_mut() {
        for destination in service.destinations.values_mut() {
            destination.method = ForwardingMethod::Local;
        }
    }
    table::apply(&mut table, &add_rs(1).inverse().unwrap()).unwrap();
}

#[test]
fn fuzz_ipvs() {
    let seeds = fuzz::samples(&request(), 200);
    let seeds = seeds.iter().flat_map(|request| {
        let body = request.encode();
        [wire::frame(30, 1, 7, request.command(), 1, &body), body]
    });
    fuzz::target!("fuzz_ipvs", 3000, seeds.collect(), |bytes| {
        read_everything(bytes);
        for message in wire::messages(bytes).flatten() {
            let Ok((command, body)) = message.generic() else { continue };
            read_everything(body);
            // A decoded request survives its encoding.
            if let Ok(request) = IpvsRequest::decode(command, body) {
                let again = IpvsRequest::decode(request.command(), &request.encode());
                assert_eq!(again.unwrap(), request);
            }
        }
    });
}
