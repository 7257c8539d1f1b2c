//! A change worth undoing, the requests of a transaction around it, and real agents that are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use lvsprov::desired::Reasons;
use lvsprov::plan::journal::touched_by;
use lvsprov::plan::order::{Steps, steps_between};
use lvsprov::plan::ownership::Goal;
use lvsprov::protocol::{Decision, Execution, Hello, Prepare, Reply, Request, RevertAfter};
use lvsprov::state::{
    Address, Edit, HostState, Item, Observation, Operator, Route, Step, Sysctl, TransactionId,
};
use lvsprov::transport::frame;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::netns_host::{NetnsHost, address_key, plain_address, route_key, via};
pub use crate::support::netns_host::{operator, steps, topology};

pub fn id(number: u64) -> TransactionId {
    TransactionId::from_bits(number)
}

/// A namespace in which all of [`changes`] can be done.
pub fn paired_netns() -> NetnsHost {
    NetnsHost::with_pair("10.9.0.1/24")
}

/// Values, an address, a route and a link; one of them moves others along.
pub fn changes() -> Vec<Edit> {
    let set = |key: &str, before: &str, after: &str| {
        Edit::change::<Sysctl>(key.parse().unwrap(), before.to_owned(), after.to_owned())
    };
    vec![
        set("net.ipv4.ip_forward", "0", "1"),
        set("net.ipv4.conf.lo.arp_ignore", "0", "1"),
        set("net.ipv4.conf.lo.arp_announce", "0", "2"),
        Edit::add::<Address>(address_key("10.9.9.9/32@lo"), plain_address()),
        Edit::add::<Route>(route_key("10.8.0.0/16"), via("10.9.0.2", "v0", 0)),
    ]
}

/// What another opinion sees of all that [`changes`] touch.
pub fn photograph(netns: &NetnsHost) -> String {
    let values = ["ip_forward", "conf/lo/arp_ignore", "conf/lo/arp_announce", "conf/v0/forwarding"];
    let values = values.map(|path| format!("{path}={}", netns.sysctl(path)));
    format!(
        "{}\n{}\n{}",
        values.join("\n"),
        netns.ip("-4 -o address show"),
        // The carrier of a new cable comes when it comes.
        netns.ip("-4 route show table all").replace(" linkdown", "")
    )
}

/// A plan of `changes` from `seen`, of a topology with two hosts.
pub fn begin(number: u64, changes: Vec<Edit>, seen: &Observation) -> Prepare {
    let mut begin = crate::support::netns_host::begin(number, changes, seen);
    begin.journal.hosts.insert("b".parse().unwrap());
    begin
}

/// As long after it was begun as this machine needs for what it needs `build_ms` elsewhere.
pub fn revert_after(build_ms: u32) -> RevertAfter {
    RevertAfter { withdraw_ms: None, build_ms: crate::support::speed::millis(build_ms) }
}

pub fn look() -> Request {
    let sysctls = changes()
        .iter()
        .filter_map(|change| match change.item() {
            Item::Sysctl(key) => Some(key),
            _ => None,
        })
        .collect();
    Request::Observe { topology: topology(), sysctls, counters: false }
}

pub fn take_up(number: u64, force: bool) -> Request {
    Request::Resume {
        topology: topology(),
        transaction: id(number),
        by: Operator { user: "mallory".to_owned(), ..operator() },
        idle_limit_s: 600,
        force,
    }
}

pub fn do_all(number: u64, changes: Vec<Edit>) -> Request {
    do_steps(number, steps(changes))
}

pub fn do_steps(number: u64, steps: Vec<Step>) -> Request {
    Request::Execute {
        topology: topology(),
        transaction: id(number),
        steps,
        sysctls: BTreeSet::new(),
    }
}

pub fn agree(number: u64) -> Request {
    Request::Vote { topology: topology(), transaction: id(number) }
}

pub fn settle(number: u64, ending: Decision) -> Request {
    Request::Close { topology: topology(), transaction: id(number), decision: ending }
}

/// The way back from `seen`, as a controller plans it.
pub fn way_back(seen: &Observation) -> Vec<Step> {
    let goal = Goal::undo(seen.open_transaction.as_deref().expect("nothing is unfinished"), seen);
    let steps: Steps =
        steps_between(&seen.state, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
    steps.into_all()
}

/// A process `lvsprov agent`, in a netns's namespace; it is ended when the value is dropped.
pub struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    pub fn start(netns: &NetnsHost) -> Self {
        Self::with(netns, netns.folder.path(), &BTreeMap::new())
    }

    /// With a file that says where it is to end.
    pub fn faulty(netns: &NetnsHost, fault: &str) -> Self {
        let environment = BTreeMap::from([("LVSPROV_FAULT", set_fault(netns, fault))]);
        Self::with(netns, netns.folder.path(), &environment)
    }

    pub fn with(
        netns: &NetnsHost,
        state_dir: &Path,
        environment: &BTreeMap<&str, PathBuf>,
    ) -> Self {
        netns.run(|| Self::here(state_dir, environment))
    }

    /// In the namespaces of this thread.
    pub fn here(state_dir: &Path, environment: &BTreeMap<&str, PathBuf>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvsprov"));
        command.arg("agent").arg("--state-dir").arg(state_dir).envs(environment);
        Self::of(command)
    }

    /// The process of `command`, which is an agent.
    pub fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut mark = String::new();
        stdout.read_line(&mut mark).unwrap();
        assert!(mark.ends_with(" hello\n"), "{mark:?}");
        let hello: Hello = frame::read_blocking(&mut stdout).unwrap().unwrap();
        assert_eq!(hello.uid, 0);
        Self { child, stdin, stdout }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&mut self, request: &Request) {
        let frame = frame::encode(request).unwrap();
        self.stdin.as_mut().unwrap().write_all(&frame).unwrap();
    }

    /// The next answer; `None`: it has ended.
    pub fn heard(&mut self) -> Option<Reply> {
        frame::read_blocking(&mut self.stdout).ok().flatten()
    }

    /// The answer; `None`: it has ended.
    pub fn try_ask(&mut self, request: &Request) -> Option<Reply> {
        self.send(request);
        self.heard()
    }

    pub fn ask(&mut self, request: &Request) -> Reply {
        self.try_ask(request).unwrap_or_else(|| panic!("the agent has ended: {request:?}"))
    }

    pub fn look(&mut self) -> Observation {
        match self.ask(&look()) {
            Reply::Observed(seen) => *seen,
            other => panic!("{other:?}"),
        }
    }

    pub fn done(&mut self, request: &Request) -> Execution {
        match self.ask(request) {
            Reply::Executed(outcome) => {
                assert_eq!(outcome.failure, None);
                *outcome
            }
            other => panic!("{other:?}"),
        }
    }

    /// SIGKILL, and waits for it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn ended(mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stops the timer of a transaction, however slow this machine is: its time goes on, and it does
/// nothing until [`go_on`].
pub fn stop_timer(netns: &NetnsHost, number: u64) -> Pid {
    let begun = netns.folder.path().join("t").join(id(number).as_str()).join("prepared.json");
    let begun: serde_json::Value = serde_json::from_slice(&std::fs::read(begun).unwrap()).unwrap();
    let pid = begun["timer"]["process"]["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    pid
}

/// Lets a stopped timer go on.
pub fn go_on(timer: Pid) {
    kill(timer, Signal::SIGCONT).unwrap();
}

/// Writes the file that says where an agent is to end.
pub fn set_fault(netns: &NetnsHost, fault: &str) -> PathBuf {
    let path = netns.folder.path().join("fault");
    std::fs::write(&path, format!("{fault}\n")).unwrap();
    path
}

/// Undoes what is unfinished, from another connection, as a controller does.
pub fn roll_back(netns: &NetnsHost, number: u64) {
    let mut agent = Agent::start(netns);
    assert_eq!(agent.ask(&take_up(number, false)), Reply::Prepared);
    let back = way_back(&agent.look());
    if !back.is_empty() {
        let after = agent.done(&do_steps(number, back)).after;
        assert_eq!(way_back(&after), [], "something is left");
    }
    assert_eq!(agent.ask(&settle(number, Decision::Abort)), Reply::Closed);
}

/// The part of a sighting that [`changes`] touch.
pub fn touched(seen: &Observation) -> HostState {
    seen.state.restricted_to(&touched_by(&steps(changes()), &seen.state))
}
