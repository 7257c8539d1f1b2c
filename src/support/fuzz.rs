//! Fuzz targets: bolero under `cargo test`.
//!
//! A target's name begins with `fuzz_`. In the usual run it tries a fixed number of inputs; with
//! `LVSPROV_FUZZ_SECONDS` it goes on for that long (`make fuzz`). A failure prints the input and
//! `BOLERO_RANDOM_SEED`, which repeats it. bolero makes bytes; most are turned into damage to a good message
//! ([`Tried::input`]), because chance alone never gets past the first length field. Under `cargo bolero`
//! the same targets run with coverage.

use std::fmt::Debug;
use std::panic::RefUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// Bytes that bolero makes for one input.
pub const LONGEST: usize = 512;

/// One target: the inputs that it damages, and what it has tried.
pub struct Tried {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    began: Instant,
    inputs: AtomicU64,
    /// In microseconds.
    slowest: AtomicU64,
    /// Of the slowest, in bytes.
    length: AtomicU64,
}

impl Tried {
    /// With good messages to damage.
    pub fn new(name: &'static str, seeds: Vec<Vec<u8>>) -> Self {
        let (inputs, slowest, length) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { name, seeds, began: Instant::now(), inputs, slowest, length }
    }

    /// How long to go on, where that is said.
    pub fn time() -> Option<Duration> {
        let seconds = std::env::var("LVSPROV_FUZZ_SECONDS").ok()?;
        Some(Duration::from_secs(seconds.parse().expect("LVSPROV_FUZZ_SECONDS is a number")))
    }

    /// Tries what `made` stands for.
    pub fn feed(&self, made: &[u8], check: impl FnOnce(&[u8]) + RefUnwindSafe) {
        let input = self.input(made);
        let began = Instant::now();
        self.inputs.fetch_add(1, Ordering::Relaxed);
        check(&input);
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.slowest.fetch_max(took, Ordering::Relaxed) < took {
            self.length.store(input.len() as u64, Ordering::Relaxed);
        }
    }

    /// One in eight as it was made; else a good message with some damage.
    fn input(&self, made: &[u8]) -> Vec<u8> {
        let (Some((how, rest)), false) = (made.split_first(), self.seeds.is_empty()) else {
            return made.to_vec();
        };
        let Some(([a, b, count], rest)) = rest.split_first_chunk::<3>().filter(|_| how % 8 != 0)
        else {
            return rest.to_vec();
        };
        let mut bytes = self.seed(usize::from(u16::from_le_bytes([*a, *b]))).to_vec();
        for damage in rest.chunks_exact(6).take(usize::from(count % 8)) {
            self.damage(&mut bytes, damage);
        }
        bytes
    }

    fn seed(&self, turn: usize) -> &[u8] {
        self.seeds.get(turn % self.seeds.len().max(1)).map_or(&[], Vec::as_slice)
    }

    #[allow(clippy::many_single_char_names)] // six bytes
    fn damage(&self, bytes: &mut Vec<u8>, how: &[u8]) {
        const NUMBERS: [u32; 8] = [0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff];
        let [kind, a, b, c, d, e] = *how else { return };
        let at = usize::from(u16::from_le_bytes([a, b])) % (bytes.len() + 1);
        let length = (usize::from(c) % 32).min(bytes.len() - at);
        match kind % 8 {
            0 if at < bytes.len() => bytes[at] = d,
            1 if at < bytes.len() => bytes[at] ^= 1 << (d % 8),
            2 => drop(bytes.drain(at..at + length)),
            3 => drop(bytes.splice(at..at, std::iter::repeat_n(d, usize::from(c)))),
            4 => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => bytes.truncate(at),
            6 => {
                let number = NUMBERS[usize::from(c % 8)];
                let all = [number.to_le_bytes(), number.to_be_bytes()][usize::from(d % 2)];
                let part = if d % 4 < 2 { &all[..] } else { &all[..2] };
                let end = (at + part.len()).min(bytes.len());
                bytes.splice(at..end, part.iter().copied());
            }
            _ => {
                let other = self.seed(usize::from(u16::from_le_bytes([d, e])));
                let from = usize::from(c) * other.len() / 256;
                let to = (from + 64).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        let [inputs, slowest, length] =
            [&self.inputs, &self.slowest, &self.length].map(|n| n.load(Ordering::Relaxed));
        let panics = usize::from(std::thread::panicking());
        eprintln!(
            "{}: {inputs} inputs in {:.1} s, {panics} panics; the slowest took {slowest} us for {length} bytes",
            self.name,
            self.began.elapsed().as_secs_f32(),
        );
    }
}

/// Runs the test as a target: name, inputs of the usual run, good messages, and what to do with bytes.
macro_rules! target {
    ($name:literal, $share:expr, $seeds:expr, $check:expr) => {{
        let tried = $crate::support::fuzz::Tried::new($name, $seeds);
        let target = ::bolero::check!().with_max_len($crate::support::fuzz::LONGEST);
        let target = match $crate::support::fuzz::Tried::time() {
            Some(time) => target.with_test_time(time),
            None => target.with_iterations($share),
        };
        target.for_each(|made: &[u8]| tried.feed(made, $check));
    }};
}
pub(crate) use target;

/// The same `count` values of `strategy` every time.
pub fn samples<S: Strategy>(strategy: &S, count: usize) -> Vec<S::Value>
where
    S::Value: Debug,
{
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}
