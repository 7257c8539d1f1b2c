//! The one command that is run on a host: `exec sh -c LOGIN sh INSTALL TOKEN DIGEST SIZE`. LOGIN adds
//! one argument for INSTALL: the controller's address as sshd gives it, which sudo would drop.
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

    /// A sudo that leaves of the environment what `env_reset` of sudoers(5) does, and a user who is not root.
    fn fakes(folder: &std::path::Path) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let sudo = "[ \"$1 $2\" = '-n --' ] || exit 9; shift 2; exec env -i PATH=\"$PATH\" \"$@\"";
        for (name, script) in [("sudo", sudo), ("id", "echo 1000")] {
            let path = folder.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        format!("{}:/usr/bin:/bin", folder.display())
    }

    /// The login user may have put anything into SSH_CONNECTION; no shell executes it, splits it, or matches it
    /// with file names.
    #[test]
    fn the_controllers_address_passes_sudo_as_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let (user, root) = (fakes(folder.path()), "/usr/bin:/bin".to_owned());
        let marker = folder.path().join("executed");
        let evil = format!("$(touch {0}) `touch {0}`;touch {0};\"'*\\ \n-n", marker.display());
        let install = r#"printf "%s|" "$#" "$@" "$SSH_CONNECTION""#;
        // The head of the real script, up to where it looks at the disk.
        let (head, _) = INSTALL.split_once("B=").unwrap();
        let install = format!("{} {install}", one_line(head));
        for (path, is_root) in [(&user, false), (&root, true)] {
            for shell in [&["sh"][..], &["busybox", "sh"], &["bash", "--posix"]] {
                if shell[0] == "busybox" && !is_root {
                    // It has an `id` of its own, and looks for no other.
                    continue;
                }
                for connection in ["fe80::1%eth0 50000 fe80::2%eth0 22", &evil, ""] {
                    let output = Command::new(shell[0])
                        .args(&shell[1..])
                        .args(["-c", &one_line(LOGIN), "sh", &install, "T", "d", "7"])
                        .env("PATH", path)
                        .env("SSH_CONNECTION", connection)
                        .output()
                        .unwrap();
                    let printed = String::from_utf8(output.stdout).unwrap();
                    let head = if is_root { "" } else { "T user 1000\n" };
                    let expected = format!("{head}4|T|d|7|{connection}|{connection}|");
                    assert_eq!(printed, expected, "{shell:?}, root: {is_root}");
                    assert!(!marker.exists(), "{connection} was executed");
                }
            }
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
