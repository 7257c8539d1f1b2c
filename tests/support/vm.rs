//! Test programs that need a kernel with IPVS run themselves in the lab's virtual machine.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Set inside; there a missing capability is a failure.
pub const IN_VM: &str = "LVSPROV_IN_VM";

/// A case that panics if it fails.
pub fn case(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

/// The whole of a test program: in the machine, which may take `seconds`, the cases that the command
/// line names, one after the other: they share a slow machine, and what they count is its kernel's.
pub fn run(seconds: u32, cases: impl FnOnce() -> Vec<Trial>) -> ExitCode {
    if let Some(code) = boot(seconds) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, cases()).exit_code()
}

/// Boots the machine and runs this program in it, with the same arguments. `None` if it is there
/// already.
pub fn boot(seconds: u32) -> Option<ExitCode> {
    if std::env::var_os(IN_VM).is_some() {
        return None;
    }
    let here = std::env::current_exe().expect("this program has a path");
    let status = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["lab", "vm", "--time-limit", &seconds.to_string(), "--", "/usr/bin/env"])
        .arg(format!("{IN_VM}=1"))
        // This very PATH: the machine would add the folders where all programs of this host are.
        .arg(format!("PATH={}", std::env::var("PATH").unwrap_or_default()))
        .arg(here)
        .args(std::env::args_os().skip(1))
        .status()
        .expect("lvsprov was built beside this program");
    Some(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
