//! Exit codes. They are documented and stable.

use std::process::ExitCode;

use owo_colors::OwoColorize as _;

use super::arguments::{Common, Format};
use super::output::{self, Unsaid};
use crate::failure::Failure;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: done, and all is well; for `plan`: nothing to do.
    Ok,
    /// 1: something unexpected: a file that cannot be read, a fault of lvsprov.
    Error,
    /// 2: the command line is wrong; `--limit` names no host of the file.
    Usage,
    /// 3: the file has errors; no host was touched.
    Findings,
    /// 4: `plan` and `status`: there are differences, or something is unfinished; `confirm`: nothing to
    /// confirm, and there are differences.
    Pending,
    /// 5: a host could not be reached, refused, or failed, or a service is not answered; the report says
    /// which.
    HostFailed,
    /// 6: `verify` or `lab run`: a claim does not hold.
    NotProven,
}

impl Exit {
    /// From the exit code of another lvsprov; what it never says is an error.
    pub fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Ok,
            2 => Self::Usage,
            3 => Self::Findings,
            4 => Self::Pending,
            5 => Self::HostFailed,
            6 => Self::NotProven,
            _ => Self::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Findings => 3,
            Exit::Pending => 4,
            Exit::HostFailed => 5,
            Exit::NotProven => 6,
        })
    }
}

/// Says an error on standard error, and with `--format json` as the document on standard output too.
pub fn report(error: &dyn std::error::Error, common: &Common) -> Result<(), Unsaid> {
    say(error);
    match common.format {
        Format::Json => output::document(&json(error)),
        Format::Text => Ok(()),
    }
}

/// Says an error with its sources on standard error.
pub fn say(error: &dyn std::error::Error) {
    let Failure { message, causes, cure: _ } = Failure::from_error(error);
    let mut text = format!("{} {message}\n", "error:".red());
    for cause in causes {
        text.extend(["  because: ", &cause, "\n"]);
    }
    output::complain(&text);
}

/// An error with its sources, schema `lvsprov/error/1`.
pub fn json(error: &dyn std::error::Error) -> serde_json::Value {
    let Failure { message, causes, cure: _ } = Failure::from_error(error);
    crate::report::with_schema("error", &serde_json::json!({ "error": message, "causes": causes }))
}
