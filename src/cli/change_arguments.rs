//! The command-line arguments of `apply` and `destroy` that say how a change goes.

use std::time::Duration;

use clap::Args;

use crate::apply::operator;
use crate::apply::transaction::{
    CONFIRM_LONGEST, CONFIRM_WITHIN, ConfirmBy, ConfirmWithin, OnError, TransactionPolicy, VerifyBy,
};

/// The shortest time to confirm, in seconds.
const SHORTEST: u64 = 5;
/// The longest time to confirm, in seconds.
const LONGEST: u64 = CONFIRM_LONGEST.as_secs();

/// How a change goes.
#[derive(Debug, Clone, Args)]
pub struct ChangeArguments {
    /// What to do when a step, a host or verification fails: undo all of it on every host, or keep
    /// everything as it is then, to look at it
    #[arg(long, value_enum, value_name = "undo|keep", default_value = "undo")]
    pub on_error: OnError,
    /// Every host undoes the change by itself unless it is confirmed within this time: 60s, 5m, off
    ///
    /// The change is confirmed once every host was reached over a new connection, and its state and, unless
    /// `--verify state` is given, requests through its services were verified. On by default, with 60s, where the
    /// way from a host back to this machine changes, or where the host does not know that way (`local: true`
    /// without ssh) and its routes, addresses or links change. The time counts from the end of draining and
    /// ramping, and is 5s to 19h.
    #[arg(long, value_name = "DURATION|off", value_parser = confirm_within)]
    pub confirm_within: Option<ConfirmWithin>,
    /// Who confirms: verification (auto), or you after it (manual): `yes` here or `lvsprov confirm FILE`
    /// anywhere
    #[arg(long, value_enum, value_name = "auto|manual", default_value = "auto")]
    pub confirm: ConfirmBy,
    /// How long to wait while another transaction holds a host, in seconds; 0: name the holder, and exit
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub wait: u64,
}

/// Reads `60s`, `5m`, `1h`, `90` (seconds) or `off`.
fn confirm_within(text: &str) -> Result<ConfirmWithin, String> {
    if text == "off" {
        return Ok(ConfirmWithin::Never);
    }
    let unit = |ending, seconds| Some((text.strip_suffix(ending)?, seconds));
    let (number, seconds): (&str, u64) =
        unit("s", 1).or_else(|| unit("m", 60)).or_else(|| unit("h", 3600)).unwrap_or((text, 1));
    let number: u64 = number
        .parse()
        .map_err(|_| "write a number and s, m or h (60s, 5m, 1h), or off".to_owned())?;
    match number.checked_mul(seconds) {
        Some(time @ SHORTEST..=LONGEST) => Ok(ConfirmWithin::Always(Duration::from_secs(time))),
        _ => Err(format!("it must be {SHORTEST} to {LONGEST} seconds ({} hours)", LONGEST / 3600)),
    }
}

impl ChangeArguments {
    /// As a policy of the operator of this process.
    pub fn policy(&self, verify: VerifyBy) -> TransactionPolicy {
        TransactionPolicy {
            on_error: self.on_error,
            within: self.confirm_within.unwrap_or(ConfirmWithin::WhereNeeded(CONFIRM_WITHIN)),
            confirm: self.confirm,
            verify,
            by: operator::here(),
            now: operator::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_a_range() {
        let seconds = |text: &str| match confirm_within(text).unwrap() {
            ConfirmWithin::Always(time) => time.as_secs(),
            ConfirmWithin::Never => 0,
            ConfirmWithin::WhereNeeded(_) => panic!("{text}"),
        };
        for (text, expected) in [
            ("60s", 60),
            ("90", 90),
            ("5m", 300),
            ("1h", 3600),
            ("off", 0),
            ("5s", 5),
            ("19h", 68_400),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        for bad in [
            "",
            "0s",
            "4s",
            "s",
            "-1s",
            "1d",
            "99999999999999999999h",
            "24h",
            "68401s",
            "86000s",
            "18446744073709551615m",
        ] {
            assert!(confirm_within(bad).is_err(), "{bad}");
        }
    }
}
