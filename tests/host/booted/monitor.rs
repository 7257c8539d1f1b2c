//! What the kernel of a host reports of addresses and routes, with the time of each report.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Monitor {
    child: Child,
    reader: Option<JoinHandle<()>>,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Monitor {
    /// Of both families, in the namespace `netns`.
    pub fn start(netns: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["-n", netns, "-o", "monitor", "address", "route"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (all, output) = (lines.clone(), BufReader::new(child.stdout.take().unwrap()));
        let read = move || {
            output
                .lines()
                .for_each(|line| all.lock().unwrap().push((Instant::now(), line.unwrap())));
        };
        let monitor = Self { child, reader: Some(std::thread::spawn(read)), lines };
        // It listens once it reports what happens.
        for round in 0.. {
            let probe = format!("172.26.0.{}/32", round % 250 + 1);
            for verb in ["add", "delete"] {
                let dev = ["-n", netns, "address", verb, &probe, "dev", "lo"];
                assert!(Command::new("ip").args(dev).status().unwrap().success());
            }
            std::thread::sleep(Duration::from_millis(20));
            if !monitor.lines.lock().unwrap().is_empty() {
                break;
            }
            assert!(round < 1000, "ip monitor says nothing");
        }
        monitor
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// All reports, in order.
    fn reports(mut self) -> Vec<(Instant, String)> {
        // The last report is read.
        std::thread::sleep(Duration::from_millis(50));
        self.kill();
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    /// What was removed meanwhile of these.
    pub fn end(self, of: &[&str]) -> Vec<String> {
        let removed = self.reports().into_iter().map(|(_, line)| line);
        let removed = removed.filter(|line| line.starts_with("Deleted"));
        removed.filter(|line| of.iter().any(|part| line.contains(part))).collect()
    }

    /// From the first report that one of these was removed to the last that one was added; `None`: none was removed.
    pub fn gap(self, of: &[&str]) -> Option<Duration> {
        let reports = self.reports();
        let named = |line: &str| of.iter().any(|part| line.contains(part));
        let is_removal = |line: &str| line.starts_with("Deleted");
        let first = reports.iter().find(|(_, line)| is_removal(line) && named(line))?.0;
        let added = reports.iter().rfind(|(_, line)| !is_removal(line) && named(line));
        Some(added.map_or(first, |(at, _)| *at).saturating_duration_since(first))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.kill();
    }
}
