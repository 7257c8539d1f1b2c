//! The walks of `explain`.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;
use serde::Serialize;

use super::{plural, table};
use crate::check::cure_of_death;
use crate::desired::ExpectedRequest;
use crate::names::HostName;
use crate::topology::Topology;
use crate::walk::{Walk, WalkVerdict};

/// How one request goes, for a program.
#[derive(Debug, Serialize)]
pub struct WalkView {
    /// The client.
    pub client: String,
    /// The service.
    pub service: String,
    /// The real server.
    pub real_server: String,
    /// `answered`, `request_dies`, `reply_dies` or `unknown`.
    pub verdict: &'static str,
    /// Where and why it dies, or what is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// What happens, in order.
    pub hops: Vec<HopView>,
}

/// What happens on one host.
#[derive(Debug, Serialize)]
pub struct HopView {
    /// The host.
    pub host: String,
    /// What happens there.
    pub text: String,
}

impl WalkView {
    /// Of the walk of `expected` in `topology`.
    pub fn new(topology: &Topology, expected: &ExpectedRequest<'_>, walk: Walk) -> Self {
        let (verdict, reason, cure) = match &walk.end {
            WalkVerdict::Answered => ("answered", None, None),
            WalkVerdict::Dead { death, in_reply } => {
                let verdict = if *in_reply { "reply_dies" } else { "request_dies" };
                (verdict, Some(death.to_string()), Some(cure_of_death(topology, death)))
            }
            WalkVerdict::Unknown(missing) => ("unknown", Some(missing.clone()), None),
        };
        let hops = walk.hops.into_iter();
        Self {
            client: expected.client.name.to_string(),
            service: expected.service.display_name(),
            real_server: expected.real_server.host.to_string(),
            verdict,
            reason,
            cure,
            hops: hops.map(|hop| HopView { host: hop.host.to_string(), text: hop.text }).collect(),
        }
    }

    /// Whether a packet dies.
    pub fn is_dead(&self) -> bool {
        matches!(self.verdict, "request_dies" | "reply_dies")
    }
}

/// As JSON, schema `lvsprov/explain/1`. `not_seen`: hosts that are as the file says.
pub fn json(file: &str, walks: &[WalkView], not_seen: &[HostName]) -> serde_json::Value {
    let all = serde_json::json!({ "file": file, "not_seen": not_seen, "walks": walks });
    super::with_schema("explain", &all)
}

/// As text: a walk, and below it a line for each thing that happens.
pub fn text(file: &str, walks: &[WalkView], not_seen: &[HostName]) -> String {
    let mut text = String::new();
    for walk in walks {
        let verdict = match walk.verdict {
            "answered" => "answered".green().to_string(),
            "unknown" => "not known".yellow().to_string(),
            _ => "NO ANSWER".red().bold().to_string(),
        };
        let WalkView { client, service, real_server, .. } = walk;
        let _ = writeln!(text, "{client} asks {service}, real server {real_server}: {verdict}");
        let rows: Vec<Vec<String>> =
            walk.hops.iter().map(|hop| vec![hop.host.clone(), hop.text.clone()]).collect();
        text.push_str(&table::aligned(&rows, 2));
        if let Some(reason) = &walk.reason {
            let label = match walk.verdict {
                "unknown" => "not known:",
                "reply_dies" => "the reply dies:",
                _ => "the request dies:",
            };
            let _ = writeln!(text, "  {} {reason}", label.bold());
        }
        if let Some(cure) = &walk.cure {
            let _ = writeln!(text, "  {} {cure}", "cure:".bold());
        }
        text.push('\n');
    }
    let count = |verdict: &[&str]| walks.iter().filter(|it| verdict.contains(&it.verdict)).count();
    let dead = count(&["request_dies", "reply_dies"]);
    let _ = writeln!(
        text,
        "{file}: {} {} answered, {dead} not, {} not known",
        count(&["answered"]),
        plural(count(&["answered"]), "request"),
        count(&["unknown"])
    );
    if !not_seen.is_empty() {
        let names: Vec<&str> = not_seen.iter().map(HostName::as_str).collect();
        let _ = writeln!(text, "not seen, and taken to be as the file says: {}", names.join(", "));
    }
    text
}
