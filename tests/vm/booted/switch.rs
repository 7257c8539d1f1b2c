//! The cables of hosts that boot: a switch with a bridge for each network, in a network namespace that no host notices.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lvsprov::kernel::namespace;
use lvsprov::lab::capture::FrameCapture;
use lvsprov::names::{HostName, IfName, NetworkName};
use lvsprov::topology::{Host, Topology};

/// The namespace of the switch.
const SWITCH: &str = "lvsprov-switch";

/// One end is a port of the switch, the other an interface of a host.
struct Cable {
    port: String,
    bridge: String,
    interface: IfName,
    mac: String,
}

/// Ends with this value.
pub struct Switch {
    /// By bridge index.
    networks: BTreeMap<u32, NetworkName>,
    cables: BTreeMap<HostName, Vec<Cable>>,
}

impl Switch {
    /// Bridges for the networks of `topology`, without a cable yet.
    pub fn new(topology: &Topology) -> Self {
        add_netns(SWITCH);
        run_in(SWITCH, || {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                fs::write(path, "1").unwrap();
            }
        });
        let mut bridges = BTreeMap::new();
        let mut batch = Vec::new();
        for (nth, network) in topology.networks.keys().enumerate() {
            let bridge = format!("br{nth}");
            batch.push(format!(
                "link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
            ));
            batch.push(format!("link set {bridge} up promisc on"));
            bridges.insert(network, bridge);
        }
        ip_batch(SWITCH, &batch);
        let networks = run_in(SWITCH, || {
            let index = |name: &String| nix::net::if_::if_nametoindex(name.as_str()).unwrap();
            bridges.iter().map(|(network, it)| (index(it), (*network).clone())).collect()
        });
        let mut cables: BTreeMap<HostName, Vec<Cable>> = BTreeMap::new();
        let mut ports = 0;
        for (number, (name, host)) in topology.hosts.iter().enumerate() {
            for (nth, (interface, network)) in plugged(host).enumerate() {
                cables.entry(name.clone()).or_default().push(Cable {
                    port: format!("p{ports}"),
                    bridge: bridges[network].clone(),
                    interface: interface.clone(),
                    mac: format!("02:00:00:00:{number:02x}:{nth:02x}"),
                });
                ports += 1;
            }
        }
        Self { networks, cables }
    }

    /// Makes the namespace `netns` of `host` as bare as its hardware: its interfaces are there and down. Strict reverse
    /// path filtering is what most distributions set at boot.
    pub fn plug(&self, host: &HostName, netns: &str) {
        add_netns(netns);
        run_in(netns, || {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter");
                fs::write(path, "1").unwrap();
            }
        });
        let mut batch = Vec::new();
        for Cable { port, bridge, interface, mac } in &self.cables[host] {
            batch.push(format!(
                "link add {port} type veth peer name {interface} address {mac} netns {netns}"
            ));
            batch.push(format!("link set {port} master {bridge} up"));
        }
        ip_batch(SWITCH, &batch);
    }

    /// The host is gone, and all that its kernel knew.
    pub fn unplug(&self, host: &HostName, netns: &str) {
        let ports = self.cables[host].iter().map(|it| format!("link delete {}", it.port));
        ip_batch(SWITCH, &ports.collect::<Vec<_>>());
        detach(netns).unwrap();
    }

    /// Every ARP and neighbour discovery frame from now on.
    pub fn capture(&self) -> FrameCapture {
        FrameCapture::start_in(File::open(path_of(SWITCH)).unwrap(), self.networks.clone()).unwrap()
    }

    /// The host with this hardware address.
    pub fn owner_of(&self, mac: &str) -> Option<&HostName> {
        let owns = |(_, cables): &(&HostName, &Vec<Cable>)| cables.iter().any(|it| it.mac == mac);
        self.cables.iter().find(owns).map(|(host, _)| host)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = detach(SWITCH);
    }
}

/// The interfaces of a host that have a cable, with their networks.
pub fn plugged(host: &Host) -> impl Iterator<Item = (&IfName, &NetworkName)> {
    host.interfaces.values().filter_map(|it| Some((&it.name, it.network.as_ref()?)))
}

/// Runs `work` in the namespace of that name.
pub fn run_in<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    namespace::run_in(File::open(path_of(netns)).unwrap(), work).unwrap()
}

pub fn path_of(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

fn add_netns(name: &str) {
    let status = Command::new("ip").args(["netns", "add", name]).status().unwrap();
    assert!(status.success(), "cannot add the namespace {name}");
}

fn detach(name: &str) -> std::io::Result<()> {
    let status = Command::new("ip").args(["netns", "delete", name]).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("ip netns delete")) }
}

/// One process for all commands: in an emulated machine each start takes long.
pub fn ip_batch(netns: &str, commands: &[String]) {
    let commands = commands.join("\n");
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "in {netns}:\n{commands}");
}
