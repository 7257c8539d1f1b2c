//! The operator's terminal. It shows the awaited hosts in one line on standard error, which disappears at the
//! end; in a pipe, and with `--format json`, it does not. Notices go to standard error in any case. The
//! operator's `yes`, `no` and Ctrl-C are read here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::arguments::OutputFormat;
use super::output;
use crate::apply::operator::{Activity, OperatorAnswer, OperatorConsole};
use crate::names::HostName;

/// How many hosts are named before the rest are counted.
const NAMED: usize = 4;
/// Between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// The operator's terminal. Its line has no colours, so `NO_COLOR` changes nothing.
pub struct Console {
    bar: Option<ProgressBar>,
    signals: Arc<Signals>,
    hidden: AtomicBool,
    /// Lines of standard input, from the first question on.
    answers: Mutex<Option<mpsc::Receiver<OperatorAnswer>>>,
}

/// Hosts with an open journal, and when each reverts by itself.
type OpenHosts = BTreeMap<HostName, Option<Instant>>;

/// The signals that came, and the hosts that an immediate end would leave open.
#[derive(Debug, Default)]
struct Signals {
    count: AtomicUsize,
    open_hosts: Mutex<OpenHosts>,
}

impl Signals {
    fn open_hosts(&self) -> MutexGuard<'_, OpenHosts> {
        self.open_hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first signal stops the open transaction, which then rolls back. Without one, and from the second
    /// signal on, the program ends here.
    fn receive(&self, number: i32) {
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        let open_hosts = self.open_hosts().clone();
        if before == 0 && !open_hosts.is_empty() {
            output::print_message(
                "stopping: the request under way is finished, then everything is undone; once more ends at \
                 once\n",
            );
            return;
        }
        output::print_message(&left_behind(&open_hosts));
        std::process::exit(128 + number);
    }
}

/// The hosts that are left open where the program ends at once, and what closes each.
fn left_behind(open_hosts: &OpenHosts) -> String {
    if open_hosts.is_empty() {
        return "ended; nothing is left under way\n".to_owned();
    }
    let now = Instant::now();
    let mut text = "ended; left unfinished:\n".to_owned();
    for (host, at) in open_hosts {
        let who = match at {
            Some(at) => {
                let left = at.saturating_duration_since(now).as_secs();
                format!("it undoes everything by itself in about {left} s")
            }
            None => "`lvsprov rollback` undoes it, `lvsprov apply` finishes it".to_owned(),
        };
        text.extend(["  ", host.as_str(), ": ", &who, "\n"]);
    }
    text
}

/// While it lives, signals stop the open transaction instead of ending the program.
pub struct SignalGuard {
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Console {
    /// Shows its line only where standard error is a terminal.
    pub fn new(format: OutputFormat) -> Self {
        let shown = format == OutputFormat::Text && std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Self {
            bar,
            signals: Arc::default(),
            hidden: AtomicBool::new(false),
            answers: Mutex::new(None),
        }
    }

    /// Shows no line from now on: the command draws on the terminal itself.
    pub fn hide(&self) {
        self.hidden.store(true, Ordering::SeqCst);
    }

    /// The line, where it is shown.
    fn shown_bar(&self) -> Option<&ProgressBar> {
        self.bar.as_ref().filter(|_| !self.hidden.load(Ordering::SeqCst))
    }

    /// Catches SIGINT and SIGTERM from now on. Needs a runtime.
    pub fn catch_signals(&self) -> SignalGuard {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        let tasks = kinds.into_iter().filter_map(|kind| {
            // Where it cannot be caught it ends the program, as by default.
            let mut stream = signal(kind).ok()?;
            let signals = Arc::clone(&self.signals);
            Some(tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    signals.receive(kind.as_raw_value());
                }
            }))
        });
        SignalGuard { tasks: tasks.collect() }
    }
}

/// Reads answers line by line until standard input ends. Asks again after a line that is neither.
fn read_answers() -> mpsc::Receiver<OperatorAnswer> {
    let (send, answers) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let answer = match line.trim().to_lowercase().as_str() {
                "yes" => OperatorAnswer::Yes,
                "no" => OperatorAnswer::No,
                "" => continue,
                _ => {
                    output::print_message("say yes or no\n");
                    continue;
                }
            };
            if send.send(answer).is_err() {
                break;
            }
        }
    });
    answers
}

impl OperatorConsole for Console {
    fn show_awaited(&self, activity: Activity, hosts: &BTreeSet<HostName>) {
        let Some(bar) = self.shown_bar() else { return };
        if hosts.is_empty() {
            bar.disable_steady_tick();
            bar.set_message("");
            // The line disappears, the bar stays for the next activity.
            bar.finish_and_clear();
            bar.reset();
        } else {
            bar.set_message(line(activity, hosts));
            bar.enable_steady_tick(TICK);
        }
    }

    fn show_wait(&self, what: Option<&str>) {
        let Some(bar) = self.shown_bar() else { return };
        if let Some(what) = what {
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(TICK);
        } else {
            bar.disable_steady_tick();
            bar.finish_and_clear();
            bar.reset();
        }
    }

    fn notify(&self, text: &str) {
        let print = || output::print_message(&format!("{text}\n"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn set_open_hosts(&self, hosts: &OpenHosts) {
        hosts.clone_into(&mut self.signals.open_hosts());
    }

    fn stop_requested(&self) -> bool {
        self.signals.count.load(Ordering::SeqCst) > 0
    }

    fn answer(&self) -> Option<OperatorAnswer> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get_or_insert_with(read_answers).try_recv().ok()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(activity: Activity, hosts: &BTreeSet<HostName>) -> String {
    let doing = match activity {
        Activity::Connecting => "connecting to",
        Activity::Observing => "looking at",
        Activity::Changing => "changing",
        Activity::Verifying => "sending from",
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
        assert_eq!(line(Activity::Connecting, &hosts(2)), "connecting to web1, web2");
        assert_eq!(line(Activity::Changing, &hosts(4)), "changing web1, web2, web3, web4");
        assert_eq!(
            line(Activity::Observing, &hosts(7)),
            "looking at web1, web2, web3, web4 and 3 more"
        );
    }

    #[test]
    fn an_end_at_once_names_the_hosts_that_are_left_and_what_closes_each() {
        let open = OpenHosts::from([("web1".parse().unwrap(), None)]);
        assert_eq!(
            left_behind(&open),
            "ended; left unfinished:\n  web1: `lvsprov rollback` undoes it, `lvsprov apply` finishes it\n"
        );
        assert_eq!(left_behind(&OpenHosts::new()), "ended; nothing is left under way\n");
    }

    #[test]
    fn json_is_never_accompanied() {
        assert!(Console::new(OutputFormat::Json).bar.is_none());
    }
}
