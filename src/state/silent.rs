//! Devices on which no neighbour asks for an address: a real server's VIP stands there.
//!
//! Neither lo nor a dummy device has a neighbour, and layer-3 tunnels carry no ARP (IFF_NOARP) and no
//! solicitation for a VIP. GRE of layer 2 (`gretap0`, `erspan0`) does.

use super::{Module, TunnelKind};
use crate::names::IfName;

/// Devices of layer-3 tunnels, as the kernel names them: with a number behind it.
const TUNNELS: [&str; 5] = ["tunl", "ip6tnl", "sit", "gre", "ip6gre"];

/// Whether no ARP request and no neighbour solicitation for a VIP comes in on `dev`. On other devices such
/// a request is answered as `arp_ignore` says.
pub fn is_silent(dev: &IfName) -> bool {
    let name = dev.as_str();
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    };
    name == "lo"
        || name.starts_with("dummy")
        || TUNNELS.into_iter().any(numbered)
        || Module::ALL.iter().any(|module| module.device() == Some(name))
        || TunnelKind::ALL.iter().any(|kind| name.starts_with(kind.prefix()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_device_that_a_vip_may_stand_on_is_silent() {
        let own = TunnelKind::ALL.iter().map(|kind| format!("{}c0000204", kind.prefix()));
        let of_modules = Module::ALL.iter().filter_map(|module| module.device());
        let names = ["lo", "dummy0", "gre0", "ip6gre0", "sit0", "ip6tnl0", "tunl1"];
        let all = names.into_iter().chain(of_modules).map(str::to_owned).chain(own);
        for name in all {
            assert!(is_silent(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn a_device_with_neighbours_is_not_silent() {
        for name in ["eth0", "bond0", "br0", "lo0", "gretap0", "erspan0", "sit0.1", "tunnel0"] {
            assert!(!is_silent(&name.parse().unwrap()), "{name}");
        }
    }
}
