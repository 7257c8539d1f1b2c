//! Files of `render host` on a host that boots: networkd and sysctl(8) make of them what apply makes.

use super::other_programs::ROUTED;
use super::{FILE, PROGRAM, Segment};
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![networkd_makes_of_its_files_what_apply_makes]
}

const FOLDER: &str = "/etc/systemd/network";

fn networkd_makes_of_its_files_what_apply_makes() {
    let mut segment = Segment::of(ROUTED);
    segment.start();
    segment.server.wait();
    let bare = segment.whole_state();
    segment.lvsprov(&["apply"], 0);
    let applied = segment.whole_state();
    assert!(applied != bare && applied.contains("default"), "{applied}");
    segment.lvsprov(&["destroy"], 0);
    assert_eq!(segment.whole_state(), bare);

    for form in ["networkd", "sysctl"] {
        let words = [PROGRAM, "render", "host", FILE, "--host", "rs1", "--as", form, "--out", "/"];
        segment.server.expect(&words, 0);
        // A second time only with --force.
        let text = segment.server.expect(&words, 1);
        assert!(text.contains("files that exist are overwritten with --force"), "{text}");
        segment.server.expect(&[&words[..], &["--force"]].concat(), 0);
    }
    // As the drop-in says: the folder is named after the .network file.
    let (as_written, in_use) =
        (format!("{FOLDER}/eth0.network.d"), format!("{FOLDER}/10-eth0.network.d"));
    segment.server.expect(&["mv", &as_written, &in_use], 0);
    segment.cut_power();
    segment.start();
    segment.server.wait();
    // systemd-sysctl.service would do it; the test's target does not start it.
    segment.server.expect(&["sysctl", "-q", "-p", "/etc/sysctl.d/90-lvsprov-booted.conf"], 0);
    segment.until("as applied", || segment.whole_state() == applied);
}
