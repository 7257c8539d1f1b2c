//! Parse, run, exit code.
use std::process::ExitCode;

use clap::Parser;
use lvsprov::lab;

/// For experiments with the lab, until there is the real command line.
#[derive(Parser)]
enum Command {
    #[command(subcommand)]
    Lab(LabCommand),
}

#[derive(clap::Subcommand)]
enum LabCommand {
    Vm(lab::vm::command::VmArguments),
}

fn main() -> ExitCode {
    if lab::vm::guest::is_guest() {
        lab::vm::guest::main();
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = lab::child::main(&arguments) {
        return code;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().init();
    let Command::Lab(LabCommand::Vm(vm)) = Command::parse();
    match vm.run() {
        Ok(exit) => ExitCode::from(u8::try_from(exit.code).unwrap_or(255)),
        Err(error) => {
            eprintln!("lvsprov: {}", lvsprov::protocol::Failure::from_error(&error));
            ExitCode::from(3)
        }
    }
}
