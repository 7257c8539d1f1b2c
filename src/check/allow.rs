//! Findings that comments of the file silence, and comments that silence nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::finding::{Finding, Severity, SilencedFinding};
use crate::topology::AllowComment;

/// Takes one finding out of `findings` for each comment: of its rule, on its line, the first that is no error.
///
/// A comment that silences nothing is a warning, unless the file has errors: those may hide the finding.
/// `findings` are sorted by their place; those about comments come last.
pub(super) fn silence(
    findings: &mut Vec<Finding>,
    comments: Vec<AllowComment>,
) -> Vec<SilencedFinding> {
    let has_errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    let mut waiting: HashMap<(u32, &str), VecDeque<AllowComment>> = HashMap::new();
    for comment in comments {
        waiting.entry((comment.line, comment.rule.name)).or_default().push_back(comment);
    }
    let mut silenced = Vec::new();
    let mut kept = Vec::with_capacity(findings.len());
    for finding in findings.drain(..) {
        let comments = waiting.get_mut(&(finding.at.line, finding.rule));
        let comment =
            comments.filter(|_| finding.severity != Severity::Error).and_then(VecDeque::pop_front);
        match comment {
            Some(AllowComment { reason, .. }) => silenced.push(SilencedFinding { finding, reason }),
            None => kept.push(finding),
        }
    }
    *findings = kept;
    if !has_errors {
        let elsewhere: HashSet<&str> = findings.iter().map(|finding| finding.rule).collect();
        let mut unused: Vec<Finding> = waiting
            .into_values()
            .flatten()
            .map(|comment| unused(&comment, elsewhere.contains(comment.rule.name)))
            .collect();
        unused.sort_by_key(|finding| finding.at);
        findings.extend(unused);
    }
    silenced
}

fn unused(comment: &AllowComment, elsewhere: bool) -> Finding {
    let AllowComment { rule, line, at, .. } = comment;
    let cure = if elsewhere {
        "put it behind the value that the finding points at, or alone on the line directly above"
    } else {
        "remove the comment"
    };
    Finding::warning(
        "unused-allow",
        *at,
        format!(
            "this comment silences nothing: no finding of {rule} is left for it on line {line}"
        ),
        "it would silence a later finding that no reader has looked at",
        cure,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::examine;
    use crate::finding::Position;

    /// A file with two warnings of one rule on line 9, and `above` on the line above.
    fn file(above: &str, behind: &str) -> String {
        format!(
            "version: 1\nname: x\nnetworks: {{lan: [192.0.2.0/24]}}\nhosts:\n  \
             lvs: {{role: director, interfaces: {{eth0: 192.0.2.2/24}}, ipvs: {{settings:\n    # more\n    \
             # and more\n    {above}\n    {{sync_ports: 2, sync_retries: 1}}}}}} {behind}\n  \
             rs: {{role: real_server, interfaces: {{eth0: 192.0.2.3/24}}}}\n\
             services: [{{vip: 192.0.2.80, port: 80, forward: nat, real_servers: [rs]}}]\n"
        )
    }

    fn rules(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn one_comment_silences_one_finding() {
        const ALLOW: &str = "# lvsprov: allow setting-without-effect a daemon follows";
        let of = |above: &str, behind: &str| examine("x", &file(above, behind));
        let none = of("# x", "");
        assert_eq!(rules(&none.findings), ["setting-without-effect"; 2]);
        assert!(none.silenced.is_empty());
        let one = of(ALLOW, "");
        assert_eq!(rules(&one.findings), ["setting-without-effect"]);
        assert!(one.findings[0].message.contains("sync_retries"), "{:?}", one.findings);
        assert_eq!(one.silenced[0].reason, "a daemon follows");
        assert!(one.silenced[0].finding.message.contains("sync_ports"));
        let both = of(ALLOW, ALLOW);
        assert!(both.findings.is_empty() && both.silenced.len() == 2, "{both:?}");
        assert!(both.topology.is_some());
        let three = of(&format!("{ALLOW}\n    {ALLOW}"), ALLOW);
        assert_eq!(rules(&three.findings), ["unused-allow"]);
        assert_eq!(three.silenced.len(), 2);
    }

    #[test]
    fn an_error_is_never_silenced_and_hides_no_comment() {
        let at = Position { line: 3, column: 1, length: 0 };
        let rule = crate::finding::rules::find("idle-connections").into_iter();
        let comments: Vec<AllowComment> =
            rule.map(|rule| AllowComment { rule, reason: "x".to_owned(), line: 3, at }).collect();
        let mut findings = vec![Finding::error("idle-connections", at, "a", "b", "c")];
        assert!(silence(&mut findings, comments.clone()).is_empty());
        assert_eq!(rules(&findings), ["idle-connections"]);
        let mut findings = vec![Finding::warning("idle-connections", at, "a", "b", "c")];
        assert_eq!(silence(&mut findings, comments).len(), 1);
        assert!(findings.is_empty());
    }

    #[test]
    fn an_unused_comment_on_the_wrong_line_says_where_to_put_it() {
        let allow = "# lvsprov: allow setting-without-effect x";
        let found = examine("x", &file("# x", &format!("\n  {allow}"))).findings;
        assert_eq!(
            rules(&found),
            ["setting-without-effect", "setting-without-effect", "unused-allow"]
        );
        assert!(found[2].cure.contains("directly above"), "{}", found[2].cure);
        let other = "# lvsprov: allow weights-ignored x";
        let found = examine("x", &file("# x", other)).findings;
        assert!(found.iter().any(|finding| finding.cure == "remove the comment"), "{found:?}");
    }
}
