//! Exit codes. They are documented and stable.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: done, and all is well; for `plan`: nothing to do.
    Ok,
    /// 1: something unexpected: a file that cannot be read, a fault of lvsprov.
    Error,
    /// 2: the command line is wrong.
    Usage,
    /// 3: the file has errors; no host was touched.
    Findings,
    /// 4: `plan` and `status`: there are differences.
    Pending,
    /// 5: a host could not be reached, refused, or failed; the report says which.
    HostFailed,
    /// 6: `verify` or `lab run`: a claim does not hold.
    NotProven,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Findings => 3,
            Exit::Pending => 4,
            Exit::HostFailed => 5,
            Exit::NotProven => 6,
        })
    }
}

/// Says an error with its sources on standard error.
pub fn say(error: &dyn std::error::Error) {
    anstream::eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        anstream::eprintln!("  because: {cause}");
        source = cause.source();
    }
}
