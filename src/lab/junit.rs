//! Results for CI as JUnit XML: one suite for each playbook, one test case for each case.
//!
//! Characters that XML 1.0 forbids are removed: quick-junit removes control characters, this module the
//! two others.

use std::io;
use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::report::lab::CaseResult;
use crate::whole_file;

/// Why the results could not be written.
#[derive(Debug, thiserror::Error)]
pub enum JunitError {
    /// The file cannot be written.
    #[error("cannot write the JUnit results to {path}")]
    Io {
        /// The path.
        path: String,
        /// The error.
        source: io::Error,
    },
    /// The XML could not be serialised.
    #[error("cannot put the results into JUnit XML")]
    Xml(#[from] quick_junit::SerializeError),
}

/// Writes `results` to `path` atomically: a reader sees the old file or the new one. Suites are in the
/// order in which playbooks first appear.
///
/// # Errors
/// If the folder of `path` does not exist or cannot be written.
pub fn write(path: &Path, results: &[CaseResult]) -> Result<(), JunitError> {
    let xml = report(results).to_string()?;
    whole_file::write(path, xml.as_bytes(), 0o644, true)
        .map_err(|source| JunitError::Io { path: path.display().to_string(), source })
}

fn report(results: &[CaseResult]) -> Report {
    let mut report = Report::new("lvsprov lab");
    let mut suites: Vec<(&str, TestSuite, Duration)> = Vec::new();
    for result in results {
        let CaseResult { playbook, name: _, ok: _, seconds, detail: _ } = result;
        let took = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
        let at = suites.iter().position(|(name, ..)| name == playbook).unwrap_or_else(|| {
            suites.push((
                playbook,
                TestSuite::new(without_noncharacters(playbook)),
                Duration::ZERO,
            ));
            suites.len() - 1
        });
        if let Some((_, suite, total)) = suites.get_mut(at) {
            suite.add_test_case(case(result, took));
            *total = total.saturating_add(took);
        }
    }
    let mut total = Duration::ZERO;
    for (_, mut suite, took) in suites {
        total = total.saturating_add(took);
        suite.set_time(took);
        report.add_test_suite(suite);
    }
    report.set_time(total);
    report
}

/// Without the two noncharacters that XML 1.0 forbids (section 2.2, `Char`).
fn without_noncharacters(text: &str) -> String {
    text.replace(['\u{fffe}', '\u{ffff}'], "")
}

fn case(result: &CaseResult, took: Duration) -> TestCase {
    let CaseResult { playbook, name, ok, seconds: _, detail } = result;
    let (playbook, name, detail) = (
        without_noncharacters(playbook),
        without_noncharacters(name),
        without_noncharacters(detail),
    );
    let status = if *ok {
        TestCaseStatus::success()
    } else {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(detail.lines().next().unwrap_or_default());
        status.set_description(&detail);
        status
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(playbook).set_time(took);
    if *ok && !detail.is_empty() {
        case.set_system_out(&detail);
    }
    case
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn result(playbook: &str, name: &str, ok: bool, detail: &str) -> CaseResult {
        let (playbook, name, detail) = (playbook.into(), name.into(), detail.into());
        CaseResult { playbook, name, ok, seconds: 0.5, detail }
    }

    #[test]
    fn the_file_reads_back_with_a_suite_for_each_playbook() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.xml");
        std::fs::write(&path, "the old file").unwrap();
        let results = [
            result("dr", "answers", true, "web1 12, web2 12"),
            result("nat", "answers", false, "web1 24\nexpected: even"),
            result("dr", "arp", false, "odd: \u{1}\u{1b}[31m <&>\"]]> \u{fffe} é"),
            CaseResult { seconds: f64::NAN, ..result("nat", "again", true, "") },
        ];
        write(&path, &results).unwrap();
        let report =
            Report::deserialize_from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((report.tests, report.failures), (4, 2));
        let names: Vec<&str> = report.test_suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["dr", "nat"]);
        let dr = &report.test_suites[0];
        assert_eq!((dr.tests, dr.failures, dr.time), (2, 1, Some(Duration::from_secs(1))));
        let TestCaseStatus::NonSuccess { description, .. } = &dr.test_cases[1].status else {
            unreachable!("it failed")
        };
        assert_eq!(description.as_ref().unwrap().as_str(), "odd:  <&>\"]]>  é");
        let TestCaseStatus::NonSuccess { message, .. } =
            &report.test_suites[1].test_cases[0].status
        else {
            unreachable!("it failed")
        };
        assert_eq!(message.as_ref().unwrap().as_str(), "web1 24");
        // No temporary file is left.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = write(Path::new("/nonexistent/results.xml"), &[]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/results.xml"), "{error}");
    }
}
