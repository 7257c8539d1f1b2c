//! Rules that tell whether a topology would work: one function for each rule, all findings at once.
//!
//! Pure: the rules use the resolved [`Topology`] only and touch no host. [`crate::topology`] reports
//! errors of the text (keys, types, names, addresses) while it reads, because it knows each value's
//! position; [`examine`] does both. The rules behind known LVS traps (numbers as in the list of traps
//! in `docs`), each with its case under `tests/cases/check`:
//!
//! | trap | what goes wrong | rule | case |
//! | --- | --- | --- | --- |
//! | 5 | a VIP with a prefix length on lo makes the LAN local | `mask-on-lo`, `vip-is-own-address` | mask-on-lo |
//! | 6 | DR and TUN never rewrite a port, nor does persistence over several ports | `port-mapping` | port-mapping, ignored-values |
//! | 7 | a DR real server behind a gateway | `dr-not-on-link` | dr-not-on-link |
//! | 8, 28 | the director is its own real server (allowed) | `port-mapping` | director-serves |
//! | 10 | a router that lvsprov does not manage drops the replies | `router-not-reached` (warning) | router-not-reached |
//! | 11 | the director as gateway of DR and TUN real servers, without being a router | `director-is-gateway`; else `accept_local` is set | director-is-gateway |
//! | 12 | the router cannot reach the VIP | `vip-unreachable`; the host route is set, or `router-not-reached` | vip-unreachable, router-not-reached |
//! | 12 | the VIP's subnet is on another network | `vip-wrong-network` | wrong-wire |
//! | 13 | a mark without a VIP: its addresses may be local on no host | `mark-without-vip` (note) | marks |
//! | 14 | a NAT real server with another gateway | `nat-gateway` | nat-gateway |
//! | 15 | a NAT client on the real servers' subnet | `nat-client-on-link` | nat-client-on-link |
//! | 20 | FULLNAT: no route there or back; no connection tracking; real servers do not see the client's address | `fullnat-no-route`, `setting-contradicts`, `fullnat-hides-clients` (note) | fullnat, ipvs-settings |
//! | 22 | two timeouts for one connection | `idle-connections` (note, or warning) | fullnat, ipvs-settings |
//! | 26 | large packets that do not fit, and whose sender does not learn it | `large-packets-lost` (warning) | large-packets |
//! | 27 | tunnels that one real server cannot receive at the same time | `gre-checksums-differ`, `gue-port-taken`, `gue-port` | tunnels, service-words |
//! | 32 | mixed families without a tunnel, or with a sync daemon | `mixed-families`, `mixed-families-and-sync` | families |
//! | 33 | every port without persistence | `port-zero`, `port-any` | numbers, ignored-values |
//! | 34, 35 | weight 0 on every real server; persistence that keeps clients on weight 0 | `all-weights-zero` (warning), `setting-contradicts` | weights, ipvs-settings |
//! | 36 | sh and mh without fallback | `hash-without-fallback` (warning) | weights, ignored-values |
//! | 37 | two directors that forward to each other; backup_only without a backup daemon | `vip-on-two-directors`, `setting-without-effect` (warning) | director-serves, ipvs-settings |
//! | - | what the kernel refuses or ignores (docs/kernel-facts.md) | `thresholds`, `one-packet`, `engine-without-udp`, `flag-of-other-scheduler`, `tunnel-unused`, `sync-interface`, `setting-range` | ignored-values, ipvs-settings |
//! | - | a static route to what the host has itself, or by a host that drops the packets | `route-to-connected`, `route-via-no-router` (warning) | routes |
//! | 57 | a health check that says nothing, or is never carried out | `check-impossible`, `check-contradicts`, `quorum-unreachable`, `check-mark-taken` | health-checks |
//! | - | weights that cannot grow | `ramp-without-effect` (warning) | pace |
//! | - | marked packets go to the mark's service, not to the service of their address | `mark-overlaps` | marks |
//!
//! `desired` and `plan` prevent traps 1-4, 9-12, 16-18 and 23-26. Traps 19, 21, 29 and 39-41 show
//! on hosts only. Trap 38 needs keys that this version of the format does not have.

mod allow;
mod cure;
mod health;
mod index;
mod ipvs;
mod marks;
mod nat;
mod pace;
mod path;
mod reach;
mod routes;
mod services;
mod tunnels;
mod values;
mod vips;
mod walk;

use crate::finding::{DeniedFindings, Finding, Severity, SilencedFinding};
use crate::topology::{self, Service, Topology, UnclearHosts, Vip};

pub use cure::cure_of_death;
use index::Index;

/// The result of [`examine`].
#[derive(Debug)]
pub struct Examined {
    /// The resolved topology; `None` if any finding is an error.
    pub topology: Option<Topology>,
    /// All findings but the silenced ones, in file order.
    pub findings: Vec<Finding>,
    /// Findings that comments of the file silence.
    pub silenced: Vec<SilencedFinding>,
}

impl Examined {
    /// The same, where the findings of `denied` count as errors too.
    #[must_use]
    pub fn denying(mut self, denied: &[DeniedFindings]) -> Self {
        for finding in &mut self.findings {
            let is_error = finding.severity == Severity::Error;
            if !is_error && denied.iter().any(|denied| denied.has(finding)) {
                (finding.severity, finding.denied) = (Severity::Error, true);
                self.topology = None;
            }
        }
        self
    }
}

/// Reads `text`, applies every rule, and takes out what comments silence. `name` is the file's name for messages.
pub fn examine(name: &str, text: &str) -> Examined {
    let topology::ParsedTopology { topology, unclear, mut findings } = topology::read(name, text);
    let whole = !findings.iter().any(|f| f.severity == Severity::Error);
    if let Some(topology) = &topology {
        findings.extend(apply(&Subject::new(topology, &unclear, whole)));
    }
    let (comments, about_comments) = topology::allow_comments(text);
    findings.extend(about_comments);
    sort_and_dedup(&mut findings);
    let silenced = allow::silence(&mut findings, comments);
    sort_and_dedup(&mut findings);
    let blocked = findings.iter().any(|f| f.severity == Severity::Error);
    Examined { topology: topology.filter(|_| !blocked), findings, silenced }
}

/// Applies every rule to a resolved topology.
pub fn check(topology: &Topology) -> Vec<Finding> {
    let unclear = UnclearHosts::default();
    let mut findings = apply(&Subject::new(topology, &unclear, true));
    sort_and_dedup(&mut findings);
    findings
}

/// The input of the rules.
struct Subject<'a> {
    topology: &'a Topology,
    /// Hosts with invalid values: a rule draws no conclusion from what they lack.
    unclear: &'a UnclearHosts,
    /// The text had no error, so nothing was left out.
    whole: bool,
    /// Shared lookups.
    index: Index<'a>,
}

/// Maximum number of findings of a rule over pairs: bounds its memory.
const MAX_FINDINGS: usize = 10_000;

impl<'a> Subject<'a> {
    fn new(topology: &'a Topology, unclear: &'a UnclearHosts, whole: bool) -> Self {
        Self { topology, unclear, whole, index: Index::new(topology) }
    }

    /// The services with a VIP.
    fn with_vip(&self) -> impl Iterator<Item = (&'a Service, &'a Vip)> + use<'a> {
        self.topology.services.iter().filter_map(|s| Some((s, s.vip.as_ref()?)))
    }
}

type RuleFunction = fn(&Subject<'_>) -> Vec<Finding>;

const RULES: &[RuleFunction] = &[
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
    values::one_destination,
    values::ftp_data,
    values::mixed_families,
    marks::overlap,
    pace::ramp_without_effect,
    marks::without_address,
    health::impossible,
    health::quorum,
    health::mark_taken,
    tunnels::gre_checksums,
    tunnels::gue_port_taken,
    tunnels::partner_unknown,
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
    nat::nat_gateway,
    nat::nat_client_on_link,
    reach::vip_unreachable,
    reach::no_way_back,
    reach::router_not_reached,
    routes::to_connected,
    routes::via_no_router,
];

fn apply(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(subject)).collect();
    let has_errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    // A walk through a cluster that is known to be wrong says nothing new.
    if subject.whole && !has_errors {
        findings.extend(walk::unanswered(subject));
        findings.extend(walk::large_lost(subject));
    }
    findings
}

fn sort_and_dedup(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        let key = |f: &Finding| (f.at.line, f.at.column, f.severity, f.rule);
        key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
    });
    findings.dedup();
}
