//! What a reader of a plan sees, and in which order.
#![allow(clippy::unwrap_used)]

use super::cluster::{ReasonDetail, text, text_with};
use crate::apply::outcome::{Action, Cost};
use crate::apply::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
use crate::plan::preflight::Obstacle;
use crate::state::{Destination, DestinationId, Edit, ForwardingMethod, Module, Present, Stage};

const WHY: &str = "it is not in the file any more, and connections that it has may end before; destroy puts it back";

fn step(stage: Stage, text: &str, edit: Edit, why: &str) -> StepReport {
    StepReport {
        stage,
        text: text.to_owned(),
        edit,
        why: why.to_owned(),
        state: StepState::Planned,
        cost: Cost::default(),
    }
}

fn removal() -> Edit {
    let key = DestinationId {
        service: "tcp 192.0.2.80:80".parse().unwrap(),
        key: "192.0.2.3:80".parse().unwrap(),
    };
    Edit::remove::<Destination>(key, Destination::plain(ForwardingMethod::DirectRoute, 1))
}

/// A director that loses a real server, two real servers with the same step, three hosts without changes, and one with an
/// obstacle.
fn report() -> ClusterReport {
    let load = |text| step(Stage::Ready, text, Edit::add::<Module>(Module::IpVs, Present), "short");
    let leaving = StepReport {
        cost: Cost { connections: Some(3), drain_seconds: Some(30), connections_cut: None },
        ..step(Stage::Withdraw, "remove real server 192.0.2.3:80", removal(), WHY)
    };
    let with = |steps| HostReport { steps, ..HostReport::bare(HostStatus::Pending) };
    let bare = HostReport::bare;
    let obstacle = Obstacle {
        message: "interface eth0 is down".to_owned(),
        why: "no packet passes it".to_owned(),
        cure: "bring it up".to_owned(),
    };
    let obstructed = HostReport { obstacles: vec![obstacle], ..bare(HostStatus::Obstructed) };
    let hosts = [
        ("client", bare(HostStatus::Unchanged)),
        ("edge", bare(HostStatus::Unmanaged)),
        ("exit", bare(HostStatus::Unmanaged)),
        ("lvs", with(vec![leaving])),
        ("old", obstructed),
        ("web1", with(vec![load("load module ipip")])),
        ("web2", with(vec![load("load module ipip")])),
        ("web3", bare(HostStatus::Unchanged)),
    ];
    ClusterReport {
        action: Action::Plan,
        topology: "web".to_owned(),
        hosts: hosts.into_iter().map(|(name, host)| (name.parse().unwrap(), host)).collect(),
        transaction: None,
        open_transactions: Vec::new(),
        verifications: Vec::new(),
        fingerprint: Some("0123456789abcdef".to_owned()),
    }
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn what_clients_may_feel_comes_first_and_the_summary_last() {
    assert_eq!(
        plain(&text(&report())),
        "\
clients may feel
  lvs - remove real server 192.0.2.3:80  3 connections, up to 30 s to end

the director stops taking what is to go
  lvs
    - remove real server 192.0.2.3:80
        3 connections, up to 30 s to end
        # it is not in the file any more, and connections that it has may end before ...

real servers, routers and clients get ready
  web1, web2  the same on each
    + load module ipip  # short

client, web3  as they should be
edge, exit  not touched: the file does not say how they are reached
old  not touched: something stands in the way
    ! interface eth0 is down
        why: no packet passes it
        do:  bring it up

reasons are cut (...): `--explain` shows all of them
live connections: 3 have up to 30 s to end, then the rest is cut
fingerprint of this plan: 0123456789ab
web: 3 changes to do on 3 hosts (2 to add, 0 to change, 1 to remove), 2 hosts unchanged, 1 host failed
"
    );
}

#[test]
fn with_explain_each_reason_has_its_line_and_none_is_cut() {
    let text = plain(&text_with(&report(), ReasonDetail::Full));
    let reasons = "        # it is not in the file any more, and connections that it has may end before\n\
                   \x20       # destroy puts it back\n";
    assert!(text.contains(reasons), "{text}");
    assert!(text.contains("    + load module ipip\n        # short\n"), "{text}");
    assert!(!text.contains(" ..."), "{text}");
}

/// A destroy takes everything away: a list of that is the plan itself.
#[test]
fn a_destroy_has_no_list_of_what_clients_may_feel() {
    let text = plain(&text(&ClusterReport { action: Action::PlanDestroy, ..report() }));
    assert!(!text.contains("clients may feel"), "{text}");
    assert!(text.contains("live connections: 3 have up to 30 s to end"), "{text}");
    assert!(text.contains("web: 3 changes to take back on 3 hosts"), "{text}");
}

#[test]
fn names_of_many_hosts_go_over_several_lines_of_100_columns() {
    let mut report = report();
    let unchanged = HostReport::bare(HostStatus::Unchanged);
    for n in 0..60 {
        report.hosts.insert(format!("host-{n:02}").parse().unwrap(), unchanged.clone());
    }
    let text = plain(&text(&report));
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("host-")).collect();
    assert!(lines.len() >= 5, "{text}");
    // The status follows the last name.
    let (last, others) = lines.split_last().unwrap();
    assert!(others.iter().all(|line| line.len() <= 100), "{text}");
    assert!(last.ends_with("  as they should be"), "{text}");
    assert!(text.contains("62 hosts unchanged"), "{text}");
}
