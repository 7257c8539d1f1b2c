//! Who may send wrapped packets to a VIP: every receiving device with its rule, and packets made by hand in every form that
//! the device takes. What is dropped with the rule arrives without it.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use lvsprov::state::{
    Edit, FragmentGuard, GuePort, Link, Module, PacketRules, Present, TunnelDevice, TunnelGuard,
    TunnelHeader, TunnelKind,
};

use crate::support::netns_host::{NetnsHost, eventually};
use crate::support::nft_tables::{put, rules};
use crate::support::wrapped::{
    self, IPIP, IPV6, PORT, behind_options, forms, fragments, inside, ip,
};

const VIP: &str = "172.18.253.53";
const VIP6: &str = "2001:db8::53";
/// The real server, its director, and a host that is neither; IPv4 and IPv6.
const HOST: [&str; 2] = ["10.9.0.1", "fd09::1"];
const DIRECTOR: [&str; 2] = ["10.9.0.8", "fd09::8"];
const STRANGER: [&str; 2] = ["10.9.0.2", "fd09::2"];
const GUE: u16 = 6080;

fn address(of: [&str; 2], ipv6: bool) -> IpAddr {
    of[usize::from(ipv6)].parse().unwrap()
}

/// A way to receive: what is made, and the device out of which packets come.
struct Receiver {
    header: TunnelHeader,
    outside_v6: bool,
    inside_v6: bool,
    own: Option<TunnelKind>,
    dev: &'static str,
}

fn receivers() -> Vec<Receiver> {
    let one = |header, outside_v6, inside_v6, own: Option<TunnelKind>, dev| Receiver {
        header,
        outside_v6,
        inside_v6,
        own,
        dev,
    };
    let (plain, gue) = (TunnelHeader::None, TunnelHeader::Gue { port: GUE });
    let gre = |checksum| TunnelHeader::Gre { checksum };
    vec![
        one(plain, false, false, None, "tunl0"),
        one(plain, false, true, None, "sit0"),
        one(plain, true, false, Some(TunnelKind::Ip6tnl), "lvstnl1"),
        one(plain, true, true, Some(TunnelKind::Ip6tnl), "lvstnl1"),
        one(gre(false), false, false, Some(TunnelKind::Gre), "lvsgre1"),
        one(gre(false), false, true, Some(TunnelKind::Gre), "lvsgre1"),
        one(gre(true), false, false, Some(TunnelKind::Gre), "lvsgre1"),
        one(gre(false), true, false, Some(TunnelKind::Ip6gre), "lvsgre1"),
        one(gre(false), true, true, Some(TunnelKind::Ip6gre), "lvsgre1"),
        one(gre(true), true, true, Some(TunnelKind::Ip6gre), "lvsgre1"),
        one(gue, false, false, None, "tunl0"),
        one(gue, false, true, None, "sit0"),
        one(gue, true, false, Some(TunnelKind::Ip6tnl), "lvstnl1"),
        one(gue, true, true, Some(TunnelKind::Ip6tnl), "lvstnl1"),
    ]
}

impl Receiver {
    fn name(&self) -> String {
        let Self { header, outside_v6, inside_v6, .. } = self;
        format!("{header:?}, IPv6 outside: {outside_v6}, inside: {inside_v6}")
    }

    fn outside(&self, source: [&str; 2]) -> (IpAddr, IpAddr) {
        (address(source, self.outside_v6), address(HOST, self.outside_v6))
    }

    fn vip(&self) -> IpAddr {
        address([VIP, VIP6], self.inside_v6)
    }

    /// A host that receives so, and one with a cable to it.
    fn hosts(&self) -> (NetnsHost, NetnsHost) {
        let (host, sender) = NetnsHost::two("10.9.0.1/24", "10.9.0.2/24");
        for (netns, address) in [(&host, "fd09::1/64"), (&sender, "fd09::2/64")] {
            netns.ip(&format!("address add {address} dev v0 nodad"));
        }
        host.ip(&format!("address add {VIP}/32 dev lo"));
        host.ip(&format!("address add {VIP6}/128 dev lo"));
        let modules = [
            Module::Ipip,
            Module::Sit,
            Module::Ip6Tnl,
            Module::IpGre,
            Module::Ip6Gre,
            Module::Fou,
            Module::NfTables,
        ];
        let mut edits: Vec<Edit> =
            modules.into_iter().map(|module| Edit::add::<Module>(module, Present)).collect();
        let dev = self.dev.parse().unwrap();
        if let Some(kind) = self.own {
            let local = address(HOST, self.outside_v6);
            let checksum = self.header == TunnelHeader::Gre { checksum: true };
            let device = TunnelDevice { kind, local, checksum };
            edits.push(Edit::add::<TunnelDevice>(self.dev.parse().unwrap(), device));
        }
        if let TunnelHeader::Gue { port } = self.header {
            edits.push(Edit::add::<GuePort>(GuePort { v6: self.outside_v6, port }, Present));
        }
        edits.push(Edit::change::<Link>(dev, Link::Down, Link::Up));
        host.do_all(edits);
        for dev in ["all", "v0", self.dev] {
            host.set_sysctl(&format!("conf/{dev}/rp_filter"), "0");
        }
        (host, sender)
    }

    fn guard(&self) -> PacketRules {
        let directors = address(DIRECTOR, self.outside_v6);
        let bare = TunnelGuard {
            outside_v6: self.outside_v6,
            header: TunnelHeader::None,
            vips: [self.vip()].into(),
            sources: [directors.into()].into(),
            devices: [self.dev.parse().unwrap()].into(),
        };
        let mut all = vec![bare.clone().into()];
        if self.outside_v6 {
            let TunnelGuard { sources, devices, .. } = bare.clone();
            let gue_ports = match self.header {
                TunnelHeader::Gue { port } => [port].into(),
                TunnelHeader::None | TunnelHeader::Gre { .. } => BTreeSet::new(),
            };
            let (plain, gre) = (true, true);
            all.push(FragmentGuard { plain, gre, gue_ports, sources, devices }.into());
        }
        all.push(TunnelGuard { header: self.header, ..bare }.into());
        rules(all)
    }

    /// A stranger's packets of IPv6 in fragments that hide what is in them.
    fn in_fragments(&self) -> Vec<(String, [Vec<u8>; 2])> {
        if !self.outside_v6 {
            return Vec::new();
        }
        let outside = self.outside(STRANGER);
        let form = |name: &str| forms(self.header, outside, |_| self.inside(name)).remove(0);
        let short = form("in short fragments");
        let cut = form("with its headers in two fragments");
        let (protocol, body) = behind_options(&[8, 8], (cut.protocol, &cut.body));
        vec![
            ("in short fragments".to_owned(), fragments(outside, (short.protocol, &short.body), 8)),
            (
                "with its headers in two fragments".to_owned(),
                fragments(outside, (protocol, &body), 8),
            ),
        ]
    }

    /// What is inside, with this text.
    fn inside(&self, text: &str) -> Vec<u8> {
        let client = address(["198.51.100.7", "2001:db8:7::7"], self.inside_v6);
        inside((client, self.vip()), text)
    }

    /// Packets of `source` in every form, each with its name inside.
    fn packets(&self, source: [&str; 2]) -> Vec<(String, Vec<u8>)> {
        let outside = self.outside(source);
        let all = forms(self.header, outside, |text| self.inside(text));
        all.iter().map(|form| (form.name.clone(), form.packet(outside))).collect()
    }

    /// A stranger's packet that is wrapped twice: in the middle it says that a director sent it. Only where the device takes
    /// the family in the middle.
    fn nested(&self) -> Option<(String, Vec<u8>)> {
        if self.outside_v6 != self.inside_v6 {
            return None;
        }
        let name = "wrapped twice";
        let directors = self.outside(DIRECTOR);
        let middle = forms(self.header, directors, |_| self.inside(name)).remove(0);
        let middle = middle.packet(directors);
        let strangers = self.outside(STRANGER);
        let whole = forms(self.header, strangers, |_| middle.clone()).remove(0);
        Some((name.to_owned(), whole.packet(strangers)))
    }
}

/// What comes to the VIP.
struct AtVip(UdpSocket);

impl AtVip {
    fn of(host: &NetnsHost, vip: IpAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind((vip, PORT)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Self(socket)
    }

    /// All that comes, up to a pause.
    fn all(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut buffer = [0; 256];
        while let Ok((length, _)) = self.0.recv_from(&mut buffer) {
            all.insert(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        all
    }
}

/// A stranger's packets arrive at each device without the rule, in every form, and with it none does; a director's arrive
/// with it in the form that IPVS sends.
pub fn only_directors_may_wrap() {
    for receiver in receivers() {
        let name = receiver.name();
        let (host, sender) = receiver.hosts();
        let at_vip = AtVip::of(&host, receiver.vip());
        let target = address(HOST, receiver.outside_v6);
        let mut strangers = receiver.packets(STRANGER);
        strangers.extend(receiver.nested());
        let mut names: BTreeSet<String> = strangers.iter().map(|(name, _)| name.clone()).collect();
        let mut packets: Vec<Vec<u8>> = strangers.into_iter().map(|(_, packet)| packet).collect();
        for (name, both) in receiver.in_fragments() {
            names.insert(name);
            packets.extend(both);
        }
        let mut arrived = BTreeSet::new();
        eventually(&format!("{name}: all forms without the rule"), || {
            wrapped::send(&sender, target, &packets);
            arrived.extend(at_vip.all());
            if arrived != names {
                eprintln!("{name}: so far {arrived:?} of {names:?}");
            }
            arrived == names
        });
        put(&host, &receiver.guard());
        wrapped::send(&sender, target, &packets);
        assert_eq!(at_vip.all(), BTreeSet::new(), "{name}: from a stranger");
        let (_, plain) = receiver.packets(DIRECTOR).remove(0);
        wrapped::send(&sender, target, &[plain]);
        let expected: BTreeSet<String> = ["plain".to_owned()].into();
        eventually(&format!("{name}: from a director"), || {
            let (_, plain) = receiver.packets(DIRECTOR).remove(0);
            wrapped::send(&sender, target, &[plain]);
            at_vip.all() == expected
        });
        wrapped::send(&sender, target, &packets);
        assert_eq!(at_vip.all(), BTreeSet::new(), "{name}: from a stranger, once more");
    }
}

/// A packet inside to another address of the host passes from any source: tunnels of other programs go on.
pub fn other_destinations_are_not_asked() {
    let receiver = receivers().remove(0);
    let (host, sender) = receiver.hosts();
    host.ip("address add 172.18.253.99/32 dev lo");
    put(&host, &receiver.guard());
    let at_other = AtVip::of(&host, "172.18.253.99".parse().unwrap());
    let outside = receiver.outside(STRANGER);
    let to = |target: &str| inside((outside.0, target.parse().unwrap()), "hello");
    eventually("a packet to another address", || {
        wrapped::send(&sender, outside.1, &[ip(outside, IPIP, &to("172.18.253.99"))]);
        at_other.all() == ["hello".to_owned()].into()
    });
    let at_vip = AtVip::of(&host, receiver.vip());
    wrapped::send(&sender, outside.1, &[ip(outside, IPIP, &to(VIP)), ip(outside, IPV6, &[])]);
    assert_eq!(at_vip.all(), BTreeSet::new());
}
