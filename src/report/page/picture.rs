//! The topology as a picture: networks as lanes from left to right, each host in a box below the first lane that it is on, with
//! lines to its lanes; and the ways of packets along them. Numbers for the template, in pixels of SVG.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;

use super::super::walk::WalkView;
use crate::names::{HostName, NetworkName};
use crate::topology::{Host, Role, Topology};

const MARGIN: usize = 24;
/// Of a character of the picture's font, at the most.
const CHARACTER: usize = 7;
const LINE: usize = 16;
const NARROWEST: usize = 132;
/// Between two boxes, and between a lane and a box.
const GAP: usize = 44;
/// Above a lane, for its name.
const HEADING: usize = 34;
/// Between two lines from a box to the same lane.
const LINK: usize = 16;
/// Addresses of VIPs that a real server's box has; the director's box has all.
const VIPS: usize = 4;

/// The whole picture.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// Its width.
    pub width: usize,
    /// Its height.
    pub height: usize,
    /// The networks, from above.
    pub lanes: Vec<Lane>,
    /// The hosts.
    pub hosts: Vec<HostBox>,
}

/// A network.
#[derive(Debug, Serialize)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Its subnets, in one line.
    pub subnets: String,
    /// The height of its line.
    pub y: usize,
}

/// A host.
#[derive(Debug, Serialize)]
pub struct HostBox {
    /// Its name.
    pub name: String,
    /// What it is, in one line.
    pub roles: String,
    /// Its addresses, a line each.
    pub lines: Vec<TextLine>,
    /// Left edge.
    pub x: usize,
    /// Upper edge.
    pub y: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
    /// Lines to the lanes.
    pub links: Vec<LaneLink>,
}

/// A line of text in a box.
#[derive(Debug, Serialize)]
pub struct TextLine {
    /// The text.
    pub text: String,
    /// `interface`, `vip` (the director answers for it), or `silent` (a real server has it).
    pub kind: &'static str,
    /// Its baseline.
    pub y: usize,
}

/// From a box to a lane.
#[derive(Debug, Serialize)]
pub struct LaneLink {
    /// Where it is.
    pub x: usize,
    /// Its upper end.
    pub from: usize,
    /// Its lower end.
    pub to: usize,
}

/// The way of one packet.
#[derive(Debug, Serialize)]
pub struct Way {
    /// `request` or `reply`.
    pub part: &'static str,
    /// It ends in a death.
    pub dead: bool,
    /// The points, as `d` of an SVG path.
    pub path: String,
}

/// Where a packet dies.
#[derive(Debug, Serialize)]
pub struct Cross {
    /// Middle.
    pub x: usize,
    /// Middle.
    pub y: usize,
    /// The host.
    pub host: String,
}

impl Picture {
    /// Of all hosts, networks and VIPs of `topology`.
    pub fn new(topology: &Topology) -> Self {
        let order = lanes(topology);
        let lane_of: BTreeMap<&NetworkName, usize> =
            order.iter().enumerate().map(|(at, name)| (*name, at)).collect();
        let mut boxes: Vec<Placed> =
            topology.hosts.values().map(|host| host_box(topology, host, &lane_of)).collect();
        let width = boxes.iter().map(|it| it.host.width).max().unwrap_or(NARROWEST);
        let columns = columns(&boxes, order.len());
        let bands = order.len().max(1);
        let mut lane_y = Vec::new();
        let mut top = MARGIN;
        for band in 0..bands {
            let line = top + HEADING;
            lane_y.push(line);
            let in_band = boxes.iter().filter(|it| it.band(bands) == band);
            let tallest = in_band.map(|it| it.host.height).max().unwrap_or(0);
            top = line + GAP + tallest + if tallest == 0 { 0 } else { GAP / 2 };
        }
        for (placed, column) in boxes.iter_mut().zip(&columns) {
            let band = placed.band(bands);
            let host = &mut placed.host;
            host.x = MARGIN + column * (width + GAP);
            host.width = width;
            host.y = lane_y[band] + GAP;
            for line in &mut host.lines {
                line.y += host.y;
            }
            for (at, lane) in placed.lanes.iter().enumerate() {
                let first = placed.lanes.iter().position(|it| it == lane).unwrap_or(at);
                let y = lane_y[*lane];
                let (from, to) = if y > host.y { (host.y + host.height, y) } else { (y, host.y) };
                let x = host.x + width / 2 + (at - first) * LINK;
                host.links.push(LaneLink { x, from, to });
            }
        }
        let columns = columns.iter().max().map_or(1, |last| last + 1);
        let lanes = order.iter().zip(&lane_y).map(|(name, y)| {
            let subnets = topology.networks.get(*name).map(|it| &it.subnets);
            let subnets: Vec<String> =
                subnets.into_iter().flatten().map(ToString::to_string).collect();
            Lane { name: name.to_string(), subnets: subnets.join(", "), y: *y }
        });
        let lanes: Vec<Lane> = lanes.collect();
        let widest =
            lanes.iter().map(|it| (it.name.len() + it.subnets.len() + 4) * CHARACTER).max();
        let width = (columns * (width + GAP)).max(widest.unwrap_or(0)) + 2 * MARGIN;
        let hosts = boxes.into_iter().map(|it| it.host).collect();
        Self { width, height: top + MARGIN, lanes, hosts }
    }

    fn host(&self, name: &str) -> Option<&HostBox> {
        self.hosts.iter().find(|it| it.name == name)
    }

    /// The ways of the request and of the reply of `walk`.
    pub fn ways(&self, walk: &WalkView) -> Vec<Way> {
        let mut moves: [Vec<(&HostBox, &Lane, &HostBox)>; 2] = [Vec::new(), Vec::new()];
        for (at, hop) in walk.hops.iter().enumerate() {
            let Some(over) = &hop.over else { continue };
            let next = walk.hops[at + 1..].iter().find(|it| it.host != hop.host);
            let next = next.map(|it| &it.host).or(walk.dies_on.as_ref());
            let lane = self.lanes.iter().find(|lane| lane.name == *over);
            let (Some(from), Some(lane), Some(to)) =
                (self.host(&hop.host), lane, next.and_then(|name| self.host(name)))
            else {
                continue;
            };
            moves[usize::from(hop.in_reply)].push((from, lane, to));
        }
        let [request, reply] = moves;
        let is_dead = |verdict| walk.verdict == verdict;
        let mut ways = Vec::new();
        for (part, moves, dead) in
            [("request", request, is_dead("request_dies")), ("reply", reply, is_dead("reply_dies"))]
        {
            if !moves.is_empty() {
                ways.push(Way { part, dead, path: path(&moves, part == "reply") });
            }
        }
        ways
    }

    /// Where `walk` dies.
    pub fn cross(&self, walk: &WalkView) -> Option<Cross> {
        let host = self.host(walk.dies_on.as_ref()?)?;
        Some(Cross { x: host.x + host.width, y: host.y, host: host.name.clone() })
    }
}

/// From box to lane to box; inside a box from where the packet comes in to where it leaves.
fn path(moves: &[(&HostBox, &Lane, &HostBox)], is_reply: bool) -> String {
    let (aside, beside) = if is_reply { (7, 5) } else { (0, 0) };
    let x = |host: &HostBox| {
        (host.x + host.width / 2 + aside).saturating_sub(if is_reply { 0 } else { 7 })
    };
    let y = |lane: &Lane| (lane.y + beside).saturating_sub(if is_reply { 0 } else { 5 });
    let edge = |host: &HostBox, lane: &Lane| {
        if lane.y > host.y { host.y + host.height } else { host.y }
    };
    let mut points = Vec::new();
    for (from, lane, to) in moves {
        points.push((x(from), edge(from, lane)));
        points.push((x(from), y(lane)));
        points.push((x(to), y(lane)));
        points.push((x(to), edge(to, lane)));
    }
    points.dedup();
    let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x} {y}")).collect();
    format!("M{}", points.join(" L"))
}

/// The networks in the order in which a client's packet meets them; then the others.
fn lanes(topology: &Topology) -> Vec<&NetworkName> {
    let on = |host: &Host| {
        let networks = host.interfaces.values().filter_map(|it| it.network.as_ref());
        networks
            .filter_map(|name| topology.networks.get_key_value(name))
            .map(|(name, _)| name)
            .collect()
    };
    let hosts: Vec<BTreeSet<&NetworkName>> = topology.hosts.values().map(on).collect();
    let mut open: VecDeque<&NetworkName> = VecDeque::new();
    for client in topology.with_role(Role::Client) {
        open.extend(on(client));
    }
    open.extend(topology.networks.keys());
    let mut order: Vec<&NetworkName> = Vec::new();
    while let Some(name) = open.pop_front() {
        if order.contains(&name) {
            continue;
        }
        order.push(name);
        // What lies beside comes next, by name.
        let beside: BTreeSet<&NetworkName> =
            hosts.iter().filter(|on| on.contains(name)).flatten().copied().collect();
        for next in beside.into_iter().rev() {
            open.push_front(next);
        }
    }
    order
}

/// A host on its way into the picture.
struct Placed {
    /// The lane of each of its interfaces, sorted.
    lanes: Vec<usize>,
    host: HostBox,
}

impl Placed {
    /// Below which lane it stands: its first one, or the last of all for a host without any.
    fn band(&self, bands: usize) -> usize {
        self.lanes.first().copied().unwrap_or(bands - 1)
    }

    /// The last band through which its lines go.
    fn last_band(&self, bands: usize) -> usize {
        let band = self.band(bands);
        self.lanes.last().map_or(band, |last| last.saturating_sub(1)).max(band)
    }
}

/// Each host's column: the first one that is free in its band. A line to a lane further below keeps the column free in the
/// bands between.
fn columns(boxes: &[Placed], lanes: usize) -> Vec<usize> {
    let bands = lanes.max(1);
    let mut taken: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); bands];
    let mut columns = vec![0; boxes.len()];
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    // Those with the longest lines first: they stand at the left.
    order.sort_by_key(|&at| {
        let (band, last) = (boxes[at].band(bands), boxes[at].last_band(bands));
        (std::cmp::Reverse(last - band), band, rank(&boxes[at].host))
    });
    for at in order {
        let through = boxes[at].band(bands)..=boxes[at].last_band(bands);
        let is_free = |column: &usize| through.clone().all(|band| !taken[band].contains(column));
        // As many columns as hosts are enough.
        let column = (0..boxes.len()).find(is_free).unwrap_or(0);
        for band in through {
            taken[band].insert(column);
        }
        columns[at] = column;
    }
    columns
}

/// Clients first, real servers last.
fn rank(host: &HostBox) -> (usize, String) {
    let order = ["client", "router", "director", "real server"];
    let first = order.iter().position(|role| host.roles.starts_with(role));
    (first.unwrap_or(order.len()), host.name.clone())
}

/// A host's box, whose lines are measured from its upper edge.
fn host_box(topology: &Topology, host: &Host, lane_of: &BTreeMap<&NetworkName, usize>) -> Placed {
    let roles: Vec<&str> = host.roles.iter().map(|role| role_name(*role)).collect();
    let roles = roles.join(", ");
    let interfaces = || host.interfaces.values();
    let mut lanes: Vec<usize> = interfaces()
        .filter_map(|it| it.network.as_ref().and_then(|name| lane_of.get(name)))
        .copied()
        .collect();
    lanes.sort_unstable();
    let addresses = interfaces().flat_map(|it| it.addresses.iter().map(move |net| (it, net)));
    let mut texts: Vec<(String, &'static str)> =
        addresses.map(|(it, net)| (format!("{} {net}", it.name), "interface")).collect();
    texts.extend(vips(topology, &host.name));
    let longest = texts.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
    let longest = longest.max(host.name.as_str().len() + 2).max(roles.len());
    let text_lines: Vec<TextLine> = texts
        .into_iter()
        .enumerate()
        .map(|(at, (text, kind))| TextLine { text, kind, y: (at + 3) * LINE })
        .collect();
    let host = HostBox {
        name: host.name.to_string(),
        roles,
        height: (text_lines.len() + 3) * LINE,
        lines: text_lines,
        x: 0,
        y: 0,
        width: (longest * CHARACTER + 24).max(NARROWEST),
        links: Vec::new(),
    };
    Placed { lanes, host }
}

/// The VIPs of the services that the host directs, and those that it has as a real server.
fn vips(topology: &Topology, name: &HostName) -> Vec<(String, &'static str)> {
    let mut directed = BTreeSet::new();
    let mut silent = BTreeSet::new();
    for service in &topology.services {
        let Some(vip) = service.vip_address() else { continue };
        if service.director == *name {
            directed.insert(vip);
        }
        let has_it = |it: &&crate::topology::RealServer| it.host == *name && !it.forward.rewrites();
        if service.real_servers.iter().any(|it| has_it(&it)) && service.director != *name {
            silent.insert(vip);
        }
    }
    let more = silent.len().saturating_sub(VIPS);
    let directed = directed.into_iter().map(|vip| (format!("VIP {vip}"), "vip"));
    let silent = silent.into_iter().take(VIPS).map(|vip| (format!("VIP {vip}, silent"), "silent"));
    let mut all: Vec<(String, &'static str)> = directed.chain(silent).collect();
    if more > 0 {
        all.push((format!("and {more} VIPs more"), "silent"));
    }
    all
}

/// For people.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Router => "router",
        Role::Director => "director",
        Role::RealServer => "real server",
    }
}
