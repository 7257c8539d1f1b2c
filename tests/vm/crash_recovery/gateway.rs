//! A change of the very way that the operator came by: who can no longer be reached comes back by
//! itself, and who can is confirmed.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::apply::ClusterReport;
use lvsprov::lab::responders::{self, Responders};
use lvsprov::names::HostName;
use lvsprov::state::Intent;

use super::cluster::{Cluster, Photo, Running, difference};
use crate::support::speed;

/// The operator is somewhere else: real servers answer him over their default route.
const OPERATOR: &str = "203.0.113.1";

const FILE: &str = "
version: 1
name: gateway
networks: {outside: [172.16.0.0/16], inside: [192.168.12.0/24]}
hosts:
  client: {role: client, ssh: client, interfaces: {eth0: 172.16.100.1/16}}
  director:
    role: director
    ssh: director
    interfaces: {eth0: 172.16.100.8/16, eth1: 192.168.12.1/24}
  web: {role: real_server, ssh: web, interfaces: {eth0: 192.168.12.11/24}}
services:
  - {vip: 172.16.100.8, port: 80, forward: nat, scheduler: rr, real_servers: [web]}
";

struct Office {
    /// Whoever applies has requests answered before he confirms. They end before the lab does.
    _responders: Responders,
    _runtime: tokio::runtime::Runtime,
    cluster: Cluster,
    file: String,
    before: Photo,
    web: HostName,
}

/// The lab, with the operator behind the real server's default gateway.
fn office() -> Office {
    let mut cluster = Cluster::build(FILE);
    let web: HostName = "web".parse().unwrap();
    ip(&format!("address add {OPERATOR}/32 dev lo"));
    cluster.reach_by(&format!("Host web\n    BindAddress {OPERATOR}\n"));
    inside(&cluster, "web", "ip route add default via 198.18.0.1 dev mgmt0");
    let file = cluster.file("gateway", FILE).to_str().unwrap().to_owned();
    let before = cluster.photograph();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answers = responders::start(&cluster.lab, &cluster.topology);
    let responders = runtime.block_on(answers).unwrap();
    Office { _responders: responders, _runtime: runtime, cluster, file, before, web }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

fn inside(cluster: &Cluster, host: &str, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    cluster.inside(&host.parse().unwrap(), words[0], &words[1..], "");
}

impl Office {
    /// The director leads to the operator too, and nobody minds that packets come another way than they
    /// go.
    fn let_the_director_lead_there(&self) {
        for line in [
            &format!("ip route add {OPERATOR}/32 via 198.18.0.1 dev mgmt0"),
            "sysctl -qw net.ipv4.conf.eth1.rp_filter=2",
            // Before it is a director: the real server's turn comes first.
            "sysctl -qw net.ipv4.ip_forward=1",
        ] {
            inside(&self.cluster, "director", line);
        }
        inside(&self.cluster, "web", "sysctl -qw net.ipv4.conf.mgmt0.rp_filter=2");
    }

    /// Waits until every host is as it was, byte for byte.
    fn comes_back(&self, limit: Duration) -> Duration {
        let (since, limit) = (Instant::now(), speed::scaled(limit));
        loop {
            let lines = difference(&self.before, &self.cluster.photograph());
            if lines.is_empty() {
                return since.elapsed();
            }
            assert!(since.elapsed() < limit, "not as before: {}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn manual(&self, within: &str) -> Running {
        let mut controller = self.cluster.controller(&[
            "apply",
            &self.file,
            "--confirm",
            "manual",
            "--confirm-within",
            within,
            "--connect-timeout",
            "60",
        ]);
        controller.stdin(Stdio::piped());
        self.cluster.spawn(controller)
    }

    /// Applied, and nothing is left to wait for.
    fn is_kept(&self) {
        self.cluster.expect(&["plan", &self.file], 0);
        let status = self.cluster.expect(&["status", &self.file, "--format", "json"], 0);
        assert!(!status.out.contains("reverts_in_s"), "{status}");
    }
}

/// Waits until a controller asks for a word. How long that took.
fn wait_for_question(controller: &mut Running) -> Duration {
    let since = Instant::now();
    let deadline = since + speed::patience();
    while !controller.said().contains("say `yes`") {
        assert!(!controller.ended(), "it does not ask: {}", controller.said());
        assert!(Instant::now() < deadline, "it does not ask: {}", controller.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    since.elapsed()
}

pub fn cuts_the_operator_off() {
    let office = office();
    let plan = office.cluster.expect(&["plan", &office.file], 4);
    for words in ["way back", "is not confirmed"] {
        assert!(plan.out.contains(words), "the plan does not say {words:?}: {plan}");
    }
    // Longer than the controller needs to find out that it is cut off, and to say so.
    let (call, within) = (speed::seconds(10), speed::seconds(60) + "s");
    let connect = speed::seconds(15);
    let arguments = [
        ["apply", &office.file],
        ["--call-timeout", &call],
        ["--connect-timeout", &connect],
        ["--confirm-within", &within],
    ];
    let ended = office.cluster.start(&arguments.concat()).wait(Duration::from_mins(5));
    println!("cut off: {ended}");
    assert_eq!(ended.code, Some(5), "{ended}");
    let said = ended.out.clone() + &ended.err;
    assert!(said.contains("web") && said.contains("by itself"), "{ended}");
    // Everybody else is as before at once; the one that is cut off when its time is over.
    let director: HostName = "director".parse().unwrap();
    let now = office.cluster.photograph();
    assert_eq!(now[&director], office.before[&director]);
    assert_ne!(now[&office.web], office.before[&office.web], "it was not cut off: {ended}");
    let took = office.comes_back(Duration::from_secs(100));
    println!("came back by itself {:.0} s after the controller had given up", took.as_secs_f64());
    let plan = office.cluster.expect(&["plan", &office.file, "--format", "json"], 4);
    assert!(!plan.out.contains("\"unfinished\""), "{plan}");
    let report: ClusterReport = serde_json::from_str(&plan.out).unwrap();
    let reverted = report.hosts[&office.web].reverted.as_ref();
    assert!(reverted.is_some_and(|what| what.intent == Intent::Apply), "{plan}");
    assert!(office.cluster.expect(&["status", &office.file], 4).out.contains("by itself"));
}

pub fn with_a_way_back_is_confirmed() {
    let mut office = office();
    office.let_the_director_lead_there();
    office.before = office.cluster.photograph();
    let ended = office.cluster.expect(&["apply", &office.file], 0);
    println!("confirmed: {ended}");
    office.is_kept();
    office.cluster.expect(&["destroy", &office.file], 0);
    office.comes_back(Duration::ZERO);
}

pub fn the_operator_is_asked() {
    let mut office = office();
    office.let_the_director_lead_there();
    office.before = office.cluster.photograph();
    let Office { cluster, file, .. } = &office;

    // Yes.
    let long = speed::seconds(600) + "s";
    let mut controller = office.manual(&long);
    let asked = wait_for_question(&mut controller);
    controller.write("yes\n");
    let ended = controller.wait(Duration::from_mins(1));
    assert_eq!(ended.code, Some(0), "{ended}");
    office.is_kept();
    cluster.expect(&["destroy", file], 0);
    office.comes_back(Duration::ZERO);

    // By another operator.
    let mut controller = office.manual(&long);
    let asked = asked.max(wait_for_question(&mut controller));
    let told = cluster.expect(&["plan", file, "--format", "json"], 4);
    assert!(told.out.contains("reverts_in_s"), "{told}");
    cluster.expect(&["confirm", file], 0);
    let ended = controller.wait(Duration::from_mins(1));
    assert_eq!(ended.code, Some(0), "{ended}");
    office.is_kept();
    cluster.expect(&["destroy", file], 0);
    office.comes_back(Duration::ZERO);

    // Nobody says anything. It is verified within that time, by what it took before.
    let silence = speed::scaled(Duration::from_secs(30)).max(asked * 4);
    let within = format!("{}s", silence.as_secs());
    let mut controller = office.manual(&within);
    wait_for_question(&mut controller);
    let ended = controller.wait(silence + Duration::from_mins(1));
    println!("nobody confirmed: {ended}");
    assert_eq!(ended.code, Some(5), "{ended}");
    assert!((ended.out.clone() + &ended.err).contains("confirm"), "{ended}");
    office.comes_back(Duration::ZERO);

    // Nobody says anything, and the controller is killed meanwhile.
    let mut controller = office.manual(&within);
    wait_for_question(&mut controller);
    controller.kill();
    office.comes_back(silence + Duration::from_mins(1));
}

impl Running {
    /// Says something to it.
    fn write(&mut self, text: &str) {
        self.input().write_all(text.as_bytes()).unwrap();
    }
}
