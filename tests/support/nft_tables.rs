//! Tables of ours for tests: rules, setting them, and `nft` as the second opinion.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use lvsprov::state::{
    Edit, FragmentGuard, KeyedEdit, PacketRule, PacketRules, Protocol, TableName, TunnelGuard,
    TunnelHeader,
};

use crate::support::netns_host::{NetnsHost, run};

pub fn name() -> TableName {
    "lvsprov-t".parse().unwrap()
}

pub fn rules(all: impl IntoIterator<Item = PacketRule>) -> PacketRules {
    PacketRules { rules: all.into_iter().collect() }
}

pub fn mark(vip: &str, ports: &[u16], mark: u32) -> PacketRule {
    let ports = ports.iter().copied().collect();
    PacketRule::Mark { vip: vip.parse().unwrap(), protocol: Protocol::Tcp, ports, mark }
}

pub fn masquerade(vip: Option<&str>, rip: &str, port: u16) -> PacketRule {
    let vip = vip.map(|vip| vip.parse().unwrap());
    PacketRule::Masquerade { vip, rip: rip.parse().unwrap(), protocol: Protocol::Tcp, port }
}

pub fn clamp(source: &str, mss: u16) -> PacketRule {
    PacketRule::ClampMss { source: source.parse().unwrap(), mss }
}

/// Packets to the VIPs, wrapped in `header`, from this one source only.
pub fn guard(header: TunnelHeader, vips: &[&str], source: &str) -> PacketRule {
    let source: IpAddr = source.parse().unwrap();
    PacketRule::Guard(TunnelGuard {
        outside_v6: source.is_ipv6(),
        header,
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        sources: [source.into()].into(),
        devices: ["tunl0".parse().unwrap()].into(),
    })
}

/// From what is there now.
pub fn set(netns: &NetnsHost, after: Option<PacketRules>) -> Edit {
    let before = netns.look(&[]).state.tables.remove(&name());
    Edit::Table(KeyedEdit { key: name(), before, after })
}

/// Sets the table and reads it back.
pub fn put(netns: &NetnsHost, after: &PacketRules) {
    let outcome = netns.do_all(vec![set(netns, Some(after.clone()))]);
    assert_eq!(outcome.after.state.tables[&name()], *after);
}

/// `nft` in there, reading `script` as a file.
pub fn nft(netns: &NetnsHost, script: &str) -> String {
    netns.run(|| {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program nft is needed for this test");
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nft: {script}: {said}");
        String::from_utf8(output.stdout).unwrap()
    })
}

pub fn listed(netns: &NetnsHost) -> String {
    netns.run(|| run(Command::new("nft").args(["list", "table", "inet", "lvsprov-t"])))
}

/// One of each, in both families.
pub fn gallery() -> PacketRules {
    rules([
        mark("192.0.2.1", &[], 1),
        mark("192.0.2.1", &[80], 0xffff_ffff),
        mark("192.0.2.1", &[80, 443, 65535], 8),
        mark("2001:db8::1", &[1], 9),
        mark("2001:db8::1", &[80, 443], 10),
        masquerade(None, "10.0.0.2", 0),
        masquerade(Some("192.0.2.1"), "10.0.0.2", 8080),
        masquerade(Some("192.0.2.1"), "10.0.0.3", 0),
        masquerade(Some("2001:db8::1"), "2001:db8:1::2", 80),
        clamp("192.0.2.1", 1400),
        clamp("2001:db8::1", 1380),
        guard(TunnelHeader::None, &["192.0.2.1"], "10.0.0.9"),
        guard(TunnelHeader::None, &["2001:db8::1", "2001:db8::2"], "2001:db8:1::9"),
        guard(TunnelHeader::Gre { checksum: false }, &["192.0.2.1"], "10.0.0.9"),
        guard(TunnelHeader::Gue { port: 6080 }, &["192.0.2.1"], "10.0.0.9"),
        PacketRule::Fragments(FragmentGuard {
            plain: true,
            gre: true,
            gue_ports: [6080].into(),
            sources: ["2001:db8:1::9/128".parse().unwrap()].into(),
            devices: ["sit0".parse().unwrap()].into(),
        }),
    ])
}
