//! Standard output, standard error and the exit code. Colours are removed where there is no terminal or
//! `NO_COLOR` is set; a reader that closes the pipe (`| head`) is no error; a full disk is one, and never a
//! panic after the work.

use std::io::{self, Write};
use std::process::ExitCode;

use owo_colors::OwoColorize as _;
use serde_json::Value;

use super::arguments::{CommonArguments, OutputFormat};
use crate::failure::Failure;

/// How a command ends.
pub type CommandResult = Result<Exit, Box<dyn std::error::Error>>;

/// How a command ended. The codes are documented and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: done, and all is well; for `plan`: nothing to do.
    Ok,
    /// 1: something unexpected: a file that cannot be read, a fault of lvsprov.
    Error,
    /// 2: the command line is wrong; it names a host that the file lacks; `explain` a rule that does not exist.
    Usage,
    /// 3: the file has errors, or findings that `--deny` makes errors; no host was touched.
    Findings,
    /// 4: `plan` and `status`: there are differences, or a transaction is open; `confirm`: nothing to
    /// confirm, and there are differences; `maintain`: connections are left.
    Pending,
    /// 5: a host could not be reached, refused, or failed, or a service is not answered; the report says
    /// which.
    HostFailed,
    /// 6: `verify` or `lab run`: a claim does not hold; `lab chaos`: a promise is refuted, or a row has an error; `doctor`: a request is not answered, or something is wrong.
    NotProven,
}

impl Exit {
    /// From the exit code of another lvsprov; unknown codes are errors.
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

/// The result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the result to standard output; what the command did is done")]
pub struct OutputError(#[source] io::Error);

/// Prints the result in the format of the command line, which is text or JSON.
pub fn print_result(
    common: &CommonArguments,
    json: impl FnOnce() -> Value,
    text: impl FnOnce() -> String,
) -> Result<(), OutputError> {
    print_report(common, json, text, String::new)
}

/// Prints the result in the format of the command line, which is text, JSON or Markdown.
pub fn print_report(
    common: &CommonArguments,
    json: impl FnOnce() -> Value,
    text: impl FnOnce() -> String,
    markdown: impl FnOnce() -> String,
) -> Result<(), OutputError> {
    match common.format {
        OutputFormat::Json => print_json(&json()),
        OutputFormat::Text => print(&text()),
        OutputFormat::Markdown | OutputFormat::Html => print(&markdown()),
    }
}

/// Prints text on standard output.
pub fn print(text: &str) -> Result<(), OutputError> {
    match write(&mut anstream::stdout().lock(), text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(OutputError),
    }
}

/// Prints text on standard output; `false`: the reader has closed it.
pub fn print_while_read(text: &str) -> Result<bool, OutputError> {
    match write(&mut anstream::stdout().lock(), text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(OutputError),
    }
}

/// Prints one JSON document on standard output.
pub fn print_json(json: &Value) -> Result<(), OutputError> {
    print(&format!("{json:#}\n"))
}

/// Prints text on standard error. A failure to do so cannot be reported anywhere.
pub fn print_message(text: &str) {
    let _ = write(&mut anstream::stderr().lock(), text);
}

/// Prints an error on standard error, and with `--format json` as the document on standard output too.
pub fn print_error(
    error: &dyn std::error::Error,
    common: &CommonArguments,
) -> Result<(), OutputError> {
    print_error_message(error);
    match common.format {
        OutputFormat::Json => print_json(&error_json(error)),
        OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html => Ok(()),
    }
}

/// Prints an error with its sources on standard error.
pub fn print_error_message(error: &dyn std::error::Error) {
    let Failure { message, causes, cure: _ } = Failure::from_error(error);
    let mut text = format!("{} {message}\n", "error:".red());
    for cause in causes {
        text.extend(["  because: ", &cause, "\n"]);
    }
    print_message(&text);
}

/// An error with its sources, schema `lvsprov/error/1`.
pub fn error_json(error: &dyn std::error::Error) -> Value {
    let Failure { message, causes, cure: _ } = Failure::from_error(error);
    crate::report::with_schema("error", &serde_json::json!({ "error": message, "causes": causes }))
}

fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}
