//! Test cases as data: a name and what to run. Each program lists its own, runs them with libtest-mimic (the arguments
//! are those of `cargo test`), and prints how long each took, the slowest first.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Shorter cases are summed up in one line.
const SHOWN: Duration = Duration::from_secs(1);

/// Passed, not possible here, or failed; it may panic instead.
pub type Outcome = Result<Completion, Failed>;

/// One test.
#[derive(Clone)]
pub struct Case {
    name: String,
    run: Arc<dyn Fn() -> Outcome + Send + Sync>,
    /// It runs only when asked for, by `--ignored`.
    ignored: bool,
}

impl Case {
    /// A test that panics if it fails.
    pub fn new(name: impl Into<String>, run: impl Fn() + Send + Sync + 'static) -> Self {
        Self::with_outcome(name, move || {
            run();
            Ok(Completion::Completed)
        })
    }

    /// A test that may find out that its kernel lacks what it needs.
    pub fn with_outcome(
        name: impl Into<String>,
        run: impl Fn() -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), run: Arc::new(run), ignored: false }
    }

    /// The function `name` of the module `path`, without the name of the program.
    pub fn at(path: &str, name: &str, run: impl Fn() + Send + Sync + 'static) -> Self {
        let path = path.split_once("::").map_or("", |(_, path)| path);
        Self::new(format!("{path}::{name}"), run)
    }

    pub fn ignored(mut self) -> Self {
        self.ignored = true;
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same under the name of its module.
    pub fn within(mut self, module: &str) -> Self {
        self.name = format!("{module}::{}", self.name);
        self
    }

    /// Whether `arguments` ask for it.
    pub fn is_wanted(&self, arguments: &Arguments) -> bool {
        !arguments.is_filtered_out(&self.trial(&Durations::default()))
    }

    /// With a thread of its own: some leave the machine's network, and the next must not be there already.
    fn trial(&self, durations: &Durations) -> Trial {
        let (name, run, durations) = (self.name.clone(), self.run.clone(), durations.clone());
        let ignored = self.ignored;
        let timed = move || {
            let started = Instant::now();
            let thread = std::thread::Builder::new().name(name.clone());
            let outcome = thread.spawn(move || run()).map_err(Failed::from)?.join();
            durations.add(&name, started.elapsed());
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Trial::ignorable_test(self.name.clone(), timed).with_ignored_flag(ignored)
    }
}

/// How long each case took.
#[derive(Clone, Default)]
pub struct Durations(Arc<Mutex<Vec<(Duration, String)>>>);

impl Durations {
    pub fn add(&self, name: &str, took: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((took, name.to_owned()));
    }

    /// Takes over a line that another process has printed by [`Self::print`].
    pub fn read(&self, line: &str) {
        let line = line.split_once(" s  ").filter(|(_, name)| name.contains("::"));
        let Some((seconds, name)) = line else { return };
        if let Ok(seconds) = seconds.trim().parse() {
            self.add(name, Duration::from_secs_f64(seconds));
        }
    }

    /// The slowest first.
    pub fn print(&self, title: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let (shown, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(took, _)| *took >= SHOWN);
        println!("{title}, the slowest first:");
        for (took, name) in shown {
            println!("{:9.1} s  {name}", took.as_secs_f64());
        }
        if !rest.is_empty() {
            let sum: Duration = rest.iter().map(|(took, _)| *took).sum();
            println!("{:9.1} s  {} shorter ones together", sum.as_secs_f64(), rest.len());
        }
    }
}

/// The whole of a test program: the cases that the command line names, `threads` at a time unless it says otherwise.
pub fn run(cases: &[Case], threads: Option<usize>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(threads);
    let durations = Durations::default();
    let trials = cases.iter().map(|case| case.trial(&durations)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        durations.print("durations");
    }
    conclusion.exit_code()
}

/// Runs an asynchronous test to its end, on this thread alone.
pub fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(test);
}

/// The cases of a module, each a function that panics if it fails. One that is listed nowhere is dead code, which clippy
/// refuses.
#[allow(unused_macros, reason = "not every program has its cases in functions")]
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        vec![$($crate::support::cases::Case::at(module_path!(), stringify!($name), $name)),+]
    };
}

/// The same of asynchronous functions.
#[allow(unused_macros, reason = "not every program has asynchronous cases")]
macro_rules! async_cases {
    ($($name:ident),+ $(,)?) => {
        vec![$($crate::support::cases::Case::at(
            module_path!(),
            stringify!($name),
            || $crate::support::cases::block_on($name()),
        )),+]
    };
}

#[allow(unused_imports, reason = "as above")]
pub(crate) use {async_cases, cases};
