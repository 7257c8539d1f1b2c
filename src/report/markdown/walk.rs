//! Walks of `explain` as Markdown.

use std::fmt::Write as _;

use super::{fenced, folded, table, text};
use crate::names::HostName;
use crate::report::walk::{WalkRemark, WalkView, summary};

/// A heading with the summary, a row a request with its remarks and cures, and the ways, folded.
pub fn markdown(file: &str, walks: &[WalkView], not_seen: &[HostName]) -> String {
    let mut out = format!("### lvsprov explain {}\n\n", text(file));
    let _ = writeln!(out, "**Summary**: {}\n", text(&summary(walks.iter())));
    if !not_seen.is_empty() {
        let names: Vec<&str> = not_seen.iter().map(HostName::as_str).collect();
        let names = text(&names.join(", "));
        let _ = writeln!(out, "**Not seen**, and taken to be as the file says: {names}\n");
    }
    let row = |walk: &WalkView| {
        let WalkView { client, service, real_server, .. } = walk;
        let verdict = walk.verdict_text().to_owned();
        let (cures, reasons): (Vec<WalkRemark>, Vec<WalkRemark>) =
            walk.remarks().into_iter().partition(|remark| remark.label == "cure");
        // The verdict's own reason needs no label: it stands in the column beside.
        let why = reasons.into_iter().map(|WalkRemark { label, text }| {
            if Some(&text) == walk.reason.as_ref() { text } else { format!("{label}: {text}") }
        });
        let why = why.collect::<Vec<_>>().join("; ");
        let cure = cures.into_iter().map(|cure| cure.text).collect::<Vec<_>>().join("; ");
        vec![client.clone(), service.clone(), real_server.clone(), verdict, why, cure]
    };
    let rows: Vec<Vec<String>> = walks.iter().map(row).collect();
    let head = ["client", "service", "real server", "verdict", "why", "what to do"];
    let _ = writeln!(out, "{}", table(&head, &rows));
    let mut ways = String::new();
    for walk in walks {
        let WalkView { client, service, real_server, .. } = walk;
        let title = text(&format!("{client} asks {service}, real server {real_server}"));
        let hops: Vec<String> =
            walk.hops.iter().map(|hop| format!("{}: {}", hop.host, hop.text)).collect();
        let _ = write!(
            ways,
            "**Way**: {title}\n\n{}\n",
            fenced("text", hops.iter().map(String::as_str))
        );
    }
    let _ = writeln!(out, "{}", folded("Hop by hop", &ways));
    out
}
