//! The processes of this machine, and waiting for what becomes of them.

use std::time::{Duration, Instant};

use super::speed;

/// A process of this machine.
pub struct Process {
    pub id: u32,
    pub parent: u32,
    pub command: String,
}

pub fn processes() -> impl Iterator<Item = Process> {
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    ids.filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let parent =
            status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Process { id, parent, command })
    })
}

/// Polls, for as long as anything may take on a busy machine.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + speed::patience();
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
