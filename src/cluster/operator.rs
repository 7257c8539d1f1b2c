//! Who runs this controller, and a name for what it does. Reads the environment, /proc and the clock.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::SystemTime;

use crate::plan::journal::{Operator, TransactionId};

/// Who runs this process. The user's name is the environment's word (the one before sudo, if any): it is
/// shown to people and nothing hangs on it.
pub fn here() -> Operator {
    let named = ["SUDO_USER", "LOGNAME", "USER"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = named.unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()));
    let host = nix::sys::utsname::uname()
        .map_or_else(|_| "?".to_owned(), |name| name.nodename().to_string_lossy().into_owned());
    Operator { user, host, pid: std::process::id() }
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
