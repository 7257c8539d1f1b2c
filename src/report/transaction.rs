//! Of transactions: what was found unfinished, what undoing did, and what each command would do.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::cluster::{done, mark};
use crate::apply::asking::describe_holder;
use crate::apply::outcome::{Action, Found, UndoEnd, Undoing, UnfinishedView};
use crate::apply::{ClusterReport, HostReport, HostStatus};
use crate::state::Reverted;

/// What a host has of an unfinished transaction.
pub(super) fn view(view: &UnfinishedView) -> String {
    let UnfinishedView {
        id,
        steps,
        as_wanted,
        differs,
        agreed,
        holder,
        reverts_in_s,
        restarted,
        told,
    } = view;
    let mut text = format!(
        "    {} transaction {id}: {as_wanted} of {steps} steps are as it wanted them, {differs} {} \
         from before it",
        "unfinished:".yellow(),
        if *differs == 1 { "thing differs" } else { "things differ" }
    );
    if *agreed {
        text.push_str("; all hosts were found right, and it was not closed yet");
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
    for line in told {
        let _ = writeln!(text, "        its timer: {line}");
    }
    text
}

/// What a host undid by itself.
pub(super) fn reverted(reverted: &Reverted) -> String {
    let Reverted { transaction, intent, by, at } = reverted;
    format!(
        "    {} this host undid transaction {transaction} ({intent} by {by}) by itself {} ago: nobody \
         had confirmed it in time\n",
        "reverted:".yellow(),
        super::proofs::age(*at)
    )
}

/// What undoing did on a host.
pub(super) fn undoing(undoing: &Undoing, report: &ClusterReport) -> String {
    let Undoing { steps, end } = undoing;
    let mut text = String::new();
    let because = report.transaction.as_ref().and_then(|of| of.because.as_deref());
    let because = because.map(|because| format!(", because {because}")).unwrap_or_default();
    match end {
        UndoEnd::Settled | UndoEnd::Planned if steps.is_empty() => {}
        UndoEnd::Undone if steps.is_empty() => {
            text.push_str("    nothing had to be undone here\n");
        }
        UndoEnd::Undone | UndoEnd::Settled => {
            let _ = writeln!(text, "    {}{because}", "undone".yellow());
        }
        UndoEnd::Planned => text.push_str("    would be undone\n"),
        UndoEnd::Left { failure, reverts_in_s } => {
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
        let _ = writeln!(text, "    {} {}{}", mark(&step.change), step.text, done(step));
    }
    text
}

/// What was found unfinished over all hosts, and what can be done.
pub(super) fn found(all: &[Found]) -> String {
    let mut text = String::new();
    for found in all {
        let Found { id, intent, by, since, hosts, elsewhere, unknown, apply, rollback, confirm } =
            found;
        let names = |hosts: &std::collections::BTreeSet<crate::names::HostName>| {
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            text,
            "{} transaction {id}: {intent} by {by}, {}, on {}",
            "unfinished".yellow(),
            format_args!("begun {} ago", super::proofs::age(*since)),
            names(hosts)
        );
        if !elsewhere.is_empty() {
            let _ = writeln!(text, "  no journal of it on {}", names(elsewhere));
        }
        if !unknown.is_empty() {
            let _ = writeln!(text, "  not known of {}", names(unknown));
        }
        let _ = writeln!(text, "  `lvsprov apply`    {apply}");
        let _ = writeln!(text, "  `lvsprov rollback` {}", rollback.trim_start());
        let _ = writeln!(text, "  `lvsprov confirm`  {confirm}");
    }
    text
}

/// Hosts on which a transaction of this command is left.
pub(super) fn left(report: &ClusterReport) -> Vec<&str> {
    let is_left = |host: &HostReport| {
        let Some(undoing) = &host.undoing else {
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
        matches!(undoing.end, UndoEnd::Left { .. })
    };
    let hosts = report.hosts.iter().filter(|(_, host)| is_left(host));
    hosts.map(|(name, _)| name.as_str()).collect()
}

/// How a host fared in a rollback or a confirmation; `None` in any other command.
pub(super) fn status(host: &HostReport, action: Action) -> Option<String> {
    let end = host.undoing.as_ref().map(|undoing| &undoing.end);
    match action {
        Action::Rollback | Action::PlanRollback | Action::Confirm => {}
        Action::Plan | Action::PlanDestroy | Action::Apply | Action::Destroy => return None,
    }
    match (&host.status, end) {
        (HostStatus::Unchanged, _) => Some("nothing is unfinished here".green().to_string()),
        (_, Some(UndoEnd::Undone)) => Some("undone: it is as it was before".green().to_string()),
        (_, Some(UndoEnd::Settled)) => Some("kept, and closed".green().to_string()),
        (_, Some(UndoEnd::Planned)) => Some("unfinished".yellow().to_string()),
        (HostStatus::Failed, _) => Some("left as it is".red().to_string()),
        _ => None,
    }
}

/// One line.
pub(super) fn summary(report: &ClusterReport) -> String {
    let count = |wanted: fn(&UndoEnd) -> bool| {
        let ends = report.hosts.values().filter_map(|host| host.undoing.as_ref());
        ends.filter(|undoing| wanted(&undoing.end)).count()
    };
    let name = &report.topology;
    let undone = count(|end| *end == UndoEnd::Undone);
    let settled = count(|end| *end == UndoEnd::Settled);
    let planned = count(|end| *end == UndoEnd::Planned);
    let failed = report.hosts.values().filter(|host| host.status.is_failure()).count();
    let mut said = Vec::new();
    for (count, what) in [
        (undone, "undone"),
        (settled, "kept and closed"),
        (planned, "to be undone or closed"),
        (failed, "failed"),
    ] {
        if count > 0 {
            let hosts = if count == 1 { "host" } else { "hosts" };
            said.push(format!("{count} {hosts} {what}"));
        }
    }
    if said.is_empty() {
        return format!("{name}: nothing is unfinished");
    }
    format!("{name}: {}", said.join(", "))
}
