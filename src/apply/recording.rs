//! What came of a turn, written into the host's report: which steps were done, which failed, and
//! of which nobody knows. Pure.

use super::outcome::{HostReport, HostStatus, StepReport, StepState, UndoEnd, Undoing};
use super::session::NoAnswer;
use crate::failure::Failure;
use crate::protocol::Execution;
use crate::state::Stage;

/// The host answered.
pub fn answered(host: &mut HostReport, stage: Stage, outcome: &Execution) {
    answered_part(host, stage, usize::MAX, outcome);
}

/// The host answered to the next `asked` steps of a stage.
pub fn answered_part(host: &mut HostReport, stage: Stage, asked: usize, outcome: &Execution) {
    let Execution { done, failure, after: _ } = outcome;
    let planned = |step: &&mut StepReport| step.stage == stage && step.state == StepState::Planned;
    for (at, step) in host.steps.iter_mut().filter(planned).take(asked).enumerate() {
        step.state = match (at.cmp(done), failure) {
            (std::cmp::Ordering::Less, _) => StepState::Done,
            (std::cmp::Ordering::Equal, Some(_)) => StepState::Failed,
            _ => StepState::NotDone,
        };
    }
    if let Some(failure) = failure {
        failed(host, failure.clone());
    }
}

/// The host did not answer.
pub fn unanswered(host: &mut HostReport, stage: Stage, no_answer: NoAnswer) {
    unanswered_part(host, stage, usize::MAX, no_answer);
}

/// The host did not answer to the next `asked` steps of a stage.
pub fn unanswered_part(host: &mut HostReport, stage: Stage, asked: usize, no_answer: NoAnswer) {
    let left = match no_answer {
        NoAnswer::Refused(_) => StepState::NotDone,
        NoAnswer::Lost(_) => StepState::Unknown,
    };
    let planned = |step: &&mut StepReport| step.stage == stage && step.state == StepState::Planned;
    for step in host.steps.iter_mut().filter(planned).take(asked) {
        step.state = left;
    }
    failed(host, no_answer.into_failure());
}

/// The host did not begin, or could not go on: nothing more is done on it.
pub fn refused(host: &mut HostReport, failure: Failure) {
    failed(host, failure);
}

/// The host had to wait for another, which failed.
pub fn not_attempted(host: &mut HostReport, because: String) {
    host.status = HostStatus::NotAttempted { because };
    give_up(host);
}

fn failed(host: &mut HostReport, failure: Failure) {
    host.status = HostStatus::Failed;
    host.failure = Some(failure);
    give_up(host);
}

/// What was still planned is not done any more.
fn give_up(host: &mut HostReport) {
    for step in host.steps.iter_mut().filter(|step| step.state == StepState::Planned) {
        step.state = StepState::NotDone;
    }
}

/// The host was to go back to what it was before.
pub fn undone(host: &mut HostReport, undoing: Undoing, because: &str) {
    match &undoing.end {
        UndoEnd::Undone | UndoEnd::Settled | UndoEnd::Planned => {
            let mut any = false;
            for step in &mut host.steps {
                if matches!(step.state, StepState::Done | StepState::Unknown) {
                    step.state = StepState::Undone;
                    any = true;
                }
            }
            let failed_itself = host.failure.is_some();
            if any && !failed_itself {
                host.status = HostStatus::Undone { because: because.to_owned() };
            }
        }
        UndoEnd::Left { failure, .. } => {
            if !host.status.is_failure() {
                host.status = HostStatus::Failed;
            }
            if host.failure.is_none() {
                host.failure = Some(failure.clone());
            }
        }
    }
    host.undoing = Some(undoing);
}
