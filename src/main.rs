//! Parse, run, exit code. For now only the hidden `agent`: the command line is yet to come.

use std::process::ExitCode;

use lvsprov::transport::agent::{self, AgentOptions};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|word| word != "agent") {
        return ExitCode::FAILURE;
    }
    let mut options = AgentOptions::default();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.to_str() {
            Some("--netns") => options.netns = Some(value.into()),
            Some("--state-dir") => options.state_dir = Some(value.into()),
            _ => return ExitCode::FAILURE,
        }
    }
    agent::main(options)
}
