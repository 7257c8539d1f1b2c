//! Rules about how real servers are taken out and in.

use super::Subject;
use crate::finding::Finding;
use crate::plan::ramp;

/// A `ramp` that does nothing: smaller weights are no smaller shares, or there are none.
pub(super) fn ramp_without_effect(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| service.pace.ramp > 0) {
        let (why, cure) = if !ramp::shares_by_weight(service.scheduler) {
            let why = format!(
                "by the scheduler {} a smaller weight is no smaller share: a new real server gets its share at once",
                service.scheduler
            );
            (why, "use `scheduler: wlc`, `wrr`, `sed` or `twos`, or remove `ramp`")
        } else if service.real_servers.iter().all(|real| real.weight <= 1) {
            let why = "a weight of 1 cannot be split: a new real server gets its share at once";
            (why.to_owned(), "give its real servers weights of 5 or more")
        } else {
            continue;
        };
        let message = format!("{} has a `ramp` of {} s", service.spoken(), service.pace.ramp);
        findings.push(Finding::warning("ramp-without-effect", service.at, message, why, cure));
    }
    findings
}
