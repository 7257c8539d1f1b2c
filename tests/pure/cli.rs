//! Transcripts of the command line: each file under tests/cases/cli has commands behind `$ lvsprov`
//! and what they say, standard output first, then standard error, then the exit code.
//!
//! `LVSPROV_BLESS=1 cargo test --test pure cli` writes them anew; read the difference before you commit.
#![allow(clippy::format_push_string)]

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![transcripts_are_as_they_were_read_and_found_right]
}

fn transcripts_are_as_they_were_read_and_found_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/cli");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "txt") {
            crate::support::playbooks::golden(
                &path,
                &replay(&std::fs::read_to_string(&path).unwrap()),
            );
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} transcripts were found");
}

fn replay(transcript: &str) -> String {
    let commands = transcript.lines().filter_map(|line| line.strip_prefix("$ lvsprov"));
    let mut text = String::new();
    for arguments in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
            .args(arguments.split_whitespace())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("COLUMNS", "100")
            .env_remove("LVSPROV_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        text.push_str(&format!("$ lvsprov{arguments}\n"));
        text.push_str(&String::from_utf8_lossy(&output.stdout));
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            text.push_str(&format!("stderr: {line}\n"));
        }
        text.push_str(&format!("exit: {}\n\n", output.status.code().unwrap()));
    }
    text
}
