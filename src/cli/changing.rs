//! Commands that change hosts: `apply`, `destroy`, `rollback`, `confirm`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::arguments::{Adoption, Common, Target};
use super::commands::Outcome;
use super::conduct::Conduct;
use super::exit::Exit;
use super::output;
use super::saved;
use super::survey::{Survey, with_hosts};
use crate::apply::acting::{self, Again, Came};
use crate::apply::asking::describe_busy;
use crate::apply::planning::Direction;
use crate::apply::recovering::{self, Rollback};
use crate::apply::saved::{Content, SavedPlan};
use crate::apply::transaction::VerifyBy;
use crate::apply::watch::Watch as _;
use crate::apply::{ClusterReport, operator, unfinished};
use crate::report;
use crate::topology::PaceOverride;

/// Between two looks at whether somebody else has come to the end.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is planned anew because hosts had changed meanwhile.
const PLANS: u32 = 5;

/// `apply`, of a topology or of a saved plan.
pub fn apply(
    target: &Target,
    adoption: Adoption,
    pace: PaceOverride,
    conduct: &Conduct,
    verify: VerifyBy,
    common: &Common,
) -> Outcome {
    if let Some(text) = saved::text_of(&target.file)? {
        let plan = SavedPlan::read(&target.file.display().to_string(), &text)?;
        return saved::with_plan(plan, target, adoption, pace, common, async |survey, plan| {
            act(survey, conduct, verify, Some(plan), common).await
        });
    }
    with_hosts(target, pace, common, async |survey| {
        survey.agree(adoption);
        act(survey, conduct, verify, None, common).await
    })
}

/// `destroy`.
pub fn destroy(
    target: &Target,
    dry_run: bool,
    pace: PaceOverride,
    conduct: &Conduct,
    common: &Common,
) -> Outcome {
    with_hosts(target, pace, common, async |survey| {
        survey.turn(Direction::Destroy);
        if dry_run {
            let mut report = survey.plan.report(survey.session.topology);
            unfinished::tell(&mut report, &survey.plan, &survey.seen);
            return show(&report, common);
        }
        // A service that is taken away has nothing to answer with.
        act(survey, conduct, VerifyBy::State, None, common).await
    })
}

/// `rollback`.
pub fn rollback(target: &Target, force: bool, dry_run: bool, common: &Common) -> Outcome {
    with_hosts(target, PaceOverride::default(), common, async |survey| {
        let Survey { session, seen, plan, person, .. } = survey;
        let how = Rollback { by: operator::here(), force, dry_run };
        let _listening = (!dry_run).then(|| person.listen());
        let report = recovering::rollback(session, plan, seen, &how).await;
        show(&report, common)
    })
}

/// `confirm`.
pub fn confirm(target: &Target, common: &Common) -> Outcome {
    with_hosts(target, PaceOverride::default(), common, async |survey| {
        let Survey { session, seen, plan, .. } = survey;
        let report = recovering::confirm(session, plan, seen, &operator::here()).await;
        let nothing = report.unfinished.is_empty();
        let differs = plan.report(session.topology).has_pending();
        let exit = show(&report, common)?;
        // Whoever confirms believes that there is something to keep.
        Ok(if exit == Exit::Ok && nothing && differs { Exit::Pending } else { exit })
    })
}

fn show(report: &ClusterReport, common: &Common) -> Outcome {
    output::show(common, || report::cluster::json(report), || report::cluster::text(report))?;
    Ok(if report.has_failures() { Exit::HostFailed } else { Exit::Ok })
}

/// Does what is planned. Where somebody else is at work it waits, looks and plans anew.
async fn act(
    survey: &mut Survey<'_>,
    conduct: &Conduct,
    verify: VerifyBy,
    saved: Option<&Content>,
    common: &Common,
) -> Outcome {
    let _listening = survey.person.listen();
    let until = Instant::now() + Duration::from_secs(conduct.wait);
    let mut plans = 1;
    loop {
        if let Some(exit) = saved::refused(survey, saved, common)? {
            return Ok(exit);
        }
        let Survey { session, plan, seen, direction, person, .. } = survey;
        let person = *person;
        if recovering::close_agreed(session, plan, seen, &operator::here()).await {
            survey.again().await;
            continue;
        }
        let came = acting::transact(session, plan, seen, *direction, &conduct.said(verify)).await;
        let Came { report, again } = came;
        let goes_on = match again {
            // Nothing is under way, so nothing is left.
            Some(_) if person.wants_to_stop() => false,
            Some(Again::Busy { host, busy }) if Instant::now() < until => {
                let who = format!("{host}: {}", describe_busy(&busy));
                wait(survey, &who, until).await;
                !person.wants_to_stop()
            }
            // A saved plan is looked at again, and refused with the differences.
            Some(Again::Moved { .. }) if plans < PLANS => {
                plans += 1;
                survey.again().await;
                true
            }
            _ => false,
        };
        if !goes_on {
            return show(&report, common);
        }
    }
}

/// Until nobody is at work any more, or the time is over; then everything is looked at anew.
async fn wait(survey: &mut Survey<'_>, who: &str, until: Instant) {
    let person = survey.person;
    person.tell(&format!("waiting: {who}"));
    loop {
        let left = until.saturating_duration_since(Instant::now());
        person.pending(Some(&format!("waiting for {} s more: {who}", left.as_secs())));
        sleep(LOOK.min(left)).await;
        if person.wants_to_stop() {
            break;
        }
        survey.again().await;
        let held = survey.seen.values().flatten().any(|seen| {
            let unfinished = seen.unfinished.as_ref();
            unfinished.is_some_and(|u| u.holder.is_some() || u.reverts_in_ms.is_some())
        });
        if !held || Instant::now() >= until || person.wants_to_stop() {
            break;
        }
    }
    person.pending(None);
}
