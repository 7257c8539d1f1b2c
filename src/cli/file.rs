//! Reading the file of a command, and saying what is wrong with it.

use std::path::Path;

use super::arguments::Format;
use super::output;
use crate::check;
use crate::finding::Severity;
use crate::report;
use crate::topology::{self, Topology};

/// A file that could be used, or was not.
pub enum Loaded {
    /// It has no errors.
    Good(Box<Topology>),
    /// It has; they were said.
    Bad,
}

/// Reads and checks `path`, as [`examine`] does.
pub fn load(path: &Path, format: Format) -> Result<Loaded, Box<dyn std::error::Error>> {
    examine(path, &topology::read_file(path)?, format)
}

/// Checks `text`, which was read from `path`. Findings go to standard error, but for notes, which `check`
/// says; with `--format json` errors also make the document on standard output.
///
/// Whoever needs the text too reads it once and asks this: a pipe has it only once, and another reading of
/// a file may be another text.
pub fn examine(
    path: &Path,
    text: &str,
    format: Format,
) -> Result<Loaded, Box<dyn std::error::Error>> {
    let name = path.display().to_string();
    let mut examined = check::examine(&name, text);
    examined.findings.retain(|finding| finding.severity != Severity::Note);
    let bad = examined.findings.iter().any(|finding| finding.severity == Severity::Error);
    if !examined.findings.is_empty() {
        output::complain(&report::findings::text(&name, text, &examined.findings, true));
    }
    if bad && format == Format::Json {
        output::document(&report::findings::json(&name, &examined.findings))?;
    }
    match examined.topology.filter(|_| !bad) {
        Some(topology) => Ok(Loaded::Good(Box::new(topology))),
        None => Ok(Loaded::Bad),
    }
}
