//! The rules of `check`: `explain CODE`, `explain --list` and `--deny`.

use clap::Args;

use super::arguments::CommonArguments;
use super::output::{self, CommandResult, Exit};
use crate::finding::DeniedFindings;
use crate::finding::rules::Rule;
use crate::report;

/// Which findings count as errors.
#[derive(Debug, Clone, Args)]
pub struct DenyArgument {
    /// Findings that count as errors (exit code 3): all warnings, or those of one rule, by its code or name
    ///
    /// Several with commas, or the option more than once. What a comment in the file silences
    /// (`# lvsprov: allow CODE REASON`) does not count.
    #[arg(long = "deny", value_name = "warnings|CODE", value_delimiter = ',')]
    pub findings: Vec<DeniedFindings>,
}

/// The page of one rule.
pub(super) fn page(rule: &'static Rule, common: &CommonArguments) -> CommandResult {
    output::print_report(
        common,
        || report::rules::page_json(rule),
        || report::rules::page_text(rule),
        || report::rules::page_markdown(rule),
    )?;
    Ok(Exit::Ok)
}

/// All rules.
pub(super) fn list(common: &CommonArguments) -> CommandResult {
    let (json, text) = (report::rules::list_json, report::rules::list_text);
    output::print_report(common, json, text, report::rules::list_markdown)?;
    Ok(Exit::Ok)
}
