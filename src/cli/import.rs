//! `import`: reads what exists, from a file or from running hosts, and writes the topology.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;

use super::arguments::{Common, Format, FormatOf, ImportArguments};
use super::commands::Outcome;
use super::exit::{self, Exit};
use super::output;
use super::progress::Progress;
use crate::apply::session::unexpected;
use crate::apply::watch::{Phase, Watch as _};
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
use crate::{desired, plan, report};

/// Why nothing came of an import.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("{0} is there already; --force overwrites it")]
    Exists(PathBuf),
    #[error("cannot write {path}", path = .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{0} is neither rules of ipvsadm nor a keepalived.conf, as far as can be told; say which with \
         --format-of"
    )]
    UnknownDialect(String),
    #[error("--from {text}: {why}")]
    Target { text: String, why: String },
    #[error("{host}: {failure}")]
    Host { host: HostName, failure: Failure },
}

/// What an import came to.
struct Imported {
    written: WrittenTopology,
    /// Whether there is anything in it.
    anything: bool,
    /// Hosts that could not be read.
    failed: Vec<ImportError>,
}

/// `import`.
pub fn command(arguments: &ImportArguments, common: &Common) -> Outcome {
    if let Some(path) = arguments.out.as_ref().filter(|path| path.exists() && !arguments.force) {
        exit::report(&ImportError::Exists(path.clone()), common)?;
        return Ok(Exit::Usage);
    }
    let mut result = match &arguments.file {
        Some(file) => match from_file(arguments, file)? {
            Ok(result) => result,
            Err(error) => {
                exit::report(&error, common)?;
                return Ok(Exit::Findings);
            }
        },
        None => match targets(&arguments.from) {
            Ok(targets) => from_hosts(arguments, common, &targets)?,
            Err(error) => {
                exit::report(&error, common)?;
                return Ok(Exit::Usage);
            }
        },
    };
    for error in &result.failed {
        exit::say(error);
    }
    if !result.anything {
        nothing(&result, common)?;
        let hosts = !result.failed.is_empty();
        return Ok(if hosts { Exit::HostFailed } else { Exit::Findings });
    }
    examine(&mut result.written);
    say(&result.written, arguments, common)?;
    Ok(if result.failed.is_empty() { Exit::Ok } else { Exit::HostFailed })
}

fn from_file(
    arguments: &ImportArguments,
    file: &Path,
) -> Result<Result<Imported, ImportError>, Box<dyn std::error::Error>> {
    let stdin = file == Path::new("-");
    let text = topology::read_file(if stdin { Path::new("/dev/stdin") } else { file })?;
    let source = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let said = arguments.format_of.map(|format| match format {
        FormatOf::Ipvsadm => Dialect::Ipvsadm,
        FormatOf::Keepalived => Dialect::Keepalived,
    });
    let Some(dialect) = said.or_else(|| Dialect::guess(&text)) else {
        return Ok(Err(ImportError::UnknownDialect(source)));
    };
    let mut rules = dialect.read(&text);
    let mut remarks = std::mem::take(&mut rules.remarks);
    let (draft, more) = guess::draft(&rules, arguments.director.clone(), arguments.name.clone())?;
    remarks.extend(more);
    let written = import::write(&draft, remarks, &source);
    Ok(Ok(Imported { written, anything: rules.taken > 0, failed: Vec::new() }))
}

/// A host to be read, under the name that it gets.
struct Target {
    name: HostName,
    reach: Reach,
    said: (&'static str, String),
}

fn targets(texts: &[String]) -> Result<Vec<Target>, ImportError> {
    let mut targets: Vec<Target> = Vec::new();
    for text in texts {
        let wrong = |why: String| ImportError::Target { text: text.clone(), why };
        let (stem, reach, said) = if text == "local" {
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
        targets.push(Target { name, reach, said });
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
    common: &Common,
    targets: &[Target],
) -> Result<Imported, Box<dyn std::error::Error>> {
    let options = Options {
        connect_timeout: Duration::from_secs(arguments.connect_timeout),
        ssh_config: arguments.ssh_config.clone(),
        ..Options::default()
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let progress = Progress::new(common.format);
    runtime.block_on(async {
        let mut hosts = look(targets, &options, &arguments.name, &progress).await;
        let failed = hosts.iter_mut().filter_map(|host| host.failed.take()).collect::<Vec<_>>();
        hosts.retain(|host| host.connection.is_some());
        let seen: Vec<ObservedHost> = hosts.iter().filter_map(|host| host.seen.clone()).collect();
        let (draft, remarks) = live::draft(&seen, arguments.name.clone())?;
        let anything = !draft.services.is_empty();
        let names: Vec<_> = targets.iter().map(|target| target.name.to_string()).collect();
        let source = format!("the hosts {}", names.join(", "));
        let first = import::write(&draft, remarks.clone(), &source);
        let mut remarks = remarks;
        remarks.extend(second_look(&mut hosts, &first.topology, &arguments.name).await);
        let written = import::write(&draft, remarks, &source);
        for host in hosts {
            if let Some(connection) = host.connection {
                connection.close().await;
            }
        }
        Ok(Imported { written, anything, failed })
    })
}

/// A host on the way to being read.
struct Asked {
    connection: Option<Connection>,
    seen: Option<ObservedHost>,
    failed: Option<ImportError>,
}

/// Opens every host and looks at it, all at once.
async fn look(
    targets: &[Target],
    options: &Options,
    name: &TopologyName,
    progress: &Progress,
) -> Vec<Asked> {
    let mut awaited: BTreeSet<HostName> =
        targets.iter().map(|target| target.name.clone()).collect();
    progress.awaited(Phase::Looking, &awaited);
    let asking = targets.iter().enumerate().map(|(number, target)| async move {
        (number, &target.name, look_at(target, options, name).await)
    });
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut all = Vec::new();
    while let Some((number, host, asked)) = asking.next().await {
        awaited.remove(host);
        progress.awaited(Phase::Looking, &awaited);
        all.push((number, asked));
    }
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, asked)| asked).collect()
}

async fn look_at(target: &Target, options: &Options, name: &TopologyName) -> Asked {
    let failed = |failure| {
        let failed = Some(ImportError::Host { host: target.name.clone(), failure });
        Asked { connection: None, seen: None, failed }
    };
    let mut connection = match Connection::open(&target.name, &target.reach, options).await {
        Ok(connection) => connection,
        Err(error) => return failed(Failure::from(&error)),
    };
    match sight(&mut connection, name, live::sysctls_to_read()).await {
        Ok(sighting) => {
            let seen = ObservedHost {
                name: target.name.clone(),
                reach: target.said.clone(),
                observation: sighting,
            };
            Asked { connection: Some(connection), seen: Some(seen), failed: None }
        }
        Err(failure) => {
            connection.close().await;
            failed(failure)
        }
    }
}

async fn sight(
    connection: &mut Connection,
    name: &TopologyName,
    sysctls: BTreeSet<Sysctl>,
) -> Result<Observation, Failure> {
    let request = Request::Observe { topology: name.clone(), sysctls, counters: false };
    match connection.call(request).await {
        Ok(Reply::Observed(sighting)) => Ok(*sighting),
        Ok(Reply::Refused(failure)) => Err(failure),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(Failure::from(&error)),
    }
}

/// What the topology would change of the hosts' settings: only now is it known which those are.
async fn second_look(hosts: &mut [Asked], text: &str, name: &TopologyName) -> Vec<Remark> {
    let Some(topology) = check::examine("the import", text).topology else { return Vec::new() };
    let mut seen = Vec::new();
    for asked in hosts {
        let (Some(connection), Some(first)) = (&mut asked.connection, &asked.seen) else {
            continue;
        };
        let Some(host) = topology.hosts.get(&first.name) else { continue };
        let wanted = desired::desired_for(&topology, host).state;
        let sysctls = plan::ownership::sysctls_to_read(&wanted);
        if let Ok(sighting) = sight(connection, name, sysctls).await {
            seen.push(ObservedHost { observation: sighting, ..first.clone() });
        }
    }
    live::differences(&topology, &seen)
}

/// What the checker says of the result belongs to what a person must know of it: one remark a rule.
fn examine(written: &mut WrittenTopology) {
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

/// There is nothing to write: what was found instead.
fn nothing(result: &Imported, common: &Common) -> Result<(), output::Unsaid> {
    // There was nothing to guess for.
    let told = |remark: &&Remark| remark.kind != RemarkKind::Guessed;
    let remarks: Vec<_> = result.written.remarks.iter().filter(told).collect();
    for remark in &remarks {
        output::complain(&format!("{remark}\n"));
    }
    output::complain(
        "nothing was imported: there is no service, timeout or daemon that could be taken over\n",
    );
    match common.format {
        Format::Text => Ok(()),
        Format::Json => output::document(&report::with_schema(
            "import",
            &json!({ "topology": null, "remarks": remarks }),
        )),
    }
}

fn say(
    written: &WrittenTopology,
    arguments: &ImportArguments,
    common: &Common,
) -> Result<(), Box<dyn std::error::Error>> {
    let WrittenTopology { topology, remarks } = written;
    if let Some(path) = &arguments.out {
        write(path, topology, arguments.force)?;
    }
    if common.format == Format::Json {
        output::document(&report::with_schema(
            "import",
            &json!({ "topology": topology, "remarks": remarks }),
        ))?;
        return Ok(());
    }
    for remark in remarks {
        output::complain(&format!("{remark}\n"));
    }
    let guessed = remarks.iter().filter(|remark| remark.kind == RemarkKind::Guessed).count();
    let summary = format!("{guessed} guessed, {} not taken over\n", remarks.len() - guessed);
    if let Some(path) = &arguments.out {
        output::say(&format!("{} written: {summary}", path.display()))?;
    } else {
        output::complain(&summary);
        output::say(topology)?;
    }
    Ok(())
}

/// All of the file or nothing of it.
fn write(path: &Path, text: &str, force: bool) -> Result<(), ImportError> {
    let failed = |source| ImportError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".lvsprov-import-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    if force {
        file.persist(path).map_err(|error| failed(error.error))?;
        return Ok(());
    }
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(ImportError::Exists(path.to_owned()))
        }
        Err(error) => Err(failed(error.error)),
    }
}
