//! The page is well-formed, shows everything, and takes nothing from hosts or files as markup.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

use super::*;
use crate::apply::outcome::Cost;
use crate::apply::{HostReport, HostStatus, StepState};
use crate::desired::world;
use crate::failure::Failure;
use crate::plan::preflight::Obstacle;
use crate::report::walk::{HopView, LargeView};
use crate::state::{Edit, Module, Present, Stage};

/// Elements with their attributes, and all text, of a page that is well-formed.
#[derive(Default)]
struct Read {
    elements: Vec<(String, Vec<(String, String)>)>,
    text: String,
}

fn read(html: &str) -> Read {
    let mut reader = Reader::from_str(html);
    reader.config_mut().check_end_names = true;
    let mut read = Read::default();
    let mut open: Vec<String> = Vec::new();
    let mut style = false;
    loop {
        let event = reader.read_event().unwrap_or_else(|error| panic!("{error}\n{html}"));
        match &event {
            Event::Start(tag) | Event::Empty(tag) => {
                let name = String::from_utf8(tag.name().as_ref().to_vec()).unwrap();
                let attributes = tag
                    .attributes()
                    .map(|it| {
                        let it = it.unwrap_or_else(|error| panic!("{error} in {name}"));
                        let key = String::from_utf8(it.key.as_ref().to_vec()).unwrap();
                        (key, it.normalized_value(XmlVersion::Implicit1_0).unwrap().into_owned())
                    })
                    .collect();
                style = name == "style";
                if matches!(event, Event::Start(_)) {
                    open.push(name.clone());
                }
                read.elements.push((name, attributes));
            }
            Event::End(_) => {
                assert!(open.pop().is_some(), "an end without a start");
                style = false;
            }
            Event::Text(text) if !style => read.text.push_str(&text.decode().unwrap()),
            Event::GeneralRef(entity) => {
                let name = String::from_utf8(entity.to_vec()).unwrap();
                let shown = match name.as_str() {
                    "lt" => '<',
                    "gt" => '>',
                    "amp" => '&',
                    "quot" => '"',
                    _ => entity.resolve_char_ref().unwrap().unwrap_or_else(|| panic!("&{name};")),
                };
                read.text.push(shown);
            }
            Event::Comment(_) | Event::CData(_) | Event::PI(_) => panic!("{event:?}"),
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    read
}

impl Read {
    fn with_class(&self, class: &str) -> usize {
        let has = |attributes: &[(String, String)]| {
            attributes
                .iter()
                .any(|(key, value)| key == "class" && value.split(' ').any(|one| one == class))
        };
        self.elements.iter().filter(|(_, attributes)| has(attributes)).count()
    }
}

fn topology(yaml: &str) -> Topology {
    crate::topology::read("x.yaml", yaml).topology.unwrap()
}

fn walks(topology: &Topology) -> Vec<WalkView> {
    let world = world(topology);
    requests(topology)
        .into_iter()
        .map(|it| WalkView::new(topology, &it, world.walk(&it.request), None))
        .collect()
}

fn empty_report(topology: &Topology) -> ClusterReport {
    ClusterReport {
        action: Action::Plan,
        topology: topology.name.to_string(),
        hosts: topology
            .hosts
            .keys()
            .map(|name| (name.clone(), HostReport::bare(HostStatus::Unchanged)))
            .collect(),
        transaction: None,
        open_transactions: Vec::new(),
        verifications: Vec::new(),
        fingerprint: None,
    }
}

const DEAD: &str = "
version: 1
name: web
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}, gateway: router}
  router: {role: router, interfaces: {eth0: 198.51.100.1/24, eth1: 192.0.2.1/24}}
  director: {role: director, interfaces: {eth0: 192.0.2.2/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}, gateway: router}
services:
  - {name: web, vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1]}
";

/// Every playbook: well-formed, nothing from elsewhere, and every host, network and VIP in the picture.
#[test]
fn every_host_network_and_vip_is_in_the_picture() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let topology = topology(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
        let walks = walks(&topology);
        let answered = walks.len();
        let found = explain("x.yaml", &topology, walks, WalkedHosts::AsTheFileSays, &[]).unwrap();
        let page = read(&found);
        assert_eq!(page.with_class("host"), topology.hosts.len(), "{}", topology.name);
        assert_eq!(page.with_class("network"), topology.networks.len(), "{}", topology.name);
        let names = topology.hosts.keys().map(ToString::to_string);
        let networks = topology.networks.keys().map(ToString::to_string);
        let vips: BTreeSet<String> = topology
            .services
            .iter()
            .filter_map(|it| Some(format!("VIP {}", it.vip_address()?)))
            .collect();
        for shown in names.chain(networks).chain(vips) {
            assert!(page.text.contains(&shown), "{}: {shown}", topology.name);
        }
        for (name, attributes) in &page.elements {
            assert!(!["script", "img", "link", "iframe", "a"].contains(&name.as_str()), "{name}");
            for (key, value) in attributes {
                assert!(!matches!(key.as_str(), "src" | "href") && !key.starts_with("on"), "{key}");
                let own = key == "xmlns" || !value.contains("://");
                assert!(own, "{key}={value}");
            }
        }
        assert_eq!(page.with_class("death"), 0, "{}", topology.name);
        let inputs = page.elements.iter().filter(|(name, _)| name == "input").count();
        let asked = topology.services.iter().filter(|it| it.vip.is_some()).count();
        let has_client = topology.with_role(crate::topology::Role::Client).next().is_some();
        assert!(!has_client || inputs == asked, "{}: {inputs} of {asked}", topology.name);
        assert!(answered == 0 || page.with_class("request") > 0, "{}", topology.name);
        count += 1;
    }
    assert!(count > 20, "only {count} playbooks");
}

#[test]
fn a_request_that_dies_is_red_and_has_a_cross_where_it_dies() {
    let topology = topology(DEAD);
    let walks = walks(&topology);
    assert_eq!(walks[0].dies_on.as_deref(), Some("director"), "{walks:#?}");
    let html = explain("x.yaml", &topology, walks, WalkedHosts::AsTheFileSays, &[]).unwrap();
    let page = read(&html);
    assert_eq!(page.with_class("death"), 1, "{html}");
    assert_eq!(page.with_class("dies"), 2, "the way, and its line in the legend: {html}");
    assert!(page.text.contains("web: packets die at director"), "{}", page.text);
    assert!(page.text.contains("web: 0 requests answered, 1 not, 0 not known"), "{}", page.text);
    assert!(page.text.contains("Cure:"), "{}", page.text);
    // The request crosses both networks before it dies.
    let picture = Picture::new(&topology);
    let ways = picture.ways(&self::walks(&topology)[0]);
    let [way] = ways.as_slice() else { panic!("{ways:?}") };
    assert_eq!((way.part, way.dead), ("request", true));
    let points = way.path.matches('L').count() + 1;
    assert_eq!(points, 8, "{}", way.path);
}

#[test]
fn no_box_stands_on_another_and_no_line_crosses_a_box() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    for entry in std::fs::read_dir(folder).unwrap() {
        let topology = topology(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
        let picture = Picture::new(&topology);
        for (at, one) in picture.hosts.iter().enumerate() {
            assert!(one.x + one.width < picture.width && one.y + one.height < picture.height);
            for (other_at, other) in picture.hosts.iter().enumerate() {
                let apart = one.x + one.width <= other.x
                    || other.x + other.width <= one.x
                    || one.y + one.height <= other.y
                    || other.y + other.height <= one.y;
                let names = format!("{}: {} and {}", topology.name, one.name, other.name);
                assert!(at == other_at || apart, "{names}");
                for link in &one.links {
                    let beside = link.x < other.x || other.x + other.width < link.x;
                    let above_or_below = link.to <= other.y || other.y + other.height <= link.from;
                    assert!(at == other_at || beside || above_or_below, "{names}: {link:?}");
                }
            }
        }
    }
}

const HOSTILE: &str =
    "</pre></details><script>alert('1')</script> \"onload=\" {{ title }} ]]> & &amp; <b>";

#[test]
fn hostile_text_is_shown_and_is_no_markup() {
    let topology = topology(DEAD);
    let hostile = || HOSTILE.to_owned();
    let mut report = empty_report(&topology);
    let host = report.hosts.values_mut().next().unwrap();
    *host = HostReport {
        steps: vec![StepReport {
            stage: Stage::Ready,
            text: hostile(),
            edit: Edit::add::<Module>(Module::IpVs, Present),
            why: hostile(),
            state: StepState::Planned,
            cost: Cost { connections: Some(3), ..Cost::default() },
        }],
        obstacles: vec![Obstacle { message: hostile(), why: hostile(), cure: hostile() }],
        failure: Some(Failure {
            message: hostile(),
            causes: vec![hostile()],
            cure: Some(hostile()),
        }),
        notes: vec![hostile()],
        ..HostReport::bare(HostStatus::Obstructed)
    };
    let walk = WalkView {
        client: hostile(),
        service: hostile(),
        real_server: hostile(),
        verdict: "request_dies",
        reason: Some(hostile()),
        cure: Some(hostile()),
        dies_on: Some(hostile()),
        uploads: None,
        downloads: None,
        unclear_rules: vec![hostile()],
        hops: vec![HopView { host: hostile(), text: hostile(), over: None, in_reply: false }],
    };
    let html = plan(&topology, &report, vec![walk], WalkedHosts::AfterThePlan).unwrap();
    let page = read(&html);
    assert!(!html.contains("<script"), "{html}");
    assert!(page.elements.iter().all(|(name, _)| name != "script" && name != "b"));
    for label in ["The request dies", "Cure", "Rules, not known"] {
        assert!(page.text.contains(&format!("{label}: {HOSTILE}")), "{label}: {}", page.text);
    }
    // Step, its line among those that clients may feel, reason, obstacle, failure, note, walk, and more.
    assert!(page.text.matches(HOSTILE).count() >= 15, "{}", page.text);
    let names = ["html", "body", "main", "style", "title"];
    for name in names {
        let count = page.elements.iter().filter(|(element, _)| element == name).count();
        assert!(count == 1 || name == "title", "{count} times {name}");
    }
}

/// Large packets that are lost, and rules that could not be read, are not shown as an answer alone.
#[test]
fn what_hangs_and_what_is_not_known_is_on_the_page_and_in_markdown() {
    let topology = topology(DEAD);
    let lost = LargeView {
        verdict: "hang",
        reason: Some("1500 bytes do not fit".to_owned()),
        cure: Some("lower the MTU".to_owned()),
    };
    let walks = vec![WalkView {
        client: "client".to_owned(),
        service: "web".to_owned(),
        real_server: "web1".to_owned(),
        verdict: "answered",
        reason: None,
        cure: None,
        dies_on: None,
        uploads: Some(lost),
        downloads: None,
        unclear_rules: vec!["director: the chain x was not read".to_owned()],
        hops: Vec::new(),
    }];
    let markdown = crate::report::markdown::walk::markdown("x.yaml", &walks, &[]);
    let said = [
        "answered, then HANGS",
        "rules, not known: director: the chain x was not read",
        "small packets pass, uploads hang: 1500 bytes do not fit",
        "lower the MTU",
    ];
    for words in said {
        assert!(markdown.contains(words), "{words}: {markdown}");
    }
    let html = explain("x.yaml", &topology, walks, WalkedHosts::AsSeen, &[]).unwrap();
    let page = read(&html);
    for words in said {
        assert!(page.text.to_lowercase().contains(&words.to_lowercase()), "{words}: {}", page.text);
    }
    assert!(html.contains(r#"<details class="walk" open="open">"#), "{html}");
}

/// Relative luminance and contrast of two colours (WCAG 2.2, 1.4.3: at least 4.5 for text).
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let value = u8::from_str_radix(&colour[at..at + 2], 16).unwrap();
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn every_colour_can_be_read_on_every_background_light_and_dark() {
    let mut themes = 0;
    for theme in TEMPLATE.split(":root {").skip(1) {
        let theme = theme.split('}').next().unwrap();
        let colours: Vec<(&str, &str)> = theme
            .split(';')
            .filter_map(|it| it.trim().strip_prefix("--")?.split_once(": "))
            .filter(|(name, _)| *name != "line")
            .collect();
        let is_background = |name: &str| ["back", "panel"].contains(&name);
        for (name, colour) in colours.iter().filter(|(name, _)| !is_background(name)) {
            for (back, behind) in colours.iter().filter(|(name, _)| is_background(name)) {
                let contrast = contrast(colour, behind);
                assert!(contrast >= 4.5, "{name} on {back}: {contrast:.2}");
            }
        }
        assert!(colours.len() >= 10, "{colours:?}");
        themes += 1;
    }
    assert_eq!(themes, 2);
}
