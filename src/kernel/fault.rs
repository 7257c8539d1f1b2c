//! Fault injection for tests: ends or stops this process at a named point. Only in debug builds.
//!
//! The environment variable `LVSPROV_FAULT` names a file, which is read again at each point; if a
//! line of it is `POINT kill` or `POINT stop`, the process sends itself SIGKILL or SIGSTOP there. In the
//! revert timer's process all points have `revert ` before their name.
//!
//! The points, in the order in which a transaction passes them: `prepare` (before anything is written),
//! `journal` (it is on the disk, the receipt is not), `prepared` (before the answer), `step N` (this
//! process executed N steps in all; `step 0` before the first), `instance` (the file of a daemon is written, its process has
//! not read it), `vote`, `voted` (it is on the disk),
//! `close` (the decision is on the disk, the receipt is the old one), `receipt` (it is the new one, the
//! journal still exists), `closed` (before the answer).
//!
//! With a line `revert pause N` the timer waits N milliseconds between its tries.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use nix::sys::signal::{Signal, raise};

    static STEPS: AtomicUsize = AtomicUsize::new(0);
    static REVERTING: AtomicBool = AtomicBool::new(false);

    /// From now on all points are those of the revert timer.
    pub fn reverting() {
        REVERTING.store(true, Ordering::Relaxed);
    }

    /// Ends or stops the process if the file has a line for `point`.
    pub fn at(point: &str) {
        let named = prefixed(point);
        let Some(text) = text() else { return };
        for line in text.lines() {
            let signal = match line.trim().strip_prefix(named.as_str()).map(str::trim) {
                Some("kill") => Signal::SIGKILL,
                Some("stop") => Signal::SIGSTOP,
                _ => continue,
            };
            // A failure needs no report: the test waits for the signal, and fails.
            let _ = raise(signal);
        }
    }

    /// Before the first step of all.
    pub fn before_steps() {
        if STEPS.load(Ordering::Relaxed) == 0 {
            at("step 0");
        }
    }

    /// Counts `count` more steps that were done.
    pub fn stepped(count: usize) {
        let all = STEPS.fetch_add(count, Ordering::Relaxed) + count;
        if count > 0 {
            at(&format!("step {all}"));
        }
    }

    /// How many of the next `count` steps may be done as one batch, so that the batch ends at the next point
    /// that the file names.
    pub fn run_length(count: usize) -> usize {
        let Some(text) = text() else { return count };
        let done = STEPS.load(Ordering::Relaxed);
        let prefix = prefixed("step");
        let points = text.lines().filter_map(|line| {
            line.trim().strip_prefix(prefix.as_str())?.split_whitespace().next()?.parse().ok()
        });
        let next = points.filter(|point: &usize| *point > done).min();
        next.map_or(count, |point| count.min(point - done))
    }

    /// The timer's pause between tries: that of the file, else `pause`.
    pub fn pause(pause: Duration) -> Duration {
        let text = text().unwrap_or_default();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("revert pause "));
        line.and_then(|ms| ms.trim().parse().ok()).map_or(pause, Duration::from_millis)
    }

    fn prefixed(point: &str) -> String {
        let prefix = if REVERTING.load(Ordering::Relaxed) { "revert " } else { "" };
        format!("{prefix}{point} ")
    }

    fn text() -> Option<String> {
        std::fs::read_to_string(std::env::var_os("LVSPROV_FAULT")?).ok()
    }
}

#[cfg(debug_assertions)]
pub use armed::{at, before_steps, pause, reverting, run_length, stepped};

#[cfg(not(debug_assertions))]
mod unarmed {
    /// Does nothing in a release build.
    pub fn reverting() {}
    /// Does nothing in a release build.
    pub fn at(_: &str) {}
    /// Does nothing in a release build.
    pub fn before_steps() {}
    /// Does nothing in a release build.
    pub fn stepped(_: usize) {}
    /// Returns `pause` in a release build.
    pub fn pause(pause: std::time::Duration) -> std::time::Duration {
        pause
    }
    /// Returns `count` in a release build.
    pub fn run_length(count: usize) -> usize {
        count
    }
}

#[cfg(not(debug_assertions))]
pub use unarmed::{at, before_steps, pause, reverting, run_length, stepped};
