//! Parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first process of the lab's virtual machine, and the thin programs around the lab's
    // children, are this same binary.
    if lvsprov::lab::vm::guest::is_guest() {
        lvsprov::lab::vm::guest::main();
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = lvsprov::lab::child::main(&arguments) {
        return code;
    }
    lvsprov::cli::run(arguments)
}
