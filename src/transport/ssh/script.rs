//! The one command that is run on a host: `exec sh -c LOGIN sh INSTALL TOKEN DIGEST SIZE`.
//!
//! Both scripts are fixed texts, nothing of a topology is in them. The user's login shell, whichever
//! it is (bash, fish, tcsh, busybox), sees two words in single quotes; inside them nothing stands
//! that any of these shells treats specially: no single quote, no backslash, no `!`, no line feed.

use super::super::greeting::TOKEN;

/// Becomes root.
const LOGIN: &str = include_str!("login.sh");

/// Starts the agent, having asked for it where it is missing.
const INSTALL: &str = include_str!("install.sh");

/// The command line. `digest` is hexadecimal.
pub(super) fn command(digest: &str, size: u64) -> String {
    let (login, install) = (one_line(LOGIN), one_line(INSTALL));
    format!("exec sh -c '{login}' sh '{install}' {TOKEN} {digest} {size}")
}

/// The script without comments and line feeds; every line ends where a blank may follow.
fn one_line(script: &str) -> String {
    let lines: Vec<&str> = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    lines.join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn no_login_shell_can_misread_the_scripts() {
        for script in [LOGIN, INSTALL] {
            let line = one_line(script);
            assert!(line.len() > 100);
            let bad: Vec<char> =
                line.chars().filter(|c| matches!(c, '\'' | '\\' | '!' | '\n' | '\r')).collect();
            assert!(bad.is_empty(), "{bad:?} in {line}");
        }
    }

    #[test]
    fn the_scripts_are_grammatical_for_every_shell_here() {
        for shell in [&["sh"][..], &["busybox", "sh"], &["bash", "--posix"]] {
            for script in [LOGIN, INSTALL] {
                let output = Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-n", "-c", &one_line(script)])
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{shell:?}: {output:?}");
            }
        }
    }
}
