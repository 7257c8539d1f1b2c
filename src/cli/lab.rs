//! `lab run`: from bare hosts to a proven cluster and back, on the running kernel where that can, in
//! the virtual machine where it cannot.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{LabMachine, LabPlace, LabRun, OutputFormat};
use super::cluster::load;
use super::output::{self, CommandResult, Exit};
use crate::desired::desired;
use crate::kernel::modules;
use crate::lab::scenario::{self, LabTransport, ScenarioOptions};
use crate::lab::vm::{self, VmOptions};
use crate::lab::{isolate, junit};
use crate::report;
use crate::state::{Capability, Module};
use crate::topology::Topology;

/// Time limit of `lab run`. A whole playbook takes seconds on a real machine, and a few minutes where it is emulated.
const VM_LIMIT: Duration = Duration::from_hours(1);

/// `lab run`: reads the files, finds the place, and runs each.
pub fn run(run: &LabRun, format: OutputFormat) -> CommandResult {
    let Some(topologies) = load_all(&run.files, format)? else { return Ok(Exit::Findings) };
    if runs_here(&run.machine, &topologies)? {
        return here(run, format, &topologies);
    }
    let over = match run.over {
        LabTransport::Local => "local",
        LabTransport::Ssh => "ssh",
    };
    let requests = run.requests.to_string();
    let arguments = ["run", "--over", over, "--requests", &requests].map(OsString::from);
    in_vm(arguments.into(), &run.machine, format, &run.files, VM_LIMIT)
}

/// Files with what they say.
pub(super) type ReadFiles = Vec<(PathBuf, Topology)>;

/// Reads and checks the files; `None`: one has errors, which are printed.
pub(super) fn load_all(
    files: &[PathBuf],
    format: OutputFormat,
) -> Result<Option<ReadFiles>, Box<dyn std::error::Error>> {
    let mut topologies = Vec::new();
    for path in files {
        match load(path, format)? {
            Some(topology) => topologies.push((path.clone(), topology)),
            None => return Ok(None),
        }
    }
    Ok(Some(topologies))
}

/// Whether the lab runs on the running kernel, and not in the virtual machine; an error where it cannot as wanted.
pub(super) fn runs_here(
    machine: &LabMachine,
    topologies: &[(PathBuf, Topology)],
) -> Result<bool, Box<dyn std::error::Error>> {
    let lacks = lacking(topologies);
    match (machine.place, lacks.as_slice()) {
        (LabPlace::Here | LabPlace::Auto, []) => Ok(true),
        (LabPlace::Here, lacks) => Err(format!(
            "the lab cannot run here: {}; leave out `--in here` to run it in a virtual machine",
            summary(lacks)
        )
        .into()),
        (LabPlace::Auto, lacks) => {
            anstream::eprintln!("{}: running in a virtual machine", summary(lacks));
            Ok(false)
        }
        (LabPlace::Vm, _) => Ok(false),
    }
}

/// Why the lab cannot run on this machine as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Root,
    Module(Module),
}

/// What the running kernel lacks; `-v` shows where each module was looked for.
fn lacking(topologies: &[(PathBuf, Topology)]) -> Vec<Lack> {
    if !nix::unistd::geteuid().is_root() {
        return vec![Lack::Root];
    }
    let mut lacks = Vec::new();
    for module in modules_of(topologies) {
        if let Capability::Missing(looked) = modules::capability(module) {
            tracing::info!(%module, %looked, "the running kernel lacks a module");
            lacks.push(Lack::Module(module));
        }
    }
    lacks
}

/// What the kernel lacks, by kind and not by module, in one line.
fn summary(lacks: &[Lack]) -> String {
    if lacks.contains(&Lack::Root) {
        return "network namespaces with IPVS need root".to_owned();
    }
    let mut kinds: Vec<&str> = Vec::new();
    for lack in lacks {
        let kind = match lack {
            Lack::Module(Module::IpVs) => "IPVS",
            Lack::Module(Module::IpVsFtp) => "FTP for IPVS",
            Lack::Module(Module::NfTables) => "nftables",
            _ => "tunnels",
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|kind| format!("no {kind}")).collect();
    match kinds.split_last() {
        Some((last, [])) => format!("this kernel has {last}"),
        Some((last, rest)) => format!("this kernel has {} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Every module that a host of `topologies` gets.
fn modules_of(topologies: &[(PathBuf, Topology)]) -> BTreeSet<Module> {
    let of = |topology: &Topology| {
        desired(topology).into_values().flat_map(|host| host.state.modules).collect::<Vec<_>>()
    };
    let all = topologies.iter().flat_map(|(_, topology)| of(topology));
    // The lab reads connection counters even where no host needs IPVS.
    all.chain([Module::IpVs]).collect()
}

/// Runs `lab` with `arguments`, the subcommand first, in the virtual machine, for at most `limit`.
pub(super) fn in_vm(
    mut arguments: Vec<OsString>,
    machine: &LabMachine,
    format: OutputFormat,
    files: &[PathBuf],
    limit: Duration,
) -> CommandResult {
    arguments.insert(0, "lab".into());
    arguments.extend(["--in".into(), "here".into()]);
    arguments.extend([
        "--format".into(),
        match format {
            OutputFormat::Json => "json".into(),
            OutputFormat::Markdown => "markdown".into(),
            OutputFormat::Text | OutputFormat::Html => "text".into(),
        },
    ]);
    let mut share = Vec::new();
    if let Some(junit) = &machine.junit {
        let folder = junit.parent().filter(|folder| !folder.as_os_str().is_empty());
        share.push(std::path::absolute(folder.unwrap_or(Path::new(".")))?);
        arguments.extend(["--junit".into(), std::path::absolute(junit)?.into()]);
    }
    arguments.push("--".into());
    for file in files {
        arguments.push(std::path::absolute(file)?.into());
    }
    let options = VmOptions {
        kvm: machine.kvm,
        kernel: machine.kernel.clone(),
        share,
        time_limit: Some(limit),
        ..VmOptions::default()
    };
    let exit = vm::run(&options, &std::env::current_exe()?, &arguments)?;
    Ok(Exit::from_code(exit.code))
}

/// Runs `work` on the running kernel, in a network of its own. Ended by a signal, nothing of it stays.
pub(super) fn run_isolated(
    topologies: &[(PathBuf, Topology)],
    work: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error>> {
    // Modules are loaded first, because some add a device or settings to every namespace, and the bare hosts
    // are compared with at the end.
    for module in modules_of(topologies) {
        modules::load(module)?;
    }
    isolate()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let interrupted = runtime.block_on(async {
        tokio::select! {
            // In this order: signals must be caught before the first case.
            biased;
            () = interruption() => true,
            () = work => false,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    if interrupted {
        return Err("interrupted: the lab's hosts are gone with it".into());
    }
    Ok(())
}

/// On the running kernel, in a network of its own.
fn here(run: &LabRun, format: OutputFormat, topologies: &[(PathBuf, Topology)]) -> CommandResult {
    let options = ScenarioOptions { transport: run.over, requests: run.requests };
    let mut results = Vec::new();
    // A line that cannot be written (full disk, closed pipe) is in the result too: the summary, which
    // cannot be written either, is the error.
    let say = |text: &str| {
        if format == OutputFormat::Text {
            let _ = output::print(text);
        }
    };
    run_isolated(topologies, async {
        for (path, topology) in topologies {
            results.extend(scenario::run(&playbook(path), topology, &options, &say).await);
        }
    })?;
    if let Some(path) = &run.machine.junit {
        junit::write(path, &results)?;
    }
    let good = results.iter().all(|case| case.ok);
    match format {
        OutputFormat::Json => output::print_json(&report::lab::json(&results))?,
        OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html => {
            output::print(&report::lab::summary(&results))?;
        }
    }
    Ok(if good && !results.is_empty() { Exit::Ok } else { Exit::NotProven })
}

/// The file's name without its ending.
pub(super) fn playbook(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// SIGINT or SIGTERM.
async fn interruption() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut ctrl_c), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = ctrl_c.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_fits_one_line() {
        let every: Vec<Lack> = Module::ALL.iter().copied().map(Lack::Module).collect();
        let line = summary(&every);
        assert_eq!(line, "this kernel has no IPVS, no FTP for IPVS, no tunnels and no nftables");
        let usual = [Module::IpVs, Module::Ipip, Module::Ip6Tnl, Module::Sit, Module::Fou];
        let line = summary(&usual.map(Lack::Module));
        assert_eq!(line, "this kernel has no IPVS and no tunnels");
        assert_eq!(summary(&[Lack::Module(Module::IpVs)]), "this kernel has no IPVS");
        assert_eq!(summary(&[Lack::Root]), "network namespaces with IPVS need root");
    }
}
