//! Parse, run, exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = lvsprov::lab::child::main(&arguments) {
        return code;
    }
    ExitCode::from(2)
}
