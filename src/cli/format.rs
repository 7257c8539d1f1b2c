//! Which command prints its result how, and how much of it.

use clap::Args;

use super::arguments::{Command, LabCommand, OutputFormat};
use crate::report::cluster::ReasonDetail;

/// How much a report says of each step.
#[derive(Debug, Clone, Copy, Args)]
pub struct ReasonArgument {
    /// Show all reasons of each step in full, instead of one line a step
    #[arg(long)]
    pub explain: bool,
}

impl ReasonArgument {
    /// For the report.
    pub fn detail(self) -> ReasonDetail {
        if self.explain { ReasonDetail::Full } else { ReasonDetail::Short }
    }
}

impl Command {
    /// Whether it can print its result so.
    pub fn has_format(&self, format: OutputFormat) -> bool {
        match format {
            OutputFormat::Text | OutputFormat::Json => true,
            OutputFormat::Markdown => matches!(
                self,
                Self::Check { .. }
                    | Self::Explain(_)
                    | Self::Plan { .. }
                    | Self::Apply { .. }
                    | Self::Destroy { .. }
                    | Self::Rollback { .. }
                    | Self::Confirm(_)
                    | Self::Lab(LabCommand::Chaos(_))
            ),
            OutputFormat::Html => matches!(self, Self::Explain(_) | Self::Plan { .. }),
        }
    }
}

/// A format that the command does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "this command cannot print {}: `--format markdown` is for check, plan, apply, destroy, rollback, confirm, \
     explain and lab chaos, `--format html` for plan and explain FILE",
    match .0 {
        OutputFormat::Text => "text",
        OutputFormat::Json => "JSON",
        OutputFormat::Markdown => "Markdown",
        OutputFormat::Html => "HTML",
    }
)]
pub struct NoSuchFormat(pub OutputFormat);
