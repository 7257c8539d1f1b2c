//! Who runs this controller, and a name for what it does. Reads the environment, /proc and the clock.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::SystemTime;

use crate::state::{Operator, TransactionId};
use crate::visible::visible;

/// Who runs this process. The user's name is the environment's word (the one before sudo, if any): it is
/// shown to people and nothing hangs on it. Other operators see it on their terminals too: what does not
/// belong there is taken out here.
pub fn here() -> Operator {
    let named = ["SUDO_USER", "LOGNAME", "USER"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = named.map_or_else(|| format!("uid {}", nix::unistd::getuid()), |named| name(&named));
    let host = nix::sys::utsname::uname()
        .map_or_else(|_| "?".to_owned(), |host| name(&host.nodename().to_string_lossy()));
    Operator { user, host, pid: std::process::id() }
}

/// A name as it is shown, at most 64 characters of it: more than any user or host has.
fn name(text: &str) -> String {
    visible(text).chars().take(64).collect()
}

/// A name for a transaction that no other has: 64 bits of chance, of which the operating system keys
/// each hasher anew.
pub fn new_transaction() -> TransactionId {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    TransactionId::from_bits(hasher.finish())
}

/// Seconds since 1970; 0 with a clock before that.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_and_obeyed_by_no_terminal() {
        assert_eq!(name("alice"), "alice");
        let evil = "x\u{1b}]52;c;aGk=\u{7}\r\u{202e}";
        assert_eq!(name(evil), "x\\x1b]52;c;aGk=\\x07\\r\\u{202e}");
        assert_eq!(name(&"ü".repeat(100_000)), "ü".repeat(64));
    }
}
