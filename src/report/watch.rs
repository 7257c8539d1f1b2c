//! Two looks at a running cluster, one after the other: what `status --watch` shows. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use owo_colors::OwoColorize as _;
use serde::Serialize;

use super::{status, table};
use crate::apply::status::{RealServerView, ServiceView, StatusReport};
use crate::names::HostName;
use crate::state::{Counters, DestinationKey, ForwardingMethod, ServiceKey};

/// What passed a second, between two looks. `None`: it is new, or its counter went back (IPVS was reloaded, or its counters
/// were zeroed).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrafficRates {
    /// New connections.
    pub connections_per_s: Option<f64>,
    /// Packets from clients.
    pub packets_in_per_s: Option<f64>,
    /// Packets to clients: only under NAT do they pass the director.
    pub packets_out_per_s: Option<f64>,
    /// Bytes from clients, IP headers included.
    pub bytes_in_per_s: Option<f64>,
    /// Bytes to clients.
    pub bytes_out_per_s: Option<f64>,
}

/// The rates of one real server, or of all real servers of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateView {
    /// The director.
    pub host: HostName,
    /// The service.
    pub service: ServiceKey,
    /// The real server; absent in the rates of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationKey>,
    /// Its rates. A sum is not known where a part of it is not.
    #[serde(flatten)]
    pub rates: TrafficRates,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Look {
    /// When, in seconds since 1970 by the controller's clock.
    pub at: u64,
    /// Seconds since the look before; `None`: it is the first.
    pub seconds: Option<f64>,
    /// Of each real server; empty in the first look.
    pub rates: Vec<RateView>,
    /// Of each service: the sums.
    pub service_rates: Vec<RateView>,
    /// What `status` found.
    pub status: StatusReport,
}

impl Look {
    /// A look at `status`; `before`: the one before, and how many seconds ago it was.
    pub fn new(at: u64, status: StatusReport, before: Option<(&Self, f64)>) -> Self {
        let (rates, service_rates) = before
            .map(|(before, seconds)| rates(&before.status, &status, seconds))
            .unwrap_or_default();
        Self { at, seconds: before.map(|(_, seconds)| seconds), rates, service_rates, status }
    }
}

impl TrafficRates {
    const NONE: Self = Self::all(Some(0.0));
    const UNKNOWN: Self = Self::all(None);

    const fn all(rate: Option<f64>) -> Self {
        Self {
            connections_per_s: rate,
            packets_in_per_s: rate,
            packets_out_per_s: rate,
            bytes_in_per_s: rate,
            bytes_out_per_s: rate,
        }
    }

    /// The kernel brings these counters up to date every 2 seconds (net/netfilter/ipvs/ip_vs_est.c): shorter intervals show
    /// steps.
    fn between(before: &Counters, after: &Counters, seconds: f64) -> Self {
        let rate = |of: fn(&Counters) -> u64| {
            let more = of(after).checked_sub(of(before)).filter(|_| seconds > 0.0);
            #[allow(clippy::cast_precision_loss)]
            more.map(|more| rounded(more as f64 / seconds))
        };
        Self {
            connections_per_s: rate(|it| it.total),
            packets_in_per_s: rate(|it| it.packets_in),
            packets_out_per_s: rate(|it| it.packets_out),
            bytes_in_per_s: rate(|it| it.bytes_in),
            bytes_out_per_s: rate(|it| it.bytes_out),
        }
    }

    fn plus(self, other: Self) -> Self {
        let sum = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| rounded(a + b));
        Self {
            connections_per_s: sum(self.connections_per_s, other.connections_per_s),
            packets_in_per_s: sum(self.packets_in_per_s, other.packets_in_per_s),
            packets_out_per_s: sum(self.packets_out_per_s, other.packets_out_per_s),
            bytes_in_per_s: sum(self.bytes_in_per_s, other.bytes_in_per_s),
            bytes_out_per_s: sum(self.bytes_out_per_s, other.bytes_out_per_s),
        }
    }
}

/// To a tenth.
fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// Each service, by director.
fn services(report: &StatusReport) -> impl Iterator<Item = (&HostName, &ServiceView)> {
    let hosts = report.hosts.iter();
    hosts.flat_map(|(host, view)| view.services.iter().map(move |service| (host, service)))
}

/// The rates of all real servers that are in `after`, and those of all services.
fn rates(
    before: &StatusReport,
    after: &StatusReport,
    seconds: f64,
) -> (Vec<RateView>, Vec<RateView>) {
    let mut earlier = BTreeMap::new();
    for (host, service) in services(before) {
        for it in &service.real_servers {
            earlier.insert((host, &service.key, &it.key), &it.counters);
        }
    }
    let (mut all, mut sums) = (Vec::new(), Vec::new());
    for (host, service) in services(after) {
        let view = |destination: Option<DestinationKey>, rates: TrafficRates| RateView {
            host: host.clone(),
            service: service.key.clone(),
            destination,
            rates,
        };
        let of = |it: &RealServerView| {
            let before = earlier.get(&(host, &service.key, &it.key));
            before.map_or(TrafficRates::UNKNOWN, |before| {
                TrafficRates::between(before, &it.counters, seconds)
            })
        };
        let each: Vec<RateView> =
            service.real_servers.iter().map(|it| view(Some(it.key), of(it))).collect();
        let sum = each.iter().fold(TrafficRates::NONE, |sum, it| sum.plus(it.rates));
        sums.push(view(None, sum));
        all.extend(each);
    }
    (all, sums)
}

/// One line of JSON, schema `lvsprov/watch/1`.
pub fn json(look: &Look) -> String {
    super::with_schema("watch", look).to_string()
}

/// As text: a line with the time, hosts that differ or were not reached, then the services.
pub fn text(look: &Look) -> String {
    let mut text = format!("{}  {}\n", look.status.topology.bold(), time_of_day(look.at));
    for (name, host) in &look.status.hosts {
        let is_well = host.drift.is_empty() && !host.status.is_failure();
        if !is_well || host.open_transaction.is_some() {
            let _ = writeln!(text, "{}  {}", name.bold(), status::state(host));
        }
        if let Some(failure) = &host.failure {
            let _ = writeln!(text, "    {} {failure}", "error:".red());
        }
    }
    for (name, host) in &look.status.hosts {
        for service in &host.services {
            text.push('\n');
            text.push_str(&service_text(name, service, look));
        }
    }
    text
}

fn service_text(director: &HostName, service: &ServiceView, look: &Look) -> String {
    let settings = service.settings.as_deref().unwrap_or("not in IPVS");
    let key = service.key.to_string();
    let name = if service.display_name == key { "" } else { service.display_name.as_str() };
    let gap = if name.is_empty() { "" } else { "  " };
    let mut text = format!("{}{gap}{key}  {settings}  on {director}\n", name.bold());
    let rates_of = |all: &[RateView], destination: Option<DestinationKey>| {
        let is_it = |it: &&RateView| {
            it.host == *director && it.service == service.key && it.destination == destination
        };
        all.iter().find(is_it).map_or(TrafficRates::UNKNOWN, |it| it.rates)
    };
    // Under the other methods replies do not pass the director.
    let nat = ForwardingMethod::Masquerade.to_string();
    let replies = service.real_servers.iter().any(|it| it.method == nat);
    let mut rows = vec![head(replies)];
    for it in &service.real_servers {
        let host = it.host.as_ref().map_or_else(|| it.key.to_string(), ToString::to_string);
        let Counters { active, inactive, total, .. } = it.counters;
        let mut row = vec![host, it.weight.to_string()];
        row.extend([active.into(), inactive.into(), total].map(|number: u64| number.to_string()));
        row.extend(rate_cells(&rates_of(&look.rates, Some(it.key)), replies));
        rows.push(row);
    }
    if service.real_servers.len() > 1 {
        let sum = |of: fn(&Counters) -> u64| {
            service.real_servers.iter().map(|it| of(&it.counters)).sum::<u64>().to_string()
        };
        let mut row = vec!["all".to_owned(), String::new()];
        row.extend([sum(|it| it.active.into()), sum(|it| it.inactive.into()), sum(|it| it.total)]);
        row.extend(rate_cells(&rates_of(&look.service_rates, None), replies));
        rows.push(row);
    }
    text.push_str(&table::aligned(&rows, 2));
    text
}

fn head(replies: bool) -> Vec<String> {
    let mut head = vec!["real server", "weight", "active", "inactive", "total", "new/s"];
    head.push("pkt/s in");
    head.extend(replies.then_some("pkt/s out"));
    head.push("B/s in");
    head.extend(replies.then_some("B/s out"));
    head.into_iter().map(str::to_owned).collect()
}

fn rate_cells(rates: &TrafficRates, replies: bool) -> Vec<String> {
    let TrafficRates {
        connections_per_s,
        packets_in_per_s,
        packets_out_per_s,
        bytes_in_per_s,
        bytes_out_per_s,
    } = *rates;
    let mut cells = vec![rate_text(connections_per_s), rate_text(packets_in_per_s)];
    cells.extend(replies.then(|| rate_text(packets_out_per_s)));
    cells.push(rate_text(bytes_in_per_s));
    cells.extend(replies.then(|| rate_text(bytes_out_per_s)));
    cells
}

/// With one digit after the point; from 10,000 on in thousands (k), millions (M) and so on.
fn rate_text(rate: Option<f64>) -> String {
    const UNITS: [&str; 4] = ["", "k", "M", "G"];
    let Some(mut rate) = rate else { return "-".to_owned() };
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // The first unit has one digit more, so that a rate of some thousand shows small changes.
    let mut limit = 9999.95;
    while rate >= limit
        && let Some(larger) = units.next()
    {
        (rate, unit, limit) = (rate / 1000.0, larger, 999.95);
    }
    format!("{rate:.1}{unit}")
}

/// In UTC: a terminal's own time zone is not known to be that of the hosts.
fn time_of_day(at: u64) -> String {
    let seconds = at % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `text` for a terminal of so many lines and columns: from its upper left corner, without what stood there before. What
/// does not fit is counted.
pub fn frame(text: &str, lines: usize, columns: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let room = lines.saturating_sub(1).max(1);
    let shown = if all.len() <= room { all.len() } else { room - 1 };
    let mut frame = String::from("\u{1b}[H");
    for line in &all[..shown] {
        let _ = write!(frame, "{}\u{1b}[K\r\n", clipped(line, columns));
    }
    if shown < all.len() {
        let more = format!("... and {} lines more", all.len() - shown);
        let _ = write!(frame, "{}\u{1b}[K\r\n", clipped(&more, columns));
    }
    frame.push_str("\u{1b}[J");
    frame
}

/// At most so many characters of a line; colours do not count, and end with it.
fn clipped(line: &str, columns: usize) -> String {
    let plain = anstream::adapter::strip_str(line).to_string();
    if plain.chars().count() <= columns {
        return line.to_owned();
    }
    plain.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::apply::HostStatus;
    use crate::apply::status::HostView;

    fn real_server(key: &str, total: u64) -> RealServerView {
        RealServerView {
            host: (key == "192.0.2.3:80").then(|| "web1".parse().unwrap()),
            key: key.parse().unwrap(),
            method: "nat".to_owned(),
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            counters: Counters {
                active: 2,
                inactive: 1,
                total,
                packets_in: 6 * total,
                packets_out: 5 * total,
                bytes_in: 1000 * total,
                bytes_out: 1_000_000 * total,
                ..Counters::default()
            },
        }
    }

    fn report(totals: &[(&str, u64)]) -> StatusReport {
        let service = ServiceView {
            name: "web".to_owned(),
            display_name: "web".to_owned(),
            key: "tcp 192.0.2.80:80".parse().unwrap(),
            scheduler: Some("rr".to_owned()),
            settings: Some("rr".to_owned()),
            persistence: None,
            real_servers: totals.iter().map(|(key, total)| real_server(key, *total)).collect(),
        };
        let view = HostView {
            status: HostStatus::Unchanged,
            failure: None,
            applied_since: None,
            drift: Vec::new(),
            services: vec![service],
            foreign: Vec::new(),
            timeouts: None,
            daemons: BTreeMap::new(),
            open_transaction: None,
            reverted: None,
            in_maintenance_since: None,
            notes: Vec::new(),
            own_looks: None,
            external_weights: Vec::new(),
        };
        let hosts = BTreeMap::from([("lvs".parse().unwrap(), view)]);
        StatusReport { topology: "t".to_owned(), hosts, open_transactions: Vec::new() }
    }

    const A: &str = "192.0.2.3:80";
    const B: &str = "192.0.2.4:80";

    #[test]
    fn rates_are_differences_of_counters_and_unknown_where_one_went_back() {
        let first = Look::new(0, report(&[(A, 100)]), None);
        assert_eq!((first.seconds, first.rates.len()), (None, 0));
        let second = Look::new(2, report(&[(A, 125), (B, 7)]), Some((&first, 2.0)));
        assert_eq!(connections(&second.rates), [Some(12.5), None], "the second one is new");
        assert_eq!(connections(&second.service_rates), [None]);
        let third = Look::new(4, report(&[(A, 3), (B, 7)]), Some((&second, 2.0)));
        assert_eq!(connections(&third.rates), [None, Some(0.0)], "the first one was zeroed");
        let none = Look::new(4, report(&[(A, 3)]), Some((&third, 0.0)));
        assert_eq!(connections(&none.rates), [None], "no time has passed");
    }

    fn connections(rates: &[RateView]) -> Vec<Option<f64>> {
        rates.iter().map(|it| it.rates.connections_per_s).collect()
    }

    /// Under direct routing replies do not pass the director: there is no column for them.
    #[test]
    fn columns_of_replies_stand_only_where_replies_pass() {
        let direct = |total: u64| {
            let mut report = report(&[(A, total)]);
            let services = report.hosts.values_mut().flat_map(|host| &mut host.services);
            for it in services.flat_map(|service| &mut service.real_servers) {
                it.method = "dr".to_owned();
                (it.counters.packets_out, it.counters.bytes_out) = (0, 0);
            }
            report
        };
        let first = Look::new(0, direct(100), None);
        let second = Look::new(2, direct(120), Some((&first, 2.0)));
        let shown = anstream::adapter::strip_str(&text(&second)).to_string();
        let lines: Vec<&str> = shown.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "  real server  weight  active  inactive  total  new/s  pkt/s in  B/s in",
                "  web1         1       2       1         120    10.0   60.0      10.0k",
            ]
        );
        // In the first look nothing is known.
        assert!(text(&first).contains("100    -      -         -\n"), "{}", text(&first));
    }

    #[test]
    fn rates_have_the_unit_that_fits() {
        for (rate, expected) in [
            (0.0, "0.0"),
            (0.5, "0.5"),
            (9999.9, "9999.9"),
            (9999.96, "10.0k"),
            (999_900.0, "999.9k"),
            (999_960.0, "1.0M"),
            (1_250_000_000.0, "1.2G"),
            (4.2e15, "4200000.0G"),
        ] {
            assert_eq!(rate_text(Some(rate)), expected);
        }
        assert_eq!(rate_text(None), "-");
    }

    #[test]
    fn a_look_is_a_block_of_text_and_a_line_of_json() {
        let first = Look::new(0, report(&[(A, 100), (B, 0)]), None);
        let second = Look::new(3_723, report(&[(A, 120), (B, 10)]), Some((&first, 2.0)));
        let shown = anstream::adapter::strip_str(&text(&second)).to_string();
        assert_eq!(
            shown,
            "t  01:02:03 UTC\n\
             \n\
             web  tcp 192.0.2.80:80  rr  on lvs\n\
            \x20 real server   weight  active  inactive  total  new/s  pkt/s in  pkt/s out  B/s in  B/s out\n\
            \x20 web1          1       2       1         120    10.0   60.0      50.0       10.0k   10.0M\n\
            \x20 192.0.2.4:80  1       2       1         10     5.0    30.0      25.0       5000.0  5.0M\n\
            \x20 all                   4       2         130    15.0   90.0      75.0       15.0k   15.0M\n"
        );
        let line = json(&second);
        assert!(!line.contains('\n'), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["schema"], "lvsprov/watch/1");
        assert_eq!(read["rates"][0]["connections_per_s"], 10.0);
        assert_eq!(read["rates"][0]["bytes_out_per_s"], 10_000_000.0);
        assert_eq!(read["rates"][1]["destination"], B);
        let sums = &read["service_rates"][0];
        assert_eq!(
            (&sums["packets_in_per_s"], &sums["packets_out_per_s"]),
            (&90.0.into(), &75.0.into())
        );
        assert_eq!(
            (&sums["service"], sums.get("destination")),
            (&"tcp 192.0.2.80:80".into(), None)
        );
        assert_eq!(read["status"]["hosts"]["lvs"]["services"][0]["name"], "web");
    }

    #[test]
    fn a_frame_fits_the_terminal() {
        let text = "one\ntwo\nthree is long\nfour\n";
        let lines = |frame: &str| frame.matches("\r\n").count();
        let all = frame(text, 10, 80);
        assert!(all.starts_with("\u{1b}[Hone\u{1b}[K\r\n") && all.ends_with("\u{1b}[J"));
        assert_eq!(lines(&all), 4);
        let cut = frame(text, 4, 5);
        assert_eq!(lines(&cut), 3);
        assert!(cut.contains("... a\u{1b}[K") && !cut.contains("three"), "{cut:?}");
        assert_eq!(lines(&frame(text, 0, 0)), 1);
    }
}
