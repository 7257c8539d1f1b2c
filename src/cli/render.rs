//! `render`.

use std::path::Path;

use serde_json::json;

use super::arguments::{CommonArguments, OutputFormat};
use super::cluster::load;
use super::output::{self, CommandResult, Exit};
use crate::desired::desired_for;
use crate::names::HostName;
use crate::topology::{Host, Role, Topology};
use crate::{render, report};

/// Why `--director` names no director.
#[derive(Debug, thiserror::Error)]
enum WhichDirector {
    #[error("--director {name}: it is no director of the file, which has: {}", .known.join(", "))]
    None { name: HostName, known: Vec<String> },
    #[error("the file has several directors, and rules belong to one: add --director with one of {}", .known.join(", "))]
    Several { known: Vec<String> },
    #[error("the file has no director, so there are no rules")]
    NoDirector,
}

/// `render ipvsadm`.
pub fn ipvsadm(
    path: &Path,
    director: Option<&HostName>,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(path, common.format)? else { return Ok(Exit::Findings) };
    let host = match find(&topology, director) {
        Ok(host) => host,
        Err(error) => {
            output::print_error(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    let rendered = render::ipvsadm::rules(&desired_for(&topology, host).state);
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

fn find<'a>(topology: &'a Topology, name: Option<&HostName>) -> Result<&'a Host, WhichDirector> {
    let directors: Vec<&Host> = topology.with_role(Role::Director).collect();
    let known = || directors.iter().map(|host| host.name.to_string()).collect();
    match (name, directors.as_slice()) {
        (Some(name), all) => all
            .iter()
            .find(|host| host.name == *name)
            .copied()
            .ok_or_else(|| WhichDirector::None { name: name.clone(), known: known() }),
        (None, [only]) => Ok(only),
        (None, []) => Err(WhichDirector::NoDirector),
        (None, _) => Err(WhichDirector::Several { known: known() }),
    }
}
