//! Programs of the host that drop what they did not make: systemd-networkd, and files as NetworkManager and ifupdown
//! write them, and the nftables service.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

use lvsprov::names::TopologyName;
use lvsprov::state::{
    Address, AddressKey, HostState, Item, Module, Owned, PacketRule, PacketRules, Protocol,
    RECEIPT_VERSION, Receipt, Scope, Settled, SettledDigest, TableName,
};

use super::monitor::Monitor;
use super::{RIP, Segment, VIP, ip};
use crate::support::booted_host::BootedHost;
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        networkd_keeps_what_is_ours_or_the_host_makes_it_again,
        a_change_of_the_network_by_any_program_is_followed,
        a_firewall_that_is_loaded_anew_takes_nothing_away,
        a_vip_that_another_machine_has_is_left_to_it
    ]
}

/// The replies of the real server leave through a router: a default route on eth0.
pub const ROUTED: &str = "version: 1
name: booted
networks: {clients: [172.24.0.0/16], lan: [172.25.0.0/16]}
hosts:
  client: {role: client, interfaces: {eth0: 172.24.7.1/16}, gateway: router}
  router: {role: router, interfaces: {eth0: 172.24.7.2/16, eth1: 172.25.7.1/16}}
  lvs: {role: director, interfaces: {eth0: 172.25.7.2/16}, gateway: router}
  rs1: {role: real_server, local: true, interfaces: {eth0: 172.25.7.3/16}, gateway: router}
services:
  - {vip: 172.25.8.1, port: 80, forward: dr, real_servers: [rs1]}
";

const NETWORK_FILE: &str = "/etc/systemd/network/10-eth0.network";
const DROP_IN: &str = "/etc/systemd/network/10-eth0.network.d/lvsprov.conf";
/// An address of an interface, as a director's VIP is one.
const ADDRESS: &str = "172.25.9.9";

impl Segment {
    fn routes(&self) -> String {
        self.server.expect(&["ip", "-4", "route", "show", "default"], 0)
    }

    pub fn whole_state(&self) -> String {
        self.state() + &self.routes()
    }

    /// The operator changes the interface's file, and has networkd read it.
    pub fn reload_networkd(&self) {
        let path = self.server.live_path(NETWORK_FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "# Changed.\n").unwrap();
        self.server.expect(&["networkctl", "reload"], 0);
        // It has answered before it is done.
        self.server.expect(&["/lib/systemd/systemd-networkd-wait-online", "--timeout=60"], 0);
    }

    fn has(&self, path: &str) -> bool {
        self.server.path(path).symlink_metadata().is_ok()
    }
}

/// networkctl(1) asks networkd over D-Bus.
pub const DBUS: [&str; 2] = ["dbus.socket", "dbus.service"];

/// With default dependencies these units would start all of a host.
pub fn without_default_dependencies(server: &BootedHost, units: &[&str]) {
    for unit in units {
        let path = format!("/etc/systemd/system/{unit}.d/test.conf");
        server.write(&path, "[Unit]\nDefaultDependencies=no\n");
    }
}

fn networkd_keeps_what_is_ours_or_the_host_makes_it_again() {
    let mut segment = Segment::of(ROUTED);
    without_default_dependencies(&segment.server, &DBUS);
    segment.start();
    segment.server.wait();
    segment.server.expect(&["dbus-daemon", "--version"], 0);
    segment.server.expect(&[&["systemctl", "start"], &DBUS[..]].concat(), 0);
    segment.until("connected to D-Bus", || {
        let asked = segment.server.run(&["networkctl", "reload"]);
        asked.is_some_and(|output| output.status.success())
    });
    let bare = segment.whole_state();
    let plan = segment.lvsprov(&["plan"], 4);
    assert!(plan.contains(&format!("writes {DROP_IN}: ")), "{plan}");
    assert!(!segment.has(DROP_IN));
    segment.lvsprov(&["apply"], 0);
    assert!(segment.has(DROP_IN));
    let plan = segment.lvsprov(&["plan"], 0);
    assert!(!plan.contains("lvsprov.conf"), "{plan}");
    let applied = segment.whole_state();
    assert!(applied.contains("default via 172.25.7.1 dev eth0"), "{applied}");
    let address = format!("{ADDRESS}/32");
    segment.server.expect(&["ip", "address", "add", &address, "dev", "eth0"], 0);

    // The first reload reads the drop-in along with what it is to decide.
    let ours = ["default", ADDRESS, VIP];
    for _ in 0..2 {
        let monitor = Monitor::start(&segment.server.netns);
        segment.reload_networkd();
        assert_eq!(monitor.end(&ours), Vec::<String>::new(), "networkd dropped it");
        assert_eq!(segment.whole_state(), applied);
    }
    let monitor = Monitor::start(&segment.server.netns);
    segment.server.expect(&["systemctl", "restart", "systemd-networkd.service"], 0);
    segment.server.expect(&["/lib/systemd/systemd-networkd-wait-online", "--timeout=60"], 0);
    assert_eq!(monitor.end(&ours), Vec::<String>::new(), "networkd dropped it at a restart");
    assert!(segment.addresses().contains(ADDRESS));

    // Up to systemd 252 networkd takes the own address away for a moment, and the kernel the routes with the last one.
    segment.server.expect(&["ip", "address", "delete", &address, "dev", "eth0"], 0);
    segment.server.expect(&["networkctl", "reconfigure", "eth0"], 0);
    segment.until("as settled after a reconfiguration", || segment.whole_state() == applied);

    // Without the drop-in it is gone, and comes back; and that is drift.
    segment.server.expect(&["rm", DROP_IN], 0);
    let monitor = Monitor::start(&segment.server.netns);
    segment.reload_networkd();
    segment.until("as settled without the drop-in", || segment.whole_state() == applied);
    assert_ne!(monitor.end(&["default"]), Vec::<String>::new(), "networkd kept it by itself");
    let status = segment.lvsprov(&["status"], 4);
    assert!(status.contains(&format!("write {DROP_IN}")), "{status}");
    segment.lvsprov(&["apply"], 0);
    assert!(segment.has(DROP_IN));
    segment.lvsprov(&["plan"], 0);
    segment.server.expect(&["sh", "-c", "echo KeepConfiguration=no >> $0", DROP_IN], 0);
    segment.lvsprov(&["plan"], 4);
    segment.lvsprov(&["apply"], 0);
    segment.lvsprov(&["plan"], 0);

    segment.lvsprov(&["destroy"], 0);
    assert!(!segment.has("/etc/systemd/network/10-eth0.network.d"), "the drop-in is left");
    assert_eq!(segment.whole_state(), bare);

    // A file of another program stays, and stands in the way.
    let theirs = "[Network]\nDNS=172.25.7.1\n";
    let taken = segment.server.live_path(DROP_IN);
    fs::create_dir(taken.parent().unwrap()).unwrap();
    fs::write(&taken, theirs).unwrap();
    let plan = segment.lvsprov(&["plan"], 5);
    assert!(plan.contains(&format!("{DROP_IN} was not written by lvsprov")), "{plan}");
    segment.lvsprov(&["apply"], 5);
    assert_eq!(fs::read_to_string(&taken).unwrap(), theirs);
    assert_eq!(segment.whole_state(), bare);
}

/// Files as these programs write them, after an address of lvsprov is gone.
fn a_change_of_the_network_by_any_program_is_followed() {
    const SCRIPT: &str = "/etc/NetworkManager/dispatcher.d/90-lvsprov";
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    segment.lvsprov(&["apply"], 0);
    let applied = segment.state();
    segment.server.expect(&["mkdir", "-p", "/run/NetworkManager/devices", "/run/network"], 0);
    // NetworkManager is installed later: that is drift.
    segment.server.expect(&["mkdir", "-p", "/etc/NetworkManager/dispatcher.d"], 0);
    let status = segment.lvsprov(&["status"], 4);
    assert!(status.contains(&format!("write {SCRIPT}")), "{status}");
    let plan = segment.lvsprov(&["plan"], 4);
    assert!(plan.contains(&format!("belongs to lvsprov-boot.service: {SCRIPT}")), "{plan}");
    segment.lvsprov(&["apply"], 0);
    segment.lvsprov(&["plan"], 0);
    let device = "/run/NetworkManager/devices/2";
    let beside = format!("echo [device] > {device}.new; mv {device}.new {device}");
    let reapply = format!("{SCRIPT} eth0 reapply");
    let state = "echo eth0=eth0 > /run/network/ifstate.eth0".to_owned();
    for change in [beside, reapply, state] {
        // It follows the change before for a while.
        segment.until("quiet", || {
            let asked = segment.server.run(&["systemctl", "is-active", "lvsprov-network.service"]);
            asked.is_some_and(|output| output.stdout == b"inactive\n")
        });
        let vip = format!("{VIP}/32");
        segment.server.expect(&["ip", "address", "delete", &vip, "dev", "lo"], 0);
        assert_ne!(segment.state(), applied);
        segment.server.expect(&["sh", "-c", &change], 0);
        segment.until(&format!("as settled after `{change}`"), || segment.state() == applied);
    }
    segment.lvsprov(&["destroy"], 0);
    assert!(!segment.has(SCRIPT) && segment.has("/etc/NetworkManager/dispatcher.d"));
}

/// A topology whose settled state this is, as if it had been applied: this kernel may lack what an apply of it needs.
pub fn settle(segment: &Segment, topology: &str, state: HostState) {
    let name: TopologyName = topology.parse().unwrap();
    let owned: Owned =
        state.items().into_iter().filter(|item| !matches!(item, Item::Module(_))).collect();
    let settled = Settled {
        version: RECEIPT_VERSION,
        topology: name.clone(),
        state,
        accepted: [].into(),
        exclusive: false,
        external: [].into(),
        needs: [("eth0".parse().unwrap(), vec![format!("{RIP}/16").parse().unwrap()])].into(),
    };
    let text = settled.text().unwrap();
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        topology: name,
        since: 0,
        owned,
        found: HostState::default(),
        run: None,
        settled: Some(SettledDigest::of(&text)),
        maintenance: lvsprov::state::Maintenance::default(),
        drift: None,
        external: lvsprov::state::ExternalWeights::default(),
    };
    let folder = segment.server.live_path("/var/lib/lvsprov").join(topology);
    fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
    let put = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("settled.json", &text);
    put("receipt.json", &serde_json::to_vec(&receipt).unwrap());
}

/// A director's table of firewall marks.
fn marks() -> HostState {
    let mark = PacketRule::Mark {
        vip: VIP.parse().unwrap(),
        protocol: Protocol::Tcp,
        ports: [80].into(),
        mark: 7,
    };
    let table = TableName::of(&"marks".parse().unwrap());
    HostState {
        modules: [Module::NfTables].into(),
        tables: [(table, PacketRules { rules: [mark].into() })].into(),
        ..HostState::default()
    }
}

/// As Debian's firewalld says it of itself.
const FIREWALLD: &str = "[Unit]\nDescription=x\nConflicts=nftables.service\nAfter=nftables.service\n\
                         DefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                         ExecStart=/bin/true\n";

fn a_firewall_that_is_loaded_anew_takes_nothing_away() {
    let mut segment = Segment::new();
    segment.server.write("/etc/systemd/system/firewalld.service", FIREWALLD);
    segment.server.write("/etc/nftables.conf", "flush ruleset\ntable inet filter {}\n");
    segment.start();
    segment.server.wait();
    segment.lvsprov(&["apply"], 0);
    settle(&segment, "marks", marks());
    segment.server.expect(&["systemctl", "start", "nftables.service"], 0);
    segment.server.expect(&["systemctl", "restart", "lvsprov-boot.service"], 0);
    let ruleset = || segment.server.expect(&["nft", "-s", "list", "ruleset"], 0);
    let whole = ruleset();
    assert!(whole.contains("lvsprov-marks") && whole.contains("inet filter"), "{whole}");
    for verb in ["restart", "reload"] {
        segment.server.expect(&["systemctl", verb, "nftables.service"], 0);
        segment.until(&format!("whole after a {verb}"), || ruleset() == whole);
    }
    segment.server.expect(&["systemctl", "stop", "nftables.service"], 0);
    assert_eq!(ruleset(), "");
    segment.server.expect(&["systemctl", "start", "nftables.service"], 0);
    segment.until("whole after stop and start", || ruleset() == whole);
    // It stops that service, and the boot unit with it.
    segment.server.expect(&["systemctl", "start", "firewalld.service"], 0);
    let has_own = || ruleset().contains("lvsprov-marks");
    segment.until("with its table beside another firewall", has_own);
    assert!(!ruleset().contains("inet filter"), "nftables.service was not stopped");
}

/// A director was down, and another machine took its VIP over.
fn a_vip_that_another_machine_has_is_left_to_it() {
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    segment.lvsprov(&["apply"], 0);
    let applied = segment.state();
    let vips = ["172.25.8.21", "172.25.8.22"];
    let addresses = vips.map(|vip| {
        let key = format!("{vip}/32@eth0").parse::<AddressKey>().unwrap();
        (key, Address::plain(Scope::Global))
    });
    settle(&segment, "vips", HostState { addresses: addresses.into(), ..HostState::default() });
    segment.cut_power();

    let taken = format!("{}/32", vips[0]);
    let client = segment.client.clone();
    segment.start();
    ip(&["-n", &client, "address", "add", &taken, "dev", "eth0"]);
    segment.until("up", || segment.server.run(&["true"]).is_some_and(|it| it.status.success()));
    segment.until("with the other VIP", || segment.addresses().contains(vips[1]));
    let failed = || segment.server.run(&["systemctl", "is-failed", "lvsprov-boot.service"]);
    segment.until("failed", || failed().is_some_and(|it| it.stdout == b"failed\n"));
    assert!(!segment.addresses().contains(vips[0]), "two machines have the VIP");
    assert_eq!(segment.state(), applied, "the other topology is made again");
    let text = segment.server.expect(&["/usr/local/lib/lvsprov/bin/lvsprov", "agent", "--boot"], 1);
    let expected = format!("vips: another machine has {}: ", vips[0]);
    assert!(text.contains(&expected) && text.contains(" answers for it on eth0"), "{text}");

    ip(&["-n", &client, "address", "delete", &taken, "dev", "eth0"]);
    segment.server.expect(&["systemctl", "restart", "lvsprov-boot.service"], 0);
    assert!(segment.addresses().contains(vips[0]));
}
