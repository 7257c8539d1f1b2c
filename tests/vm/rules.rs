//! What rules of `check` say about IPVS, shown by requests: a service with the mistake that a rule names, and the same
//! service after what its page in docs/diagnostics.md tells to do.

mod calls;
mod steps;
mod tables;
mod trial_lab;

use std::collections::{BTreeMap, BTreeSet};

use lvsprov::lab;

use crate::support::cases::{Case, cases};
use tables::{DIRECT, NAT, OF_HOSTS, UNDER_DIRECT_ROUTING, UNDER_NAT, WEB1};
use trial_lab::{TrialLab, rules_of};

pub fn cases() -> Vec<Case> {
    let own = cases![
        requests_show_it_under_direct_routing,
        requests_show_it_under_nat,
        requests_show_it_of_a_hosts_addresses,
    ];
    [own, steps::cases(), calls::cases()].concat()
}

/// Requests to a port of the VIP, one after the other.
enum Ask {
    Tcp(u16, usize),
    /// One from each address of the client.
    TcpFromEach(u16),
    /// All from one port: IPVS takes them for one connection.
    UdpFromOnePort(u16, u32),
}

/// What clients get of all requests.
enum Served {
    /// Each is answered by this one.
    Only(&'static str),
    /// Each is answered, and each real server answered so many.
    Shares(&'static [(&'static str, usize)]),
    /// Each is answered, all by the same real server.
    OneForAll,
    /// Each is answered, and both real servers answered some.
    Both,
    /// None is answered.
    None(&'static str),
    /// None is answered: time runs out, or a host on the way says that it finds no neighbour.
    Lost,
    /// Some are answered, the others fail so.
    Some(&'static str),
    /// It hangs on the version of the kernel: from this one on `now`.
    Since { kernel: (u32, u32), now: &'static Served, before: &'static Served },
}

struct Trial {
    rule: &'static str,
    asks: &'static [Ask],
    broken: (&'static str, Served),
    mended: (&'static str, Served),
}

fn requests_show_it_under_direct_routing() {
    show(DIRECT, UNDER_DIRECT_ROUTING);
}

fn requests_show_it_under_nat() {
    show(NAT, UNDER_NAT);
}

/// A lab for each: its hosts are others.
fn requests_show_it_of_a_hosts_addresses() {
    const SERVICE: &str = "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [web1]}";
    lab::isolate().unwrap();
    assert!(DIRECT.contains(WEB1));
    for (rule, web1) in OF_HOSTS {
        let hosts = DIRECT.replace(WEB1, web1);
        assert!(rules_of(&hosts, SERVICE).contains(rule), "{rule}");
        assert!(!rules_of(DIRECT, SERVICE).contains(rule), "{rule}");
        let lab = TrialLab::build(&hosts, SERVICE);
        lab.apply(SERVICE);
        if web1.contains("lo: 192.0.2.100/24") {
            // The lab leaves lo to the hosts, and apply refuses to go on beside such an address.
            lab.run("web1", "ip address add 192.0.2.100/24 dev lo");
        }
        lab.expect(&format!("{rule}, broken"), VIP, &[Ask::Tcp(80, 2)], &Served::Lost);
    }
    let lab = TrialLab::build(DIRECT, SERVICE);
    lab.apply(SERVICE);
    lab.expect("all of them mended", VIP, &[Ask::Tcp(80, 2)], &Served::Only("web1"));
}

/// The VIP of the tables.
const VIP: &str = "192.0.2.100";

impl Trial {
    /// The services, on another VIP than those of the other trials, and what clients get.
    fn services(&self, nth: usize, is_broken: bool) -> (String, &Served) {
        let (services, served) = if is_broken { &self.broken } else { &self.mended };
        (services.replace(VIP, &format!("192.0.2.{}", 100 + nth)), served)
    }

    /// Whether it is about the director as a whole: then no other trial is beside it.
    fn is_alone(&self) -> bool {
        [&self.broken, &self.mended].iter().any(|(services, _)| services.contains("ipvs:"))
    }
}

/// One lab for all trials: what is broken stands in one file, and what is mended in the next.
fn show(hosts: &str, trials: &[Trial]) {
    lab::isolate().unwrap();
    let lab = TrialLab::build(hosts, trials[0].mended.0);
    let all: Vec<(usize, &Trial)> = trials.iter().enumerate().collect();
    let (alone, together): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.1.is_alone());
    let mut wrong = Vec::new();
    for group in std::iter::once(together).chain(alone.into_iter().map(|one| vec![one])) {
        for is_broken in [true, false] {
            let files = group.iter().map(|(nth, trial)| trial.services(*nth, is_broken).0);
            lab.apply(&files.collect::<Vec<_>>().join("\n"));
            for (nth, trial) in &group {
                wrong.extend(try_one(&lab, hosts, trial, *nth, is_broken));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is not as the table has it.
fn try_one(lab: &TrialLab, hosts: &str, trial: &Trial, nth: usize, is_broken: bool) -> Vec<String> {
    let rule = trial.rule;
    let (services, served) = trial.services(nth, is_broken);
    let mut wrong = Vec::new();
    let found = rules_of(hosts, &services);
    if found.contains(rule) != is_broken {
        wrong.push(format!("{rule}: check says {found:?} of {services}"));
    }
    let vip = trial_lab::topology(hosts, &services).services[0].vip_address().unwrap();
    let answers = lab.ask(&vip.to_string(), trial.asks);
    println!("{rule}, {}: {answers:?}", if is_broken { "broken" } else { "mended" });
    if let Err(why) = served.agrees(&answers) {
        wrong.push(format!("{rule}: {why}: {answers:?} of {services}"));
    }
    wrong
}

impl Served {
    fn agrees(&self, answers: &[Result<String, String>]) -> Result<(), &'static str> {
        if let Self::Since { kernel, now, before } = self {
            return if trial_lab::kernel() >= *kernel { now } else { before }.agrees(answers);
        }
        let mut shares = BTreeMap::new();
        for server in answers.iter().flatten() {
            *shares.entry(server.as_str()).or_insert(0_usize) += 1;
        }
        let failures: BTreeSet<&str> =
            answers.iter().filter_map(|answer| answer.as_ref().err().map(String::as_str)).collect();
        let all = failures.is_empty() && !answers.is_empty();
        let (is_so, why) = match self {
            Self::Only(server) => {
                (all && shares.keys().eq([server]), "not all are answered by the one real server")
            }
            Self::Shares(expected) => {
                (all && shares.into_iter().eq(expected.iter().copied()), "the shares are others")
            }
            Self::OneForAll => (all && shares.len() == 1, "it is not one for all"),
            Self::Both => (all && shares.len() == 2, "not both real servers answer"),
            Self::None(reason) => {
                (shares.is_empty() && failures.iter().eq([reason]), "it should fail otherwise")
            }
            Self::Lost => (shares.is_empty() && !failures.is_empty(), "none should be answered"),
            Self::Some(reason) => (
                !shares.is_empty() && failures.iter().eq([reason]),
                "some should be answered and some fail",
            ),
            Self::Since { .. } => (false, "one version only is expected to differ from another"),
        };
        if is_so { Ok(()) } else { Err(why) }
    }
}
