//! Power cuts of whole clusters: all namespaces are deleted, made anew as bare as a boot leaves them, and each host starts
//! `lvsprov agent --boot`, all at once. Then clients ask every service.
//!
//! The modules stay loaded, which a real boot does not do: `booted` has hosts with systemd, which start the unit, and
//! unloads the modules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lvsprov::apply::Session;
use lvsprov::lab::capture::{FrameCapture, claims_of};
use lvsprov::lab::clients::{self, ClientRequest};
use lvsprov::lab::network::Management;
use lvsprov::lab::{self, Lab, responders, targets};
use lvsprov::names::HostName;
use lvsprov::topology::{Service, Topology};

use sha2::{Digest as _, Sha256};

use crate::hosts::{self, same, seen, steps_left, without_modules};
use crate::support::cases::Case;
use crate::support::playbooks::load;
use crate::support::prediction::ways;
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    let playbooks = ["dr-two-networks", "nat-two-nics", "tun", "fullnat", "persistence-fwmark"];
    let case = |name: &'static str| {
        let title = name.replace('-', "_");
        Case::new(format!("a_cluster_makes_itself_again_{title}"), move || comes_back(name))
    };
    playbooks.into_iter().map(case).collect()
}

fn comes_back(name: &str) {
    lab::isolate().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let topology = load(&folder.join(format!("{name}.yaml")));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let states = tempfile::tempdir().unwrap();
        let first = Lab::build(&topology, Management::None).unwrap();
        let applied = {
            let settings = hosts::settings(&first, &topology, states.path());
            let mut session = Session::open(&topology, &settings).await;
            hosts::apply(&topology, &mut session).await.unwrap();
            let applied = seen(&mut session).await;
            session.close().await;
            applied
        };
        let disks = disks(&first, &topology, states.path());
        drop(first);

        let second = Lab::build(&topology, Management::None).unwrap();
        let states_after = tempfile::tempdir().unwrap();
        let disks_after = self::disks(&second, &topology, states_after.path());
        for (host, disk) in &disks_after {
            std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
            // Nothing is set on a host that needs nothing: a client, mostly.
            if disks[host].exists() {
                std::fs::rename(&disks[host], disk).unwrap();
            }
        }
        let settings = hosts::settings(&second, &topology, states_after.path());
        let mut session = Session::open(&topology, &settings).await;
        let bare = seen(&mut session).await;
        assert_ne!(bare, applied, "the hosts have lost nothing");
        let _responders = responders::start(&second, &topology).await.unwrap();

        let capture = FrameCapture::start(&second).unwrap();
        boot_all(&second, &disks_after);
        let after = seen(&mut session).await;
        same(&after, &applied, "after the boot and before the power cut");
        ask_all(&second, &topology).await;
        let frames = capture.stop().unwrap();
        for vip in topology.services.iter().filter_map(Service::vip_address) {
            let owners = claims_of(&frames, vip).into_keys();
            let owners = owners.map(|mac| second.owner_of(mac).map(|(host, _)| host.clone()));
            for owner in owners {
                let is_director =
                    topology.services.iter().any(|it| Some(&it.director) == owner.as_ref());
                assert!(is_director, "{owner:?} claims {vip}");
            }
        }

        let idle = steps_left(&topology, &mut session).await;
        assert_eq!(idle, Vec::<String>::new(), "there is something to do after a boot");
        hosts::destroy(&topology, &mut session).await.unwrap();
        let mut destroyed = without_modules(seen(&mut session).await);
        for (host, state) in &mut destroyed {
            // IPv6 has settings of tunl0 once that was up, and keeps them.
            state.sysctls.retain(|key, _| bare[host].sysctls.contains_key(key));
        }
        same(&destroyed, &without_modules(bare), "after destroy and before the boot");
        session.close().await;
    });
}

/// Where the receipts of each host lie: the folder is named by the path of the namespace, which is another after a boot.
pub fn disks(lab: &Lab, topology: &Topology, states: &Path) -> BTreeMap<HostName, PathBuf> {
    let disk = |host: &HostName| {
        let path = lab.netns_path(host).unwrap();
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let half: [u8; 16] = digest[..16].try_into().unwrap();
        let name = format!("{:032x}", u128::from_be_bytes(half));
        (host.clone(), states.join("netns-by-path").join(name))
    };
    topology.hosts.keys().map(disk).collect()
}

/// What the unit does on each host, on all of them at once.
fn boot_all(lab: &Lab, disks: &BTreeMap<HostName, PathBuf>) {
    let start = |(host, disk): (&HostName, &PathBuf)| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvsprov"));
        command.args(["agent", "--boot", "--netns"]).arg(lab.netns_path(host).unwrap());
        command.arg("--state-dir").arg(disk);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (host.clone(), command.spawn().unwrap())
    };
    let running: Vec<(HostName, Child)> = disks.iter().map(start).collect();
    for (host, child) in running {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        println!("{host}: {}", text.trim_end());
        assert!(output.status.success(), "{host}: {text}");
    }
}

/// Each client, each service, as often as it has real servers and twice: none fails.
async fn ask_all(lab: &Lab, topology: &Topology) {
    for ((client, _), ways) in ways(topology) {
        let Some(target) = targets::of_service(ways[0].service).first().copied() else { continue };
        let question = ClientRequest {
            from: None,
            target: target.at,
            protocol: target.protocol,
            patience: speed::scaled(Duration::from_millis(1500)),
        };
        let answers =
            clients::ask_each(lab, client, &vec![question; 2 * ways.len()]).await.unwrap();
        let failed: Vec<&String> = answers.iter().filter_map(|it| it.as_ref().err()).collect();
        assert!(failed.is_empty(), "{client} asks {}: {failed:?}", ways[0].service.display_name());
    }
}
