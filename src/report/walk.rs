//! The walks of `explain`.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;
use serde::Serialize;

use super::{plural, table};
use crate::check::cure_of_death;
use crate::desired::ExpectedRequest;
use crate::names::HostName;
use crate::topology::Topology;
use crate::walk::{Hop, LargeVerdict, Walk, WalkVerdict};

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
    /// The host that drops it, or cannot send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dies_on: Option<String>,
    /// What becomes of large packets from the client, where small ones are answered and the service has TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploads: Option<LargeView>,
    /// The same of packets to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downloads: Option<LargeView>,
    /// Rules of other programs on the way whose verdict is not known: `lvs: the nftables chain …`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unclear_rules: Vec<String>,
    /// What happens, in order.
    pub hops: Vec<HopView>,
}

/// What becomes of large packets, for a program.
#[derive(Debug, Serialize)]
pub struct LargeView {
    /// `pass`, `pass_after_icmp`, `hang` or `unknown`.
    pub verdict: &'static str,
    /// Where and why they are lost, whose ICMP message makes them smaller, or what is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl LargeView {
    fn new(topology: &Topology, large: &LargeVerdict) -> Self {
        let (verdict, reason, cure) = match large {
            LargeVerdict::Pass => ("pass", None, None),
            LargeVerdict::Shrunk { by, mtu } => {
                let reason = format!(
                    "ICMP messages of {by} must reach the sender: {mtu} bytes fit (a firewall that drops them makes \
                     connections hang)"
                );
                ("pass_after_icmp", Some(reason), None)
            }
            LargeVerdict::Lost { death, .. } => {
                ("hang", Some(death.to_string()), Some(cure_of_death(topology, death)))
            }
            LargeVerdict::Unknown(missing) => ("unknown", Some(missing.clone()), None),
        };
        Self { verdict, reason, cure }
    }

    /// For lines below the hops; none where large packets pass. `what`: uploads, downloads.
    fn remarks(&self, what: &str) -> Vec<WalkRemark> {
        let label = match self.verdict {
            "pass" => return Vec::new(),
            "pass_after_icmp" => format!("large {what} pass after ICMP"),
            "hang" => format!("small packets pass, {what} hang"),
            _ => format!("large {what}, not known"),
        };
        let mut all = vec![WalkRemark { label, text: self.reason.clone().unwrap_or_default() }];
        all.extend(self.cure.clone().map(|text| WalkRemark { label: "cure".to_owned(), text }));
        all
    }
}

/// A line below the hops of a walk, with what it begins with.
#[derive(Debug, Serialize)]
pub(super) struct WalkRemark {
    pub label: String,
    pub text: String,
}

/// What happens on one host.
#[derive(Debug, Serialize)]
pub struct HopView {
    /// The host.
    pub host: String,
    /// What happens there.
    pub text: String,
    /// The network over which the packet leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// It happens to the reply.
    pub in_reply: bool,
}

impl WalkView {
    /// Of the walk of `expected` in `topology`.
    pub fn new(
        topology: &Topology,
        expected: &ExpectedRequest<'_>,
        walk: Walk,
        large: Option<&(LargeVerdict, LargeVerdict)>,
    ) -> Self {
        let (verdict, reason, cure) = match &walk.end {
            WalkVerdict::Answered => ("answered", None, None),
            WalkVerdict::Dead { death, in_reply } => {
                let verdict = if *in_reply { "reply_dies" } else { "request_dies" };
                (verdict, Some(death.to_string()), Some(cure_of_death(topology, death)))
            }
            WalkVerdict::Unknown(missing) => ("unknown", Some(missing.clone()), None),
        };
        let dies_on = match &walk.end {
            WalkVerdict::Dead { death, .. } => Some(death.host.to_string()),
            WalkVerdict::Answered | WalkVerdict::Unknown(_) => None,
        };
        let reply_from = walk.reply_from.unwrap_or(usize::MAX);
        let hop = |(at, hop): (usize, Hop)| HopView {
            host: hop.host.to_string(),
            text: hop.text,
            over: hop.over.map(|network| network.to_string()),
            in_reply: at >= reply_from,
        };
        Self {
            client: expected.client.name.to_string(),
            service: expected.service.display_name(),
            real_server: expected.real_server.host.to_string(),
            verdict,
            reason,
            cure,
            dies_on,
            uploads: large.map(|(up, _)| LargeView::new(topology, up)),
            downloads: large.map(|(_, down)| LargeView::new(topology, down)),
            unclear_rules: walk
                .unclear
                .iter()
                .map(|(host, why)| format!("{host}: {why}"))
                .collect(),
            hops: walk.hops.into_iter().enumerate().map(hop).collect(),
        }
    }

    /// Whether a packet dies.
    pub fn is_dead(&self) -> bool {
        matches!(self.verdict, "request_dies" | "reply_dies")
    }

    /// Whether small packets pass and large ones are lost.
    pub fn hangs(&self) -> bool {
        self.uploads.iter().chain(&self.downloads).any(|large| large.verdict == "hang")
    }

    /// The lines below the hops: where and why the packet dies, the cure, rules that could not be read, large packets.
    pub(super) fn remarks(&self) -> Vec<WalkRemark> {
        let remark =
            |label: &str, text: &String| WalkRemark { label: label.to_owned(), text: text.clone() };
        let reason = match self.verdict {
            "unknown" => "not known",
            "reply_dies" => "the reply dies",
            _ => "the request dies",
        };
        let reason = self.reason.iter().map(|text| remark(reason, text));
        let cure = self.cure.iter().map(|text| remark("cure", text));
        let rules = self.unclear_rules.iter().map(|text| remark("rules, not known", text));
        let mut all: Vec<WalkRemark> = reason.chain(cure).chain(rules).collect();
        for (what, large) in [("uploads", &self.uploads), ("downloads", &self.downloads)] {
            all.extend(large.iter().flat_map(|large| large.remarks(what)));
        }
        all
    }

    /// The verdict for people.
    pub fn verdict_text(&self) -> &'static str {
        match self.verdict {
            "answered" if self.hangs() => "answered, then HANGS",
            "answered" => "answered",
            "unknown" => "not known",
            _ => "NO ANSWER",
        }
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
        let verdict = walk.verdict_text();
        let verdict = match walk.verdict {
            "answered" if walk.hangs() => verdict.red().bold().to_string(),
            "answered" => verdict.green().to_string(),
            "unknown" => verdict.yellow().to_string(),
            _ => verdict.red().bold().to_string(),
        };
        let WalkView { client, service, real_server, .. } = walk;
        let _ = writeln!(text, "{client} asks {service}, real server {real_server}: {verdict}");
        let rows: Vec<Vec<String>> =
            walk.hops.iter().map(|hop| vec![hop.host.clone(), hop.text.clone()]).collect();
        text.push_str(&table::aligned(&rows, 2));
        for WalkRemark { label, text: words } in walk.remarks() {
            let _ = writeln!(text, "  {} {words}", format!("{label}:").bold());
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{file}: {}", summary(walks.iter()));
    if !not_seen.is_empty() {
        let names: Vec<&str> = not_seen.iter().map(HostName::as_str).collect();
        let _ = writeln!(text, "not seen, and taken to be as the file says: {}", names.join(", "));
    }
    text
}

/// How many requests are answered, are not, and are not known.
pub(super) fn summary<'w>(walks: impl Iterator<Item = &'w WalkView>) -> String {
    let walks: Vec<&WalkView> = walks.collect();
    let count = |verdict| walks.iter().filter(|it| it.verdict == verdict).count();
    let dead = walks.iter().filter(|it| it.is_dead()).count();
    let answered = count("answered");
    let requests = plural(answered, "request");
    format!("{answered} {requests} answered, {dead} not, {} not known", count("unknown"))
}
