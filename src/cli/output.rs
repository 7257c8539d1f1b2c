//! Standard output and standard error. Colours are taken out where there is no terminal or `NO_COLOR`
//! is set; a reader that has seen enough (`| head`) is no error; a full disk is one, and never a panic
//! behind work that was done.

use std::io::{self, Write};

use serde_json::Value;

use super::arguments::{Common, Format};

/// The result could not be said.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the result to standard output; what the command did is done")]
pub struct Unsaid(#[source] io::Error);

/// The result on standard output, in the form that was asked for.
pub fn show(
    common: &Common,
    json: impl FnOnce() -> Value,
    text: impl FnOnce() -> String,
) -> Result<(), Unsaid> {
    match common.format {
        Format::Json => document(&json()),
        Format::Text => say(&text()),
    }
}

/// Text on standard output.
pub fn say(text: &str) -> Result<(), Unsaid> {
    forgiving(write(&mut anstream::stdout().lock(), text)).map_err(Unsaid)
}

/// One JSON document on standard output.
pub fn document(json: &Value) -> Result<(), Unsaid> {
    say(&format!("{json:#}\n"))
}

/// Text on standard error. Where that does not go, there is nobody left to tell.
pub fn complain(text: &str) {
    let _ = write(&mut anstream::stderr().lock(), text);
}

fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn forgiving(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
