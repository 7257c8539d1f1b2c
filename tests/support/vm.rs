//! Groups of cases that share a machine, and the machines side by side.
//!
//! Started by cargo, the program boots one virtual machine for each group, some at a time, and runs itself in it. What has no machine in common waits for no other.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use libtest_mimic::Arguments;

use super::cases::{self, Case, Durations};

/// Set in the machine; there a missing capability is a failure.
const IN_VM: &str = "LVSPROV_IN_VM";
/// Set for the process that runs one group, to its name.
const GROUP: &str = "LVSPROV_TEST_GROUP";
/// How many machines run side by side, instead of [`machines`].
const MACHINES: &str = "LVSPROV_TEST_MACHINES";
/// Set by `make kernels`.
const THOROUGH: &str = "LVSPROV_THOROUGH";

/// Whether more is tried than `make test` has the time for: each kind of crash in both directions, twice as many mutants
/// of the walk, each playbook with local agents too.
pub fn thorough() -> bool {
    std::env::var_os(THOROUGH).is_some()
}

/// Cases that share one machine.
pub struct Group {
    pub name: &'static str,
    /// What it takes on 2 processors where the machine is emulated: groups begin in this order, the longest first.
    pub expected_s: u32,
    pub place: Place,
    pub cases: Vec<Case>,
}

/// Where the cases of a group run.
#[derive(Clone, Copy)]
pub enum Place {
    /// In a virtual machine that is stopped after so many seconds.
    Machine { limit_s: u32, prepare: fn(), at_once: usize },
    /// Here, one after the other: each boots its own.
    Here,
}

impl Place {
    /// One case after the other: they share a slow machine, and what they count is its kernel's.
    pub const fn machine(limit_s: u32) -> Self {
        Self::Machine { limit_s, prepare: || {}, at_once: 1 }
    }
}

/// The whole of the program.
pub fn run(mut groups: Vec<Group>) -> ExitCode {
    let arguments = Arguments::from_args();
    if let Ok(name) = std::env::var(GROUP) {
        let group = groups.into_iter().find(|group| group.name == name);
        return group.expect("there is a group of that name").run();
    }
    if arguments.list {
        let all: Vec<Case> = groups.into_iter().flat_map(|group| group.cases).collect();
        return cases::run(&all, None);
    }
    groups.retain(|group| group.cases.iter().any(|case| case.is_wanted(&arguments)));
    groups.sort_by_key(|group| group.expected_s);
    let at_once = machines().min(groups.len());
    let queue = Mutex::new(groups);
    let (cases, machines) = (Durations::default(), Durations::default());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(group) = next(&queue) {
                    let started = Instant::now();
                    if !group.start(&cases) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(group.name);
                    }
                    machines.add(group.name, started.elapsed());
                }
            });
        }
    });
    cases.print("cases");
    machines.print("groups, each with the start of its machine");
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn next(queue: &Mutex<Vec<Group>>) -> Option<Group> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Two for each processor: what is cut off waits for its time limits, and the others have the processor meanwhile.
fn machines() -> usize {
    let wanted = std::env::var(MACHINES).ok().and_then(|text| text.parse().ok());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or(2 * processors).max(1)
}

/// Boots the machine for at most so many seconds, and runs this program in it, with the same arguments. `None` if it
/// runs there already.
pub fn boot(limit_s: u32) -> Option<ExitCode> {
    if std::env::var_os(IN_VM).is_some() {
        return None;
    }
    let status = in_machine(limit_s).args(std::env::args_os().skip(1)).status();
    let code = status.expect("lvsprov was built beside this program").code();
    Some(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn in_machine(limit_s: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvsprov"));
    command
        .args(["lab", "vm", "--time-limit", &limit_s.to_string(), "--", "/usr/bin/env"])
        .arg(format!("{IN_VM}=1"))
        // This very PATH: the machine would add the folders where all programs of this host are.
        .arg(format!("PATH={}", std::env::var("PATH").unwrap_or_default()))
        .arg(this_program());
    command
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

impl Group {
    /// In a process of its own, in the machine if it needs one.
    fn run(self) -> ExitCode {
        let at_once = match self.place {
            Place::Machine { prepare, at_once, .. } => {
                prepare();
                at_once
            }
            Place::Here => 1,
        };
        cases::run(&self.cases, Some(at_once))
    }

    /// Starts that process, shows its output line by line, and says whether all went well.
    fn start(&self, durations: &Durations) -> bool {
        let mut child = self
            .command()
            .env(GROUP, self.name)
            .args(std::env::args_os().skip(1))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("lvsprov was built beside this program");
        let (out, err) = (child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            scope.spawn(|| self.show(err, durations));
            self.show(out, durations);
        });
        child.wait().is_ok_and(|status| status.success())
    }

    fn command(&self) -> Command {
        match self.place {
            Place::Machine { limit_s, .. } => in_machine(limit_s),
            Place::Here => Command::new(this_program()),
        }
    }

    fn show(&self, output: Option<impl std::io::Read>, durations: &Durations) {
        for line in BufReader::new(output.expect("it is a pipe")).split(b'\n').map_while(Result::ok)
        {
            let line = String::from_utf8_lossy(&line);
            durations.read(&line);
            println!("{}| {line}", self.name);
        }
    }
}
