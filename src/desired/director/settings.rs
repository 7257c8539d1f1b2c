//! What the file itself says of IPVS on a director, beside its services.

use crate::desired::Desired;
use crate::state::{DaemonRole, Module, Sysctl};
use crate::topology::IpvsSettings;

/// Adds it, before any service does: what is merely better for one leaves the file's word as it is;
/// what a forwarding method cannot do without replaces it (the checks refuse such a file).
pub(super) fn settle(said: &IpvsSettings, desired: &mut Desired) {
    // `exclusive` is about services that are not ours; the places are for messages.
    let IpvsSettings { exclusive: _, timeouts, daemons, settings, settings_at: _, daemons_at: _ } =
        said;
    if timeouts.is_some() || !daemons.is_empty() || !settings.is_empty() {
        desired.module(Module::IpVs, "the file has settings for IPVS here");
    }
    if let Some(timeouts) = timeouts {
        let why = "the file says how long a connection is remembered without a packet";
        desired.timeouts(*timeouts, why);
    }
    for (item, value) in settings {
        desired.sysctl(Sysctl::Vs(*item), value, "the file says so, under `ipvs: settings:`");
    }
    for (role, daemon) in daemons {
        let why = match role {
            DaemonRole::Master => format!(
                "a second director that listens on {} with id {} learns of the connections here, and \
                 keeps them when it takes over",
                daemon.interface, daemon.id
            ),
            DaemonRole::Backup => format!(
                "connections of the other director are learnt on {} with id {}, so that they go on \
                 when this one takes over",
                daemon.interface, daemon.id
            ),
        };
        desired.daemon(*role, daemon.clone(), why);
    }
}
