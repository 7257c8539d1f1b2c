//! The boot unit and the units beside it, as systemd reads them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use lvsprov::agent::boot_unit::{NETWORK_PATH, NETWORK_UNIT, PROGRAM, UNIT};
use lvsprov::agent::drift_timer;
use lvsprov::cli::arguments::{Command as Subcommand, ProgramArguments};
use lvsprov::protocol::STATE_DIR;

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        what_the_units_start_is_the_agent,
        the_timer_starts_a_look_for_drift,
        it_comes_back_with_each_unit_that_takes_it_along,
        systemd_reads_every_line_and_finds_no_ordering_cycle
    ]
}

/// The words behind every `key=` line of a unit.
fn words_of(unit: &'static str, key: &str) -> Vec<&'static str> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).collect()
}

fn words(key: &str) -> Vec<&'static str> {
    words_of(UNIT, key)
}

fn what_the_units_start_is_the_agent() {
    let commands = [(UNIT, "ExecStart", false), (UNIT, "ExecReload", true)];
    for (unit, key, only) in commands.into_iter().chain([(NETWORK_UNIT, "ExecStart", true)]) {
        let command = words_of(unit, key);
        assert_eq!(command[0], PROGRAM, "{key}");
        let parsed = ProgramArguments::try_parse_from(command).unwrap();
        let Subcommand::Agent { boot: true, network_only, .. } = parsed.command else {
            panic!("{key}: {parsed:?}")
        };
        assert_eq!(network_only, only, "{key}");
    }
    for unit in [UNIT, NETWORK_UNIT] {
        let mounted = words_of(unit, "RequiresMountsFor");
        assert!(mounted.contains(&STATE_DIR) && PROGRAM.starts_with(mounted[0]), "{mounted:?}");
    }
    // Not before the host is as it was left.
    assert!(words_of(NETWORK_UNIT, "After").contains(&"lvsprov-boot.service"));
}

fn the_timer_starts_a_look_for_drift() {
    let command = words_of(drift_timer::SERVICE, "ExecStart");
    assert_eq!(command[0], PROGRAM);
    let parsed = ProgramArguments::try_parse_from(command).unwrap();
    let Subcommand::Agent { drift: Some(None), boot: false, .. } = parsed.command else {
        panic!("{parsed:?}")
    };
    assert!(words_of(drift_timer::SERVICE, "After").contains(&"lvsprov-boot.service"));
    assert_eq!(words_of(drift_timer::SERVICE, "RequiresMountsFor"), words("RequiresMountsFor"));
    let timer = drift_timer::timer(300);
    for line in ["OnActiveSec=300s", "OnUnitInactiveSec=300s", "RandomizedDelaySec=30s"] {
        assert!(timer.contains(line), "{timer}");
    }
    assert!(!timer.contains('@') && timer.contains("WantedBy=lvsprov-boot.service"), "{timer}");
}

/// `PartOf` stops it with another unit; `WantedBy` starts it with that again, `After` behind it.
fn it_comes_back_with_each_unit_that_takes_it_along() {
    let after: BTreeSet<&str> = words("After").into_iter().collect();
    let wanted_by: BTreeSet<&str> = words("WantedBy").into_iter().collect();
    let part_of = words("PartOf");
    assert!(!part_of.is_empty());
    for unit in &part_of {
        assert!(after.contains(unit) && wanted_by.contains(unit), "{unit}");
    }
    assert_eq!(words("ReloadPropagatedFrom"), part_of);
    // The same of what starts the other unit.
    let after = words_of(NETWORK_UNIT, "After");
    assert!(
        words_of(NETWORK_UNIT, "WantedBy").iter().all(|unit| after.contains(unit)),
        "{after:?}"
    );
}

/// As Debian's open-iscsi orders it.
const BEFORE_SYSINIT: &str = "[Unit]\nDescription=x\nDefaultDependencies=no\nWants=network-online.target\n\
                              After=network-online.target\nBefore=sysinit.target\n\
                              [Service]\nType=oneshot\nExecStart=/bin/true\n";

/// What `systemd-analyze verify` says of the boot unit and the path unit, enabled, on a host with open-iscsi.
fn verdict(unit: &str, path: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let enable = |name: &str, text: &str, wanted_by: &[&str]| {
        fs::write(folder.path().join(name), text).unwrap();
        for by in wanted_by {
            let wants = folder.path().join(format!("{by}.wants"));
            fs::create_dir_all(&wants).unwrap();
            symlink(Path::new("..").join(name), wants.join(name)).unwrap();
        }
    };
    enable("open-iscsi.service", BEFORE_SYSINIT, &["sysinit.target"]);
    // The program is not installed here.
    enable("lvsprov-boot.service", &unit.replace(PROGRAM, "/bin/true"), &words("WantedBy"));
    enable(
        "lvsprov-network.service",
        &NETWORK_UNIT.replace(PROGRAM, "/bin/true"),
        &words_of(NETWORK_UNIT, "WantedBy"),
    );
    let drift = drift_timer::SERVICE.replace(PROGRAM, "/bin/true");
    enable("lvsprov-drift.service", &drift, &[]);
    enable("lvsprov-drift.timer", &drift_timer::timer(300), &["lvsprov-boot.service"]);
    enable("lvsprov-network.path", path, &words_of(NETWORK_PATH, "WantedBy"));
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(
            ["boot.service", "network.service", "network.path", "drift.service", "drift.timer"]
                .map(|unit| folder.path().join(format!("lvsprov-{unit}"))),
        )
        // The units of this machine behind ours: systemd.unit(5).
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    // Of the other units of this machine it says what it likes.
    let ours = |line: &&str| line.contains("lvsprov-") || line.contains("cycle");
    text.lines().filter(ours).collect::<Vec<_>>().join("\n")
}

fn systemd_reads_every_line_and_finds_no_ordering_cycle() {
    assert_eq!(verdict(UNIT, NETWORK_PATH), "");
    // It does find what is wrong.
    let cyclic = verdict(&UNIT.replace("DefaultDependencies=no\n", ""), NETWORK_PATH);
    assert!(cyclic.contains("Found ordering cycle on open-iscsi.service"), "{cyclic}");
    let unknown = verdict(&UNIT.replace("\nPartOf=", "\nPartsOf="), NETWORK_PATH);
    assert!(unknown.contains("Unknown key"), "{unknown}");
    let unknown = verdict(UNIT, &NETWORK_PATH.replace("\nPathChanged=", "\nPathsChanged="));
    assert!(unknown.contains("Unknown key"), "{unknown}");
}
