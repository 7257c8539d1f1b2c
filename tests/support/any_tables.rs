//! Any IPVS table that the vocabulary allows: what a topology can say, and no more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lvsprov::kernel::ipvs::Table;
use lvsprov::state::{
    Destination, DestinationKey, ForwardingMethod, Protocol, ServiceFlags, ServiceKey, Tunnel,
    VirtualService,
};
use lvsprov::topology::Scheduler;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A runner that says with which seed it can be started again: `LVSPROV_SEED`.
pub fn runner(cases: u32) -> (TestRunner, String) {
    let seed = std::env::var("LVSPROV_SEED").ok().and_then(|text| text.parse().ok());
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let seed = seed.unwrap_or_else(|| u64::try_from(clock % 1_000_000_007).unwrap_or_default());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    (TestRunner::new_with_rng(config, rng), format!("LVSPROV_SEED={seed}"))
}

/// One value of `strategy`.
pub fn one<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

/// Few names, so that two tables have some in common.
fn keys() -> impl Strategy<Value = ServiceKey> {
    let vips = ["192.0.2.100", "192.0.2.101", "2001:db8::100"];
    let vips = vips.map(|vip| vip.parse::<IpAddr>().unwrap());
    let protocols = vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let ports = prop_oneof![4 => select(vec![0, 53, 80, 443, 5060]), 1 => any::<u16>()];
    let address = (select(protocols), select(vips.to_vec()), ports);
    let marks = prop_oneof![3 => 1..4_u32, 1 => 1..=u32::MAX];
    prop_oneof![
        4 => address.prop_map(|(protocol, vip, port)| {
            ServiceKey::Address(protocol, SocketAddr::new(vip, port))
        }),
        1 => (any::<bool>(), marks).prop_map(|(v6, mark)| ServiceKey::Fwmark { v6, mark }),
    ]
}

/// Every scheduler that Debian's kernel has.
fn schedulers() -> impl Strategy<Value = String> {
    let all = Scheduler::ALL.iter().filter(|scheduler| **scheduler != Scheduler::Twos);
    select(all.map(ToString::to_string).collect::<Vec<_>>())
}

/// What requests are sent to; 0 is every port.
fn port_of(key: &ServiceKey) -> u16 {
    match key {
        ServiceKey::Address(_, address) => address.port(),
        ServiceKey::Fwmark { .. } => 0,
    }
}

fn may_carry_udp(key: &ServiceKey) -> bool {
    !matches!(key, ServiceKey::Address(Protocol::Tcp | Protocol::Sctp, _))
}

fn masks(v6: bool) -> BoxedStrategy<u32> {
    if v6 {
        return prop_oneof![1 => Just(128), 2 => 1..=128_u32].boxed();
    }
    // The kernel takes any; a person writes prefixes, mostly.
    let prefix = (1..=32_u32).prop_map(|length| u32::MAX << (32 - length));
    prop_oneof![2 => Just(u32::MAX), 3 => prefix, 1 => 1..=u32::MAX].boxed()
}

fn services(key: &ServiceKey) -> impl Strategy<Value = VirtualService> + use<> {
    let must_persist = !matches!(key, ServiceKey::Fwmark { .. }) && port_of(key) == 0;
    let udp = may_carry_udp(key);
    let persistence = (1..=2_147_483_u32, masks(key.is_ipv6()), any::<bool>());
    let persistence = persistence.prop_map(move |(timeout, netmask, sip)| {
        (timeout, netmask, (sip && udp).then(|| "sip".to_owned()))
    });
    let persistence = (persistence, any::<bool>())
        .prop_map(move |(persistence, wanted)| (wanted || must_persist).then_some(persistence));
    let bits = (0..8_u32, any::<bool>());
    let plain = VirtualService::plain(key, "");
    (schedulers(), persistence, bits, members(key)).prop_map(
        move |(scheduler, persistence, (flags, one_packet), destinations)| {
            let mut bits = flags << 3;
            if one_packet && udp {
                bits |= ServiceFlags::ONE_PACKET;
            }
            let mut service = VirtualService { scheduler, destinations, ..plain.clone() };
            if let Some((timeout, netmask, engine)) = persistence {
                bits |= ServiceFlags::PERSISTENT;
                (service.timeout, service.netmask, service.engine) = (timeout, netmask, engine);
            }
            service.flags = ServiceFlags::new(bits);
            service
        },
    )
}

/// Real servers: of the service's own family by any method, of the other one by tunnels only.
fn members(
    key: &ServiceKey,
) -> impl Strategy<Value = BTreeMap<DestinationKey, Destination>> + use<> {
    let (v6, port) = (key.is_ipv6(), port_of(key));
    let one = (addresses(), any::<u16>(), methods(), tunnels(), weights(), thresholds());
    let one = one.prop_map(move |(rip, rport, method, tunnel, weight, thresholds)| {
        let method = if rip.is_ipv6() == v6 { method } else { ForwardingMethod::Tunnel };
        let nat = method == ForwardingMethod::Masquerade;
        let tunnelled = method == ForwardingMethod::Tunnel;
        let (upper_threshold, lower_threshold) = thresholds;
        let destination = Destination {
            method,
            weight,
            upper_threshold,
            lower_threshold,
            tunnel: if tunnelled { tunnel } else { Tunnel::Ipip },
        };
        // Only NAT can change a port.
        (DestinationKey::new(rip, if nat && port != 0 { rport.max(1) } else { port }), destination)
    });
    vec(one, 0..6).prop_map(|all| all.into_iter().collect())
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = (1..6_u8).prop_map(|last| IpAddr::from(Ipv4Addr::new(198, 51, 100, last)));
    let v6 = (1..6_u16).prop_map(|last| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last).into());
    prop_oneof![v4, v6]
}

fn methods() -> impl Strategy<Value = ForwardingMethod> {
    use ForwardingMethod::{DirectRoute, Masquerade, Tunnel};
    select(vec![Masquerade, Tunnel, DirectRoute])
}

fn tunnels() -> impl Strategy<Value = Tunnel> {
    prop_oneof![
        Just(Tunnel::Ipip),
        (1..=u16::MAX, 0..3_u16).prop_map(|(port, flags)| Tunnel::Gue { port, flags }),
        (0..2_u16).prop_map(|flags| Tunnel::Gre { flags }),
    ]
}

const LARGEST: u32 = i32::MAX.unsigned_abs();

fn weights() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0), 3 => 1..10_u32, 1 => 0..=LARGEST, 1 => Just(LARGEST)]
}

/// Upper and lower.
fn thresholds() -> impl Strategy<Value = (u32, u32)> {
    let some = prop_oneof![1..1000_u32, 1..=LARGEST, Just(LARGEST)];
    let both = some.prop_flat_map(|upper| (Just(upper), 0..=upper));
    prop_oneof![Just((0, 0)), both]
}

/// Any table, of up to seven services.
pub fn tables() -> impl Strategy<Value = Table> {
    let one = keys().prop_flat_map(|key| {
        let service = services(&key);
        (Just(key), service)
    });
    vec(one, 0..8).prop_map(|all| all.into_iter().collect())
}

/// A table and one that differs from it in some services, or in all.
pub fn pairs() -> impl Strategy<Value = (Table, Table)> {
    (tables(), tables(), any::<u8>()).prop_map(|(from, mut to, kept)| {
        for (nth, (key, service)) in from.iter().enumerate() {
            match (kept >> nth) & 1 {
                0 => {}
                // As it was, or with one real server less.
                _ if nth % 2 == 0 => drop(to.insert(key.clone(), service.clone())),
                _ => {
                    let mut service = service.clone();
                    service.destinations.pop_first();
                    to.insert(key.clone(), service);
                }
            }
        }
        (from, to)
    })
}
