//! How a change is to go: what is said on the command line of `apply` and `destroy`.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::apply::operator;
use crate::apply::transaction::{
    self, CONFIRM_LONGEST, CONFIRM_WITHIN, ConfirmBy, ConfirmWithin, VerifyBy,
};

/// The shortest time in which anybody could confirm anything.
const SHORTEST: u64 = 5;
/// The longest that a host still takes with draining and ramping on top.
const LONGEST: u64 = CONFIRM_LONGEST.as_secs();

/// How a change goes.
#[derive(Debug, Clone, Args)]
pub struct Conduct {
    /// What to do when a step, a host or verification fails: undo all of it on every host, or keep
    /// everything as it is then, to look at it
    #[arg(long, value_enum, value_name = "undo|keep", default_value = "undo")]
    pub on_error: OnError,
    /// Every host undoes the change by itself unless it is confirmed within this time: 60s, 5m, off
    ///
    /// The change is confirmed once every host was reached over a new connection, and what is on it and,
    /// unless `--verify state` is given, requests through its services were found right. On by default,
    /// with 60s, where the way from a host back to this machine changes, or where the host does not know
    /// that way (`local: true` without ssh) and its routes, addresses or links change. The time counts from
    /// the end of draining and ramping, and is
    /// 5s to 19h.
    #[arg(long, value_name = "DURATION|off")]
    pub confirm_within: Option<Within>,
    /// Who confirms: verification (auto), or you after it (manual): `yes` here or `lvsprov confirm FILE`
    /// anywhere
    #[arg(long, value_enum, value_name = "auto|manual", default_value = "auto")]
    pub confirm: Confirm,
    /// How long to wait where somebody else is at work on a host, in seconds; 0: say who, and end
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub wait: u64,
}

/// What verification looks at, on the command line of `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// The state of each host.
    State,
    /// That, ARP and requests.
    Traffic,
}

impl From<Verify> for VerifyBy {
    fn from(verify: Verify) -> Self {
        match verify {
            Verify::State => Self::State,
            Verify::Traffic => Self::Traffic,
        }
    }
}

/// When something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// All is undone.
    Undo,
    /// All stays.
    Keep,
}

/// Who confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Confirm {
    /// Verification.
    Auto,
    /// The operator.
    Manual,
}

/// A time to confirm, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// So long.
    Time(Duration),
    /// Nothing is undone by itself.
    Off,
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let unit = |ending, seconds| Some((text.strip_suffix(ending)?, seconds));
        let (number, seconds): (&str, u64) =
            unit("s", 1).or_else(|| unit("m", 60)).or_else(|| unit("h", 3600)).unwrap_or((text, 1));
        let number: u64 = number
            .parse()
            .map_err(|_| "write a number and s, m or h (60s, 5m, 1h), or off".to_owned())?;
        match number.checked_mul(seconds) {
            Some(time @ SHORTEST..=LONGEST) => Ok(Self::Time(Duration::from_secs(time))),
            _ => Err(format!(
                "it must be {SHORTEST} to {LONGEST} seconds ({} hours)",
                LONGEST / 3600
            )),
        }
    }
}

impl Conduct {
    /// For the cluster.
    pub fn said(&self, verify: VerifyBy) -> transaction::Conduct {
        let Self { on_error, confirm_within, confirm, wait: _ } = self;
        transaction::Conduct {
            on_error: match on_error {
                OnError::Undo => transaction::OnError::Undo,
                OnError::Keep => transaction::OnError::Keep,
            },
            within: match confirm_within {
                None => ConfirmWithin::WhereNeeded(CONFIRM_WITHIN),
                Some(Within::Time(time)) => ConfirmWithin::Always(*time),
                Some(Within::Off) => ConfirmWithin::Never,
            },
            confirm: match confirm {
                Confirm::Auto => ConfirmBy::Verification,
                Confirm::Manual => ConfirmBy::Operator,
            },
            verify,
            by: operator::here(),
            now: operator::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_a_range() {
        let seconds = |text: &str| match text.parse().unwrap() {
            Within::Time(time) => time.as_secs(),
            Within::Off => 0,
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
            assert!(bad.parse::<Within>().is_err(), "{bad}");
        }
    }
}
