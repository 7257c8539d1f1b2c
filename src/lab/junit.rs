//! Results as JUnit XML, which CI systems read.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// The result of one thing that the lab proved, or failed to.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Of which playbook.
    pub playbook: String,
    /// What was to be shown.
    pub name: String,
    /// Whether it was.
    pub ok: bool,
    /// How long that took; 0 and more.
    pub seconds: f64,
    /// What was seen; for a failure, why it is one.
    pub detail: String,
}

/// Writes the cases as one test suite for each playbook, in the order of their names.
///
/// # Errors
/// As `to` has them.
pub fn write(cases: &[Case], to: impl Write) -> Result<(), quick_junit::SerializeError> {
    let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
    let mut all = Duration::ZERO;
    for case in cases {
        let Case { playbook, name, ok, seconds, detail } = case;
        let status = if *ok {
            TestCaseStatus::success()
        } else {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(detail.lines().next().unwrap_or_default());
            status.set_description(detail.as_str());
            status
        };
        let time = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
        all += time;
        let mut test = TestCase::new(name.as_str(), status);
        test.set_classname(playbook.as_str()).set_time(time);
        if *ok && !detail.is_empty() {
            test.set_system_out(detail.as_str());
        }
        let suite = suites.entry(playbook).or_insert_with(|| TestSuite::new(playbook.as_str()));
        let before = suite.time.unwrap_or_default();
        suite.set_time(before + time);
        suite.add_test_case(test);
    }
    let mut report = Report::new("lvsprov lab");
    report.set_time(all);
    report.add_test_suites(suites.into_values());
    report.serialize(to)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_playbook_is_a_suite_and_each_failure_says_why() {
        let case = |playbook: &str, name: &str, ok: bool, detail: &str| Case {
            playbook: playbook.into(),
            name: name.into(),
            ok,
            seconds: 1.5,
            detail: detail.into(),
        };
        let cases = [
            case("nat", "answers", true, "web1 10, web2 <10>"),
            case("dr", "silent", true, ""),
            case("dr", "arp", false, "web1 claims the VIP\nframe \u{1b}[31m 1"),
        ];
        let mut bytes = Vec::new();
        write(&cases, &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("tests=\"3\" skipped=\"0\" failures=\"1\""), "{text}");
        assert!(text.contains("<testsuite name=\"dr\" tests=\"2\""), "{text}");
        assert!(text.contains("message=\"web1 claims the VIP\""), "{text}");
        assert!(text.contains("&lt;10&gt;") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("time=\"4.500\""), "{text}");
    }

    #[test]
    fn odd_durations_are_no_panic() {
        for seconds in [f64::NAN, -1.0, f64::INFINITY] {
            let (playbook, name, detail) = ("p".to_owned(), "n".to_owned(), String::new());
            let case = Case { playbook, name, ok: true, seconds, detail };
            assert!(write(&[case], Vec::new()).is_ok());
        }
    }
}
