//! Parse, run, exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    if lvsprov::lab::vm::guest::is_guest() {
        lvsprov::lab::vm::guest::main();
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = lvsprov::lab::child::main(&arguments) {
        return code;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // For experiments, until there is a command line: lvsprov lab-vm auto|on|off PROGRAM ARGS
    if arguments.get(1).is_some_and(|a| a == "lab-vm") {
        let mut options = lvsprov::lab::vm::VmOptions::default();
        options.kvm = arguments[2].to_string_lossy().parse().unwrap_or_default();
        return match lvsprov::lab::vm::run(&options, arguments[3].as_ref(), &arguments[4..]) {
            Ok(exit) => {
                eprintln!("{exit:?}");
                ExitCode::from(u8::try_from(exit.code).unwrap_or(255))
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(3)
            }
        };
    }
    ExitCode::from(2)
}
