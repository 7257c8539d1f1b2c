//! Rules about drain and ramp times.

use super::Subject;
use crate::finding::Finding;
use crate::plan::ramp;

/// A `ramp` without effect: the scheduler ignores weights, or no weight can be split.
pub(super) fn ramp_without_effect(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| service.pace.ramp > 0) {
        let (why, cure) = if !ramp::shares_by_weight(service.scheduler) {
            let why = format!(
                "the scheduler {} does not give a smaller share for a smaller weight: a new real server gets its full share at once",
                service.scheduler
            );
            (why, "use `scheduler: wlc`, `wrr`, `sed` or `twos`, or remove `ramp`")
        } else if service.real_servers.iter().all(|real| real.weight <= 1) {
            let why =
                "a weight of 1 cannot grow in steps: a new real server gets its full share at once";
            (why.to_owned(), "give its real servers weights of 5 or more, or remove `ramp`")
        } else {
            continue;
        };
        let message = format!("{} has a `ramp` of {} s", service.display_name(), service.pace.ramp);
        findings.push(Finding::warning("ramp-without-effect", service.at, message, why, cure));
    }
    findings
}
