//! Ending this process at a point of its own choosing, for tests: only in debug builds.
//!
//! The environment variable `LVSPROV_FAULT` names a file. At each point that file is read anew; if a
//! line of it is `POINT kill` or `POINT stop`, the process sends itself SIGKILL or SIGSTOP there. In the
//! revert timer's process all points have `revert ` before their name.
//!
//! The points, in the order in which a transaction passes them: `prepare` (before anything is written),
//! `journal` (it is on the disk, the receipt is not), `prepared` (before the answer), `step N` (this
//! process executed N steps in all; `step 0` before the first), `vote`, `voted` (it is on the disk),
//! `close` (the decision is on the disk, the receipt is the old one), `receipt` (it is the new one, the
//! journal still exists), `closed` (before the answer).
//!
//! A line `revert pause N` has the timer wait N milliseconds between its tries.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use nix::sys::signal::{Signal, raise};

    static STEPS: AtomicUsize = AtomicUsize::new(0);
    static REVERTING: AtomicBool = AtomicBool::new(false);

    /// From here on all points are the revert timer's.
    pub fn reverting() {
        REVERTING.store(true, Ordering::Relaxed);
    }

    /// Ends or stops here, if the file says so.
    pub fn at(point: &str) {
        let named = prefixed(point);
        let Some(text) = text() else { return };
        for line in text.lines() {
            let signal = match line.trim().strip_prefix(named.as_str()).map(str::trim) {
                Some("kill") => Signal::SIGKILL,
                Some("stop") => Signal::SIGSTOP,
                _ => continue,
            };
            // There is nobody to tell, and a test that waits for it fails by itself.
            let _ = raise(signal);
        }
    }

    /// Before the first step of all.
    pub fn before_steps() {
        if STEPS.load(Ordering::Relaxed) == 0 {
            at("step 0");
        }
    }

    /// So many more steps were done.
    pub fn stepped(count: usize) {
        let all = STEPS.fetch_add(count, Ordering::Relaxed) + count;
        if count > 0 {
            at(&format!("step {all}"));
        }
    }

    /// Of the next `count` steps that would be done as one, how many may be, so that none of the
    /// points between them is passed unseen.
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

    /// How long the timer waits before it tries again, where it would wait for `pause`.
    pub fn pause(pause: Duration) -> Duration {
        let text = text().unwrap_or_default();
        let said = text.lines().find_map(|line| line.trim().strip_prefix("revert pause "));
        said.and_then(|ms| ms.trim().parse().ok()).map_or(pause, Duration::from_millis)
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
    /// Nothing, in a release build.
    pub fn reverting() {}
    /// Nothing, in a release build.
    pub fn at(_: &str) {}
    /// Nothing, in a release build.
    pub fn before_steps() {}
    /// Nothing, in a release build.
    pub fn stepped(_: usize) {}
    /// As it is, in a release build.
    pub fn pause(pause: std::time::Duration) -> std::time::Duration {
        pause
    }
    /// All of them, in a release build.
    pub fn run_length(count: usize) -> usize {
        count
    }
}

#[cfg(not(debug_assertions))]
pub use unarmed::{at, before_steps, pause, reverting, run_length, stepped};
