//! What the network answered: `verify`, and the end of an apply.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use crate::apply::verify::{Excuse, Verdict, Verification, VerifyReport};

/// As JSON, schema `lvsprov/verify/1`.
pub fn json(report: &VerifyReport) -> serde_json::Value {
    super::with_schema("verify", report)
}

/// As text, a claim a line.
pub fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for verification in &report.verifications {
        let verdict = match verification.verdict {
            Verdict::Holds => "holds      ".green().to_string(),
            Verdict::Fails => "FAILS      ".red().to_string(),
            Verdict::NotChecked => "not checked".yellow().to_string(),
        };
        let _ = writeln!(text, "{verdict}  {}", verification.claim);
        let _ = writeln!(text, "             {}", verification.evidence.dimmed());
    }
    let count = |verdict| report.verifications.iter().filter(|it| it.verdict == verdict).count();
    let _ = writeln!(
        text,
        "\n{}: {} hold, {} fail, {} not checked",
        report.topology,
        count(Verdict::Holds),
        count(Verdict::Fails),
        count(Verdict::NotChecked)
    );
    text
}

/// How many names one line has.
const NAMES: usize = 6;

/// In a line each: services that answered, warnings, and services that requests did not verify, with the
/// reasons. Empty where no requests were planned. A claim that required the abort is shown with the abort.
pub(super) fn summary(verifications: &[Verification]) -> String {
    let of_services = || verifications.iter().filter(|verification| verification.service.is_some());
    let mut text = String::new();
    let answered =
        names(of_services().filter(|verification| verification.verdict == Verdict::Holds));
    if !answered.is_empty() {
        let _ = writeln!(text, "requests: answered by {}", listed(&answered));
    }
    for verification in
        of_services().filter(|verification| verification.excuse == Some(Excuse::Replied))
    {
        let label = "warning:".yellow();
        let _ = writeln!(
            text,
            "{label} not true yet: {}: {}",
            verification.claim, verification.evidence
        );
    }
    let mut unproven: BTreeMap<&str, Vec<&Verification>> = BTreeMap::new();
    for verification in of_services() {
        let why = match (verification.verdict, verification.excuse) {
            (Verdict::NotChecked, _) => verification.evidence.as_str(),
            (_, Some(Excuse::Datagrams)) => {
                "no datagram was answered, as no application must answer what it does not understand"
            }
            _ => continue,
        };
        unproven.entry(why).or_default().push(verification);
    }
    let reasons: Vec<String> = unproven
        .into_iter()
        .map(|(why, unverified)| format!("{} ({why})", listed(&names(unverified.into_iter()))))
        .collect();
    if !reasons.is_empty() {
        let _ = writeln!(text, "not proven by requests: {}", reasons.join("; "));
    }
    text
}

/// Each service once, in the order of the file.
fn names<'p>(verifications: impl Iterator<Item = &'p Verification>) -> Vec<&'p str> {
    let mut names: Vec<&str> = Vec::new();
    for name in verifications.filter_map(|verification| verification.service.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn listed(names: &[&str]) -> String {
    let first = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verification(
        service: &str,
        verdict: Verdict,
        excuse: Option<Excuse>,
        evidence: &str,
    ) -> Verification {
        Verification {
            claim: format!("client is answered by {service}"),
            verdict,
            evidence: evidence.to_owned(),
            service: Some(service.to_owned()),
            excuse,
        }
    }

    fn shown(verifications: &[Verification]) -> String {
        anstream::adapter::strip_str(&summary(verifications)).to_string()
    }

    #[test]
    fn each_service_and_each_reason_is_shown_once() {
        let mut verifications = vec![
            verification("web", Verdict::Holds, None, "2 of 2 requests answered"),
            verification("web", Verdict::Holds, None, "2 of 2 requests answered"),
            verification("app", Verdict::Fails, Some(Excuse::Replied), "2 failed: refused"),
            verification("dns", Verdict::Fails, Some(Excuse::Datagrams), "1 failed: timed out"),
            verification("bad", Verdict::Fails, None, "1 failed: timed out"),
        ];
        for n in 1..=8 {
            verifications.push(verification(
                &format!("s{n}"),
                Verdict::NotChecked,
                None,
                "no client",
            ));
        }
        assert_eq!(
            shown(&verifications),
            "requests: answered by web\n\
             warning: not true yet: client is answered by app: 2 failed: refused\n\
             not proven by requests: s1, s2, s3, s4, s5, s6 and 2 more (no client); dns (no datagram was \
             answered, as no application must answer what it does not understand)\n"
        );
        assert_eq!(shown(&[]), "");
    }
}
