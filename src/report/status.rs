//! What `status` found.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use owo_colors::OwoColorize as _;

use super::plural;
use crate::apply::HostStatus;
use crate::apply::status::{HostView, ServiceView, StatusReport};
use crate::state::{DriftRecord, FoundDrift, Timeouts};

/// As JSON, schema `lvsprov/status/1`.
pub fn json(report: &StatusReport) -> serde_json::Value {
    super::with_schema("status", report)
}

/// As text: hosts with their drift, then the services with their real servers.
pub fn text(report: &StatusReport) -> String {
    let mut text = String::new();
    for (name, host) in &report.hosts {
        let _ = writeln!(text, "{}  {}", name.bold(), state(host));
        for note in &host.notes {
            let _ = writeln!(text, "    {}", note.yellow());
        }
        for difference in &host.drift {
            let _ = writeln!(text, "    {} {difference}", "differs:".yellow());
        }
        if let Some(timeouts) = host.timeouts.filter(|timeouts| *timeouts != Timeouts::default()) {
            let _ = writeln!(text, "    timeouts: {timeouts}");
        }
        for (role, daemon) in &host.daemons {
            let _ = writeln!(text, "    sync daemon {role}: {daemon}");
        }
        if let Some(view) = &host.open_transaction {
            text.push_str(&super::transaction::host_transaction(view));
        }
        if let Some(reverted) = &host.reverted {
            text.push_str(&super::transaction::reverted(reverted));
        }
        if let Some(record) = &host.own_looks {
            text.push_str(&own_looks(record));
        }
        text.push_str(&super::foreign(&host.foreign));
        if let Some(failure) = &host.failure {
            let _ = writeln!(text, "    {} {failure}", "error:".red());
            if let Some(cure) = &failure.cure {
                let _ = writeln!(text, "        do: {cure}");
            }
        }
    }
    for (name, host) in &report.hosts {
        for service in &host.services {
            text.push('\n');
            text.push_str(&service_text(name.as_str(), service));
        }
    }
    text.push_str(&super::transaction::open_transactions(&report.open_transactions));
    text
}

/// How a host stands, in a few words.
pub(super) fn state(host: &HostView) -> String {
    let since = host.applied_since.map_or_else(
        || "never applied here".to_owned(),
        |since| format!("applied {} ago", age(since)),
    );
    match &host.status {
        HostStatus::Unchanged => format!("{}, {since}", "as the file wants it".green()),
        HostStatus::Pending => {
            let count = host.drift.len();
            let differences = format!("{count} {}", plural(count, "difference"));
            format!("{}, {since}", differences.yellow())
        }
        HostStatus::Refused => "it refused".red().to_string(),
        HostStatus::Obstructed => "something stands in the way".red().to_string(),
        HostStatus::Unmanaged => "not managed".dimmed().to_string(),
        HostStatus::LeftOut => "left out by --limit".dimmed().to_string(),
        _ => "not reached".red().to_string(),
    }
}

/// What the host's own looks for drift found.
fn own_looks(record: &DriftRecord) -> String {
    let DriftRecord { looked_at, action, found, left } = record;
    let mut text = format!("    own look for drift ({action}): {} ago", age(*looked_at));
    match found {
        None => text.push_str(", none seen yet\n"),
        Some(found) => {
            let FoundDrift { at, items, more, units, mended_at, gone_at, failure } = found;
            let count = items.len() + more;
            let _ =
                write!(text, "; drift of {count} {} seen {} ago", plural(count, "item"), age(*at));
            let end = match (mended_at, gone_at, failure) {
                (Some(mended_at), ..) => format!("mended {} ago", age(*mended_at)),
                (None, Some(gone_at), _) => format!("gone {} ago", age(*gone_at)),
                (None, None, Some(failure)) => format!("not mended: {failure}"),
                (None, None, None) => "still there".to_owned(),
            };
            let _ = writeln!(text, ", {end}");
            for item in items.iter().take(SHOWN) {
                let _ = writeln!(text, "        drift: {item}");
            }
            if count > SHOWN {
                let _ = writeln!(text, "        and {} more", count - SHOWN);
            }
            for change in units {
                let _ = writeln!(
                    text,
                    "        before it {} changed its state, {} ago",
                    change.unit,
                    age(change.at)
                );
            }
        }
    }
    for item in left.iter().take(SHOWN) {
        let _ = writeln!(text, "        left to a health checker or apply: {item}");
    }
    text
}

/// So many items of drift are shown.
const SHOWN: usize = 10;

fn service_text(director: &str, service: &ServiceView) -> String {
    let settings = service.settings.as_deref().unwrap_or("not in IPVS");
    let key = service.key.to_string();
    let name = if service.display_name == key {
        String::new()
    } else {
        format!("{}  ", service.display_name)
    };
    let mut text = format!("{}{key}  {settings}  on {director}\n", name.bold());
    // Columns without values are left out.
    let persistent = service.persistence.is_some()
        || service.real_servers.iter().any(|rs| rs.counters.persistent > 0);
    let limited =
        service.real_servers.iter().any(|rs| rs.upper_threshold > 0 || rs.lower_threshold > 0);
    let mut head = vec!["real server", "address", "method", "weight", "active", "inactive"];
    head.extend(persistent.then_some("persistent"));
    head.push("total");
    head.extend(limited.then_some("thresholds"));
    let mut rows: Vec<Vec<String>> = vec![head.into_iter().map(str::to_owned).collect()];
    for rs in &service.real_servers {
        let mut row = vec![
            rs.host.as_ref().map_or_else(|| "not in the file".to_owned(), ToString::to_string),
            rs.key.to_string(),
            rs.method.clone(),
            rs.weight.to_string(),
            rs.counters.active.to_string(),
            rs.counters.inactive.to_string(),
        ];
        row.extend(persistent.then(|| rs.counters.persistent.to_string()));
        row.push(rs.counters.total.to_string());
        row.extend(limited.then(|| match (rs.lower_threshold, rs.upper_threshold) {
            (0, 0) => "none".to_owned(),
            (lower, upper) => format!("{lower}..{upper}"),
        }));
        rows.push(row);
    }
    text.push_str(&super::table::aligned(&rows, 2));
    text
}

/// How long ago, in the largest fitting unit.
pub(super) fn age(since: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
    let seconds = then.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::apply::status::RealServerView;
    use crate::state::{Counters, DaemonRole, SyncDaemon};

    fn real_server(key: &str, upper_threshold: u32, active: u32) -> RealServerView {
        RealServerView {
            host: None,
            key: key.parse().unwrap(),
            method: "nat".to_owned(),
            weight: 1,
            upper_threshold,
            lower_threshold: 0,
            counters: Counters {
                active,
                inactive: 2,
                persistent: 3,
                total: 4,
                ..Counters::default()
            },
        }
    }

    fn service(key: &str, persistence: Option<u32>) -> ServiceView {
        ServiceView {
            name: "web".to_owned(),
            display_name: key.to_owned(),
            key: key.parse().unwrap(),
            scheduler: Some("sh".to_owned()),
            settings: Some("sh persistent 60 s flag-1".to_owned()),
            persistence,
            real_servers: vec![
                real_server("192.0.2.3:80", 9, 1),
                real_server("192.0.2.4:80", 0, 0),
            ],
        }
    }

    fn report(services: Vec<ServiceView>) -> StatusReport {
        let daemon = SyncDaemon { id: 7, ..SyncDaemon::on("eth0".parse().unwrap()) };
        let view = HostView {
            status: HostStatus::Unchanged,
            failure: None,
            applied_since: None,
            drift: Vec::new(),
            services,
            foreign: Vec::new(),
            timeouts: Some(Timeouts { tcp: 60, ..Timeouts::default() }),
            daemons: [(DaemonRole::Backup, daemon)].into(),
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

    #[test]
    fn status_shows_what_ipvs_has_beside_its_table() {
        let shown =
            anstream::adapter::strip_str(&text(&report(vec![service("fwmark4 8", Some(60))])))
                .to_string();
        assert_eq!(
            shown,
            "lvs  as the file wants it, never applied here\n\
            \x20   timeouts: tcp 60 s, tcp-fin 120 s, udp 300 s\n\
            \x20   sync daemon backup: on eth0, id 7, 224.0.0.81 port 8848, ttl 1\n\
             \n\
             fwmark4 8  sh persistent 60 s flag-1  on lvs\n\
            \x20 real server      address       method  weight  active  inactive  persistent  total  thresholds\n\
            \x20 not in the file  192.0.2.3:80  nat     1       1       2         3           4      0..9\n\
            \x20 not in the file  192.0.2.4:80  nat     1       0       2         3           4      none\n"
        );
    }

    #[test]
    fn status_in_json_only_ever_gains_members() {
        let json = json(&report(vec![service("tcp 192.0.2.80:80", None)]));
        let host = &json["hosts"]["lvs"];
        for member in ["status", "failure", "applied_since", "drift", "services", "foreign"] {
            assert!(host.get(member).is_some(), "{member}: {json:#}");
        }
        let service = &host["services"][0];
        assert_eq!(service["scheduler"], "sh");
        assert_eq!(service["real_servers"][0]["counters"]["active"], 1);
        // Documents of earlier versions can be read.
        let mut old = serde_json::to_value(report(Vec::new())).unwrap();
        for member in ["foreign", "timeouts", "daemons"] {
            old["hosts"]["lvs"].as_object_mut().unwrap().remove(member);
        }
        assert!(serde_json::from_value::<StatusReport>(old).is_ok());
    }
}
