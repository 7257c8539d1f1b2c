//! Renders the desired state of a host in the format of another program.
//!
//! Pure: a [`crate::state::HostState`] in, text out, with a list of the settings that the format does not
//! support: a rules file alone is not a complete director.

pub mod host;
mod interfaces;
pub mod ipvsadm;
pub mod keepalived;
mod nft;
pub mod shell;

use serde::Serialize;

use crate::state::{HostState, Item};

/// A text for another program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The settings that it leaves out; `unheld` in JSON.
    #[serde(rename = "unheld")]
    pub unsupported: Vec<Unsupported>,
}

/// A setting that a format does not support.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// The setting.
    pub what: String,
    /// The reason, and how to set it otherwise.
    pub why: String,
}

impl Unsupported {
    /// `item` of `state`, for which `format` has no form of its own, and how to set it otherwise.
    fn of(state: &HostState, item: &Item, format: &str) -> Self {
        let (what, how) = match item {
            Item::Sysctl(key) => {
                let value = state.sysctls.get(key).map_or("", String::as_str);
                (format!("{key} = {value}"), "set it, for example with /etc/sysctl.d")
            }
            Item::Table(name) => {
                let rules = state.tables.get(name).map(ToString::to_string).unwrap_or_default();
                (format!("{item} ({rules})"), "put packet rules into an nftables ruleset")
            }
            Item::Module(_) => (item.to_string(), "load it, for example with /etc/modules-load.d"),
            _ => (item.to_string(), "set it with the host's own network configuration"),
        };
        Self::because(what, format, how)
    }

    fn because(what: String, format: &str, how: &str) -> Self {
        Self { what, why: format!("not in {format}; {how}") }
    }
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}
