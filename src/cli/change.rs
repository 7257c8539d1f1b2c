//! Commands that change hosts: `apply`, `destroy`, `rollback`, `confirm`. One function each.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::arguments::{CommonArguments, HostArguments, PlanArguments};
use super::change_arguments::ChangeArguments;
use super::cluster::{ObservedCluster, examine, load, run_on_hosts};
use super::output::{self, CommandResult, Exit};
use super::plan_file;
use super::rules::DenyArgument;
use crate::apply::cluster_plan::Direction;
use crate::apply::holders::VipProbing;
use crate::apply::operator::OperatorConsole as _;
use crate::apply::recover::{self, RollbackOptions};
use crate::apply::requests::describe_busy;
use crate::apply::saved_plan::{SavedContent, SavedPlan};
use crate::apply::transaction::{self, RetryReason, TransactionOutcome, VerifyBy};
use crate::apply::{ClusterReport, open_transactions, operator};
use crate::report::cluster::ReasonDetail;
use crate::topology::PaceOverride;
use crate::{report, topology};

/// Between two observations while another transaction holds a host.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// How often hosts that change meanwhile are planned anew.
const PLANS: u32 = 5;

/// `apply`, of a topology or of a saved plan.
pub fn apply(
    hosts: &HostArguments,
    deny: &DenyArgument,
    plan: PlanArguments,
    pace: PaceOverride,
    change: &ChangeArguments,
    verify: VerifyBy,
    common: &CommonArguments,
) -> CommandResult {
    if let Some(text) = plan_file::text_of(&hosts.file)? {
        let saved = SavedPlan::read(&hosts.file.display().to_string(), &text)?;
        return plan_file::run_saved(
            saved,
            hosts,
            deny,
            plan,
            pace,
            common,
            async |cluster, saved| {
                cluster.refuse_unanswered(plan.allow.allow_unanswered);
                let how = Running { change, verify, reasons: plan.reasons.detail() };
                run_transaction(cluster, &how, Some(saved), common).await
            },
        );
    }
    let text = topology::read_file(&hosts.file)?;
    let Some(topology) = examine(&hosts.file, &text, &deny.findings, common.format)? else {
        return Ok(Exit::Findings);
    };
    let probing = plan.probe.to_probing();
    run_on_hosts(topology, hosts, pace, probing, common, async |cluster| {
        cluster.adopt_if(plan.adopt.adopt);
        cluster.refuse_unanswered(plan.allow.allow_unanswered);
        let how = Running { change, verify, reasons: plan.reasons.detail() };
        run_transaction(cluster, &how, None, common).await
    })
}

/// `destroy`.
pub fn destroy(
    hosts: &HostArguments,
    dry_run: bool,
    pace: PaceOverride,
    change: &ChangeArguments,
    reasons: ReasonDetail,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(&hosts.file, common.format)? else { return Ok(Exit::Findings) };
    run_on_hosts(topology, hosts, pace, VipProbing::Off, common, async |cluster| {
        cluster.plan_towards(Direction::Destroy);
        if dry_run {
            let mut report = cluster.plan.report(cluster.session.topology);
            open_transactions::add_to_report(&mut report, &cluster.plan, &cluster.observed);
            return print_report(&report, reasons, common);
        }
        // A removed service answers no requests.
        let how = Running { change, verify: VerifyBy::State, reasons };
        run_transaction(cluster, &how, None, common).await
    })
}

/// `rollback`.
pub fn rollback(
    hosts: &HostArguments,
    force: bool,
    dry_run: bool,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(&hosts.file, common.format)? else { return Ok(Exit::Findings) };
    let pace = PaceOverride::default();
    run_on_hosts(topology, hosts, pace, VipProbing::Off, common, async |cluster| {
        let ObservedCluster { session, observed, plan, console, .. } = cluster;
        let options = RollbackOptions { by: operator::here(), force, dry_run };
        let _signals = (!dry_run).then(|| console.catch_signals());
        let report = recover::rollback(session, plan, observed, &options).await;
        print_report(&report, ReasonDetail::Short, common)
    })
}

/// `confirm`.
pub fn confirm(hosts: &HostArguments, common: &CommonArguments) -> CommandResult {
    let Some(topology) = load(&hosts.file, common.format)? else { return Ok(Exit::Findings) };
    let pace = PaceOverride::default();
    run_on_hosts(topology, hosts, pace, VipProbing::Off, common, async |cluster| {
        let ObservedCluster { session, observed, plan, .. } = cluster;
        let report = recover::confirm(session, plan, observed, &operator::here()).await;
        let nothing = report.open_transactions.is_empty();
        let differs = plan.report(session.topology).has_pending();
        let exit = print_report(&report, ReasonDetail::Short, common)?;
        // An operator who confirms expects a transaction to keep.
        Ok(if exit == Exit::Ok && nothing && differs { Exit::Pending } else { exit })
    })
}

fn print_report(
    report: &ClusterReport,
    reasons: ReasonDetail,
    common: &CommonArguments,
) -> CommandResult {
    output::print_report(
        common,
        || report::cluster::json(report),
        || report::cluster::text_with(report, reasons),
        || report::markdown::cluster::markdown(report),
    )?;
    Ok(if report.has_failures() { Exit::HostFailed } else { Exit::Ok })
}

/// How a transaction goes, and how it is reported.
struct Running<'a> {
    change: &'a ChangeArguments,
    verify: VerifyBy,
    reasons: ReasonDetail,
}

/// Runs the plan as a transaction. While another transaction holds a host it waits, observes and plans anew.
async fn run_transaction(
    cluster: &mut ObservedCluster<'_, '_>,
    how: &Running<'_>,
    saved: Option<&SavedContent>,
    common: &CommonArguments,
) -> CommandResult {
    let Running { change, verify, reasons } = *how;
    let _signals = cluster.console.catch_signals();
    let until = Instant::now() + Duration::from_secs(change.wait);
    let mut plans = 1;
    loop {
        let policy = change.policy(verify);
        if let Some(exit) = plan_file::refuse_if_changed(cluster, saved, common)? {
            return Ok(exit);
        }
        let ObservedCluster { session, plan, observed, direction, console, .. } = cluster;
        let console = *console;
        if recover::commit_voted(session, plan, observed, &policy.by).await {
            cluster.refresh().await;
            continue;
        }
        let TransactionOutcome { report, retry } =
            transaction::run(session, plan, observed, *direction, &policy).await;
        let goes_on = match retry {
            // No transaction is open, so stopping leaves nothing behind.
            Some(_) if console.stop_requested() => false,
            Some(RetryReason::Busy { host, busy }) if Instant::now() < until => {
                let who = format!("{host}: {}", describe_busy(&busy));
                wait_for_other_transaction(cluster, &who, until).await;
                !console.stop_requested()
            }
            // A saved plan is compared again, and refused with the differences.
            Some(RetryReason::Changed { .. }) if plans < PLANS => {
                plans += 1;
                cluster.refresh().await;
                true
            }
            _ => false,
        };
        if !goes_on {
            return print_report(&report, reasons, common);
        }
    }
}

/// Until no host is held, or the time is over; then all hosts are observed anew.
async fn wait_for_other_transaction(
    cluster: &mut ObservedCluster<'_, '_>,
    who: &str,
    until: Instant,
) {
    let console = cluster.console;
    console.notify(&format!("waiting: {who}"));
    loop {
        let left = until.saturating_duration_since(Instant::now());
        console.show_wait(Some(&format!("waiting for {} s more: {who}", left.as_secs())));
        sleep(OBSERVE_EVERY.min(left)).await;
        if console.stop_requested() {
            break;
        }
        cluster.refresh().await;
        let held = cluster.observed.values().flatten().any(|host| {
            let open = host.open_transaction.as_ref();
            open.is_some_and(|open| open.holder.is_some() || open.reverts_in_ms.is_some())
        });
        if !held || Instant::now() >= until || console.stop_requested() {
            break;
        }
    }
    console.show_wait(None);
}
