//! The format on the disk: what it has, and what a later one is taken for.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::*;
use crate::state::*;
use crate::state::{JOURNAL_VERSION, Protocol};
use crate::support::unfinished;

/// What each kind of an enum is; a kind that is added is missed here by the compiler.
macro_rules! every {
    ($type:ty: $($kind:pat => $value:expr),+ $(,)?) => {{
        let _ = |value: &$type| match value { $($kind => ()),+ };
        vec![$($value),+]
    }};
}

fn items() -> Vec<Item> {
    let dev = || "tunl0".parse().unwrap();
    every!(Item:
        Item::Module(_) => Item::Module(Module::IpVs),
        Item::Sysctl(_) => Item::Sysctl(Sysctl::IpForward),
        Item::Link(_) => Item::Link(dev()),
        Item::Address(_) => Item::Address("192.0.2.1/32@lo".parse().unwrap()),
        Item::Route(_) => Item::Route("default".parse().unwrap()),
        Item::Service(_) => Item::Service("tcp 192.0.2.1:80".parse().unwrap()),
        Item::Timeouts => Item::Timeouts,
        Item::Daemon(_) => Item::Daemon(DaemonRole::Master),
        Item::Table(_) => Item::Table("lvsprov-t".parse().unwrap()),
        Item::Tunnel(_) => Item::Tunnel(dev()),
        Item::GuePort(_) => Item::GuePort(GuePort { v6: false, port: 6080 }),
        Item::Instance(_) => Item::Instance("keepalived of t".parse().unwrap()),
    )
}

fn rules() -> BTreeSet<PacketRule> {
    let vip = std::net::IpAddr::from([192, 0, 2, 1]);
    let protocol = Protocol::Tcp;
    let headers = every!(TunnelHeader:
        TunnelHeader::None => TunnelHeader::None,
        TunnelHeader::Gre { .. } => TunnelHeader::Gre { checksum: true },
        TunnelHeader::Gue { .. } => TunnelHeader::Gue { port: 6080 },
    );
    let guard = |header| TunnelGuard {
        outside_v6: false,
        header,
        vips: [vip].into(),
        sources: ["192.0.2.9/32".parse().unwrap()].into(),
        devices: ["tunl0".parse().unwrap()].into(),
    };
    let all = every!(PacketRule:
        PacketRule::Mark { .. } => PacketRule::Mark { vip, protocol, ports: [80].into(), mark: 8 },
        PacketRule::Masquerade { .. } => {
            PacketRule::Masquerade { vip: Some(vip), rip: vip, protocol, port: 80 }
        },
        PacketRule::ClampMss { .. } => PacketRule::ClampMss { source: vip, mss: 1440 },
        PacketRule::Guard(_) => guard(TunnelHeader::None).into(),
        PacketRule::Fragments(_) => FragmentGuard {
            plain: true,
            gre: true,
            gue_ports: [6080].into(),
            sources: ["2001:db8::9/128".parse().unwrap()].into(),
            devices: ["tunl0".parse().unwrap()].into(),
        }.into(),
        PacketRule::Unknown(_) => PacketRule::Unknown("x".to_owned()),
    );
    all.into_iter().chain(headers.into_iter().map(|header| guard(header).into())).collect()
}

/// One of everything.
fn found() -> HostState {
    let mut sysctls: Vec<Sysctl> = vec![Sysctl::IpForward, Sysctl::Ip6Forward];
    sysctls.extend(ConfItem::ALL.iter().map(|item| Sysctl::Conf(ConfDev::Default, *item)));
    // The others are only read.
    let set = Conf6Item::ALL.iter().filter(|item| **item != Conf6Item::DisableIpv6);
    sysctls.extend(set.map(|item| Sysctl::Conf6(ConfDev::Default, *item)));
    sysctls.extend(VsItem::ALL.iter().map(|item| Sysctl::Vs(*item)));
    let address = |scope| Address {
        scope,
        label: Some("lo:1".to_owned()),
        broadcast: Some([192, 0, 2, 255].into()),
        nodad: true,
        deprecated: true,
    };
    let scopes = every!(Scope:
        Scope::Global => Scope::Global, Scope::Site => Scope::Site, Scope::Link => Scope::Link,
        Scope::Host => Scope::Host, Scope::Nowhere => Scope::Nowhere, Scope::Other(_) => Scope::Other(7),
    );
    let methods = every!(ForwardingMethod:
        ForwardingMethod::Masquerade => ForwardingMethod::Masquerade,
        ForwardingMethod::Local => ForwardingMethod::Local,
        ForwardingMethod::Tunnel => ForwardingMethod::Tunnel,
        ForwardingMethod::DirectRoute => ForwardingMethod::DirectRoute,
        ForwardingMethod::Bypass => ForwardingMethod::Bypass,
    );
    let tunnels = every!(Tunnel:
        Tunnel::Ipip => Tunnel::Ipip,
        Tunnel::Gue { .. } => Tunnel::Gue { port: 6080, flags: 0 },
        Tunnel::Gre { .. } => Tunnel::Gre { flags: 0 },
    );
    let kinds = every!(TunnelKind:
        TunnelKind::Gre => TunnelKind::Gre, TunnelKind::Ip6gre => TunnelKind::Ip6gre,
        TunnelKind::Ip6tnl => TunnelKind::Ip6tnl,
    );
    let roles = every!(DaemonRole:
        DaemonRole::Master => DaemonRole::Master, DaemonRole::Backup => DaemonRole::Backup,
    );
    let links = every!(Link: Link::Up => Link::Up, Link::Down => Link::Down);
    let key = "tcp 192.0.2.1:80".parse().unwrap();
    let mut service = VirtualService::plain(&key, "rr");
    for (at, method) in (1..).zip(methods) {
        for (tunnel, port) in tunnels.iter().zip(1..) {
            let to = DestinationKey::new([10, 0, 0, at].into(), port);
            let destination = Destination { tunnel: *tunnel, ..Destination::plain(method, 1) };
            service.destinations.insert(to, destination);
        }
    }
    let dev = |number: usize| format!("t{number}").parse().unwrap();
    let local = [192, 0, 2, 1].into();
    HostState {
        modules: Module::ALL.iter().copied().collect(),
        sysctls: sysctls.into_iter().map(|key| (key, "0".to_owned())).collect(),
        links: (0..).map(dev).zip(links).collect(),
        addresses: (1..)
            .map(|n| format!("192.0.2.{n}/32@lo").parse().unwrap())
            .zip(scopes.into_iter().map(address))
            .collect(),
        routes: [("default".parse().unwrap(), Route::via(local, Some(dev(0))))].into(),
        services: [(key, service)].into(),
        timeouts: Some(Timeouts { tcp: 1, tcp_fin: 1, udp: 1 }),
        daemons: roles.into_iter().map(|role| (role, SyncDaemon::on(dev(0)))).collect(),
        tables: [("lvsprov-t".parse().unwrap(), PacketRules { rules: rules() })].into(),
        tunnels: (0..)
            .map(dev)
            .zip(kinds.into_iter().map(|kind| TunnelDevice { kind, local, checksum: true }))
            .collect(),
        gue_ports: [GuePort { v6: false, port: 6080 }].into(),
        instances: DaemonProgram::ALL
            .iter()
            .map(|program| {
                (format!("{program} of t").parse().unwrap(), DaemonConfiguration::of("x"))
            })
            .collect(),
    }
}

fn whole() -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        topology: "t".parse().unwrap(),
        since: 7,
        owned: items().into_iter().collect(),
        found: found(),
        run: Some(HostRun {
            boot: "b".to_owned(),
            init: Some(1),
            namespace: Some(NamespaceId { device: 1, inode: 2, cookie: Some(3), lo: Some(4) }),
        }),
        settled: Some(SettledDigest::of(b"settled")),
        maintenance: [("rs1".parse().unwrap(), 7)].into_iter().collect(),
        drift: Some(DriftPolicy { action: DriftAction::Mend, every_s: 60 }),
        external: [(
            "tcp 192.0.2.1:80".parse().unwrap(),
            [("10.0.0.1:80".parse().unwrap(), ExternalWeight { file: 1, drained: false })].into(),
        )]
        .into(),
    }
}

/// Every path to a member, with what is named by data as `*`, and each word that stands for a kind.
fn shape(at: &str, value: &Value, all: &mut BTreeSet<String>) {
    const BY_NAME: [&str; 13] = [
        ".sysctls",
        ".links",
        ".addresses",
        ".routes",
        ".services",
        ".daemons",
        ".tables",
        ".tunnels",
        ".destinations",
        ".maintenance",
        ".external",
        ".external.*",
        ".instances",
    ];
    const KINDS: [&str; 10] = [
        ".owned[]",
        ".modules[]",
        ".links.*",
        ".scope",
        ".method",
        ".tunnel",
        ".kind",
        ".header",
        ".rules[]",
        ".protocol",
    ];
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let by_name = BY_NAME.iter().any(|map| at.ends_with(map));
                if by_name
                    && [".sysctls", ".daemons", ".instances"].iter().any(|map| at.ends_with(map))
                {
                    all.insert(format!("{at} {key}"));
                }
                shape(&format!("{at}.{}", if by_name { "*" } else { key }), value, all);
            }
        }
        Value::Array(values) => {
            for value in values {
                shape(&format!("{at}[]"), value, all);
            }
        }
        Value::String(word) if KINDS.iter().any(|kind| at.ends_with(kind)) => {
            all.insert(format!("{at} = {word}"));
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
            all.insert(at.to_owned());
        }
    }
}

/// If this fails, a format has changed: raise `RECEIPT_VERSION` and `JOURNAL_VERSION` (an earlier lvsprov must say that it reads
/// a later format, not that the file is damaged), and only then write the new shape here (`LVSPROV_BLESS=1`).
#[test]
fn the_keys_of_the_current_format_are_these() {
    let mut shape_now = BTreeSet::new();
    shape("", &serde_json::to_value(whole()).unwrap(), &mut shape_now);
    let journal = serde_json::to_value(unfinished(&["a"], HostState::default()).journal).unwrap();
    let Value::Object(journal) = journal else { unreachable!() };
    shape_now.extend(journal.keys().map(|key| format!("journal .{key}")));
    let mut shape_now: Vec<String> = shape_now.into_iter().collect();
    let settled = Settled {
        version: RECEIPT_VERSION,
        topology: "t".parse().unwrap(),
        state: HostState::default(),
        accepted: std::collections::BTreeMap::new(),
        exclusive: false,
        external: ["tcp 192.0.2.1:80".parse().unwrap()].into(),
        needs: [("eth0".parse().unwrap(), Vec::new())].into(),
    };
    let Value::Object(settled) = serde_json::to_value(settled).unwrap() else { unreachable!() };
    shape_now.extend(settled.keys().map(|key| format!("settled .{key}")));
    let formats = format!("receipt {RECEIPT_VERSION}, journal {JOURNAL_VERSION}\n");
    let now = format!("{formats}{}\n", shape_now.join("\n"));
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/transaction/receipt_format.txt");
    if std::env::var_os("LVSPROV_BLESS").is_some() {
        let was = fs::read_to_string(&path).unwrap_or_default();
        assert!(was == now || !was.starts_with(&formats), "raise the version first");
        fs::write(&path, &now).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), now);
}

/// A receipt of format 1 has neither: it makes nothing again, and the next apply writes both.
#[test]
fn a_receipt_of_format_1_is_read() {
    let text = r#"{"version":1,"topology":"t","since":7,"owned":[],"found":{"modules":[],"sysctls":{},"links":{},"addresses":{},"routes":{},"services":{}}}"#;
    let read = parsed(text).unwrap();
    assert_eq!(
        (read.version, read.since, read.run, read.settled),
        (RECEIPT_VERSION, 7, None, None)
    );
}

fn parsed(text: &str) -> Result<Receipt> {
    parse(Path::new("/x/t/receipt.json"), &"t".parse().unwrap(), text.as_bytes())
}

#[test]
fn a_later_format_is_said_to_be_later_whatever_else_it_has() {
    assert_eq!(parsed(&serde_json::to_string(&whole()).unwrap()).unwrap(), whole());
    let later = RECEIPT_VERSION + 1;
    for text in [
        format!(
            r#"{{"version":{later},"topology":"t","since":1,"owned":[],"found":{{}},"new":1}}"#
        ),
        format!(r#"{{"owned":{{"other":"shape"}},"version":{later}}}"#),
    ] {
        let failure = parsed(&text).unwrap_err().to_failure();
        let says = format!("was written by a later lvsprov: it has format {later}");
        assert!(failure.message.contains(&says), "{failure}");
        assert!(!failure.to_string().contains("damaged"), "{failure}");
        let cure = failure.cure.unwrap();
        assert!(cure.contains("use that version") && !cure.contains("move it away"), "{cure}");
    }
    for text in ["", "{", "{}", r#"{"version":0}"#, r#"{"version":"1"}"#, r#"{"version":1}"#] {
        let failure = parsed(text).unwrap_err().to_failure();
        assert!(failure.cure.unwrap().contains("move it away"), "{text}");
    }
}
