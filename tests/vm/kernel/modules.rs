//! Modules, what they bring, and what needs a process of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use lvsprov::kernel::{self, ipvs, namespace};
use lvsprov::plan::preflight;
use lvsprov::protocol::{Reply, Request};
use lvsprov::state::{Address, Capability, Edit, Link, Module, Observation, Present, Sysctl};

use super::services;
use crate::support::netns_host::{NetnsHost, address_key, ask_here, begin, plain_address, run};

pub fn loaded(module: &str) -> bool {
    let modules = fs::read_to_string("/proc/modules").unwrap();
    modules.lines().any(|line| line.split(' ').next() == Some(module))
}

pub fn looking_loads_nothing() {
    assert!(!loaded("ip_vs") && !loaded("ipip"), "start from a kernel without ip_vs and ipip");
    let seen = NetnsHost::new().look(&["net.ipv4.ip_forward"]);
    assert_eq!(*seen.facts.capability(Module::IpVs), Capability::Loadable);
    assert_eq!(*seen.facts.capability(Module::Ipip), Capability::Loadable);
    assert!(seen.state.modules.is_empty());
    assert!(seen.state.services.is_empty());
    assert!(!loaded("ip_vs") && !loaded("ipip"), "looking loaded a module");
}

/// Where the modules are hidden from us: a container without /lib/modules.
fn without_modules<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    NetnsHost::new().run(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        run(Command::new("mount").args(["--make-rprivate", "/"]));
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/lib/modules"]));
        work()
    })
}

pub fn a_missing_module_is_explained() {
    let (capability, error) = without_modules(|| {
        (kernel::modules::capability(Module::Ipip), kernel::modules::load(Module::Ipip))
    });
    let Capability::Missing(why) = capability else { panic!("{capability:?}") };
    assert!(why.contains("/lib/modules/"), "{why}");
    let failure = error.unwrap_err().to_failure();
    assert!(failure.message.contains("cannot load the kernel module ipip"), "{failure}");
    assert!(failure.causes[0].contains("modprobe"), "{failure}");
    assert!(failure.cure.unwrap().contains("linux-modules-extra"));
    assert!(!loaded("ipip"));
}

pub fn ip_vs_is_loaded() {
    // The kernel's own modprobe sees the machine's modules, whatever this thread sees.
    without_modules(|| kernel::modules::load(Module::IpVs)).unwrap();
    assert!(loaded("ip_vs"));
    let netns = NetnsHost::new();
    let outcome = netns.do_all(vec![Edit::add::<Module>(Module::IpVs, Present)]);
    assert_eq!(*outcome.after.facts.capability(Module::IpVs), Capability::Present);
    assert_eq!(outcome.after.state.modules, [Module::IpVs].into());
    let info = netns.run(|| ipvs::IpvsSocket::open().unwrap().info()).unwrap();
    let shown = services::ipvsadm(&netns, "-Ln");
    let version = |shift: u32| (info.version >> shift) & 0xff;
    let (major, minor, patch) = (version(16), version(8), version(0));
    let expected = format!("version {major}.{minor}.{patch} (size={})", info.table_size);
    assert!(shown.contains(&expected), "{expected} is not in {shown}");
}

pub fn ipip_is_loaded_and_brings_tunl0() {
    let netns = NetnsHost::new();
    assert!(!loaded("ipip"));
    let outcome = netns.do_all(vec![Edit::add::<Module>(Module::Ipip, Present)]);
    assert!(loaded("ipip"));
    assert_eq!(*outcome.after.facts.capability(Module::Ipip), Capability::Present);
    assert_eq!(outcome.after.state.links[&"tunl0".parse().unwrap()], Link::Down);
    assert!(!outcome.after.facts.hardware.contains_key(&"tunl0".parse().unwrap()));
}

pub fn a_vip_on_tunl0() {
    let netns = NetnsHost::new();
    let before = netns.look(&["net.ipv4.conf.tunl0.rp_filter"]).state;
    let key = address_key("172.18.253.53/32@tunl0");
    let (up, down) = (Link::Up, Link::Down);
    let rp_filter = "net.ipv4.conf.tunl0.rp_filter".parse().unwrap();
    let was = before.sysctls[&rp_filter].clone();
    let steps = vec![
        Edit::change::<Sysctl>(rp_filter, was, "2".to_owned()),
        Edit::add::<Address>(key, plain_address()),
        Edit::change::<Link>("tunl0".parse().unwrap(), down, up),
    ];
    netns.do_all(steps.clone());
    let seen = &netns.ip_json("address show dev tunl0")[0];
    assert!(seen["flags"].as_array().unwrap().contains(&"UP".into()), "{seen}");
    assert_eq!(seen["addr_info"][0]["local"], "172.18.253.53");
    assert_eq!(seen["addr_info"][0]["prefixlen"], 32);
    assert_eq!(netns.sysctl("conf/tunl0/rp_filter"), "2");
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    assert_eq!(netns.look(&["net.ipv4.conf.tunl0.rp_filter"]).state, before);
    assert!(!netns.ip("link show tunl0").contains("UP"));
}

pub fn a_vlan_has_its_settings() {
    run(Command::new("modprobe").arg("8021q"));
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("link add link v0 name v0.100 type vlan id 100");
    let key = "net/ipv4/conf/v0.100/rp_filter".parse().unwrap();
    let before = netns.sysctl("conf/v0.100/rp_filter");
    let after = if before == "2" { "1" } else { "2" }.to_owned();
    netns.do_all(vec![Edit::change::<Sysctl>(key, before, after.clone())]);
    assert_eq!(netns.sysctl("conf/v0.100/rp_filter"), after);
}

/// This program again, as another process.
fn again(program: &[&str], args: &[&str]) -> Output {
    let own = std::env::current_exe().unwrap();
    let mut words = program.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    words.push(own.to_str().unwrap().to_owned());
    words.extend(args.iter().map(|arg| (*arg).to_owned()));
    Command::new(&words[0]).args(&words[1..]).output().unwrap()
}

/// What `again` runs.
pub fn child(role: &str, args: &[String]) -> ExitCode {
    match (role, args) {
        ("enter", [path]) => match namespace::enter_process(path.as_ref()) {
            Ok(()) => println!("{}", fs::read_link("/proc/self/ns/net").unwrap().display()),
            Err(error) => println!("{error}"),
        },
        ("act", [folder]) => {
            let wish = begin(1, services::plain("rr"), &Observation::default());
            match ask_here(Path::new(folder), Request::Prepare(Box::new(wish))) {
                Reply::Refused(failure) => println!("refused: {failure}: {:?}", failure.cure),
                other => println!("{other:?}"),
            }
        }
        _ => return ExitCode::from(3),
    }
    ExitCode::SUCCESS
}

pub fn a_process_enters_a_namespace() {
    let said = |path: &str| {
        let Output { status, stdout, stderr } = again(&[], &["child:enter", path]);
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap().trim().to_owned()
    };
    let name = format!("lvsprov-test-{}", std::process::id());
    let path = format!("/run/netns/{name}");
    run(Command::new("ip").args(["netns", "add", &name]));
    let inside = said(&path);
    let id = fs::metadata(&path).map(|found| std::os::unix::fs::MetadataExt::ino(&found)).unwrap();
    run(Command::new("ip").args(["netns", "delete", &name]));
    assert_eq!(inside, format!("net:[{id}]"));
    assert!(said(&path).contains("there is no network namespace at /run/netns/lvsprov-test"));
    let plain = tempfile::NamedTempFile::new().unwrap();
    assert!(said(plain.path().to_str().unwrap()).contains("is not a network namespace"));
    assert!(said("/proc/self/ns/mnt").contains("is not a network namespace"));
}

pub fn only_root_acts() {
    NetnsHost::new().do_all(vec![Edit::add::<Module>(Module::IpVs, Present)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let said =
        |program: &[&str]| String::from_utf8(again(program, &["child:act", path]).stdout).unwrap();
    let nobody = said(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    assert!(nobody.starts_with("refused: changing a host needs root"), "{nobody}");
    // Root of a user namespace only: IPVS says no.
    let apart = said(&["unshare", "--user", "--net", "--map-root-user"]);
    assert!(apart.starts_with("refused: ") && apart.contains("user namespace"), "{apart}");
}

/// A bond has LRO, also without any device in it.
pub fn forwarding_switches_lro_off_for_good() {
    let netns = NetnsHost::with_lo();
    let lro = || netns.run(|| kernel::offloads::with_lro().unwrap());
    assert_eq!(lro(), [].into());
    let forward = |family: &str, value: &str| {
        let path = format!("/proc/sys/net/{family}");
        netns.run(|| std::fs::write(path, value).unwrap());
    };
    for (nth, family) in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].into_iter().enumerate() {
        forward(family, "0");
        let bond = format!("b{nth}");
        netns.ip(&format!("link add {bond} type bond"));
        let with = [bond.parse().unwrap()].into();
        assert_eq!(lro(), with, "{family}");
        let mut seen = netns.look(&["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]);
        assert_eq!(seen.facts.lro, with);
        let mut after = seen.state.clone();
        let key: Sysctl = format!("net.{}", family.replace('/', ".")).parse().unwrap();
        after.sysctls.insert(key, "1".to_owned());
        let caution = preflight::lost_lro(&seen, &after).unwrap();
        assert!(caution.contains(&format!("off on {bond},")), "{caution}");
        assert_eq!(preflight::lost_lro(&seen, &seen.state), None);
        seen.facts.lro.clear();
        assert_eq!(preflight::lost_lro(&seen, &after), None);
        forward(family, "1");
        assert_eq!(lro(), [].into(), "{family}");
        forward(family, "0");
        assert_eq!(lro(), [].into(), "{family}: it came back");
        netns.ip(&format!("link del {bond}"));
    }
}
