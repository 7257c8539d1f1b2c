//! `import`: reads what exists, from a file or from running hosts, and writes the topology.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;

use super::arguments::{CommonArguments, FormatOf, ImportArguments, OutputFormat};
use super::console::Console;
use super::output::{self, CommandResult, Exit};
use crate::apply::operator::{Activity, OperatorConsole as _};
use crate::apply::requests::unexpected;
use crate::check;
use crate::failure::Failure;
use crate::finding::{Finding, Severity};
use crate::import::live::{self, ObservedHost};
use crate::import::{self, Dialect, Remark, RemarkKind, WrittenTopology, guess};
use crate::names::{HostName, TopologyName};
use crate::protocol::{Reply, Request};
use crate::state::{Observation, Sysctl};
use crate::topology::{self, Reach, SshTarget};
use crate::transport::{Connection, Options};
use crate::{desired, plan, report, whole_file};

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("{0} exists already; --force overwrites it")]
    Exists(PathBuf),
    #[error("cannot write {path}", path = .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{0} is neither rules of ipvsadm nor a keepalived.conf, as far as lvsprov can tell; name it with \
         --format-of"
    )]
    UnknownDialect(String),
    #[error("--from {text}: {why}")]
    BadTarget { text: String, why: String },
    #[error("{host}: {failure}")]
    Host { host: HostName, failure: Failure },
}

/// The result of an import.
struct Imported {
    written: WrittenTopology,
    /// Whether it has any rules.
    anything: bool,
    /// Hosts that could not be read.
    failed: Vec<ImportError>,
}

/// `import`.
pub fn import(arguments: &ImportArguments, common: &CommonArguments) -> CommandResult {
    if let Some(path) = arguments.out.as_ref().filter(|path| path.exists() && !arguments.force) {
        output::print_error(&ImportError::Exists(path.clone()), common)?;
        return Ok(Exit::Usage);
    }
    let mut result = match &arguments.file {
        Some(file) => match from_file(arguments, file)? {
            Ok(result) => result,
            Err(error) => {
                output::print_error(&error, common)?;
                return Ok(Exit::Findings);
            }
        },
        None => match targets(&arguments.from) {
            Ok(targets) => from_hosts(arguments, common, &targets)?,
            Err(error) => {
                output::print_error(&error, common)?;
                return Ok(Exit::Usage);
            }
        },
    };
    for error in &result.failed {
        output::print_error_message(error);
    }
    if !result.anything {
        print_nothing(&result, common)?;
        let hosts = !result.failed.is_empty();
        return Ok(if hosts { Exit::HostFailed } else { Exit::Findings });
    }
    add_findings(&mut result.written);
    print_import(&result.written, arguments, common)?;
    Ok(if result.failed.is_empty() { Exit::Ok } else { Exit::HostFailed })
}

fn from_file(
    arguments: &ImportArguments,
    file: &Path,
) -> Result<Result<Imported, ImportError>, Box<dyn std::error::Error>> {
    let stdin = file == Path::new("-");
    let text = topology::read_file(if stdin { Path::new("/dev/stdin") } else { file })?;
    let source = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let given = arguments.format_of.map(|format| match format {
        FormatOf::Ipvsadm => Dialect::Ipvsadm,
        FormatOf::Keepalived => Dialect::Keepalived,
    });
    let Some(dialect) = given.or_else(|| Dialect::guess(&text)) else {
        return Ok(Err(ImportError::UnknownDialect(source)));
    };
    let mut rules = dialect.read(&text);
    let mut remarks = std::mem::take(&mut rules.remarks);
    let (draft, more) = guess::draft(&rules, arguments.director.clone(), arguments.name.clone())?;
    remarks.extend(more);
    let written = import::write(&draft, remarks, &source);
    Ok(Ok(Imported { written, anything: rules.taken > 0, failed: Vec::new() }))
}

/// A host to read, and its name in the topology.
struct ImportTarget {
    name: HostName,
    reach: Reach,
    /// Key and value of the host in the topology file.
    field: (&'static str, String),
}

fn targets(texts: &[String]) -> Result<Vec<ImportTarget>, ImportError> {
    let mut targets: Vec<ImportTarget> = Vec::new();
    for text in texts {
        let wrong = |why: String| ImportError::BadTarget { text: text.clone(), why };
        let (stem, reach, field) = if text == "local" {
            ("local".to_owned(), Reach::Local, ("local", "true".to_owned()))
        } else if let Some(name) = text.strip_prefix("netns:") {
            let path = if name.starts_with('/') {
                PathBuf::from(name)
            } else {
                Path::new("/run/netns").join(name)
            };
            let stem = name.rsplit('/').next().unwrap_or(name).to_owned();
            (stem, Reach::Netns(path), ("netns", name.to_owned()))
        } else {
            let target: SshTarget = text.parse().map_err(wrong)?;
            (stem_of(&target.host), Reach::Ssh(target), ("ssh", text.clone()))
        };
        let taken = |name: &str| targets.iter().any(|other| other.name.as_str() == name);
        let name = (1..=targets.len() + 1)
            .map(|n| if n == 1 { stem.clone() } else { format!("{stem}-{n}") })
            .find(|name| !taken(name))
            .unwrap_or_default();
        let name = name.parse().map_err(|error| wrong(format!("{error}")))?;
        targets.push(ImportTarget { name, reach, field });
    }
    Ok(targets)
}

/// The first label of a name; an address in full.
fn stem_of(host: &str) -> String {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return format!("host-{}", host.replace([':', '.'], "-"));
    }
    let label = host.split('.').next().unwrap_or(host);
    label.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect()
}

fn from_hosts(
    arguments: &ImportArguments,
    common: &CommonArguments,
    targets: &[ImportTarget],
) -> Result<Imported, Box<dyn std::error::Error>> {
    let options = Options {
        connect_timeout: Duration::from_secs(arguments.connect_timeout),
        ssh_config: arguments.ssh_config.clone(),
        ..Options::default()
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let console = Console::new(common.format);
    runtime.block_on(async {
        let mut hosts = observe_all(targets, &options, &arguments.name, &console).await;
        let failed = hosts.iter_mut().filter_map(|host| host.failed.take()).collect::<Vec<_>>();
        hosts.retain(|host| host.connection.is_some());
        let observed: Vec<ObservedHost> =
            hosts.iter().filter_map(|host| host.observed.clone()).collect();
        let (draft, remarks) = live::draft(&observed, arguments.name.clone())?;
        let anything = !draft.services.is_empty();
        let names: Vec<_> = targets.iter().map(|target| target.name.to_string()).collect();
        let source = format!("the hosts {}", names.join(", "));
        let first = import::write(&draft, remarks.clone(), &source);
        let mut remarks = remarks;
        remarks.extend(observe_settings(&mut hosts, &first.topology, &arguments.name).await);
        let written = import::write(&draft, remarks, &source);
        for host in hosts {
            if let Some(connection) = host.connection {
                connection.close().await;
            }
        }
        Ok(Imported { written, anything, failed })
    })
}

/// A host that was observed, or why not.
struct ImportedHost {
    connection: Option<Connection>,
    observed: Option<ObservedHost>,
    failed: Option<ImportError>,
}

/// Connects to every host and observes it, all at once.
async fn observe_all(
    targets: &[ImportTarget],
    options: &Options,
    name: &TopologyName,
    console: &Console,
) -> Vec<ImportedHost> {
    let mut awaited: BTreeSet<HostName> =
        targets.iter().map(|target| target.name.clone()).collect();
    console.show_awaited(Activity::Observing, &awaited);
    let asking = targets.iter().enumerate().map(|(number, target)| async move {
        (number, &target.name, observe_target(target, options, name).await)
    });
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut all = Vec::new();
    while let Some((number, host, asked)) = asking.next().await {
        awaited.remove(host);
        console.show_awaited(Activity::Observing, &awaited);
        all.push((number, asked));
    }
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, asked)| asked).collect()
}

async fn observe_target(
    target: &ImportTarget,
    options: &Options,
    name: &TopologyName,
) -> ImportedHost {
    let failed = |failure| {
        let failed = Some(ImportError::Host { host: target.name.clone(), failure });
        ImportedHost { connection: None, observed: None, failed }
    };
    let mut connection = match Connection::open(&target.name, &target.reach, options).await {
        Ok(connection) => connection,
        Err(error) => return failed(Failure::from(&error)),
    };
    match observe(&mut connection, name, live::sysctls_to_read()).await {
        Ok(observation) => {
            let observed = ObservedHost {
                name: target.name.clone(),
                reach: target.field.clone(),
                observation,
            };
            ImportedHost { connection: Some(connection), observed: Some(observed), failed: None }
        }
        Err(failure) => {
            connection.close().await;
            failed(failure)
        }
    }
}

async fn observe(
    connection: &mut Connection,
    name: &TopologyName,
    sysctls: BTreeSet<Sysctl>,
) -> Result<Observation, Failure> {
    let request = Request::Observe { topology: name.clone(), sysctls, counters: false };
    match connection.call(request).await {
        Ok(Reply::Observed(observation)) => Ok(*observation),
        Ok(Reply::Refused(failure)) => Err(failure),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(Failure::from(&error)),
    }
}

/// Observes the settings that the topology would change, which only the first topology shows.
async fn observe_settings(
    hosts: &mut [ImportedHost],
    text: &str,
    name: &TopologyName,
) -> Vec<Remark> {
    let Some(topology) = check::examine("the import", text).topology else { return Vec::new() };
    let mut desired = desired::desired(&topology);
    let mut observed = Vec::new();
    for asked in hosts {
        let (Some(connection), Some(first)) = (&mut asked.connection, &asked.observed) else {
            continue;
        };
        let Some(wanted) = desired.remove(&first.name) else { continue };
        let sysctls = plan::ownership::sysctls_to_read(&wanted.state);
        if let Ok(observation) = observe(connection, name, sysctls).await {
            observed.push(ObservedHost { observation, ..first.clone() });
        }
    }
    live::differences(&topology, &observed)
}

/// Adds the checker's errors to the remarks, one a rule.
fn add_findings(written: &mut WrittenTopology) {
    let mut rules: Vec<(Finding, usize)> = Vec::new();
    for finding in check::examine("the import", &written.topology).findings {
        match rules.iter_mut().find(|(first, _)| first.rule == finding.rule) {
            Some((_, more)) => *more += 1,
            None if finding.severity == Severity::Error => rules.push((finding, 0)),
            None => {}
        }
    }
    for (finding, more) in rules {
        let more = if more == 0 { String::new() } else { format!(" (and {more} more like it)") };
        let what = format!("check: {}{more}", finding.message);
        let why = format!("{}; {}", finding.why, finding.cure);
        written.remarks.push(Remark::general(RemarkKind::Guessed, what, why));
    }
}

/// Prints why there is no topology.
fn print_nothing(result: &Imported, common: &CommonArguments) -> Result<(), output::OutputError> {
    // Guesses are of no use without a topology.
    let kept = |remark: &&Remark| remark.kind != RemarkKind::Guessed;
    let remarks: Vec<_> = result.written.remarks.iter().filter(kept).collect();
    for remark in &remarks {
        output::print_message(&format!("{remark}\n"));
    }
    output::print_message(
        "nothing was imported: there is no service, timeout or daemon that could be taken over\n",
    );
    match common.format {
        OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html => Ok(()),
        OutputFormat::Json => output::print_json(&report::with_schema(
            "import",
            &json!({ "topology": null, "remarks": remarks }),
        )),
    }
}

fn print_import(
    written: &WrittenTopology,
    arguments: &ImportArguments,
    common: &CommonArguments,
) -> Result<(), Box<dyn std::error::Error>> {
    let WrittenTopology { topology, remarks } = written;
    if let Some(path) = &arguments.out {
        write(path, topology, arguments.force)?;
    }
    if common.format == OutputFormat::Json {
        output::print_json(&report::with_schema(
            "import",
            &json!({ "topology": topology, "remarks": remarks }),
        ))?;
        return Ok(());
    }
    for remark in remarks {
        output::print_message(&format!("{remark}\n"));
    }
    let guessed = remarks.iter().filter(|remark| remark.kind == RemarkKind::Guessed).count();
    let summary = format!("{guessed} guessed, {} not taken over\n", remarks.len() - guessed);
    if let Some(path) = &arguments.out {
        output::print(&format!("{} written: {summary}", path.display()))?;
    } else {
        output::print_message(&summary);
        output::print(topology)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), ImportError> {
    whole_file::write(path, text.as_bytes(), 0o644, force).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => ImportError::Exists(path.to_owned()),
        _ => ImportError::Write { path: path.to_owned(), source },
    })
}
