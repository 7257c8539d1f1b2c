//! The netns that kernel tests stand on: network namespaces of their own, the `ip` command as the
//! second opinion, and the host that is asked.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lvsprov::agent::{Agent, Disk, LocalHost};
use lvsprov::failure::Failure;
use lvsprov::kernel::namespace;
use lvsprov::names::TopologyName;
use lvsprov::plan::journal::touched_by;
use lvsprov::plan::other_topologies::owners;
use lvsprov::protocol::{Decision, Execution, Prepare, Reply, Request};
use lvsprov::state::{
    Address, AddressKey, Edit, Expected, HostState, Intent, Item, JOURNAL_VERSION, Journal,
    Observation, Operator, Owned, RECEIPT_VERSION, Receipt, Route, RouteKey, Scope, Stage, Step,
    Sysctl, TransactionId,
};
use serde_json::Value;

/// A namespace with its own folder for receipts.
pub struct NetnsHost {
    netns: OwnedFd,
    pub folder: tempfile::TempDir,
}

impl NetnsHost {
    /// A bare one: only `lo`, and that is down.
    pub fn new() -> Self {
        let netns = namespace::create().expect("root and namespaces are needed for this test");
        Self { netns, folder: tempfile::tempdir().unwrap() }
    }

    /// With `lo` up. In a namespace without any address IPVS takes no real server.
    pub fn with_lo() -> Self {
        let netns = Self::new();
        netns.ip("link set lo up");
        netns
    }

    /// With `lo` up and a pair v0-v1, both ends here and up, v0 with `address`.
    pub fn with_pair(address: &str) -> Self {
        let netns = Self::with_lo();
        netns.add_pair(address);
        netns
    }

    fn add_pair(&self, address: &str) {
        self.ip("link add v0 type veth peer name v1");
        self.ip(&format!("address add {address} dev v0"));
        self.ip("link set v0 up");
        self.ip("link set v1 up");
    }

    /// Lets go of the namespace, which ends with that unless it has a name.
    pub fn leave(&mut self) {
        self.netns = namespace::current().unwrap();
    }

    /// The namespace of that name in the place of the present one, as [`Self::with_pair`].
    pub fn enter(&mut self, name: &NamedNamespace, address: &str) {
        self.netns = std::fs::File::open(Path::new("/run/netns").join(&name.0)).unwrap().into();
        self.ip("link set lo up");
        self.add_pair(address);
    }

    /// Two namespaces with a cable between them: v0 in each, up, with these addresses.
    pub fn two(here: &str, there: &str) -> (Self, Self) {
        let (a, b) = (Self::new(), Self::new());
        a.run(|| {
            let path = format!("/proc/{}/fd/{}", std::process::id(), b.raw());
            run(Command::new("ip")
                .args(["link", "add", "v0", "type", "veth"])
                .args(["peer", "name", "v0", "netns", &path]));
        });
        for (netns, address) in [(&a, here), (&b, there)] {
            netns.ip("link set lo up");
            netns.ip(&format!("address add {address} dev v0"));
            netns.ip("link set v0 up");
        }
        (a, b)
    }

    /// Moves an interface to `other`.
    pub fn give(&self, dev: &str, other: &Self) {
        self.ip(&format!("link set {dev} netns /proc/{}/fd/{}", std::process::id(), other.raw()));
    }

    pub fn raw(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.netns)
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        namespace::run_in(&self.netns, work).unwrap()
    }

    /// Runs `ip` in here; `words` are split at blanks.
    pub fn ip(&self, words: &str) -> String {
        self.run(|| run(Command::new("ip").args(words.split(' '))))
    }

    /// `ip -j`: what the second opinion sees.
    pub fn ip_json(&self, words: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j -d {words}"));
        if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
    }

    /// A value below /proc/sys/net/ipv4 of this namespace.
    pub fn sysctl(&self, path: &str) -> String {
        self.run(|| {
            let path = format!("/proc/sys/net/ipv4/{path}");
            std::fs::read_to_string(&path).expect(&path).trim().to_owned()
        })
    }

    pub fn set_sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/ipv4/{path}"), value).unwrap());
    }

    /// What the host that lives here answers.
    pub fn ask(&self, request: Request) -> Reply {
        self.run(|| ask_here(self.folder.path(), request))
    }

    pub fn look(&self, sysctls: &[&str]) -> Observation {
        let sysctls = sysctls.iter().map(|key| key.parse().unwrap()).collect();
        let topology = "t".parse().unwrap();
        match self.ask(Request::Observe { topology, sysctls, counters: false }) {
            Reply::Observed(seen) => *seen,
            other => panic!("{other:?}"),
        }
    }

    /// Changes the host in a transaction of its own, which leaves no receipt.
    pub fn act(&self, changes: Vec<Edit>) -> Execution {
        self.run(|| act_here(self.folder.path(), changes))
    }

    /// All of `changes` must be done.
    pub fn do_all(&self, changes: Vec<Edit>) -> Execution {
        let count = changes.len();
        let outcome = self.act(changes);
        assert_eq!(outcome.failure, None);
        assert_eq!(outcome.done, count);
        outcome
    }

    /// None of it must be done, and the reason must have `says` in it.
    pub fn fails(&self, change: Edit, says: &str) -> Failure {
        let text = change.to_string();
        let outcome = self.act(vec![change]);
        let failure = outcome.failure.unwrap_or_else(|| panic!("{text}: it was done"));
        assert_eq!(outcome.done, 0, "{text}");
        assert!(failure.to_string().contains(says), "{text}: {failure}");
        failure
    }
}

/// One of `ip netns`, deleted when this is dropped.
pub struct NamedNamespace(String);

impl NamedNamespace {
    pub fn add(name: &str) -> Self {
        let name = format!("lvsprov-{name}-{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        Self(name)
    }
}

impl Drop for NamedNamespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "delete", &self.0]).status();
        assert!(deleted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// One connection's host; its revert timers are lvsprov, which this program is not.
pub fn host(state_dir: &Path) -> Agent {
    Agent::new(
        Disk::new(state_dir),
        LocalHost::default().with_program(env!("CARGO_BIN_EXE_lvsprov").into()),
    )
}

/// In the namespace of this thread.
pub fn ask_here(state_dir: &Path, request: Request) -> Reply {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(host(state_dir).answer(request))
}

/// What [`NetnsHost::act`] does, in the namespace of this thread.
pub fn act_here(state_dir: &Path, changes: Vec<Edit>) -> Execution {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut host = host(state_dir);
    let mut ask = |request| runtime.block_on(host.answer(request));
    let sysctls = changes.iter().filter_map(|change| match change.item() {
        Item::Sysctl(key) => Some(key),
        _ => None,
    });
    let look =
        Request::Observe { topology: topology(), sysctls: sysctls.collect(), counters: false };
    let Reply::Observed(seen) = ask(look.clone()) else { panic!("not seen") };
    let begin = Prepare { receipt_after: None, ..begin(1, changes.clone(), &seen) };
    assert_eq!(ask(Request::Prepare(Box::new(begin))), Reply::Prepared);
    let (topology, transaction) = (topology(), TransactionId::from_bits(1));
    let reply = ask(Request::Execute {
        topology: topology.clone(),
        transaction: transaction.clone(),
        steps: steps(changes),
        sysctls: BTreeSet::new(),
    });
    let Reply::Executed(outcome) = reply else { panic!("{reply:?}") };
    let ending = Decision::Commit;
    assert_eq!(ask(Request::Close { topology, transaction, decision: ending }), Reply::Closed);
    let Reply::Observed(after) = ask(look) else { panic!("not seen") };
    Execution { after: *after, ..*outcome }
}

pub fn topology() -> TopologyName {
    "t".parse().unwrap()
}

pub fn steps(changes: Vec<Edit>) -> Vec<Step> {
    changes.into_iter().map(|change| Step { edit: change, why: "a test".to_owned() }).collect()
}

/// What a plan of `changes` from `seen` asks for, on the only host of its topology. The receipt owns
/// what is touched.
pub fn begin(number: u64, changes: Vec<Edit>, seen: &Observation) -> Prepare {
    let steps = steps(changes);
    let mut touched: Owned = touched_by(&steps, &seen.state);
    let unfinished = seen.open_transaction.as_deref();
    let items = touched.clone();
    let mut before = seen.state.restricted_to(&touched);
    if let Some(old) = unfinished {
        for item in old.to_put_back().into_iter().flat_map(|(items, _)| items) {
            touched.insert(item.clone());
            before.copy_item(item, &old.journal.before);
        }
    }
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        topology: topology(),
        since: 7,
        owned: touched.clone(),
        found: before.clone(),
        run: None,
        settled: None,
        maintenance: lvsprov::state::Maintenance::default(),
        drift: None,
        external: lvsprov::state::ExternalWeights::default(),
    };
    let receipt_before =
        unfinished.map_or(seen.receipt.clone(), |there| there.receipt_before.clone());
    Prepare {
        expected: Expected {
            receipt: seen.receipt.clone(),
            open_transaction: unfinished.map(|there| there.journal.transaction.clone()),
            state: seen.state.restricted_to(&items),
            items,
            owners: owners(&receipt, Some(&receipt), seen),
        },
        journal: Journal {
            version: JOURNAL_VERSION,
            topology: topology(),
            transaction: TransactionId::from_bits(number),
            intent: Intent::Apply,
            by: operator(),
            since: 1_700_000_000,
            hosts: BTreeSet::from(["a".parse().unwrap()]),
            stages: vec![(Stage::Ready, steps)],
            touched,
            before,
        },
        receipt_before,
        receipt_after: Some(Receipt { since: 8, ..receipt.clone() }),
        receipt,
        settled: None,
        revert: None,
        idle_limit_s: 600,
        sysctls: BTreeSet::new(),
    }
}

pub fn operator() -> Operator {
    Operator { user: "eve".to_owned(), host: "desk".to_owned(), pid: 77 }
}

pub fn receipt() -> Receipt {
    let sysctl: Sysctl = "net.ipv4.ip_forward".parse().unwrap();
    let mut found = HostState::default();
    found.sysctls.insert(sysctl, "0".to_owned());
    let topology = "t".parse().unwrap();
    Receipt {
        version: RECEIPT_VERSION,
        topology,
        since: 7,
        owned: found.items(),
        found,
        run: None,
        settled: None,
        maintenance: lvsprov::state::Maintenance::default(),
        drift: None,
        external: lvsprov::state::ExternalWeights::default(),
    }
}

pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Asks again and again until `check` says yes, for as long as anything may take.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + crate::support::speed::patience();
    while !check() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn address_key(text: &str) -> AddressKey {
    text.parse().unwrap()
}

pub fn plain_address() -> Address {
    Address::plain(Scope::Global)
}

pub fn route_key(text: &str) -> RouteKey {
    text.parse().unwrap()
}

/// A static route via `gateway` over `dev`.
pub fn via(gateway: &str, dev: &str, metric: u32) -> Route {
    Route { metric, ..Route::via(gateway.parse::<IpAddr>().unwrap(), Some(dev.parse().unwrap())) }
}
