//! The timer of a booted host finds drift without a controller, and mends it.

use lvsprov::agent::drift_timer;

use super::{Segment, TOPOLOGY, VIP};
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![the_timer_mends_drift_names_it_and_leaves_with_the_topology]
}

const TIMER: &str = "/etc/systemd/system/lvsprov-drift.timer";
const FILES: [&str; 3] = [
    TIMER,
    "/etc/systemd/system/lvsprov-drift.service",
    "/etc/systemd/system/lvsprov-boot.service.wants/lvsprov-drift.timer",
];

impl Segment {
    fn has_timer(&self) -> bool {
        FILES.iter().all(|path| self.server.path(path).symlink_metadata().is_ok())
    }

    fn timer_is(&self, state: &str) -> bool {
        let asked = self.server.run(&["systemctl", "is-active", "lvsprov-drift.timer"]);
        asked.is_some_and(|output| output.stdout == format!("{state}\n").as_bytes())
    }

    /// The file with another answer to drift, in its place.
    fn drift(&self, words: &str) {
        let text = format!("{TOPOLOGY}drift: {words}\n");
        std::fs::write(self.server.live_path(super::FILE), text).unwrap();
    }

    fn drop_vip(&self) {
        let vip = format!("{VIP}/32");
        self.server.expect(&["ip", "address", "delete", &vip, "dev", "lo"], 0);
    }
}

fn the_timer_mends_drift_names_it_and_leaves_with_the_topology() {
    let mut segment = Segment::of(&format!("{TOPOLOGY}drift: {{do: mend, every: 10}}\n"));
    segment.start();
    segment.server.wait();
    let bare = segment.state();
    let plan = segment.lvsprov(&["plan"], 4);
    assert!(plan.contains("lvsprov-drift.timer looks for drift every 10 s, and mends"), "{plan}");
    assert!(!segment.server.path(TIMER).exists(), "plan installed it");
    segment.lvsprov(&["apply"], 0);
    assert!(segment.has_timer());
    let applied = segment.state();
    segment.until("waiting for the timer", || segment.timer_is("active"));
    let plan = segment.lvsprov(&["plan"], 0);
    assert!(!plan.contains("drift"), "{plan}");

    // No controller asks; the timer alone is at work.
    segment.until("looked at", || {
        segment.lvsprov(&["status"], 0).contains("own look for drift (mend)")
    });
    segment.drop_vip();
    segment.until("mended by the timer", || segment.state() == applied);
    segment.until("told", || {
        let status = segment.lvsprov(&["status"], 0);
        status.contains("drift of 1 item seen ") && status.contains(", mended ")
    });

    // After a boot the timer is there again, and so is its record.
    segment.cut_power();
    segment.start();
    segment.server.wait();
    segment.until("as settled", || segment.state() == applied);
    segment.until("waiting for the timer after a boot", || segment.timer_is("active"));
    segment.drop_vip();
    segment.until("mended after a boot", || segment.state() == applied);

    // A timer that is missing is drift of its own, and apply mends that.
    segment.server.expect(&["rm", TIMER], 0);
    let status = segment.lvsprov(&["status"], 4);
    assert!(status.contains(&format!("write {TIMER}")), "{status}");
    segment.lvsprov(&["apply"], 0);
    assert!(segment.has_timer());

    // Another interval, another answer: now it is written down, and the unit fails.
    segment.drift("{do: report, every: 3600}");
    let plan = segment.lvsprov(&["plan"], 4);
    assert!(plan.contains("every 3600 s, and writes down"), "{plan}");
    segment.lvsprov(&["apply"], 0);
    let text = segment.server.expect(&["cat", TIMER], 0);
    assert_eq!(text, drift_timer::timer(3600));
    segment.lvsprov(&["plan"], 0);
    segment.drop_vip();
    let code = segment.server.run(&["systemctl", "start", "lvsprov-drift.service"]).unwrap();
    assert!(!code.status.success(), "drift that stays makes the unit fail");
    let status = segment.lvsprov(&["status"], 4);
    assert!(status.contains("still there"), "{status}");
    assert_ne!(segment.state(), applied);
    let program = "/usr/local/lib/lvsprov/bin/lvsprov";
    segment.server.expect(&[program, "agent", "--drift"], 4);
    segment.server.expect(&[program, "agent", "--drift=mend"], 0);
    assert_eq!(segment.state(), applied);

    // Turned off, the timer goes and the boot unit stays.
    segment.drift("off");
    segment.lvsprov(&["apply"], 0);
    assert!(!segment.server.path(TIMER).exists());
    segment.until("without the timer", || segment.timer_is("inactive"));
    assert!(segment.server.path(super::UNIT_FILES[0]).exists());
    segment.drift("{do: mend, every: 10}");
    segment.lvsprov(&["apply"], 0);
    assert!(segment.has_timer());
    segment.lvsprov(&["destroy"], 0);
    assert_eq!(segment.state(), bare);
    for path in FILES.iter().chain(&super::UNIT_FILES) {
        assert!(segment.server.path(path).symlink_metadata().is_err(), "{path} is left");
    }
    let failed = segment.server.expect(&["systemctl", "--failed", "--no-legend"], 0);
    assert_eq!(failed, "");
}
