//! Transactions: open ones with what each command would do, and rollbacks.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::cluster::{done, mark};
use crate::apply::outcome::{
    Action, HostRollback, HostTransactionReport, OpenTransactionReport, RollbackEnd,
};
use crate::apply::requests::describe_holder;
use crate::apply::{ClusterReport, HostReport, HostStatus};
use crate::state::Reverted;

/// The open transaction of a host.
pub(super) fn host_transaction(transaction: &HostTransactionReport) -> String {
    let HostTransactionReport {
        id,
        steps,
        as_wanted,
        differs,
        voted,
        holder,
        reverts_in_s,
        restarted,
        timer_log,
    } = transaction;
    let differs = match differs {
        1 => "1 item differs from before".to_owned(),
        more => format!("{more} items differ from before"),
    };
    let mut text = format!(
        "    {} transaction {id}: {as_wanted} of {steps} steps applied, {differs}",
        "unfinished:".yellow()
    );
    if *voted {
        text.push_str("; this host is verified, and waits for the decision");
    }
    if *restarted {
        text.push_str("; the host was restarted since, so undoing puts back its receipt alone");
    }
    if let Some(holder) = holder {
        let _ = write!(text, "; {} is at work", describe_holder(holder));
    }
    if let Some(seconds) = reverts_in_s {
        let _ = write!(text, "; the host undoes it by itself in {seconds} s");
    }
    text.push('\n');
    for line in timer_log {
        let _ = writeln!(text, "        its timer: {line}");
    }
    text
}

/// The transaction that a host reverted by itself.
pub(super) fn reverted(reverted: &Reverted) -> String {
    let Reverted { transaction, intent, by, at, restarted } = reverted;
    let when = if *restarted { "before this host was restarted" } else { "in time" };
    format!(
        "    {} this host undid transaction {transaction} ({intent} by {by}) by itself {} ago: it was \
         not confirmed {when}\n",
        "reverted:".yellow(),
        super::status::age(*at)
    )
}

/// The rollback of a host.
pub(super) fn rollback(rollback: &HostRollback, report: &ClusterReport) -> String {
    let HostRollback { steps, end } = rollback;
    let mut text = String::new();
    let because = report.transaction.as_ref().and_then(|of| of.because.as_deref());
    let because = because.map(|because| format!(", because {because}")).unwrap_or_default();
    match end {
        RollbackEnd::Committed | RollbackEnd::Planned if steps.is_empty() => {}
        RollbackEnd::RolledBack if steps.is_empty() => {
            text.push_str("    nothing had to be undone here\n");
        }
        RollbackEnd::RolledBack | RollbackEnd::Committed => {
            let _ = writeln!(text, "    {}{because}", "undone".yellow());
        }
        RollbackEnd::Planned => text.push_str("    would be undone\n"),
        RollbackEnd::Open { failure, reverts_in_s } => {
            let _ = writeln!(text, "    {} {}", "not undone:".red(), failure.message);
            for cause in &failure.causes {
                let _ = writeln!(text, "        {cause}");
            }
            if let Some(cure) = &failure.cure {
                let _ = writeln!(text, "        do: {cure}");
            }
            let _ = match reverts_in_s {
                Some(seconds) => writeln!(
                    text,
                    "        its timer begins to undo everything there in {seconds} s at the latest"
                ),
                None => writeln!(
                    text,
                    "        its journal is still there: `lvsprov rollback` undoes it once it can be \
                     reached"
                ),
            };
        }
    }
    for step in steps {
        let _ = writeln!(text, "    {} {}{}", mark(&step.edit), step.text, done(step));
    }
    text
}

/// The open transactions over all hosts, and what each command would do.
pub(super) fn open_transactions(all: &[OpenTransactionReport]) -> String {
    let mut text = String::new();
    for transaction in all {
        let OpenTransactionReport {
            id,
            intent,
            by,
            since,
            hosts,
            elsewhere,
            unknown,
            apply,
            rollback,
            confirm,
        } = transaction;
        let names = |hosts: &std::collections::BTreeSet<crate::names::HostName>| {
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            text,
            "{} transaction {id}: {intent} by {by}, {}, on {}",
            "unfinished".yellow(),
            format_args!("begun {} ago", super::status::age(*since)),
            names(hosts)
        );
        if !elsewhere.is_empty() {
            let _ = writeln!(text, "  no journal of it on {}", names(elsewhere));
        }
        if !unknown.is_empty() {
            let _ = writeln!(text, "  not known of {}", names(unknown));
        }
        let _ = writeln!(text, "  `lvsprov apply`    {apply}");
        let _ = writeln!(text, "  `lvsprov rollback` {rollback}");
        let _ = writeln!(text, "  `lvsprov confirm`  {confirm}");
    }
    text
}

/// Hosts on which the transaction of this command is still open.
pub(super) fn open_hosts(report: &ClusterReport) -> Vec<&str> {
    let is_open = |host: &HostReport| {
        let Some(rollback) = &host.rollback else {
            let untouched = matches!(
                host.status,
                HostStatus::Unreachable
                    | HostStatus::Refused
                    | HostStatus::Obstructed
                    | HostStatus::Unmanaged
                    | HostStatus::LeftOut
            );
            return !untouched && !host.steps.is_empty();
        };
        matches!(rollback.end, RollbackEnd::Open { .. })
    };
    let hosts = report.hosts.iter().filter(|(_, host)| is_open(host));
    hosts.map(|(name, _)| name.as_str()).collect()
}

/// The status of a host after a rollback or confirm; `None` for any other command.
pub(super) fn status(host: &HostReport, action: Action, several: bool) -> Option<String> {
    let end = host.rollback.as_ref().map(|rollback| &rollback.end);
    match action {
        Action::Rollback | Action::PlanRollback | Action::Confirm => {}
        Action::Plan | Action::PlanDestroy | Action::Apply | Action::Destroy => return None,
    }
    match (&host.status, end) {
        (HostStatus::Unchanged, _) => Some("nothing is unfinished here".green().to_string()),
        (_, Some(RollbackEnd::RolledBack)) => {
            let one = "undone: it is as it was before";
            let all = "undone: they are as they were before";
            Some(if several { all } else { one }.green().to_string())
        }
        (_, Some(RollbackEnd::Committed)) => Some("kept, and closed".green().to_string()),
        (_, Some(RollbackEnd::Planned)) => Some("unfinished".yellow().to_string()),
        (HostStatus::Failed, _) => {
            Some(if several { "left as they are" } else { "left as it is" }.red().to_string())
        }
        _ => None,
    }
}

/// One line for all hosts.
pub(super) fn summary(report: &ClusterReport) -> String {
    let count = |wanted: fn(&RollbackEnd) -> bool| {
        let ends = report.hosts.values().filter_map(|host| host.rollback.as_ref());
        ends.filter(|rollback| wanted(&rollback.end)).count()
    };
    let name = &report.topology;
    let undone = count(|end| *end == RollbackEnd::RolledBack);
    let settled = count(|end| *end == RollbackEnd::Committed);
    let planned = count(|end| *end == RollbackEnd::Planned);
    let failed = report.hosts.values().filter(|host| host.status.is_failure()).count();
    let mut parts = Vec::new();
    for (count, what) in [
        (undone, "undone"),
        (settled, "kept and closed"),
        (planned, "to be undone or closed"),
        (failed, "failed"),
    ] {
        if count > 0 {
            let hosts = if count == 1 { "host" } else { "hosts" };
            parts.push(format!("{count} {hosts} {what}"));
        }
    }
    if parts.is_empty() {
        return format!("{name}: nothing is unfinished");
    }
    format!("{name}: {}", parts.join(", "))
}
