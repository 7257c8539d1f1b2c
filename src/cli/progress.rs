//! Which hosts are still awaited, on a terminal: one line on standard error that goes away by itself.
//! In a pipe, and with `--format json`, nothing.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::arguments::Format;
use crate::cluster::session::{Phase, Watch};
use crate::topology::HostName;

/// How many hosts are named before the rest is counted.
const NAMED: usize = 4;
/// Between two pictures.
const TICK: Duration = Duration::from_millis(120);

/// The line. Without colours, so there is nothing for `NO_COLOR` to take away.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shown only where a person looks at standard error.
    pub fn new(format: Format) -> Self {
        let shown = format == Format::Text && std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Self { bar }
    }
}

impl Watch for Progress {
    fn awaited(&self, phase: Phase, hosts: &BTreeSet<HostName>) {
        let Some(bar) = &self.bar else { return };
        if hosts.is_empty() {
            bar.disable_steady_tick();
            bar.set_message("");
            // The line goes, the bar stays for the next phase.
            bar.finish_and_clear();
            bar.reset();
        } else {
            bar.set_message(line(phase, hosts));
            bar.enable_steady_tick(TICK);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(phase: Phase, hosts: &BTreeSet<HostName>) -> String {
    let doing = match phase {
        Phase::Connecting => "connecting to",
        Phase::Looking => "looking at",
        Phase::Acting => "changing",
        Phase::Trying => "sending from",
    };
    let named: Vec<&str> = hosts.iter().take(NAMED).map(HostName::as_str).collect();
    let named = named.join(", ");
    match hosts.len().saturating_sub(NAMED) {
        0 => format!("{doing} {named}"),
        more => format!("{doing} {named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hosts(count: usize) -> BTreeSet<HostName> {
        (1..=count).map(|n| format!("web{n}").parse().unwrap()).collect()
    }

    #[test]
    fn the_line_names_some_and_counts_the_rest() {
        assert_eq!(line(Phase::Connecting, &hosts(2)), "connecting to web1, web2");
        assert_eq!(line(Phase::Acting, &hosts(4)), "changing web1, web2, web3, web4");
        assert_eq!(line(Phase::Looking, &hosts(7)), "looking at web1, web2, web3, web4 and 3 more");
    }

    #[test]
    fn json_is_never_accompanied() {
        assert!(Progress::new(Format::Json).bar.is_none());
    }
}
