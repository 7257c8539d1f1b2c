//! The program that manages an interface of the host: it may drop addresses and routes that it did not make.

use serde::{Deserialize, Serialize};

/// The program that manages an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkManager {
    /// systemd-networkd.
    Networkd {
        /// The .network file of the interface: its absolute path.
        file: String,
        /// Whether networkd keeps addresses and routes that it did not make.
        keeps: KeepConfiguration,
    },
    /// NetworkManager.
    NetworkManager,
}

/// `KeepConfiguration=` of an interface, by its .network file and the drop-ins beside it (systemd.network(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepConfiguration {
    /// No file sets it, or lvsprov's drop-in is of another version: networkd drops them.
    Unset,
    /// lvsprov's drop-in sets it.
    Ours,
    /// The operator's files set it.
    Set {
        /// The last file that does.
        file: String,
        /// To what.
        value: String,
    },
    /// A file that lvsprov did not write has the name of lvsprov's drop-in; it does not set it.
    Taken,
    /// No file sets it, and the root file system comes over the network: networkd keeps everything by itself
    /// (src/network/networkd-manager.c, `manager_set_keep_configuration`).
    NetworkRoot,
}
