//! What the network itself said after an apply.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use crate::apply::views::{Excuse, Proof, Verdict};

/// Names in one line.
const NAMES: usize = 6;

/// In a line each: what was answered, each warning, and what requests did not prove, with the reasons.
/// Empty where it did not come to requests. What condemned the change is told with what came of that.
pub(super) fn summary(proofs: &[Proof]) -> String {
    let of_services = || proofs.iter().filter(|proof| proof.service.is_some());
    let mut text = String::new();
    let answered = names(of_services().filter(|proof| proof.verdict == Verdict::Holds));
    if !answered.is_empty() {
        let _ = writeln!(text, "requests: answered by {}", listed(&answered));
    }
    for proof in of_services().filter(|proof| proof.excuse == Some(Excuse::Replied)) {
        let label = "warning:".yellow();
        let _ = writeln!(text, "{label} not true yet: {}: {}", proof.claim, proof.evidence);
    }
    let mut unproven: BTreeMap<&str, Vec<&Proof>> = BTreeMap::new();
    for proof in of_services() {
        let why = match (proof.verdict, proof.excuse) {
            (Verdict::NotChecked, _) => proof.evidence.as_str(),
            (_, Some(Excuse::Datagrams)) => {
                "no datagram was answered, as no application must answer what it does not understand"
            }
            _ => continue,
        };
        unproven.entry(why).or_default().push(proof);
    }
    let reasons: Vec<String> = unproven
        .into_iter()
        .map(|(why, proofs)| format!("{} ({why})", listed(&names(proofs.into_iter()))))
        .collect();
    if !reasons.is_empty() {
        let _ = writeln!(text, "not proven by requests: {}", reasons.join("; "));
    }
    text
}

/// Each service once, in the order of the file.
fn names<'p>(proofs: impl Iterator<Item = &'p Proof>) -> Vec<&'p str> {
    let mut names: Vec<&str> = Vec::new();
    for name in proofs.filter_map(|proof| proof.service.as_deref()) {
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

    fn proof(service: &str, verdict: Verdict, excuse: Option<Excuse>, evidence: &str) -> Proof {
        Proof {
            claim: format!("client is answered by {service}"),
            verdict,
            evidence: evidence.to_owned(),
            service: Some(service.to_owned()),
            excuse,
        }
    }

    fn told(proofs: &[Proof]) -> String {
        anstream::adapter::strip_str(&summary(proofs)).to_string()
    }

    #[test]
    fn each_service_is_told_once_and_a_reason_once() {
        let mut proofs = vec![
            proof("web", Verdict::Holds, None, "2 of 2 requests answered"),
            proof("web", Verdict::Holds, None, "2 of 2 requests answered"),
            proof("app", Verdict::Fails, Some(Excuse::Replied), "2 failed: refused"),
            proof("dns", Verdict::Fails, Some(Excuse::Datagrams), "1 failed: timed out"),
            proof("bad", Verdict::Fails, None, "1 failed: timed out"),
        ];
        for n in 1..=8 {
            proofs.push(proof(&format!("s{n}"), Verdict::NotChecked, None, "no client"));
        }
        assert_eq!(
            told(&proofs),
            "requests: answered by web\n\
             warning: not true yet: client is answered by app: 2 failed: refused\n\
             not proven by requests: s1, s2, s3, s4, s5, s6 and 2 more (no client); dns (no datagram was \
             answered, as no application must answer what it does not understand)\n"
        );
        assert_eq!(told(&[]), "");
    }
}
