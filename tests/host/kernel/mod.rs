//! The kernel edge against the running kernel, each test in a network namespace of its own. What was
//! done is looked at with `ip -j` and /proc, and not only with our own reader.
//!
//! What needs IPVS or IPIP is in `vm/kernel`.

mod announce;
mod arp_settings;
mod cgroups;
mod disk;
mod faults;
mod filter;
mod guard;
mod ipv6;
mod keeping;
mod life;
mod network;
mod nft;
mod renewed;
mod retries;
mod routing;
mod timer;
mod values;
mod wire;

use crate::support::cases::Case;

pub fn cases() -> Vec<Case> {
    [
        announce::cases(),
        arp_settings::cases(),
        cgroups::cases(),
        disk::cases(),
        faults::cases(),
        filter::cases(),
        guard::cases(),
        ipv6::cases(),
        keeping::cases(),
        life::cases(),
        network::cases(),
        nft::cases(),
        renewed::cases(),
        retries::cases(),
        routing::cases(),
        timer::cases(),
        values::cases(),
        wire::cases(),
    ]
    .concat()
}
