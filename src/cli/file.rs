//! Reading the file of a command, and saying what is wrong with it.

use std::path::Path;

use super::arguments::Format;
use super::output;
use crate::check::{self, Severity};
use crate::report;
use crate::topology::{self, Topology};

/// A file that could be used, or was not.
pub enum Loaded {
    /// It has no errors.
    Good(Box<Topology>),
    /// It has; they were said.
    Bad,
}

/// Reads and checks `path`. Findings go to standard error, but for notes, which `check` says; with `--format json` errors also make the
/// document on standard output.
pub fn load(path: &Path, format: Format) -> Result<Loaded, Box<dyn std::error::Error>> {
    let text = topology::read_file(path)?;
    let name = path.display().to_string();
    let mut examined = check::examine(&name, &text);
    examined.findings.retain(|finding| finding.severity != Severity::Note);
    let bad = examined.findings.iter().any(|finding| finding.severity == Severity::Error);
    if !examined.findings.is_empty() {
        output::complain(&report::findings::text(&name, &text, &examined.findings, true));
    }
    if bad && format == Format::Json {
        output::document(&report::findings::json(&name, &examined.findings))?;
    }
    match examined.topology.filter(|_| !bad) {
        Some(topology) => Ok(Loaded::Good(Box::new(topology))),
        None => Ok(Loaded::Bad),
    }
}
