//! The command line: one function a subcommand; [`crate::report`] renders the results.

pub mod arguments;
pub mod change;
pub mod change_arguments;
pub mod chaos;
mod cluster;
pub mod console;
pub mod doctor;
pub mod explain;
pub mod format;
pub mod import;
pub mod inspect;
mod lab;
pub mod maintain;
pub mod output;
mod plan_file;
pub mod render;
pub mod render_arguments;
pub mod rules;
pub mod watch;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use arguments::{Command, LabCommand, ProgramArguments};
pub use output::Exit;

use crate::agent::serve::DriftLooking;
use crate::plan::boot::ReplayScope;
use render_arguments::RenderCommand;

/// Parses `arguments`, runs the subcommand, and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let ProgramArguments { command, common, verbose } =
        match ProgramArguments::try_parse_from(arguments) {
            Ok(line) => line,
            Err(error) => {
                let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
                // A closed terminal cannot show it.
                let _ = error.print();
                return code.into();
            }
        };
    log_to_stderr(verbose);
    if !command.has_format(common.format) {
        output::print_error_message(&format::NoSuchFormat(common.format));
        return Exit::Usage.into();
    }
    let result = match command {
        Command::Check { files, deny } => inspect::check(&files, &deny, &common),
        Command::Explain(arguments) => explain::explain(&arguments, &common),
        Command::Doctor(arguments) => doctor::doctor(&arguments, &common),
        Command::Plan { hosts, deny, plan, pace, out, force } => {
            let out = out.as_deref().map(|path| (path, force));
            inspect::plan(&hosts, &deny, plan, pace.to_override(), out, &common)
        }
        Command::Apply { hosts, deny, plan, pace, change, verify } => {
            change::apply(&hosts, &deny, plan, pace.to_override(), &change, verify, &common)
        }
        Command::Rollback { hosts, force, dry_run } => {
            change::rollback(&hosts, force, dry_run, &common)
        }
        Command::Confirm(hosts) => change::confirm(&hosts, &common),
        Command::Verify(hosts) => inspect::verify(&hosts, &common),
        Command::Status { hosts, watch } => inspect::status(&hosts, watch, &common),
        Command::Destroy { hosts, dry_run, drain, change, reasons } => {
            let pace = drain.to_override();
            change::destroy(&hosts, dry_run, pace, &change, reasons.detail(), &common)
        }
        Command::Maintain(arguments) => maintain::maintain(arguments, &common),
        Command::Return(arguments) => maintain::return_to_service(arguments, &common),
        Command::Reboot(arguments) => maintain::reboot(arguments, &common),
        Command::Import(import) => import::import(&import, &common),
        Command::Render(RenderCommand::Ipvsadm { file, director }) => {
            render::ipvsadm(&file, director.as_ref(), &common)
        }
        Command::Render(RenderCommand::Keepalived { file, host }) => {
            render::keepalived(&file, host.as_ref(), &common)
        }
        Command::Render(RenderCommand::Host(arguments)) => render::host(&arguments, &common),
        Command::Render(RenderCommand::InitScript { init }) => render::init_script(init, &common),
        Command::Render(RenderCommand::BootUnit) => render::boot_unit(&common),
        Command::Lab(LabCommand::Run(run)) => lab::run(&run, common.format),
        Command::Lab(LabCommand::Chaos(chaos)) => chaos::chaos(&chaos, common.format),
        Command::Lab(LabCommand::Vm(vm)) => match vm.run() {
            Ok(exit) => return ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX)),
            Err(error) => Err(error.into()),
        },
        Command::Agent {
            netns,
            state_dir,
            revert,
            announce,
            boot,
            network_only,
            changed_since,
            drift,
        } => {
            let scope = if network_only { ReplayScope::Network } else { ReplayScope::All };
            return crate::agent::serve::main(crate::agent::serve::AgentOptions {
                netns,
                state_dir,
                revert,
                announce,
                boot: boot.then_some(scope),
                changed_since,
                drift: drift.map(|word| {
                    word.map_or(DriftLooking::AsSettled, |word| {
                        DriftLooking::Chosen(word.to_action())
                    })
                }),
            });
        }
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            // The exit code reports it even where the message cannot be written.
            let _ = output::print_error(error.as_ref(), &common);
            Exit::Error.into()
        }
    }
}

/// Diagnostics go to standard error: warnings, and more with `-v`.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "lvsprov=info",
        2 => "lvsprov=debug",
        _ => "trace",
    };
    // `TARGET=LEVEL,...`, as in RUST_LOG; a text that cannot be read counts as not given.
    let given: Option<Targets> =
        std::env::var("LVSPROV_LOG").ok().and_then(|text| text.parse().ok());
    let filter = given.or_else(|| level.parse().ok()).unwrap_or_default();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .without_time();
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
