//! `status --watch`: look after look, until a signal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::arguments::{CommonArguments, OutputFormat};
use super::cluster::ObservedCluster;
use super::output::{self, CommandResult, Exit};
use crate::apply::operator::now;
use crate::apply::status;
use crate::report::watch::{self, Look};

/// Whether and how often `status` looks again.
#[derive(Debug, Clone, Copy, Args)]
pub struct WatchArguments {
    /// Look again and again, over one connection a host: weights, connections, and new connections, packets and bytes a second
    ///
    /// On a terminal the picture is drawn anew; else each look is a block of text, or with `--format json` a line. Ctrl-C
    /// ends it with exit code 0.
    #[arg(long)]
    pub watch: bool,
    /// Seconds between two looks; the kernel brings its counters up to date every 2 seconds
    #[arg(long, value_name = "SECONDS", requires = "watch", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
}

/// Looks between two tries to reach lost hosts again, which take as long as `--connect-timeout`.
const RECONNECT_EVERY: u32 = 5;

/// Looks until a signal comes or the reader of standard output has gone.
pub(super) async fn run(
    cluster: &mut ObservedCluster<'_, '_>,
    interval: u64,
    common: &CommonArguments,
) -> CommandResult {
    cluster.console.hide();
    let stop = StopSignal::catch();
    let mut before: Option<(Look, Instant)> = None;
    let mut looks = 0;
    loop {
        let seen = Instant::now();
        let report = status::status(cluster.session.topology, &cluster.plan, &cluster.observed);
        let earlier = before.as_ref();
        let earlier = earlier.map(|(look, at)| (look, seen.duration_since(*at).as_secs_f64()));
        let look = Look::new(now(), report, earlier);
        if !show(&look, common.format)? {
            break;
        }
        before = Some((look, seen));
        if stop.comes_within(Duration::from_secs(interval)).await {
            break;
        }
        looks += 1;
        cluster.look_again(looks % RECONNECT_EVERY == 0).await;
        if stop.has_come() {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// Prints a look; `false`: nothing reads standard output any more.
fn show(look: &Look, format: OutputFormat) -> Result<bool, output::OutputError> {
    if format == OutputFormat::Json {
        return output::print_while_read(&(watch::json(look) + "\n"));
    }
    let text = watch::text(look);
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return output::print_while_read(&(text + "\n"));
    }
    let has_colours = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    let text = if has_colours { text } else { anstream::adapter::strip_str(&text).to_string() };
    let (columns, lines) = terminal_size::terminal_size()
        .map_or((80, 24), |(width, height)| (usize::from(width.0), usize::from(height.0)));
    let frame = watch::frame(&text, lines, columns);
    let mut out = stdout.lock();
    // A terminal that is gone ends the program by SIGHUP.
    Ok(out.write_all(frame.as_bytes()).and_then(|()| out.flush()).is_ok())
}

/// SIGINT or SIGTERM. A second one ends the program at once: nothing is under way that it could leave behind.
struct StopSignal {
    come: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl StopSignal {
    fn catch() -> Self {
        let stop = Self { come: Arc::default(), notify: Arc::default() };
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            // Where it cannot be caught it ends the program, as by default.
            let Ok(mut stream) = signal(kind) else { continue };
            let (come, notify) = (Arc::clone(&stop.come), Arc::clone(&stop.notify));
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if come.swap(true, Ordering::SeqCst) {
                        std::process::exit(128 + kind.as_raw_value());
                    }
                    notify.notify_one();
                }
            });
        }
        stop
    }

    fn has_come(&self) -> bool {
        self.come.load(Ordering::SeqCst)
    }

    async fn comes_within(&self, time: Duration) -> bool {
        let _ = tokio::time::timeout(time, self.notify.notified()).await;
        self.has_come()
    }
}
