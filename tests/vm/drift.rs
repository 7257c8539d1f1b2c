//! A director that looks for drift: what it mends, what it leaves to a health checker, and a VIP that another machine has.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lvsprov::apply::Session;
use lvsprov::lab::network::Management;
use lvsprov::lab::{self, Lab};
use lvsprov::names::HostName;
use lvsprov::state::{DriftAction, DriftPolicy};

use crate::hosts;
use crate::reboot::disks;
use crate::support::cases::{Case, cases};
use crate::support::netns_host::run;
use crate::support::playbooks::load;

pub fn cases() -> Vec<Case> {
    cases![a_director_mends_itself_and_leaves_health_and_foreign_vips_alone]
}

/// One host of the lab, and where its state lies.
struct LabHost {
    netns: PathBuf,
    disk: PathBuf,
}

impl LabHost {
    fn of(lab: &Lab, name: &HostName, disk: &Path) -> Self {
        Self { netns: lab.netns_path(name).unwrap(), disk: disk.to_owned() }
    }

    fn inside(&self, words: &str) -> String {
        let netns = format!("--net={}", self.netns.display());
        run(Command::new("nsenter").arg(netns).args(words.split(' ')))
    }

    /// One look of the host; its words, and its exit code.
    fn look(&self) -> (String, Option<i32>) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
            .args(["agent", "--drift", "--netns"])
            .arg(&self.netns)
            .arg("--state-dir")
            .arg(&self.disk)
            .output()
            .unwrap();
        let text = String::from_utf8(stdout).unwrap() + &String::from_utf8_lossy(&stderr);
        (text, status.code())
    }
}

const VIP: &str = "172.25.7.200";

fn a_director_mends_itself_and_leaves_health_and_foreign_vips_alone() {
    lab::isolate().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let mut topology = load(&folder.join("dr-one-network.yaml"));
    for host in topology.hosts.values_mut() {
        host.drift = Some(DriftPolicy { action: DriftAction::Mend, every_s: 60 });
    }
    let topology = topology;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let states = tempfile::tempdir().unwrap();
    let lab = runtime.block_on(async {
        let lab = Lab::build(&topology, Management::None).unwrap();
        let settings = hosts::settings(&lab, &topology, states.path());
        let mut session = Session::open(&topology, &settings).await;
        hosts::apply(&topology, &mut session).await.unwrap();
        session.close().await;
        lab
    });
    let disks = disks(&lab, &topology, states.path());
    let director = &topology.services[0].director;
    let lvs = LabHost::of(&lab, director, &disks[director]);
    let (clean, code) = lvs.look();
    assert!(code == Some(0) && clean.ends_with(": no drift\n"), "{clean}");

    // A health checker takes one real server out and gives another the weight 0; a person removes the VIP and the
    // scheduler.
    let service = &topology.services[0];
    let [first, second] = [0, 1].map(|at| format!("{}:80", service.real_servers[at].rip));
    let vip =
        lvs.inside("ip -o address show").lines().find(|line| line.contains(VIP)).map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} dev {}", words[3], words[1])
        });
    let vip = vip.expect("the director has the VIP");
    let table = lvs.inside("ipvsadm -Sn");
    lvs.inside(&format!("ipvsadm -e -t {VIP}:80 -r {first} -g -w 0"));
    lvs.inside(&format!("ipvsadm -d -t {VIP}:80 -r {second}"));
    let (text, code) = lvs.look();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(": no drift\n"), "{text}");
    assert_eq!(text.matches("left to a health checker").count(), 2, "{text}");
    lvs.inside(&format!("ipvsadm -E -t {VIP}:80 -s lc"));
    lvs.inside(&format!("ip address delete {vip}"));
    let (text, code) = lvs.look();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("drift of 2 items: mended"), "{text}");
    let rules = lvs.inside("ipvsadm -Sn");
    assert!(rules.contains(&format!("-r {first} -g -w 0")), "{rules}");
    assert!(!rules.contains(&second) && !rules.contains("-s lc"), "{rules}");
    assert!(lvs.inside("ip -o address show").contains(VIP));

    // Without the service clients are refused: it comes back whole.
    lvs.inside(&format!("ipvsadm -D -t {VIP}:80"));
    let (text, code) = lvs.look();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(lvs.inside("ipvsadm -Sn"), table);

    // Another machine has the VIP meanwhile: this host leaves it, and says so.
    let client = topology.hosts.keys().find(|name| name.as_str() == "client").unwrap();
    let client = LabHost::of(&lab, client, &disks[client]);
    lvs.inside(&format!("ip address delete {vip}"));
    client.inside(&format!("ip address add {VIP}/32 dev eth0"));
    let (text, code) = lvs.look();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("not mended: another machine has {VIP}")), "{text}");
    assert!(!lvs.inside("ip -o address show").contains(VIP), "two machines have the VIP");
    client.inside(&format!("ip address delete {VIP}/32 dev eth0"));
    let (text, code) = lvs.look();
    assert_eq!(code, Some(0), "{text}");
    assert!(lvs.inside("ip -o address show").contains(VIP));
}
