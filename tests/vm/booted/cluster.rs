//! A cluster of hosts that boot under systemd and networkd: directors, routers and real servers. Clients are namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lvsprov::apply::ConnectionSettings;
use lvsprov::lab::targets;
use lvsprov::names::HostName;
use lvsprov::state::Protocol;
use lvsprov::topology::{Reach, Role, Topology};
use lvsprov::transport::Options;
use nix::kmod::DeleteModuleFlags;

use super::switch::{Switch, ip_batch, plugged, run_in};
use crate::support::booted_host::BootedHost;
use crate::support::processes::wait_until;
use crate::support::speed;

/// The real server's answer is its name.
const WEB: &str = "[Unit]\nDefaultDependencies=no\nAfter=network-online.target\n\
    [Service]\nExecStart=busybox httpd -f -p %i -h /srv/web\n";
/// The agent of a host, started in it: `$3` is the path of its namespace (lvsprov::transport::local), and a file beside
/// this script that is called as it has the number of its first process.
const AGENT: &str = "#!/bin/sh\nexec nsenter --target \"$(cat \"${0%/*}/${3##*/}\")\" --mount --pid --net --ipc --uts \
    --root --wd=/ env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin PROGRAM agent\n";

pub struct BootedCluster {
    pub topology: Topology,
    pub switch: Switch,
    hosts: BTreeMap<HostName, BootedHost>,
    clients: Vec<HostName>,
    /// The kernel's modules before anything was applied.
    modules: BTreeSet<String>,
    /// What starts agents, and the numbers of the hosts' first processes.
    folder: tempfile::TempDir,
}

impl BootedCluster {
    /// Boots all hosts of `topology`.
    pub fn boot(topology: Topology) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_agent(&folder.path().join("agent"));
        let switch = Switch::new(&topology);
        let (mut hosts, mut clients) = (BTreeMap::new(), Vec::new());
        for (name, host) in &topology.hosts {
            if host.roles == BTreeSet::from([Role::Client]) {
                clients.push(name.clone());
            } else {
                hosts.insert(name.clone(), prepare(&topology, name));
            }
        }
        let modules = BTreeSet::new();
        let mut cluster = Self { topology, switch, hosts, clients, modules, folder };
        for client in &cluster.clients {
            cluster.start_client(client);
        }
        let all: Vec<HostName> = cluster.host_names().cloned().collect();
        cluster.start(&all);
        cluster.wait(&all);
        cluster.modules = loaded_modules();
        cluster
    }

    /// The hosts that boot.
    pub fn host_names(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    pub fn host(&self, name: &HostName) -> &BootedHost {
        &self.hosts[name]
    }

    /// Their power is cut, all at once.
    pub fn cut_power(&mut self, hosts: &[HostName]) {
        for name in hosts {
            self.hosts.get_mut(name).unwrap().cut_power();
        }
        for name in hosts {
            self.switch.unplug(name, &self.hosts[name].netns);
        }
    }

    /// Starts hosts, all at once.
    pub fn start(&mut self, hosts: &[HostName]) {
        for name in hosts {
            self.switch.plug(name, &self.hosts[name].netns);
            self.hosts.get_mut(name).unwrap().start();
        }
    }

    pub fn wait(&self, hosts: &[HostName]) {
        for name in hosts {
            let host = &self.hosts[name];
            host.wait();
            let first = host.first_process().unwrap();
            fs::write(self.folder.path().join(&host.netns), first).unwrap();
        }
    }

    /// Unloads what was loaded since an apply: a real boot begins with a new kernel.
    pub fn unload_modules(&self) {
        // What a namespace had goes sooner or later after it.
        wait_until("all modules are unloaded", || {
            let loaded = loaded_modules();
            let more: Vec<&String> = loaded.difference(&self.modules).collect();
            for name in &more {
                let name = CString::new(name.as_str()).unwrap();
                let _ = nix::kmod::delete_module(&name, DeleteModuleFlags::O_NONBLOCK);
            }
            more.is_empty()
        });
    }

    fn start_client(&self, name: &HostName) {
        let netns = netns(name);
        self.switch.plug(name, &netns);
        let host = &self.topology.hosts[name];
        let mut batch = vec!["link set lo up".to_owned()];
        for (interface, _) in plugged(host) {
            for address in &host.interfaces[interface].addresses {
                batch.push(format!("address add {address} dev {interface}"));
            }
            batch.push(format!("link set {interface} up"));
        }
        for gateway in &host.gateways {
            batch.push(format!("route add default via {}", gateway.address));
        }
        ip_batch(&netns, &batch);
    }

    /// How the controller reaches the hosts. Without ssh: `lab_traffic` and the playbooks have that.
    pub fn settings(&self) -> ConnectionSettings {
        let transport = Options {
            agent_binary: Some(self.folder.path().join("agent")),
            call_timeout: speed::scaled(Duration::from_mins(1)),
            hello_timeout: speed::scaled(Duration::from_mins(1)),
            ..Options::default()
        };
        let reach = self.hosts.iter().map(|(name, host)| {
            (name.clone(), Reach::Netns(Path::new("/run/netns").join(&host.netns)))
        });
        let reach = reach.collect();
        ConnectionSettings { transport, reach, ..ConnectionSettings::default() }
    }

    /// Asks every TCP service from every client until each real server has answered.
    pub fn ask_all(&self) {
        for client in &self.clients {
            for service in &self.topology.services {
                let mut left: BTreeSet<String> =
                    service.real_servers.iter().map(|it| it.host.to_string()).collect();
                let targets = targets::of_service(service);
                let Some(target) = targets.iter().find(|it| it.protocol == Protocol::Tcp) else {
                    continue;
                };
                // A weighted scheduler takes some rounds to come to each.
                for _ in 0..4 * service.real_servers.len() {
                    let name = run_in(&netns(client), || ask(target.at));
                    let name = name.unwrap_or_else(|error| {
                        panic!("{client} asks {}: {error}", service.display_name())
                    });
                    left.remove(&name);
                    if left.is_empty() {
                        break;
                    }
                }
                assert_eq!(left, BTreeSet::new(), "{} is never served by", service.display_name());
            }
        }
    }
}

impl Drop for BootedCluster {
    fn drop(&mut self) {
        let all: Vec<HostName> = self.hosts.keys().cloned().collect();
        self.hosts.values_mut().for_each(BootedHost::cut_power);
        for name in all.iter().chain(&self.clients) {
            let _ = Command::new("ip").args(["netns", "delete", &netns(name)]).status();
        }
    }
}

fn loaded_modules() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/modules").unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn netns(host: &HostName) -> String {
    format!("lvsprov-{host}")
}

/// The answer of a real server: its name.
fn ask(at: SocketAddr) -> std::io::Result<String> {
    let patience = speed::scaled(Duration::from_secs(3));
    let mut stream = TcpStream::connect_timeout(&at, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

/// The disk of a host before anything was applied.
fn prepare(topology: &Topology, name: &HostName) -> BootedHost {
    let host = &topology.hosts[name];
    let interfaces: Vec<(&str, Vec<String>)> = plugged(host)
        .map(|(interface, _)| {
            let addresses = &host.interfaces[interface].addresses;
            (interface.as_str(), addresses.iter().map(ToString::to_string).collect())
        })
        .collect();
    let booted = BootedHost::with_networkd(&netns(name), &interfaces);
    booted.write("/etc/systemd/system/web@.service", WEB);
    booted.write("/srv/web/index.html", name.as_str());
    let wants = "/etc/systemd/system/lvsprov-test.target.wants";
    fs::create_dir_all(booted.path(wants)).unwrap();
    let mut ports = BTreeSet::new();
    for service in &topology.services {
        let own = service.real_servers.iter().filter(|it| it.host == *name);
        let all = own.flat_map(|server| targets::of_server(service, server));
        let tcp = all.filter(|it| it.protocol == Protocol::Tcp);
        ports.extend(tcp.map(|it| it.at.port()));
    }
    for port in ports {
        let link = booted.path(&format!("{wants}/web@{port}.service"));
        symlink("../web@.service", link).unwrap();
    }
    booted
}

fn write_agent(path: &Path) {
    fs::write(path, AGENT.replace("PROGRAM", env!("CARGO_BIN_EXE_lvsprov"))).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
