//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::lab::vm::Kvm;
use crate::lab::vm::command::VmArguments;
use crate::topology::HostName;

/// Brings the hosts of a Linux Virtual Server cluster to what one YAML file says.
///
/// Start with `lvsprov check FILE`, then `plan`, then `apply`. `lab run` tries the same file with
/// real traffic on this machine without touching any host.
#[derive(Debug, Parser)]
#[command(name = "lvsprov", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// For every command.
    #[command(flatten)]
    pub common: Common,
    /// Say more on standard error; twice or three times for more still
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

const EXIT_CODES: &str = "Exit codes:
  0  done, and all is well (plan, status: nothing differs)
  1  unexpected error
  2  wrong command line, or --limit names a host that the file does not have
  3  the file has errors; no host was touched
  4  plan, status: there are differences
  5  a host could not be reached, refused or failed
  6  verify, lab run: something that must be true is not";

/// For every command.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// How to say the result
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub format: Format,
}

/// How to say the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    Text,
    /// For a program: one JSON document on standard output, with a `schema` member.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find everything that is wrong with a file; touch no host
    Check {
        /// Topology files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show what apply would do, step by step and why; change nothing
    Plan {
        /// Which hosts.
        #[command(flatten)]
        target: Target,
        /// What others made.
        #[command(flatten)]
        adoption: Adoption,
    },
    /// Bring the hosts to what the file says; a second run changes nothing
    Apply {
        /// Which hosts.
        #[command(flatten)]
        target: Target,
        /// What others made.
        #[command(flatten)]
        adoption: Adoption,
    },
    /// Prove that it works: state, who answers ARP for the VIP, requests from the clients
    Verify(Target),
    /// Show what is running: services, real servers, connections, and what differs from the file
    Status(Target),
    /// Put every host back as it was before the first apply
    Destroy {
        /// Which hosts.
        #[command(flatten)]
        target: Target,
        /// Show what would be done; change nothing
        #[arg(long)]
        dry_run: bool,
    },
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
    },
}

/// Which hosts, and how they are reached.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The topology file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only these hosts: several with commas, or the option more than once
    ///
    /// The others are not looked at and count as no failure. A director that is named goes live even
    /// where its real servers are left out, and a real server that is named gives its VIP back even
    /// where its director is left out: the report says who was not looked at.
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub limit: Vec<HostName>,
    /// Another ssh_config than the user's own
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// How long connecting to a host may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub connect_timeout: u64,
}

/// What to do with things that the file names and that others made.
#[derive(Debug, Clone, Copy, Args)]
pub struct Adoption {
    /// Take over what the file names and lvsprov did not make
    ///
    /// IPVS services, addresses, routes and tables of the hosts that match what the file names become
    /// what the file says, as if lvsprov had made them: `destroy` removes them. Also the way back
    /// where a receipt was lost.
    #[arg(long)]
    pub adopt: bool,
}

/// Labs.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Bring clusters up from bare hosts, send requests, apply again, destroy, compare
    ///
    /// The hosts are network namespaces of this machine, gone when the command ends. Where the
    /// running kernel has no IPVS, all of it happens in a throw-away virtual machine.
    Run(LabRun),
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
    #[arg(long, value_enum, default_value_t = Over::Local)]
    pub over: Over,
    /// Where to run: `auto` takes the running kernel if it can
    #[arg(long = "in", value_enum, default_value_t = Place::Auto)]
    pub place: Place,
    /// Also write the result as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Requests to each service, from each client
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    pub requests: u32,
    /// Acceleration of the virtual machine: auto (where it works), on (or fail), off (emulate)
    #[arg(long, value_name = "auto|on|off", default_value = "auto")]
    pub kvm: Kvm,
    /// A kernel image for the virtual machine, instead of the distribution's
    #[arg(long, value_name = "IMAGE")]
    pub kernel: Option<PathBuf>,
}

/// How the lab's hosts are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// Agents are started in the namespaces directly.
    Local,
    /// A real sshd runs in each namespace: the production way.
    Ssh,
}

/// Where the lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Here if the kernel can, else in the virtual machine.
    Auto,
    /// On the running kernel, or not at all.
    Here,
    /// In the virtual machine.
    Vm,
}
