//! How fast this machine is now, measured once for each test program. No verdict may hang on that: what a
//! test waits for is an event where there is one, and every time is scaled here where there is none.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What [`measure`] takes on a machine for which the tests' times were chosen: 2 cores with other work to do,
/// where it takes 20 to 40 ms without.
const REFERENCE: Duration = Duration::from_millis(120);
/// The same in the lab's virtual machine, where all is emulated, and there is no other.
const REFERENCE_IN_VM: Duration = Duration::from_millis(600);
/// Whatever is slower than so many times that does not end.
const MOST: f64 = 30.0;

/// How many times slower this machine is than the one for which the tests' times were chosen; 1 to 30.
fn slowness() -> f64 {
    static MEASURED: OnceLock<f64> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let in_vm = std::env::var_os("LVSPROV_IN_VM").is_some();
        let reference = if in_vm { REFERENCE_IN_VM } else { REFERENCE };
        let mut all = [(); 3].map(|()| measure());
        all.sort();
        // The middle one: the first may have read the program from the disk.
        let slowness = (all[1].as_secs_f64() / reference.as_secs_f64()).clamp(1.0, MOST);
        println!("times are scaled by {slowness:.1}: {:?} for {reference:?}", all[1]);
        slowness
    })
}

/// Starting the program is what tests do most: processes, pages and some work.
fn measure() -> Duration {
    let started = Instant::now();
    for _ in 0..4 {
        let mut help = Command::new(env!("CARGO_BIN_EXE_lvsprov"));
        help.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = help.status();
    }
    started.elapsed()
}

/// What takes `idle` where it was chosen, on this machine. Never less.
pub fn scaled(idle: Duration) -> Duration {
    idle.mul_f64(slowness())
}

/// The same in whole milliseconds.
pub fn millis(idle: u32) -> u32 {
    u32::try_from(scaled(Duration::from_millis(idle.into())).as_millis()).unwrap_or(u32::MAX)
}

/// The same in whole seconds, for an option.
pub fn seconds(idle: u64) -> String {
    scaled(Duration::from_secs(idle)).as_secs().to_string()
}

/// After so long what was to happen does not happen any more. It costs only the test that fails.
pub fn patience() -> Duration {
    scaled(Duration::from_mins(3))
}
