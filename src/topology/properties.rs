//! Laws of the reader: the order of keys changes nothing (law 5), and no text makes it panic (law 6).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::format_collect)] // short, and only here

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::prop::test_runner::RngAlgorithm;
use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::node::{self, KeyValue, YamlNode, YamlValue};
use super::*;
use crate::check::examine;
use crate::finding::{Finding, Severity};
use crate::report;
use crate::support::fuzz;

fn texts(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    paths.sort();
    assert!(paths.len() >= 8);
    paths.into_iter().map(|p| (p.clone(), std::fs::read_to_string(p).unwrap())).collect()
}

/// Writes `node` in one line, with keys and unordered lists shuffled.
fn shuffled(node: &YamlNode, key: &str, parent: &str, rng: &mut TestRng, out: &mut String) {
    match &node.content {
        YamlValue::Null => out.push('~'),
        YamlValue::Scalar { text, plain: true } if matches!(&**text, "true" | "false") => {
            out.push_str(text);
        }
        YamlValue::Scalar { text, .. } => out.push_str(&serde_json::to_string(text).unwrap()),
        YamlValue::List(items) => {
            let mut items: Vec<&YamlNode> = items.iter().collect();
            // The first address of an interface is its primary one.
            if matches!(key, "role" | "subnets" | "services" | "real_servers" | "routes")
                || parent == "networks"
            {
                shuffle(&mut items, rng);
            }
            out.push('[');
            for item in items {
                shuffled(item, "", key, rng, out);
                out.push_str(", ");
            }
            out.push(']');
        }
        YamlValue::Map(entries) => {
            let mut entries: Vec<&KeyValue> = entries.iter().collect();
            shuffle(&mut entries, rng);
            out.push('{');
            for KeyValue { key: inner, value } in entries {
                write!(out, "{}: ", serde_json::to_string(&inner.value).unwrap()).unwrap();
                shuffled(value, &inner.value, key, rng, out);
                out.push_str(", ");
            }
            out.push('}');
        }
    }
}

fn shuffle<T>(items: &mut [T], rng: &mut TestRng) {
    for last in (1..items.len()).rev() {
        items.swap(last, usize::try_from(rng.next_u32()).unwrap() % (last + 1));
    }
}

/// Clears every position. Destructures the types, so that a new position field does not compile unnoticed.
fn forget_positions(topology: &mut Topology) {
    let nowhere = Position::default();
    let Topology {
        name: _,
        networks,
        hosts,
        services,
        persist: _,
        promise: _,
        pace: _,
        maintenance: _,
    } = topology;
    for Network { name: _, subnets: _, at } in networks.values_mut() {
        *at = nowhere;
    }
    for Host { name: _, roles: _, interfaces, gateways, routes, ipvs, drift: _, reach: _, at } in
        hosts.values_mut()
    {
        *at = nowhere;
        for Interface { name: _, addresses: _, network: _, mtu: _, at } in interfaces.values_mut() {
            *at = nowhere;
        }
        let vias = routes.iter_mut().map(|StaticRoute { to: _, via }| via);
        for Gateway { address: _, host: _, interface: _, derived: _, at } in
            gateways.iter_mut().chain(vias)
        {
            *at = nowhere;
        }
        for at in ipvs.settings_at.values_mut().chain(ipvs.daemons_at.values_mut()) {
            *at = nowhere;
        }
    }
    for service in services {
        service.at = nowhere;
        if let Some(Vip { address: _, prefix: _, interface: _, at }) = &mut service.vip {
            *at = nowhere;
        }
        if let Some(quorum) = &mut service.quorum {
            quorum.at = nowhere;
        }
        for real_server in &mut service.real_servers {
            real_server.at = nowhere;
            if let Some(check) = &mut real_server.check {
                check.at = nowhere;
            }
        }
    }
}

/// The rules of the findings. Of two contradicting values, the order of the file decides which one is reported.
fn rules(findings: &[Finding]) -> BTreeSet<&'static str> {
    findings.iter().map(|f| f.rule).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_order_of_keys_and_lists_changes_nothing(seed in any::<[u8; 32]>()) {
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        for folder in ["playbooks", "tests/cases/check"] {
            for (path, text) in texts(folder) {
                let (Some(root), broken) = node::parse(&text) else { continue };
                // A refused key is no longer in the tree, and a comment never was.
                if !broken.is_empty() || text.contains("lvsprov: allow") {
                    continue;
                }
                let mut other = String::new();
                shuffled(&root, "", "", &mut rng, &mut other);
                let (before, after) = (examine("x", &text), examine("x", &other));
                prop_assert_eq!(rules(&before.findings), rules(&after.findings), "{} {}", path.display(), other);
                prop_assert_eq!(before.topology.is_some(), after.topology.is_some());
                if let (Some(mut before), Some(mut after)) = (before.topology, after.topology) {
                    forget_positions(&mut before);
                    forget_positions(&mut after);
                    prop_assert_eq!(before, after, "{}", other);
                }
            }
        }
    }
}

/// Must hold for any text.
fn total(text: &str) -> Result<(), TestCaseError> {
    let examined = examine("any.yaml", text);
    let errors = examined.findings.iter().any(|f| f.severity == Severity::Error);
    prop_assert_eq!(examined.topology.is_none(), errors);
    let lines = text.replace("\r\n", "\n").matches(['\n', '\r']).count() + 1;
    for finding in &examined.findings {
        prop_assert!(
            (1..=lines).contains(&(finding.at.line as usize)),
            "{:?} of {} lines",
            finding,
            lines
        );
        prop_assert!(
            !finding.message.is_empty() && !finding.why.is_empty() && !finding.cure.is_empty()
        );
    }
    let shown =
        report::findings::text("any.yaml", text, &examined.findings, &examined.silenced, false);
    prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{:?}", shown);
    prop_assert_eq!(shown.is_empty(), examined.findings.is_empty() && examined.silenced.is_empty());
    Ok(())
}

const PIECES: &[&str] = &[
    ":",
    ": ",
    "-",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\n",
    "\n  ",
    "\t",
    "&a ",
    "*a",
    "!",
    "!!int ",
    "|\n",
    ">\n",
    "'",
    "\"",
    "#",
    "%",
    "? ",
    "<<: ",
    "---\n",
    "...\n",
    "~",
    "\0",
    "\u{feff}",
    "\r",
    "\u{85}",
    "\u{2028}",
    "é",
    "𝄞",
    "0",
    "-1",
    "99999999999999999999",
    "10.0.0.1/24",
    "0.0.0.0",
    "/",
    "::1",
    "true",
    "null",
    "name",
    "hosts",
    "vip",
    "role: ",
    "director",
    "gateway: ",
    "routes: ",
    "to: ",
    "via: ",
    "real_servers: ",
    "lo",
    "dr",
    "nat",
    "tun",
    " # lvsprov: allow ",
    "LVS031 ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*|(?s).{0,200}") {
        total(&text)?;
    }

    #[test]
    fn pieces_of_yaml_never_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        total(&pieces.concat())?;
    }

    #[test]
    fn mutated_files_never_panic(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..12, prop::sample::select(PIECES)), 1..6),
    ) {
        let mut all = texts("playbooks");
        all.extend(texts("tests/cases/check"));
        let mut text: Vec<char> = which.get(&all).1.chars().collect();
        for (at, length, piece) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        total(&text.into_iter().collect::<String>())?;
    }
}

#[test]
fn large_and_hostile_texts_come_to_an_end() {
    let deep = |open: &str, n: usize| open.repeat(n);
    for text in [
        deep("[", 100_000),
        deep("{a: ", 100_000),
        deep("- ", 100_000),
        (0..2000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        format!("a: \"{}", "x".repeat(1_000_000)),
        "\n".repeat(1_000_000),
        format!("hosts: {{{}}}", (0..20_000).map(|n| format!("h{n}: {{}}, ")).collect::<String>()),
        format!(
            "networks: {{{}}}",
            (0..20_000).map(|n| format!("n{n}: 10.0.0.0/8, ")).collect::<String>()
        ),
        format!("? {}", "&a *a ".repeat(1000)),
    ] {
        let examined = examine("x", &text);
        assert!(examined.topology.is_none());
        assert!(!examined.findings.is_empty());
    }
}

#[test]
fn fuzz_topology() {
    let mut seeds = Vec::new();
    for folder in ["playbooks", "tests/cases/check"] {
        // The alias bomb is slow by design, and so is every input derived from it.
        seeds.extend(texts(folder).into_iter().map(|(_, text)| text).filter(|t| t.len() < 4096));
    }
    let seeds = seeds.into_iter().map(String::into_bytes).collect();
    fuzz::target!("fuzz_topology", 500, seeds, |bytes| {
        total(&String::from_utf8_lossy(bytes)).unwrap();
    });
}
