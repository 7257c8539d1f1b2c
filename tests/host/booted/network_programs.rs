//! NetworkManager, netplan and ifupdown themselves, in a real server with an address of a director: they take away what
//! is lvsprov's, and the host makes it again. How long it was gone is printed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use lvsprov::state::{Address, AddressKey, HostState, Scope};

use super::monitor::Monitor;
use super::other_programs::{DBUS, ROUTED, settle, without_default_dependencies};
use super::{RIP, Segment, VIP};
use crate::support::booted_host::BootedHost;
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        under_network_manager_the_host_makes_its_state_again,
        under_netplan_the_host_makes_its_state_again,
        under_netplan_with_network_manager_the_host_makes_its_state_again,
        under_ifupdown_the_host_makes_its_state_again,
        changes_in_quick_succession_are_all_followed,
        a_change_before_systemd_watches_again_is_followed,
        an_ipv6_vip_that_networkd_drops_comes_again
    ]
}

/// What a change takes away of lvsprov's on eth0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drops {
    Ours,
    /// Some versions of the program take something away.
    DependsOnVersion,
}

use Drops::{DependsOnVersion, Ours};

/// An address of eth0, as a director's VIP is one.
const ADDRESS: &str = "172.25.9.9";
/// What lvsprov has on eth0.
const OURS: [&str; 2] = ["default", ADDRESS];

impl Segment {
    /// A real server with the programs, and what `write` puts on its disk; it boots into `units`.
    fn managed(units: &[&str], write: impl FnOnce(&BootedHost)) -> Self {
        let tag = Self::tag();
        let server = BootedHost::new(&format!("{tag}-rs1"), units).with_network_programs();
        without_default_dependencies(&server, &DBUS);
        write(&server);
        let mut segment = Self::with_server(&tag, server, ROUTED);
        segment.start();
        segment.server.wait();
        segment.until("with its address", || segment.addresses().contains(RIP));
        segment
    }

    /// Its settled state, which has an address and a default route on eth0.
    fn apply_with_address(&self) -> String {
        self.lvsprov(&["apply"], 0);
        let key: AddressKey = format!("{ADDRESS}/32@eth0").parse().unwrap();
        let addresses = [(key, Address::plain(Scope::Global))].into();
        settle(self, "vips", HostState { addresses, ..HostState::default() });
        self.server.expect(&["systemctl", "restart", "lvsprov-boot.service"], 0);
        let all = self.managed_state();
        assert!(OURS.iter().all(|part| all.contains(part)), "{all}");
        all
    }

    fn managed_state(&self) -> String {
        let own = self.server.expect(&["ip", "-o", "address", "show", "dev", "eth0"], 0);
        // A new one is the last.
        let own: BTreeSet<&str> = own.lines().collect();
        own.into_iter().fold(self.whole_state(), |all, line| all + line + "\n")
    }

    /// After each of `changes` the host has its state. What [`Drops::Ours`] takes away is missing for a time.
    fn follows(&self, changes: &[(&str, Drops)]) {
        let applied = self.apply_with_address();
        for (change, drops) in changes {
            let monitor = Monitor::start(&self.server.netns);
            self.server.expect(&["sh", "-c", change], 0);
            self.until(&format!("as settled after `{change}`"), || self.managed_state() == applied);
            let gap = monitor.gap(&OURS);
            println!("`{change}`: gone for {gap:?}");
            let took = gap.is_some() || *drops == Drops::DependsOnVersion;
            assert!(took, "`{change}` took nothing away: it tries nothing");
        }
        self.lvsprov(&["plan"], 0);
    }
}

const NETWORK_MANAGER: [&str; 4] = [
    "NetworkManager.service",
    "NetworkManager-wait-online.service",
    "NetworkManager-dispatcher.service",
    "systemd-hostnamed.service",
];

fn network_manager(server: &BootedHost) {
    without_default_dependencies(server, &NETWORK_MANAGER);
    server.write("/etc/NetworkManager/conf.d/test.conf", "[main]\nno-auto-default=*\n");
    // As `systemctl enable` makes it: D-Bus starts it by this name.
    let alias = server.path("/etc/systemd/system/dbus-org.freedesktop.nm-dispatcher.service");
    symlink("/lib/systemd/system/NetworkManager-dispatcher.service", alias).unwrap();
}

fn under_network_manager_the_host_makes_its_state_again() {
    let units = [DBUS[0], NETWORK_MANAGER[0], NETWORK_MANAGER[1]];
    let segment = Segment::managed(&units, |server| {
        network_manager(server);
        let path = "/etc/NetworkManager/system-connections/lan.nmconnection";
        let text = format!(
            "[connection]\nid=lan\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=manual\naddress1={RIP}/16\n\
             [ipv6]\nmethod=disabled\n"
        );
        server.write_private(path, &text);
    });
    segment.follows(&[
        ("nmcli con up lan", Ours),
        ("nmcli device reapply eth0", Ours),
        ("systemctl restart NetworkManager && nm-online -sq", DependsOnVersion),
        ("nmcli con down lan && nmcli con up lan", Ours),
    ]);
}

fn netplan(server: &BootedHost, renderer: &str) {
    let text = format!(
        "network:\n  version: 2\n  renderer: {renderer}\n  ethernets:\n    eth0:\n      addresses: [{RIP}/16]\n\
         \x20     link-local: []\n"
    );
    server.write_private("/etc/netplan/lan.yaml", &text);
}

/// It finds its library by the linker's cache.
const NETPLAN: &str = "ldconfig && netplan apply";

fn under_netplan_the_host_makes_its_state_again() {
    let units = [DBUS[0], "systemd-networkd.service", "systemd-networkd-wait-online.service"];
    let segment = Segment::managed(&units, |server| netplan(server, "networkd"));
    segment.follows(&[
        (NETPLAN, DependsOnVersion),
        ("echo '# Changed.' >> /etc/netplan/lan.yaml && netplan apply", DependsOnVersion),
        ("networkctl reload", DependsOnVersion),
        ("networkctl reconfigure eth0", DependsOnVersion),
    ]);
}

fn under_netplan_with_network_manager_the_host_makes_its_state_again() {
    let units = [DBUS[0], NETWORK_MANAGER[0], NETWORK_MANAGER[1]];
    let segment = Segment::managed(&units, |server| {
        network_manager(server);
        netplan(server, "NetworkManager");
    });
    segment.follows(&[
        (NETPLAN, Ours),
        ("nmcli con up netplan-eth0", Ours),
        ("netplan apply", Ours),
    ]);
}

fn under_ifupdown_the_host_makes_its_state_again() {
    let segment = Segment::managed(&["networking.service"], |server| {
        let text = format!(
            "auto lo eth0\niface lo inet loopback\niface eth0 inet static\n  address {RIP}/16\n"
        );
        server.write("/etc/network/interfaces", &text);
    });
    segment.follows(&[("systemctl restart networking", Ours), ("ifdown eth0 && ifup eth0", Ours)]);
}

/// A change while the host still answers the one before.
fn changes_in_quick_succession_are_all_followed() {
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    segment.lvsprov(&["apply"], 0);
    let applied = segment.state();
    segment.server.expect(&["mkdir", "-p", "/run/network"], 0);
    // It changes something at once, and again after so many milliseconds.
    let change = format!(
        "drop() {{ ip address delete {VIP}/32 dev lo 2>/dev/null; echo $1 > /run/network/new; \
         mv /run/network/new /run/network/ifstate; }}; drop first; sleep $0; drop second"
    );
    for millis in (0..400).step_by(15) {
        let pause = format!("{:.3}", f64::from(millis) / 1000.0);
        segment.server.expect(&["sh", "-c", &change, &pause], 0);
        let what = format!("as settled after changes with {millis} ms between");
        segment.until(&what, || segment.state() == applied);
    }
}

/// A change after the last look of the unit, and before systemd has noticed its end.
fn a_change_before_systemd_watches_again_is_followed() {
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    segment.lvsprov(&["apply"], 0);
    let applied = segment.state();
    let vip = format!("{VIP}/32");
    let drop_vip = ["ip", "address", "delete", &vip, "dev", "lo"];
    segment.server.expect(&drop_vip, 0);
    segment.server.expect(&["mkdir", "-p", "/run/network"], 0);
    segment.until("as settled after a change", || segment.state() == applied);

    let first: i32 = segment.server.first_process().unwrap().parse().unwrap();
    let systemd = Pid::from_raw(first);
    kill(systemd, Signal::SIGSTOP).unwrap();
    segment.until("at its end, unseen by systemd", || has_ended_child(first, "lvsprov"));
    segment.server.expect(&drop_vip, 0);
    segment.server.expect(&["mkdir", "/run/network/new"], 0);
    assert_ne!(segment.state(), applied);
    kill(systemd, Signal::SIGCONT).unwrap();
    segment.until("as settled after the second change", || segment.state() == applied);
}

/// Whether a process of this name has ended, and its parent has not asked for its end yet.
fn has_ended_child(parent: i32, name: &str) -> bool {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let mut children = children.split_whitespace().map(|pid| Path::new("/proc").join(pid));
    // proc_pid_stat(5).
    let ended = format!("({name}) Z ");
    children.any(|path| fs::read_to_string(path.join("stat")).is_ok_and(|it| it.contains(&ended)))
}

/// It is deprecated, which networkd takes for an address by DHCP.
fn an_ipv6_vip_that_networkd_drops_comes_again() {
    const VIP6: &str = "2001:db8::80";
    let mut segment = Segment::of(ROUTED);
    without_default_dependencies(&segment.server, &DBUS);
    segment.start();
    segment.server.wait();
    segment.server.expect(&["systemctl", "start", DBUS[0]], 0);
    segment.lvsprov(&["apply"], 0);
    let key: AddressKey = format!("{VIP6}/128@eth0").parse().unwrap();
    let vip = Address { nodad: true, deprecated: true, ..Address::plain(Scope::Global) };
    settle(&segment, "vips", HostState { addresses: [(key, vip)].into(), ..HostState::default() });
    segment.server.expect(&["systemctl", "restart", "lvsprov-boot.service"], 0);
    let applied = segment.managed_state();
    assert!(applied.contains(VIP6) && applied.contains("deprecated"), "{applied}");
    for change in ["reload", "restart", "reconfigure"] {
        let monitor = Monitor::start(&segment.server.netns);
        match change {
            "reload" => segment.reload_networkd(),
            "restart" => {
                segment.server.expect(&["systemctl", "restart", "systemd-networkd.service"], 0);
            }
            _ => drop(segment.server.expect(&["networkctl", "reconfigure", "eth0"], 0)),
        }
        segment.server.expect(&["/lib/systemd/systemd-networkd-wait-online", "--timeout=60"], 0);
        let what = format!("as settled after a {change} of networkd");
        segment.until(&what, || segment.managed_state() == applied);
        println!("{change} of networkd: the IPv6 VIP was gone for {:?}", monitor.gap(&[VIP6]));
    }
}
