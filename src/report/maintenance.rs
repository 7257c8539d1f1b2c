//! What `maintain`, `return` and `reboot` came to.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::plural;
use crate::apply::StepState;
use crate::apply::drain::DrainedServer;
use crate::apply::maintenance::{
    HostMaintenance, MaintenanceAction, MaintenanceEnd, MaintenanceReport,
};

/// As JSON, schema `lvsprov/maintenance/1`.
pub fn json(report: &MaintenanceReport) -> serde_json::Value {
    super::with_schema("maintenance", report)
}

/// As text: what the directors changed, each host with what came of it, and a line that sums up.
pub fn text(report: &MaintenanceReport) -> String {
    let mut text = String::new();
    for change in &report.changes {
        if change.has_failures() {
            text.push_str(&super::cluster::text(change));
            continue;
        }
        for (name, host) in &change.hosts {
            for step in &host.steps {
                let done = if step.state == StepState::Planned { "" } else { "  done" };
                let _ = writeln!(text, "{}  {}{done}", name.bold(), step.text);
            }
        }
        // Only a return sends requests.
        if report.action == MaintenanceAction::Return {
            text.push_str(&super::verify::summary(&change.verifications));
        }
    }
    for host in &report.hosts {
        text.push_str(&host_text(host));
    }
    let _ = writeln!(text, "{}", summary(report).bold());
    text
}

fn host_text(host: &HostMaintenance) -> String {
    let HostMaintenance { host: name, end, since, obstacles, failure, drained, notes } = host;
    let out = if since.is_some() { ", out of service" } else { "" };
    let state = match end {
        MaintenanceEnd::Planned => "nothing stands in the way".to_owned(),
        MaintenanceEnd::InMaintenance => "out of service".green().to_string(),
        MaintenanceEnd::Returned => "in service again".green().to_string(),
        MaintenanceEnd::Unchanged => "not in maintenance: nothing to return".green().to_string(),
        MaintenanceEnd::Rebooted => format!("rebooted, verified{out}").green().to_string(),
        MaintenanceEnd::Refused => "not touched: something stands in the way".red().to_string(),
        MaintenanceEnd::Failed => format!("failed{out}").red().to_string(),
        MaintenanceEnd::NotAttempted => format!("not attempted{out}").yellow().to_string(),
    };
    let mut text = format!("{}  {state}\n", name.bold());
    for one in drained {
        let _ = writeln!(text, "    {}", drained_line(one));
    }
    for note in notes {
        let _ = writeln!(text, "    {note}");
    }
    for obstacle in obstacles {
        let _ = writeln!(text, "    {} {}", "!".red(), obstacle.message);
        let _ = writeln!(text, "        why: {}", obstacle.why);
        let _ = writeln!(text, "        do:  {}", obstacle.cure);
    }
    if let Some(failure) = failure {
        let _ = writeln!(text, "    {} {}", "error:".red(), failure.message);
        for cause in &failure.causes {
            let _ = writeln!(text, "        {cause}");
        }
        if let Some(cure) = &failure.cure {
            let _ = writeln!(text, "        do: {cure}");
        }
    }
    text
}

fn drained_line(one: &DrainedServer) -> String {
    let DrainedServer { director, service, destination, most, left, seconds } = one;
    let connections =
        |count: u64| plural(usize::try_from(count).unwrap_or(usize::MAX), "connection");
    let what = format!("{destination} of {service} on {director}");
    match (left, most) {
        (0, 0) => format!("drained: {what} had no connections"),
        (0, most) => format!("drained: all of {most} {} to {what} have ended", connections(*most)),
        (left, _) => {
            let line = format!("{left} {} to {what} left after {seconds} s", connections(*left));
            line.yellow().to_string()
        }
    }
}

fn summary(report: &MaintenanceReport) -> String {
    let count = |end: MaintenanceEnd| report.hosts.iter().filter(|it| it.end == end).count();
    let hosts = |count: usize| format!("{count} {}", plural(count, "host"));
    let names = |hosts: Vec<&HostMaintenance>| {
        hosts.iter().map(|it| it.host.as_str()).collect::<Vec<_>>().join(" ")
    };
    let failed = report.hosts.iter().filter(|it| it.end.is_failure()).count();
    let planned = count(MaintenanceEnd::Planned);
    let mut text = format!("{}: ", report.topology);
    match report.action {
        _ if planned > 0 => {
            let _ = write!(text, "nothing was changed (--dry-run), {} planned", hosts(planned));
        }
        MaintenanceAction::Maintain => {
            let _ = write!(text, "{} in maintenance", hosts(count(MaintenanceEnd::InMaintenance)));
        }
        MaintenanceAction::Return => {
            let _ = write!(text, "{} returned", hosts(count(MaintenanceEnd::Returned)));
        }
        MaintenanceAction::Reboot => {
            let _ = write!(text, "{} rebooted", hosts(count(MaintenanceEnd::Rebooted)));
        }
    }
    if failed > 0 {
        let _ = write!(text, ", {} not", hosts(failed));
    }
    if report.leaves_connections() {
        let left = report.connections_left();
        let _ = write!(
            text,
            "\n{left} {} left: the same command waits for them again (`--drain SECONDS`), a reboot cuts them",
            plural(usize::try_from(left).unwrap_or(usize::MAX), "connection")
        );
    }
    let out: Vec<_> = report.hosts.iter().filter(|it| it.since.is_some()).collect();
    if !out.is_empty() && planned == 0 {
        let _ = write!(text, "\nback to service: `lvsprov return FILE {}`", names(out));
    }
    text
}
