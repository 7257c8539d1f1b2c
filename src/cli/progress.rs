//! The person at the other end. On a terminal: which hosts are still awaited, one line on standard
//! error that goes away by itself; in a pipe, and with `--format json`, nothing of that. What must be
//! known at once is said on standard error in any case. What the person says, `yes` or Ctrl-C, is heard
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::arguments::Format;
use super::output;
use crate::apply::watch::{Phase, Watch, Word};
use crate::names::HostName;

/// How many hosts are named before the rest is counted.
const NAMED: usize = 4;
/// Between two pictures.
const TICK: Duration = Duration::from_millis(120);

/// The line. Without colours, so there is nothing for `NO_COLOR` to take away.
pub struct Progress {
    bar: Option<ProgressBar>,
    heard: Arc<Heard>,
    /// What comes on standard input, from the first question on.
    words: Mutex<Option<mpsc::Receiver<Word>>>,
}

/// Hosts on which a transaction is under way, and when each undoes it by itself.
type UnderWay = BTreeMap<HostName, Option<Instant>>;

/// What signals came, and what they would leave behind.
#[derive(Debug, Default)]
struct Heard {
    signals: AtomicUsize,
    under_way: Mutex<UnderWay>,
}

impl Heard {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first signal stops what is under way, which is then undone; without anything under way, and
    /// from the second one on, it ends here.
    fn signal(&self, number: i32) {
        let before = self.signals.fetch_add(1, Ordering::SeqCst);
        let under_way = self.under_way().clone();
        if before == 0 && !under_way.is_empty() {
            output::complain(
                "stopping: the request under way is finished, then everything is undone; once more ends at \
                 once\n",
            );
            return;
        }
        output::complain(&left_behind(&under_way));
        std::process::exit(128 + number);
    }
}

/// What is left to whom where this ends at once.
fn left_behind(under_way: &UnderWay) -> String {
    if under_way.is_empty() {
        return "ended; nothing is left under way\n".to_owned();
    }
    let now = Instant::now();
    let mut text = "ended; left unfinished:\n".to_owned();
    for (host, at) in under_way {
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

/// As long as this lives, signals stop what is under way instead of ending the program.
pub struct Listening {
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
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
        Self { bar, heard: Arc::default(), words: Mutex::new(None) }
    }

    /// Hears SIGINT and SIGTERM from now on. Within a runtime.
    pub fn listen(&self) -> Listening {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        let tasks = kinds.into_iter().filter_map(|kind| {
            // Without it the signal ends the program, as it always did.
            let mut signals = signal(kind).ok()?;
            let heard = Arc::clone(&self.heard);
            Some(tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    heard.signal(kind.as_raw_value());
                }
            }))
        });
        Listening { tasks: tasks.collect() }
    }
}

/// Reads words line by line until standard input ends. A line that is neither is asked for again.
fn read_words() -> mpsc::Receiver<Word> {
    let (send, words) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let word = match line.trim().to_lowercase().as_str() {
                "yes" => Word::Yes,
                "no" => Word::No,
                "" => continue,
                _ => {
                    output::complain("say yes or no\n");
                    continue;
                }
            };
            if send.send(word).is_err() {
                break;
            }
        }
    });
    words
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

    fn pending(&self, what: Option<&str>) {
        let Some(bar) = &self.bar else { return };
        if let Some(what) = what {
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(TICK);
        } else {
            bar.disable_steady_tick();
            bar.finish_and_clear();
            bar.reset();
        }
    }

    fn tell(&self, text: &str) {
        let say = || output::complain(&format!("{text}\n"));
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    fn under_way(&self, hosts: &UnderWay) {
        hosts.clone_into(&mut self.heard.under_way());
    }

    fn wants_to_stop(&self) -> bool {
        self.heard.signals.load(Ordering::SeqCst) > 0
    }

    fn says(&self) -> Option<Word> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.get_or_insert_with(read_words).try_recv().ok()
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
