//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::change_arguments::ChangeArguments;
use super::format::ReasonArgument;
use super::render_arguments::RenderCommand;
use super::rules::DenyArgument;
use super::watch::WatchArguments;
use crate::apply::holders::VipProbing;
use crate::apply::transaction::VerifyBy;
use crate::desired::ExpectedRequest;
use crate::import::guess::GivenDirector;
use crate::lab::scenario::LabTransport;
use crate::lab::vm::Kvm;
use crate::lab::vm::command::VmArguments;
use crate::names::{HostName, TopologyName};
use crate::state::DriftAction;
use crate::topology::{Pace, PaceOverride};

/// Brings the hosts of a Linux Virtual Server cluster to what one YAML file says.
///
/// Start with `lvsprov check FILE`, then `plan`, then `apply`. `lab run` tries the same file with
/// real traffic on this machine without touching any host.
#[derive(Debug, Parser)]
#[command(name = "lvsprov", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct ProgramArguments {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
    /// For every command.
    #[command(flatten)]
    pub common: CommonArguments,
    /// Print more on standard error; twice or three times for more still
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

const EXIT_CODES: &str = "Exit codes:
  0  done, and all is well (plan, status: nothing differs)
  1  unexpected error
  2  wrong command line; an unknown host, or for explain an unknown rule
  3  the file has errors (with --deny also warnings), or nothing in it could be imported; no host
     was touched
  4  plan, status: there are differences, or something is unfinished; confirm: nothing to confirm,
     and the hosts are not as the file says; maintain: connections are left
  5  a host could not be reached, refused or failed, or a service is not answered after apply: what
     was begun is undone; or it has moved on since a plan was saved
  6  verify, lab run, lab chaos, doctor: something that must be true is not
  130, 143  ended by SIGINT or SIGTERM before anything was begun, or by the second one";

const PLAN_EXAMPLES: &str = "Examples:
  lvsprov plan cluster.yaml
  lvsprov plan cluster.yaml --out monday.plan    # then: lvsprov apply monday.plan";

const APPLY_EXAMPLES: &str = "Examples:
  lvsprov apply cluster.yaml
  lvsprov apply cluster.yaml --confirm-within 2m    # every host undoes it unless it proves right
  lvsprov apply cluster.yaml --confirm manual       # and you decide at the end
  lvsprov apply cluster.yaml --verify state         # keep it though no request is answered yet
  lvsprov apply cluster.yaml --on-error keep        # leave a failure as it is, to look at it
  lvsprov apply monday.plan                         # just what `plan --out` has shown

Ctrl-C undoes what was begun; a second one ends at once, and names the hosts that are left unfinished.";

const ROLLBACK_EXAMPLES: &str = "Examples:
  lvsprov plan cluster.yaml              # what is unfinished, and where
  lvsprov rollback cluster.yaml --dry-run
  lvsprov rollback cluster.yaml
  lvsprov rollback cluster.yaml --force  # although a controller is at work";

const CONFIRM_EXAMPLES: &str = "Examples:
  lvsprov apply cluster.yaml --confirm manual --confirm-within 5m    # on one machine
  lvsprov confirm cluster.yaml                                       # on another

A change of which any step is missing on any host is not confirmed. With nothing to confirm the exit
code is 4 where the hosts are not as the file says.";

const DESTROY_EXAMPLES: &str = "Examples:
  lvsprov destroy cluster.yaml --dry-run
  lvsprov destroy cluster.yaml
  lvsprov destroy cluster.yaml --drain 60    # let connections end for up to a minute first

What lvsprov does not own stays. Modules that were loaded stay loaded.";

/// For every command.
#[derive(Debug, Clone, Args)]
pub struct CommonArguments {
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, global = true)]
    pub format: OutputFormat,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For a person.
    Text,
    /// For a program: one JSON document on standard output, with a `schema` member.
    Json,
    /// For a comment in a pull request: check, plan, apply, destroy, rollback, confirm, explain, lab chaos.
    Markdown,
    /// One page for a browser, with the cluster as a picture, without script: plan, explain FILE.
    Html,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find everything that is wrong with a file; touch no host
    Check {
        /// Topology files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// What counts as an error.
        #[command(flatten)]
        deny: DenyArgument,
    },
    /// Follow each request from host to host, and say where it would die; or print the page of a rule; touch no host
    Explain(super::explain::ExplainArguments),
    /// Find out why a cluster does not answer: walk, real requests, and what the kernels say; change nothing
    Doctor(super::doctor::DoctorArguments),
    /// Show what apply would do, step by step and why; change nothing
    ///
    /// Also lists transactions that earlier runs left unfinished, and what apply, rollback and confirm would do
    /// with each.
    #[command(after_long_help = PLAN_EXAMPLES)]
    Plan {
        /// Which hosts.
        #[command(flatten)]
        hosts: HostArguments,
        /// What counts as an error.
        #[command(flatten)]
        deny: DenyArgument,
        /// What it may come to.
        #[command(flatten)]
        plan: PlanArguments,
        /// How fast.
        #[command(flatten)]
        pace: PaceArguments,
        /// Save the plan to this file, for `lvsprov apply FILE`: that does just this, and refuses with the
        /// differences once a host has changed
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace the file of --out
        #[arg(long, requires = "out")]
        force: bool,
    },
    /// Bring the hosts to what the file says; a second run changes nothing
    ///
    /// All of it or nothing: before a host changes anything, its steps and its present state are on its
    /// disk; when anything fails, every host goes back to that state. FILE may be a plan that was
    /// saved with `plan --out`. Verification sends requests through the services where a client of the
    /// file is reached (see --verify).
    #[command(after_long_help = APPLY_EXAMPLES)]
    Apply {
        /// Which hosts.
        #[command(flatten)]
        hosts: HostArguments,
        /// What counts as an error.
        #[command(flatten)]
        deny: DenyArgument,
        /// What it may come to.
        #[command(flatten)]
        plan: PlanArguments,
        /// How fast.
        #[command(flatten)]
        pace: PaceArguments,
        /// How it goes.
        #[command(flatten)]
        change: ChangeArguments,
        /// What must be right before the change is kept: the state of each host, or also traffic
        ///
        /// traffic: every client of the file that is reached sends requests through every service, and
        /// one host of the VIP's network asks by ARP who has it. What is not answered undoes the change
        /// like any failure. A refusal does not, if nothing was answered and the service was not in use:
        /// it came back through the VIP, so the way works and the application is not there yet; it is a
        /// warning. Nor does the silence of a UDP service. One line lists the services that no
        /// client can try, with the reason.
        /// Where nothing was changed nothing is sent.
        #[arg(long, value_enum, value_name = "state|traffic", default_value = "traffic")]
        verify: VerifyBy,
    },
    /// Undo what an apply or destroy left unfinished, from any machine
    ///
    /// Every host goes back to its state before. A transaction that all hosts have agreed to was verified
    /// already: it is closed as done instead.
    #[command(after_long_help = ROLLBACK_EXAMPLES)]
    Rollback {
        /// Which hosts.
        #[command(flatten)]
        hosts: HostArguments,
        /// Also transactions at which a controller works, and those that some host may have kept as done
        #[arg(long)]
        force: bool,
        /// Show what would be undone; change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Keep a change that waits for you (`apply --confirm manual`), from any machine
    #[command(after_long_help = CONFIRM_EXAMPLES)]
    Confirm(HostArguments),
    /// Verify that it works: state, who answers ARP for the VIP, requests from the clients
    Verify(HostArguments),
    /// Show what is running: services, real servers, connections, and what differs from the file
    Status {
        /// Which hosts.
        #[command(flatten)]
        hosts: HostArguments,
        /// Again and again.
        #[command(flatten)]
        watch: WatchArguments,
    },
    /// Put every host back as it was before the first apply
    #[command(after_long_help = DESTROY_EXAMPLES)]
    Destroy {
        /// Which hosts.
        #[command(flatten)]
        hosts: HostArguments,
        /// Show what would be done; change nothing
        #[arg(long)]
        dry_run: bool,
        /// How fast.
        #[command(flatten)]
        drain: DrainArgument,
        /// How it goes.
        #[command(flatten)]
        change: ChangeArguments,
        /// Its report.
        #[command(flatten)]
        reasons: ReasonArgument,
    },
    /// Take real servers out of service without a lost request, until `return`
    ///
    /// Every director that has the host gives it the weight 0 and remembers it; then its connections may come to their
    /// end, for as long as each service's `drain` says. Nothing else is changed: a director that is not as the file says is
    /// an obstacle.
    Maintain(super::maintain::MaintainArguments),
    /// Return hosts from maintenance: the weights of the file again
    ///
    /// The host must be as the file says, its applications must answer, and so must requests of clients afterwards; else it
    /// stays out of service.
    Return(super::maintain::ReturnArguments),
    /// Reboot hosts one after the other: maintain, reboot, verify, return
    ///
    /// Each host must come back from its reboot as the last apply left it, by its own boot unit. Needs systemd on it.
    Reboot(super::maintain::RebootArguments),
    /// Make a topology file of existing rules: from ipvsadm, keepalived, or running hosts
    Import(ImportArguments),
    /// Write what a file says for other programs
    #[command(subcommand)]
    Render(RenderCommand),
    /// The same cluster on this machine, with real traffic
    #[command(subcommand)]
    Lab(LabCommand),
    /// Serve a controller on standard input and output (lvsprov starts this itself)
    #[command(hide = true)]
    Agent {
        /// Network namespace to enter first
        #[arg(long)]
        netns: Option<PathBuf>,
        /// Where receipts are kept
        #[arg(long)]
        state_dir: Option<PathBuf>,
        /// Revert a transaction when its time has come, instead of serving a controller
        #[arg(long)]
        revert: Option<String>,
        /// Repeat the announcements that standard input names, instead of serving a controller
        #[arg(long)]
        announce: bool,
        /// Make again what this host had before it was restarted, instead of serving a controller
        #[arg(long)]
        boot: bool,
        /// Leave the IPVS services that exist as they are: a program has configured an interface
        #[arg(long, requires = "boot")]
        network_only: bool,
        /// Start lvsprov-network.service again if the network is not what it was, instead of serving a controller
        #[arg(long, value_name = "DIGEST")]
        changed_since: Option<String>,
        /// Compare this host with what the last apply left, instead of serving a controller, and report or mend what
        /// differs: as the file says of each topology, or what is named here
        ///
        /// One line for each item on standard output. Real servers of services that exist are named and left: a health
        /// checker may have changed them. Nothing is looked at while a transaction is open.
        /// Exit code: 0 no drift, or mended, or a transaction is open; 4 drift that stays; 1 it could not look or mend.
        #[arg(long, value_name = "report|mend", num_args = 0..=1, require_equals = true, conflicts_with_all = ["boot", "announce", "revert"])]
        drift: Option<Option<DriftWord>>,
    },
}

/// What a look for drift does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriftWord {
    /// Write down what differs.
    Report,
    /// Also make it again, as far as the receipt owns it.
    Mend,
}

impl DriftWord {
    /// For the agent.
    pub fn to_action(self) -> DriftAction {
        match self {
            Self::Report => DriftAction::Report,
            Self::Mend => DriftAction::Mend,
        }
    }
}

/// Which hosts, and how they are reached.
#[derive(Debug, Clone, Args)]
pub struct HostArguments {
    /// The topology file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How they are reached.
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// Which requests of a file.
#[derive(Debug, Clone, Default, Args)]
pub struct RequestChoice {
    /// Only requests of this client
    #[arg(long, value_name = "HOST")]
    pub from: Option<HostName>,
    /// Only requests to this service: its name, or PROTOCOL ADDRESS:PORT
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only requests that this real server answers
    #[arg(long, value_name = "HOST")]
    pub via: Option<HostName>,
}

impl RequestChoice {
    /// Whether it leaves requests out.
    pub fn chooses(&self) -> bool {
        self.from.is_some() || self.via.is_some() || self.service.is_some()
    }

    /// Whether `expected` is one of them.
    pub fn fits(&self, expected: &ExpectedRequest<'_>) -> bool {
        let ExpectedRequest { client, service, real_server, .. } = expected;
        self.from.as_ref().is_none_or(|name| *name == client.name)
            && self.via.as_ref().is_none_or(|name| *name == real_server.host)
            && self
                .service
                .as_ref()
                .is_none_or(|name| service.name.as_str() == name || service.display_name() == *name)
    }
}

/// How hosts are reached.
#[derive(Debug, Clone, Args)]
pub struct ReachArguments {
    /// How long a host may take to answer one request, in seconds; what waits or has many steps gets
    /// more
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub call_timeout: u64,
    /// Only these hosts: several with commas, or the option more than once
    ///
    /// The others are not looked at and count as no failure. A director that is named goes live even
    /// where its real servers are left out, and a real server that is named gives its VIP back even
    /// where its director is left out: the report names the hosts that were not looked at.
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub limit: Vec<HostName>,
    /// Another ssh_config than the user's own
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// How long connecting to a host may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub connect_timeout: u64,
}

/// Whether hosts are asked on their segments who has a VIP.
#[derive(Debug, Clone, Copy, Args)]
pub struct ProbeArgument {
    /// Do not ask whether another machine has a VIP that is about to be added
    ///
    /// Before a host gets a VIP, its agent asks by ARP (neighbour solicitation) who has it. An answer from a
    /// machine that is not in the file stops the change: two machines would answer for the VIP.
    #[arg(long)]
    pub no_vip_probe: bool,
}

impl ProbeArgument {
    /// For the session.
    pub fn to_probing(self) -> VipProbing {
        if self.no_vip_probe { VipProbing::Off } else { VipProbing::On }
    }
}

/// How fast real servers are taken out.
#[derive(Debug, Clone, Copy, Args)]
pub struct DrainArgument {
    /// How long connections to a real server may take to end before it is removed
    ///
    /// Instead of every service's `drain`; 0: they are cut at once. Also for services that go away as a
    /// whole, and where no other real server could take the new connections, which are not drained otherwise.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(Pace::LONGEST)))]
    pub drain: Option<u32>,
}

/// How fast real servers are taken out and in, instead of what the file says of each service.
#[derive(Debug, Clone, Copy, Args)]
pub struct PaceArguments {
    /// Out.
    #[command(flatten)]
    pub drain: DrainArgument,
    /// Over how long a new real server gets its share
    ///
    /// Instead of every service's `ramp`; 0: all of it at once.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(Pace::LONGEST)))]
    pub ramp: Option<u32>,
}

impl DrainArgument {
    /// For the plan.
    pub fn to_override(self) -> PaceOverride {
        PaceOverride { drain: self.drain, ramp: None }
    }
}

impl PaceArguments {
    /// For the plan.
    pub fn to_override(self) -> PaceOverride {
        PaceOverride { ramp: self.ramp, ..self.drain.to_override() }
    }
}

/// What to do with items that the file names and lvsprov did not make.
#[derive(Debug, Clone, Copy, Args)]
pub struct AdoptArgument {
    /// Take over what the file names and lvsprov did not make
    ///
    /// IPVS services, addresses, routes and tables of the hosts that match what the file names become
    /// what the file says, as if lvsprov had made them: `destroy` removes them. Also the way back
    /// where a receipt was lost.
    #[arg(long)]
    pub adopt: bool,
}

/// What a plan takes over, looks for, and may leave behind.
#[derive(Debug, Clone, Copy, Args)]
pub struct PlanArguments {
    /// Items that lvsprov did not make.
    #[command(flatten)]
    pub adopt: AdoptArgument,
    /// What it may leave behind.
    #[command(flatten)]
    pub allow: AllowArgument,
    /// Other machines.
    #[command(flatten)]
    pub probe: ProbeArgument,
    /// Its report.
    #[command(flatten)]
    pub reasons: ReasonArgument,
}

/// What a plan may leave behind.
#[derive(Debug, Clone, Copy, Args)]
pub struct AllowArgument {
    /// Go on although a request will get no answer
    ///
    /// The plan is walked through: each request and its reply, from host to host, with the routes, policy
    /// rules and settings that the hosts have. Where a packet dies, nothing is changed, unless this is given.
    #[arg(long)]
    pub allow_unanswered: bool,
}

/// `import`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = IMPORT_EXAMPLES)]
pub struct ImportArguments {
    /// Output of `ipvsadm -Sn`, a file for `ipvsadm -R`, or a keepalived.conf; `-` is standard input
    #[arg(value_name = "FILE", required_unless_present = "from", conflicts_with = "from")]
    pub file: Option<PathBuf>,
    /// Read running hosts instead: directors, real servers, routers
    ///
    /// IPVS, VIPs, addresses, gateways and settings are read, nothing is changed. A host that is not
    /// named here is guessed from the configuration of the named ones.
    #[arg(long, value_name = "[USER@]HOST[:PORT]|local|netns:NAME", num_args = 1.., value_delimiter = ',')]
    pub from: Vec<String>,
    /// What FILE is; without it guessed from its content
    #[arg(long, value_enum, value_name = "ipvsadm|keepalived", conflicts_with = "from")]
    pub format_of: Option<FormatOf>,
    /// The director's name and addresses, which such a FILE does not have
    #[arg(long, value_name = "NAME[=ADDRESS[/LENGTH],...]", conflicts_with = "from")]
    pub director: Option<GivenDirector>,
    /// The topology's name
    #[arg(long, value_name = "NAME", default_value = "imported")]
    pub name: TopologyName,
    /// Write the topology to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Overwrite the file of --out
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Another ssh_config than the user's own
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// How long connecting to a host may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub connect_timeout: u64,
}

const IMPORT_EXAMPLES: &str = "Examples:
  ipvsadm -Sn | lvsprov import - --director lvs=192.0.2.2/24 --out cluster.yaml
  lvsprov import /etc/keepalived/keepalived.conf > cluster.yaml
  lvsprov import --from root@lvs root@web1 root@web2 --out cluster.yaml

What the source lacks is guessed, and each guess is a comment in the file. What a topology cannot
express is listed at its end, and on standard error. No host is changed.";

/// The language of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatOf {
    /// Rules as `ipvsadm -S` prints them.
    Ipvsadm,
    /// keepalived.conf.
    Keepalived,
}

/// Labs.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Bring clusters up from bare hosts, send requests, apply again, destroy, compare
    ///
    /// The hosts are network namespaces of this machine, gone when the command ends. Where the
    /// running kernel has no IPVS, all of it happens in a throw-away virtual machine.
    Run(LabRun),
    /// Kill each part of a cluster in turn under constant requests, measure what clients notice, bring it back
    ///
    /// Hosts lose their power, applications and daemons end, links are cut, and the worst pairs of hosts die at once. The
    /// result is a table: the longest time without an answered request, the share of requests that failed, and how many
    /// open connections survived. The file's `promise` is proven or refuted. The hosts are network namespaces of this
    /// machine, gone when the command ends. Where the running kernel has no IPVS, all of it happens in a throw-away
    /// virtual machine.
    Chaos(super::chaos::ChaosArguments),
    /// Run a program in the lab's virtual machine, on this machine's own files (read-only)
    Vm(VmArguments),
}

/// `lab run`.
#[derive(Debug, Clone, Args)]
pub struct LabRun {
    /// Topology files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How the lab's hosts are reached
    #[arg(long, value_enum, default_value_t = LabTransport::Local)]
    pub over: LabTransport,
    /// Requests to each service, from each client
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    pub requests: u32,
    /// Where.
    #[command(flatten)]
    pub machine: LabMachine,
}

/// Where a lab runs, and where its result goes.
#[derive(Debug, Clone, Args)]
pub struct LabMachine {
    /// Where to run: `auto` takes the running kernel if it can
    #[arg(long = "in", value_enum, default_value_t = LabPlace::Auto)]
    pub place: LabPlace,
    /// Also write the result as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Acceleration of the virtual machine: auto (where it works), on (or fail), off (emulate)
    #[arg(long, value_name = "auto|on|off", default_value = "auto")]
    pub kvm: Kvm,
    /// A kernel image for the virtual machine, instead of the distribution's
    #[arg(long, value_name = "IMAGE")]
    pub kernel: Option<PathBuf>,
}

/// Where the lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LabPlace {
    /// Here if the kernel can, else in the virtual machine.
    Auto,
    /// On the running kernel, or not at all.
    Here,
    /// In the virtual machine.
    Vm,
}
