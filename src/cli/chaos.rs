//! `lab chaos`: what the death of each part of a cluster costs, in the lab.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::arguments::{LabMachine, OutputFormat};
use super::lab;
use super::output::{self, CommandResult, Exit};
use crate::lab::chaos::fault::{Fault, FaultFilter, FaultKind, PairChoice, UnknownFault, schedule};
use crate::lab::chaos::{self, ChaosOptions};
use crate::lab::junit;
use crate::report;
use crate::report::lab::CaseResult;
use crate::topology::Topology;

const EXAMPLES: &str = "Examples:
  lvsprov lab chaos cluster.yaml
  lvsprov lab chaos cluster.yaml --only host           # power cuts of single hosts
  lvsprov lab chaos cluster.yaml --only web1           # the host web1 and all that it has
  lvsprov lab chaos cluster.yaml --only process:web1 --only pair
  lvsprov lab chaos cluster.yaml --pairs all --dead 10 --format markdown

In the file, `promise: {director: 3s, real_server: 6s, connections: keep}` says what must hold. A
part stays dead longer than what is promised of it, so that its return proves nothing. Without a
health check a dead real server has no bound: its share of the requests fails until it is back.

Exit code 6: a promise is refuted, or a fault could not be made, measured or brought back.";

/// `lab chaos`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ChaosArguments {
    /// Topology files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Only these faults: host, process, daemon, link or pair; a host of the file; or KIND:HOST. Several with commas, or the
    /// option more than once
    #[arg(long, value_name = "KIND|HOST|KIND:HOST", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Which pairs of hosts die at once
    #[arg(long, value_enum, value_name = "worst|all|none", default_value_t = PairChoice::Worst)]
    pub pairs: PairChoice,
    /// How long requests are sent before each fault, and after everything is answered again, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub around: u64,
    /// How long a part stays dead, in seconds; at least two more than --patience, and longer where a promise is longer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub dead: u64,
    /// After how many seconds a request counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub patience: u64,
    /// How long it may take until everything is answered again, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub recovery: u64,
    /// No fault begins later than that after the start of its file, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// Where.
    #[command(flatten)]
    pub machine: LabMachine,
}

/// The choice leaves no fault of a file.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: no fault is left of what --only and --pairs choose; kinds of faults: {}", .0.display(),
    FaultKind::ALL.map(FaultKind::as_str).join(", ")
)]
struct NoFaultLeft(PathBuf);

impl ChaosArguments {
    fn options(&self) -> ChaosOptions {
        ChaosOptions {
            around: Duration::from_secs(self.around),
            dead: Duration::from_secs(self.dead),
            patience: Duration::from_secs(self.patience),
            recovery: Duration::from_secs(self.recovery),
            time_limit: Duration::from_secs(self.time_limit),
        }
    }

    /// The faults of one file.
    fn faults(&self, topology: &Topology) -> Result<Vec<Fault>, UnknownFault> {
        let only = self.only.iter().map(|word| FaultFilter::read(word, topology));
        let only = only.collect::<Result<Vec<_>, _>>()?;
        Ok(schedule(topology, &only, self.pairs))
    }

    /// For the same command in the virtual machine.
    fn words(&self) -> Vec<OsString> {
        let pairs = match self.pairs {
            PairChoice::Worst => "worst",
            PairChoice::All => "all",
            PairChoice::None => "none",
        };
        let mut words: Vec<OsString> = ["chaos", "--pairs", pairs].map(OsString::from).into();
        for word in &self.only {
            words.extend(["--only".into(), word.into()]);
        }
        let times = [
            ("--around", self.around),
            ("--dead", self.dead),
            ("--patience", self.patience),
            ("--recovery", self.recovery),
            ("--time-limit", self.time_limit),
        ];
        for (option, seconds) in times {
            words.extend([option.into(), seconds.to_string().into()]);
        }
        words
    }
}

/// `lab chaos`.
pub fn chaos(arguments: &ChaosArguments, format: OutputFormat) -> CommandResult {
    let Some(topologies) = lab::load_all(&arguments.files, format)? else {
        return Ok(Exit::Findings);
    };
    let options = arguments.options();
    let mut trials = Vec::new();
    let mut longest = Duration::ZERO;
    for (path, topology) in &topologies {
        let faults = match arguments.faults(topology) {
            Ok(faults) if faults.is_empty() => {
                output::print_error_message(&NoFaultLeft(path.clone()));
                return Ok(Exit::Usage);
            }
            Ok(faults) => faults,
            Err(unknown) => {
                output::print_error_message(&unknown);
                return Ok(Exit::Usage);
            }
        };
        longest += options.longest(topology, &faults) + START_LIMIT;
        trials.push((lab::playbook(path), topology, faults));
    }
    if !lab::runs_here(&arguments.machine, &topologies)? {
        let (words, machine) = (arguments.words(), &arguments.machine);
        return lab::in_vm(words, machine, format, &arguments.files, longest + START_LIMIT);
    }
    let mut reports = Vec::new();
    lab::run_isolated(&topologies, async {
        for (playbook, topology, faults) in &trials {
            output::print_message(&format!("{playbook}: {} faults\n", faults.len()));
            let run = chaos::run(playbook, topology, faults, &options, &|line| {
                output::print_message(line);
            });
            reports.push(run.await);
        }
    })?;
    if let Some(path) = &arguments.machine.junit {
        let cases: Vec<CaseResult> = reports.iter().flat_map(report::chaos::cases).collect();
        junit::write(path, &cases)?;
    }
    match format {
        OutputFormat::Json => output::print_json(&report::chaos::json(&reports))?,
        OutputFormat::Markdown => output::print(&report::chaos::markdown(&reports))?,
        OutputFormat::Text | OutputFormat::Html => {
            for one in &reports {
                output::print(&report::chaos::text(one))?;
            }
        }
    }
    let good = reports.iter().all(report::chaos::ChaosReport::is_good);
    Ok(if good { Exit::Ok } else { Exit::NotProven })
}

/// How long a cluster may take to come up, also in an emulated machine with a large file.
const START_LIMIT: Duration = Duration::from_mins(10);
