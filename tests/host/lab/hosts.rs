//! Bare hosts: what they come with, that they hear each other, and that nothing is left of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lvsprov::kernel::namespace;
use lvsprov::lab::clients::{self, Tally};
use lvsprov::lab::network::Management;
use lvsprov::lab::snapshot::snapshot;
use lvsprov::lab::sshd::Sshds;
use lvsprov::lab::targets::{self, RequestTarget};
use lvsprov::lab::{self, Lab, LabError, responders};
use lvsprov::names::HostName;
use lvsprov::state::Protocol;
use lvsprov::topology::Topology;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{BINARY, host};
use crate::support::cases::{Case, cases};
use crate::support::playbooks::{load, playbooks};
use crate::support::processes::{processes, wait_until};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    let mut all = cases![
        a_new_namespace_has_lo_only_and_the_caller_stays_where_it_was,
        a_lab_is_not_built_in_the_machines_own_network,
        every_playbook_comes_up_and_its_real_servers_answer_at_their_own_addresses,
        frames_pass_from_the_moment_in_which_a_lab_is_built,
        a_bare_host_is_what_the_kernel_makes_it_and_strict,
        an_interface_in_no_network_is_a_dummy_device_or_the_error_says_that_there_is_none,
        nothing_is_left_of_a_lab_that_was_killed,
        a_host_that_is_cut_off_is_silent_and_comes_back
    ];
    // No test of its own: `nothing_is_left_of_a_lab_that_was_killed` starts it.
    all.extend(cases![hold_a_lab].into_iter().map(Case::ignored));
    all
}

pub fn needs_ipvs() -> Vec<Case> {
    cases![nothing_is_left_of_a_lab_run_that_was_interrupted]
}

/// For requests that nobody answers.
const IMPATIENCE: Duration = Duration::from_millis(300);

fn playbook(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks").join(name)
}

fn build(topology: &Topology, management: Management) -> Lab {
    lab::isolate().unwrap();
    Lab::build(topology, management).unwrap()
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ip(lab: &Lab, name: &str, arguments: &str) -> String {
    lab.run_in(&host(name), || run("ip", arguments)).unwrap()
}

fn a_new_namespace_has_lo_only_and_the_caller_stays_where_it_was() {
    let interfaces = || {
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
        names.map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    };
    let identity = || namespace::identity(namespace::current().unwrap()).unwrap();
    let before = identity();
    let fresh = namespace::create().unwrap();
    assert_ne!(namespace::identity(&fresh).unwrap(), before);
    // Where ipip is loaded, its device is in every namespace.
    let inside = namespace::run_in(&fresh, interfaces).unwrap();
    assert!(inside.iter().all(|name| name == "lo" || name == "tunl0"), "{inside:?}");
    assert!(inside.contains(&"lo".to_owned()));
    assert_eq!(identity(), before);
}

fn a_lab_is_not_built_in_the_machines_own_network() {
    let topology = load(&playbook("dr-one-network.yaml"));
    let refused = Lab::build(&topology, Management::None);
    assert!(matches!(refused.err(), Some(LabError::NotIsolated)));
}

/// A host that is on the wire with `rip` without a router in between.
fn neighbour_of<'a>(topology: &'a Topology, owner: &HostName, rip: IpAddr) -> &'a HostName {
    let near = topology.hosts.values().find(|host| {
        let addresses = host.interfaces.values().flat_map(|interface| &interface.addresses);
        host.name != *owner && addresses.into_iter().any(|net| net.contains(&rip))
    });
    &near.unwrap_or_else(|| panic!("{}: {rip} is alone in its subnet", topology.name)).name
}

fn every_playbook_comes_up_and_its_real_servers_answer_at_their_own_addresses() {
    for topology in playbooks().iter().map(|path| load(path)) {
        let lab = build(&topology, Management::None);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let responders = responders::start(&lab, &topology).await.unwrap();
            let mut asked = 0;
            // SCTP is a module; where this kernel lacks it, the run in the virtual machine has it.
            let no_sctp = responders.not_served();
            assert!(no_sctp.keys().all(|at| at.protocol == Protocol::Sctp), "{no_sctp:?}");
            for service in &topology.services {
                for (server, target) in service.real_servers.iter().flat_map(|server| {
                    targets::of_server(service, server).into_iter().map(move |t| (server, t))
                }) {
                    let RequestTarget { protocol, at } = target;
                    if protocol == Protocol::Sctp && !no_sctp.is_empty() {
                        continue;
                    }
                    let from = neighbour_of(&topology, &server.host, server.rip);
                    let tally = clients::ask(&lab, from, at, protocol, 2, speed::patience()).await;
                    let expected = Tally {
                        answers: [(server.host.to_string(), 2)].into(),
                        ..Tally::default()
                    };
                    assert_eq!(tally.unwrap(), expected, "{}: {at}", topology.name);
                    asked += 2;
                }
                // Nobody has set the service up, and nothing of the lab stands in for it.
                let client = topology.hosts.values().find(|h| h.name.as_str().contains("client"));
                let client = &client.unwrap().name;
                let RequestTarget { protocol, at } = targets::of_service(service)[0];
                let tally = clients::ask(&lab, client, at, protocol, 1, IMPATIENCE).await;
                let tally = tally.unwrap();
                assert!(tally.answers.is_empty() && tally.failures.len() == 1, "{tally:?}");
            }
            assert!(asked > 0 || !no_sctp.is_empty());
            wait_until("all are counted", || responders.served().values().sum::<u64>() == asked);
        });
    }
}

/// Who was heard until each of `expected` was; a broadcast is sent once, and repeated by nobody.
fn hear(socket: &UdpSocket, expected: usize) -> BTreeSet<IpAddr> {
    socket.set_read_timeout(Some(speed::patience())).unwrap();
    let mut heard = BTreeSet::new();
    while heard.len() < expected
        && let Ok((_, from)) = socket.recv_from(&mut [0; 8])
    {
        heard.insert(from.ip());
    }
    heard
}

/// Each host sends one frame to all others, at once, without any ARP before it.
fn all_hear_each_other(sockets: &[UdpSocket], all: Ipv4Addr) {
    for socket in sockets {
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"x", (all, PORT)).unwrap();
    }
    for socket in sockets {
        // A host hears itself too.
        let heard = hear(socket, sockets.len());
        assert_eq!(heard.len(), sockets.len(), "only these were heard: {heard:?}");
    }
}

const PORT: u16 = 4242;

fn frames_pass_from_the_moment_in_which_a_lab_is_built() {
    let topology = load(&playbook("dr-one-network.yaml"));
    let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    // Several times: the kernel looks at some cables at once, and puts off the look at others.
    for management in [Management::None, Management::Bridge].repeat(3) {
        let lab = build(&topology, management);
        let sockets: Vec<UdpSocket> =
            lab.host_names().map(|host| lab.run_in(host, open).unwrap()).collect();
        all_hear_each_other(&sockets, Ipv4Addr::new(172, 25, 7, 255));
        if management == Management::Bridge {
            let sockets: Vec<UdpSocket> = sockets.into_iter().chain([open()]).collect();
            all_hear_each_other(&sockets, Ipv4Addr::new(198, 18, 255, 255));
        }
    }
}

fn a_bare_host_is_what_the_kernel_makes_it_and_strict() {
    let topology = load(&playbook("dr-two-networks.yaml"));
    let lab = build(&topology, Management::None);
    let router = snapshot(lab.namespace(&host("router")).unwrap()).unwrap();
    for (setting, value) in [
        ("ip_forward", "0"),
        ("conf/all/rp_filter", "1"),
        ("conf/default/rp_filter", "0"),
        ("conf/eth1/rp_filter", "0"),
        ("conf/all/arp_ignore", "0"),
        ("conf/eth0/arp_announce", "0"),
        ("conf/all/send_redirects", "1"),
        ("conf/eth2/send_redirects", "1"),
        ("conf/all/accept_redirects", "1"),
    ] {
        let key = format!("net/ipv4/{setting}");
        assert_eq!(router.get(&key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(ip(&lab, "router", "-4 route show default"), "");
    let addresses = ip(&lab, "router", "-br -4 addr");
    for address in ["192.168.244.129/24", "172.18.253.251/16", "192.168.142.133/24", "127.0.0.1/8"]
    {
        assert!(addresses.contains(address), "{addresses}");
    }
    let links = ip(&lab, "router", "-br link");
    for interface in ["eth0", "eth1", "eth2"] {
        let line = links.lines().find(|line| line.starts_with(interface)).unwrap();
        let mac = lab.mac_of(&host("router"), &interface.parse().unwrap()).unwrap();
        assert!(line.contains(&mac.to_string()) && line.contains(" UP "), "{line}");
    }
}

fn an_interface_in_no_network_is_a_dummy_device_or_the_error_says_that_there_is_none() {
    let mut topology = load(&playbook("dr-one-network.yaml"));
    let server = topology.hosts.get_mut(&host("server3")).unwrap();
    let mut alone = server.interfaces.values().next().unwrap().clone();
    alone.name = "alone0".parse().unwrap();
    alone.addresses = vec!["192.0.2.7/32".parse().unwrap()];
    alone.network = None;
    server.interfaces.insert(alone.name.clone(), alone);
    lab::isolate().unwrap();
    let probe = namespace::create().unwrap();
    let add = || Command::new("ip").args("link add d0 type dummy".split(' ')).output().unwrap();
    let kernel_has_it = namespace::run_in(&probe, add).unwrap().status.success();
    match Lab::build(&topology, Management::None) {
        Ok(lab) => {
            assert!(kernel_has_it);
            let addresses = ip(&lab, "server3", "-br -4 addr show alone0");
            assert!(addresses.contains("192.0.2.7/32"), "{addresses}");
        }
        Err(error) => {
            assert!(!kernel_has_it, "{error}");
            let text = error.to_string();
            assert!(matches!(error, LabError::NoDummy { .. }), "{text}");
            assert!(text.contains("alone0 of server3") && text.contains("`dummy`"), "{text}");
        }
    }
}

/// Not a test: what `nothing_is_left_of_a_lab_that_was_killed` kills. It ends with its input.
fn hold_a_lab() {
    let topology = load(&playbook("dr-one-network.yaml"));
    let lab = build(&topology, Management::Bridge);
    let _sshds = Sshds::start(&lab, lab.host_names(), Path::new(BINARY)).unwrap();
    println!("\nbuilt");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// What a process that holds a lab leaves on the machine as long as it lives.
struct Traces {
    /// Its hosts' network namespaces, as `/proc/PID/ns/net` shows them.
    namespaces: Vec<String>,
    /// What the command lines of its sshds have in them.
    folder: String,
    own_links: usize,
}

fn links_here() -> usize {
    fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().count()
}

impl Traces {
    /// It must hold four hosts, and a running sshd on each.
    fn of(holder: &Child, folder: &Path, own_links: usize) -> Self {
        let open = fs::read_dir(format!("/proc/{}/fd", holder.id())).unwrap().flatten();
        let targets = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        let targets = targets.map(|target| target.to_string_lossy().into_owned());
        let mut namespaces: Vec<String> = targets.filter(|t| t.starts_with("net:[")).collect();
        namespaces.sort();
        namespaces.dedup();
        // The switch has one too.
        assert!(namespaces.len() >= 5, "{namespaces:?}");
        let folder = folder.display().to_string();
        let traces = Self { namespaces, folder, own_links };
        assert!(traces.sshds() >= 4, "{} sshds", traces.sshds());
        assert!(traces.is_inhabited());
        traces
    }

    fn sshds(&self) -> usize {
        processes().filter(|process| process.command.contains(&self.folder)).count()
    }

    fn is_inhabited(&self) -> bool {
        let of = |id: u32| fs::read_link(format!("/proc/{id}/ns/net")).ok();
        let mut inhabited = processes().filter_map(|process| of(process.id));
        inhabited.any(|of| self.namespaces.contains(&of.to_string_lossy().into_owned()))
    }

    fn vanish(&self) {
        wait_until("no process is in its namespaces", || !self.is_inhabited());
        wait_until("its sshds are gone", || self.sshds() == 0);
        assert_eq!(links_here(), self.own_links);
        // A name would keep a namespace for ever (ip-netns(8)).
        for named in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let of = fs::metadata(named.path()).map(|m| format!("net:[{}]", m.ino()));
            assert!(!of.is_ok_and(|of| self.namespaces.contains(&of)), "{named:?}");
        }
    }
}

fn nothing_is_left_of_a_lab_that_was_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let own_links = links_here();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "lab::hosts::hold_a_lab", "--nocapture"])
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "built"), "it ended");
    let traces = Traces::of(&child, temporary.path(), own_links);
    child.kill().unwrap();
    child.wait().unwrap();
    traces.vanish();
}

fn nothing_is_left_of_a_lab_run_that_was_interrupted() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let temporary = tempfile::tempdir().unwrap();
        let own_links = links_here();
        let mut child = Command::new(BINARY)
            .args(["lab", "run", "--in", "here", "--over", "ssh"])
            .arg(playbook("dr-one-network.yaml"))
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let built = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("the lab builds the hosts"));
        assert!(built.is_some(), "{:?}", child.wait_with_output());
        let traces = Traces::of(&child, temporary.path(), own_links);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        // Its pipe stays open: it must not end by a broken one.
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("interrupted"), "{output:?} {said:?}");
        traces.vanish();
        let left: Vec<_> = fs::read_dir(temporary.path()).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn a_host_that_is_cut_off_is_silent_and_comes_back() {
    lab::isolate().unwrap();
    let lab = Lab::bare_hosts(2).unwrap();
    let address = |name| IpAddr::V4(lab.management_address(&host(name)).unwrap());
    // Nobody listens there: a host that hears us says so at once.
    let try_it = |name| {
        let patience = speed::scaled(IMPATIENCE);
        let error = TcpStream::connect_timeout(&(address(name), 9).into(), patience).unwrap_err();
        error.kind()
    };
    assert_eq!(try_it("host1"), ErrorKind::ConnectionRefused);
    lab.cut(&host("host1")).unwrap();
    assert_eq!(try_it("host1"), ErrorKind::TimedOut);
    assert_eq!(try_it("host2"), ErrorKind::ConnectionRefused);
    assert!(ip(&lab, "host1", "link show mgmt0").contains("LOWER_UP"));
    lab.join(&host("host1")).unwrap();
    assert_eq!(try_it("host1"), ErrorKind::ConnectionRefused);
}
