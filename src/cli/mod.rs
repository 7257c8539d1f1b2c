//! The command line: one function a subcommand, each a short story; what they say is rendered by
//! [`crate::report`].

pub mod arguments;
pub mod changing;
pub mod commands;
pub mod conduct;
pub mod exit;
pub mod file;
pub mod import;
mod lab;
pub mod output;
pub mod progress;
pub mod render;
mod saved;
mod survey;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use arguments::{Arguments, Command, LabCommand, RenderCommand};
pub use exit::Exit;

/// Parses `arguments`, does what they say, and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nothing can be done if the terminal is gone.
            let _ = error.print();
            return code.into();
        }
    };
    watch(arguments.verbose);
    dispatch(arguments)
}

fn dispatch(arguments: Arguments) -> ExitCode {
    let Arguments { command, common, verbose: _ } = arguments;
    let outcome = match command {
        Command::Check { files } => commands::check(&files, &common),
        Command::Plan { target, adoption, pace, out, force } => {
            let out = out.as_deref().map(|path| (path, force));
            commands::plan(&target, adoption, pace.said(), out, &common)
        }
        Command::Apply { target, adoption, pace, conduct, verify } => {
            changing::apply(&target, adoption, pace.said(), &conduct, verify.into(), &common)
        }
        Command::Rollback { target, force, dry_run } => {
            changing::rollback(&target, force, dry_run, &common)
        }
        Command::Confirm(target) => changing::confirm(&target, &common),
        Command::Verify(target) => commands::verify(&target, &common),
        Command::Status(target) => commands::status(&target, &common),
        Command::Destroy { target, dry_run, drain, conduct } => {
            changing::destroy(&target, dry_run, drain.said(), &conduct, &common)
        }
        Command::Import(import) => import::command(&import, &common),
        Command::Render(RenderCommand::Ipvsadm { file, director }) => {
            render::ipvsadm(&file, director.as_ref(), &common)
        }
        Command::Lab(LabCommand::Run(run)) => lab::command(&run, common.format),
        Command::Lab(LabCommand::Vm(vm)) => match vm.run() {
            Ok(exit) => return ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX)),
            Err(error) => Err(error.into()),
        },
        Command::Agent { netns, state_dir, revert } => {
            return crate::agent::serve::main(crate::agent::serve::AgentOptions {
                netns,
                state_dir,
                revert,
            });
        }
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            // The exit code says it too.
            let _ = exit::report(error.as_ref(), &common);
            Exit::Error.into()
        }
    }
}

/// Diagnostics go to standard error, and only when asked for.
fn watch(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "lvsprov=info",
        2 => "lvsprov=debug",
        _ => "trace",
    };
    // `TARGET=LEVEL,...`, as in RUST_LOG; what cannot be read counts as not given.
    let asked: Option<Targets> =
        std::env::var("LVSPROV_LOG").ok().and_then(|text| text.parse().ok());
    let filter = asked.or_else(|| level.parse().ok()).unwrap_or_default();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .without_time();
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
