//! Names from outside (files, hosts, arguments), each with the form it must have.
//!
//! A name that passed its constructor is safe as one path component, as one argument, and on a
//! terminal: it has no slash, no blank, no control character, and does not start with a dash or dot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a {what} must not be empty")]
    Empty {
        /// Kind of name, for the message.
        what: &'static str,
    },
    /// Longer than the kernel or a file system takes.
    #[error("{name:?} is {length} bytes long, a {what} has at most {limit}")]
    TooLong {
        /// Kind of name, for the message.
        what: &'static str,
        /// The refused name.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// A character that would not be safe in a path, an argument or on a terminal.
    #[error("{name:?} contains {character:?}: a {what} consists of {allowed}")]
    Character {
        /// Kind of name, for the message.
        what: &'static str,
        /// The refused name.
        name: String,
        /// The first forbidden character.
        character: char,
        /// The allowed characters, for the message.
        allowed: &'static str,
    },
    /// A word with another meaning.
    #[error("{name:?} cannot be a {what}: {why}")]
    Reserved {
        /// Kind of name, for the message.
        what: &'static str,
        /// The refused name.
        name: String,
        /// Its other meaning, for the message.
        why: &'static str,
    },
}

const PLAIN: &str = "letters, digits, '-', '_' and '.', and starts with a letter or digit";

fn check_plain(what: &'static str, limit: usize, name: &str) -> Result<(), NameError> {
    check_length(what, limit, name)?;
    let bad = name
        .char_indices()
        .find(|&(at, c)| !(c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '-' | '_' | '.'))));
    match bad {
        None => Ok(()),
        Some((_, character)) => {
            Err(NameError::Character { what, name: name.to_owned(), character, allowed: PLAIN })
        }
    }
}

fn check_length(what: &'static str, limit: usize, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > limit {
        return Err(NameError::TooLong { what, name: name.to_owned(), length: name.len(), limit });
    }
    Ok(())
}

/// IFNAMSIZ is 16 with its NUL (include/uapi/linux/if.h); the kernel's `dev_valid_name` refuses
/// `.`, `..`, slashes, colons and blanks (net/core/dev.c).
fn check_interface(name: &str) -> Result<(), NameError> {
    const WHAT: &str = "interface name";
    check_length(WHAT, 15, name)?;
    if matches!(name, "all" | "default" | "." | "..") {
        let why = "/proc/sys/net/ipv4/conf has a folder of that name for all interfaces";
        return Err(NameError::Reserved { what: WHAT, name: name.to_owned(), why });
    }
    match name.chars().find(|&c| !c.is_ascii_graphic() || matches!(c, '/' | ':')) {
        None => Ok(()),
        Some(character) => Err(NameError::Character {
            what: WHAT,
            name: name.to_owned(),
            character,
            allowed: "visible ASCII without '/' and ':'",
        }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(name)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a topology: it names the receipt's folder on every host. At most 64 bytes.
    TopologyName,
    |name| check_plain("topology name", 64, name)
);
name!(
    /// The name of a host in the file. At most 63 bytes, as a DNS label has.
    HostName,
    |name| check_plain("host name", 63, name)
);
name!(
    /// The name of a network (an L2 segment) in the file. At most 63 bytes.
    NetworkName,
    |name| check_plain("network name", 63, name)
);
name!(
    /// The name of a service in the file. At most 63 bytes.
    ServiceName,
    |name| check_plain("service name", 63, name)
);
name!(
    /// The name of a network interface, 1 to 15 bytes.
    IfName,
    check_interface
);

impl TopologyName {
    /// Entries of /var/lib/lvsprov on a host that are not topologies: the agents and the folders of network
    /// namespaces ([`crate::transport`]), and the lock ([`crate::kernel`]).
    pub const RESERVED: [&str; 4] = ["agent", "lock", "netns", "netns-by-path"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_or_carry_control_characters_are_refused() {
        for bad in ["", "..", "../x", "a/b", "-x", ".x", "a b", "a\nb", "a\u{1b}[0m", "é"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} passed");
        }
        for good in ["web1", "a", "rs-1.example", "9lives"] {
            assert!(good.parse::<HostName>().is_ok(), "{good:?} refused");
        }
    }

    #[test]
    fn interface_names_follow_the_kernels_rules() {
        for good in ["eth0", "eth0.100", "tunl0", "lo", "br-lan", "ens33@x"] {
            assert!(good.parse::<IfName>().is_ok(), "{good:?} refused");
        }
        for bad in ["", "all", "default", "..", "eth0/1", "eth0:0", "a-name-of-16-byt", "a b"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?} passed");
        }
    }
}
