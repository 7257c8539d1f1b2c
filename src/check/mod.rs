//! Whether a topology would work: one function a rule, all findings, none of them stops another.
//!
//! Pure: looks at the resolved [`Topology`] only, touches no host. What a text alone can get wrong
//! (keys, types, names, addresses) is found while it is read, in [`crate::topology`], because only
//! there each value's own position is known; [`examine`] does both. Rules that a trap of the field
//! stands behind (numbers as in `docs`' list of traps), with the case under `tests/cases/check` that
//! proves each:
//!
//! | trap | what goes wrong | rule | case |
//! | --- | --- | --- | --- |
//! | 5 | VIP with a mask on lo makes the LAN local | `mask-on-lo`, `vip-is-own-address` | mask-on-lo |
//! | 6 | DR and TUN never rewrite a port, nor do templates for several ports | `port-mapping` | port-mapping, ignored-values |
//! | 7 | DR real server behind a gateway | `dr-not-on-link` | dr-not-on-link |
//! | 8, 28 | the director is its own real server: it may be | `port-mapping` | director-serves |
//! | 10 | a router that lvsprov does not reach drops the replies | `router-not-reached` (warning) | router-not-reached |
//! | 11 | director as gateway of DR and TUN real servers | `director-is-gateway` | director-is-gateway |
//! | 12 | the router cannot reach the VIP | `vip-unreachable`; the host route is set, or `router-not-reached` | vip-unreachable, router-not-reached |
//! | 12 | the VIP's subnet is on another wire | `vip-wrong-network` | wrong-wire |
//! | 13 | a mark whose addresses nobody takes | `mark-without-vip` (note) | marks |
//! | 14 | NAT real server with another gateway | `nat-gateway` | nat-gateway |
//! | 15 | NAT client on the real servers' own subnet | `nat-client-on-link` | nat-client-on-link |
//! | 20 | FULLNAT: no way there or back; no connection tracking; who the client is gets lost | `fullnat-no-route`, `setting-contradicts`, `fullnat-hides-clients` (note) | fullnat, ipvs-settings |
//! | 22 | two timeouts for one connection | `idle-connections` (note, or warning) | fullnat, ipvs-settings |
//! | 27 | what a real server cannot unwrap at once | `gre-checksums-differ`, `gue-port-taken`, `gue-port` | tunnels, service-words |
//! | 32 | mixed families without a tunnel, or with a sync daemon | `mixed-families`, `mixed-families-and-sync` | families |
//! | 33 | every port without persistence | `port-zero`, `port-any` | numbers, ignored-values |
//! | 34, 35 | weight 0 everywhere: nobody answers; persistence that keeps clients there | `all-weights-zero` (warning), `setting-contradicts` | weights, ipvs-settings |
//! | 36 | sh and mh without fallback | `hash-without-fallback` (warning) | weights, ignored-values |
//! | 37 | two directors that send to each other; backup_only without its daemon | `vip-on-two-directors`, `setting-without-effect` (warning) | director-serves, ipvs-settings |
//! | - | what the kernel refuses or ignores (docs/kernel-facts.md) | `thresholds`, `one-packet`, `engine-without-udp`, `flag-of-other-scheduler`, `tunnel-unused`, `sync-interface`, `setting-range` | ignored-values, ipvs-settings |
//! | - | weights that cannot grow | `ramp-without-effect` (warning) | pace |
//! | - | marked packets go to the mark's service, whoever else is there | `mark-overlaps` | marks |
//!
//! Traps 1-4, 9, 10, 12, 16-18, 23-26 are not found but prevented: `desired` and `plan` set and
//! order what they need. 19, 21, 29, 39-41 show on hosts only. 38 needs what this version's file
//! cannot say.

mod index;
mod ipvs;
mod marks;
mod pace;
mod path;
mod reach;
mod services;
mod tunnels;
mod values;
mod vips;

use crate::finding::{Finding, Severity};
use crate::topology::{self, Service, Topology, Unclear, Vip};

use index::Index;

/// A file, read and checked.
#[derive(Debug)]
pub struct Examined {
    /// What to work with; `None` if there is any error among the findings.
    pub topology: Option<Topology>,
    /// Everything found, in the order of the file.
    pub findings: Vec<Finding>,
}

/// Reads `text` and applies every rule. `name` is the file's name for messages.
pub fn examine(name: &str, text: &str) -> Examined {
    let topology::Read { topology, unclear, mut findings } = topology::read(name, text);
    let whole = !findings.iter().any(|f| f.severity == Severity::Error);
    if let Some(topology) = &topology {
        findings.extend(apply(&Subject::new(topology, &unclear, whole)));
    }
    tidy(&mut findings);
    let blocked = findings.iter().any(|f| f.severity == Severity::Error);
    Examined { topology: topology.filter(|_| !blocked), findings }
}

/// Applies every rule to a resolved topology.
pub fn check(topology: &Topology) -> Vec<Finding> {
    let unclear = Unclear::default();
    let mut findings = apply(&Subject::new(topology, &unclear, true));
    tidy(&mut findings);
    findings
}

/// What the rules look at.
struct Subject<'a> {
    topology: &'a Topology,
    /// Hosts from whose gaps nothing may be concluded.
    unclear: &'a Unclear,
    /// Nothing was left out because it could not be understood.
    whole: bool,
    /// What rules look up for every real server of every service.
    index: Index<'a>,
}

/// Findings of a rule that looks at pairs: it ends there, before it fills the memory with what nobody
/// reads.
const ENOUGH: usize = 10_000;

impl<'a> Subject<'a> {
    fn new(topology: &'a Topology, unclear: &'a Unclear, whole: bool) -> Self {
        Self { topology, unclear, whole, index: Index::new(topology) }
    }

    /// The services that have a VIP, with it.
    fn with_vip(&self) -> impl Iterator<Item = (&'a Service, &'a Vip)> + use<'a> {
        self.topology.services.iter().filter_map(|s| Some((s, s.vip.as_ref()?)))
    }
}

type Rule = fn(&Subject<'_>) -> Vec<Finding>;

const RULES: &[Rule] = &[
    services::duplicate_service,
    services::duplicate_real_server,
    services::port_mapping,
    services::client_is_real_server,
    services::weights_ignored,
    services::all_weights_zero,
    services::unused_host,
    values::thresholds,
    values::one_packet,
    values::port_any,
    values::engine,
    values::scheduler_flags,
    values::hash_without_fallback,
    values::mixed_families,
    marks::overlap,
    pace::ramp_without_effect,
    marks::without_address,
    tunnels::gre_checksums,
    tunnels::gue_port_taken,
    ipvs::sync_interface,
    ipvs::setting_range,
    ipvs::setting_contradicts,
    ipvs::setting_without_effect,
    ipvs::fullnat,
    ipvs::two_timeouts,
    vips::is_own_address,
    vips::on_two_directors,
    vips::prefix_differs,
    vips::interface_differs,
    vips::mask_overlaps,
    vips::wrong_network,
    vips::end_of_subnet,
    vips::mask_of_interface,
    reach::dr_not_on_link,
    reach::tun_no_route,
    reach::fullnat_no_route,
    reach::family_without_client,
    reach::director_is_gateway,
    reach::nat_gateway,
    reach::nat_client_on_link,
    reach::vip_unreachable,
    reach::no_way_back,
    reach::router_not_reached,
];

fn apply(subject: &Subject<'_>) -> Vec<Finding> {
    RULES.iter().flat_map(|rule| rule(subject)).collect()
}

fn tidy(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        let key = |f: &Finding| (f.at.line, f.at.column, f.severity, f.rule);
        key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
    });
    findings.dedup();
}
