//! `render`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::{CommonArguments, OutputFormat};
use super::cluster::load;
use super::output::{self, CommandResult, Exit};
use super::render_arguments::{HostFormWord, InitWord, RenderHost};
use crate::desired::desired_for;
use crate::names::HostName;
use crate::render::Rendered;
use crate::render::host::{HostFile, HostFiles, HostForm, InitSystem};
use crate::topology::{Host, Role, Topology};
use crate::{render, report, whole_file};

/// Why `--director`, or `--host` of `render keepalived`, names no director.
#[derive(Debug, thiserror::Error)]
enum WhichDirector {
    #[error("{option} {name}: it is no director of the file, which has: {}", .known.join(", "))]
    None { option: &'static str, name: HostName, known: Vec<String> },
    #[error("the file has several directors, and rules belong to one: add {option} with one of {}", .known.join(", "))]
    Several { option: &'static str, known: Vec<String> },
    #[error("the file has no director, so there are no rules")]
    NoDirector,
}

/// `--host` names no host.
#[derive(Debug, thiserror::Error)]
#[error("--host {name}: the file has no such host; it has: {}", .known.join(", "))]
struct NoSuchHost {
    name: HostName,
    known: Vec<String>,
}

/// A file of `--out` that was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}; files that exist are overwritten with --force", path.display())]
struct CannotWrite {
    path: PathBuf,
    source: std::io::Error,
}

/// `render ipvsadm`.
pub fn ipvsadm(
    path: &Path,
    director: Option<&HostName>,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(path, common.format)? else { return Ok(Exit::Findings) };
    let host = match find(&topology, "--director", director) {
        Ok(host) => host,
        Err(error) => {
            output::print_error(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    let rendered = render::ipvsadm::rules(&desired_for(&topology, host).state);
    show(host, &rendered, common)
}

/// `render keepalived`.
pub fn keepalived(
    path: &Path,
    director: Option<&HostName>,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(path, common.format)? else { return Ok(Exit::Findings) };
    let host = match find(&topology, "--host", director) {
        Ok(host) => host,
        Err(error) => {
            output::print_error(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    let rendered =
        render::keepalived::services(&topology, host, &desired_for(&topology, host).state);
    show(host, &rendered, common)
}

/// The text, and what it leaves out.
fn show(host: &Host, rendered: &Rendered, common: &CommonArguments) -> CommandResult {
    match common.format {
        OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html => {
            for unsupported in &rendered.unsupported {
                output::print_message(&format!("{}: {unsupported}\n", host.name));
            }
            output::print(&rendered.text)?;
        }
        OutputFormat::Json => output::print_json(&report::with_schema(
            "render",
            &json!({ "director": host.name, "text": rendered.text, "unheld": rendered.unsupported }),
        ))?,
    }
    Ok(Exit::Ok)
}

/// `render host`.
pub fn host(arguments: &RenderHost, common: &CommonArguments) -> CommandResult {
    let RenderHost { file, host: name, form, out, force } = arguments;
    let Some(topology) = load(file, common.format)? else { return Ok(Exit::Findings) };
    let Some(host) = topology.hosts.get(name) else {
        let known = topology.hosts.keys().map(ToString::to_string).collect();
        output::print_error(&NoSuchHost { name: name.clone(), known }, common)?;
        return Ok(Exit::Usage);
    };
    let form = match form {
        HostFormWord::Lsb => HostForm::Script(InitSystem::Lsb),
        HostFormWord::Openrc => HostForm::Script(InitSystem::OpenRc),
        HostFormWord::Sysctl => HostForm::Sysctl,
        HostFormWord::Ifupdown => HostForm::Ifupdown,
        HostFormWord::Networkd => HostForm::Networkd,
    };
    let HostFiles { files, unsupported } =
        render::host::files(form, &topology, host, &desired_for(&topology, host))?;
    if common.format == OutputFormat::Json {
        let json = json!({ "host": host.name, "files": files, "unheld": unsupported });
        output::print_json(&report::with_schema("render", &json))?;
    } else {
        for unsupported in &unsupported {
            output::print_message(&format!("{}: {unsupported}\n", host.name));
        }
    }
    match out {
        Some(folder) => write_below(folder, &files, *force)?,
        None if common.format == OutputFormat::Json => {}
        None => output::print(&shown(&files))?,
    }
    Ok(Exit::Ok)
}

/// One file as it is, several with their paths between.
fn shown(files: &[HostFile]) -> String {
    if let [only] = files {
        return only.text.clone();
    }
    let parts = files.iter().map(|file| format!("# ---- {}\n{}", file.path, file.text));
    parts.collect::<Vec<_>>().join("\n")
}

/// Each file whole or not at all, at its path below `folder`.
fn write_below(folder: &Path, files: &[HostFile], force: bool) -> Result<(), CannotWrite> {
    for file in files {
        let path = folder.join(file.path.trim_start_matches('/'));
        let failed = |source| CannotWrite { path: path.clone(), source };
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        whole_file::write(&path, file.text.as_bytes(), file.mode, force).map_err(failed)?;
    }
    Ok(())
}

/// `render init-script`.
pub fn init_script(init: InitWord, common: &CommonArguments) -> CommandResult {
    let text = render::host::agent_script(match init {
        InitWord::Lsb => InitSystem::Lsb,
        InitWord::Openrc => InitSystem::OpenRc,
    })?;
    match common.format {
        OutputFormat::Json => {
            output::print_json(&report::with_schema("render", &json!({ "text": text })))?;
        }
        _ => output::print(&text)?,
    }
    Ok(Exit::Ok)
}

/// `render boot-unit`.
pub fn boot_unit(common: &CommonArguments) -> CommandResult {
    let text = crate::agent::boot_unit::UNIT;
    match common.format {
        OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html => output::print(text)?,
        OutputFormat::Json => {
            output::print_json(&report::with_schema("render", &json!({ "text": text })))?;
        }
    }
    Ok(Exit::Ok)
}

fn find<'a>(
    topology: &'a Topology,
    option: &'static str,
    name: Option<&HostName>,
) -> Result<&'a Host, WhichDirector> {
    let directors: Vec<&Host> = topology.with_role(Role::Director).collect();
    let known = || directors.iter().map(|host| host.name.to_string()).collect();
    match (name, directors.as_slice()) {
        (Some(name), all) => all
            .iter()
            .find(|host| host.name == *name)
            .copied()
            .ok_or_else(|| WhichDirector::None { option, name: name.clone(), known: known() }),
        (None, [only]) => Ok(only),
        (None, []) => Err(WhichDirector::NoDirector),
        (None, _) => Err(WhichDirector::Several { option, known: known() }),
    }
}
