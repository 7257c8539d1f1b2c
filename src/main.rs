//! Parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lvsprov::cli::run(std::env::args_os())
}
