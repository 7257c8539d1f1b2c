//! Services: VIPs, forwarding methods, real servers.

use std::fmt::Write as _;

use super::dice::Dice;
use super::draft::{Draft, Segment};

/// VIPs have numbers from here on.
const FIRST_VIP: usize = 200;

/// The text of all services. Tells `draft` which gateways NAT derives, and which VIPs need a route.
pub(super) fn roll(draft: &mut Draft, dice: &mut Dice) -> String {
    let count = dice.one_of(&[1, 1, 2, 3]) + usize::from(dice.is_nasty());
    let mut earlier: Vec<(usize, bool, String)> = Vec::new();
    (0..count).map(|nth| roll_one(draft, dice, nth, &mut earlier)).collect()
}

fn roll_one(
    draft: &mut Draft,
    dice: &mut Dice,
    nth: usize,
    earlier: &mut Vec<(usize, bool, String)>,
) -> String {
    let directors = draft.directors();
    let mut director = dice.one_of(&directors);
    let has = |ipv6| draft.hosts[director].segments.iter().any(|it| it.ipv6 == ipv6);
    let mut ipv6 = if draft.ipv4 && draft.ipv6 { dice.chance(50) } else { draft.ipv6 };
    if !has(ipv6) {
        ipv6 = !ipv6;
    }
    let vip = if !earlier.is_empty() && dice.rarely(20, 35) {
        let (of, its, vip) = dice.one_of(earlier);
        (director, ipv6) = (of, its);
        vip
    } else {
        roll_vip(draft, dice, director, ipv6, nth)
    };
    earlier.push((director, ipv6, vip.clone()));
    let method = roll_method(dice);
    let persistent = dice.chance(12);
    let mut text = String::new();
    let _ = writeln!(text, "  - name: service{}", nth + 1);
    let _ = writeln!(text, "    director: {}", draft.hosts[director].name);
    let _ = writeln!(text, "    vip: \"{vip}\"");
    let networks = draft.hosts[director].networks.len();
    if networks > 1
        && (vip.starts_with("100.64.") || vip.starts_with("2001:db8:64:"))
        && dice.chance(80)
    {
        let _ = writeln!(text, "    vip_interface: eth{}", dice.below(networks));
    }
    let _ = writeln!(text, "    scheduler: rr\n    forward: {method}");
    let protocol = dice.one_of(&["tcp", "tcp", "tcp", "udp"]);
    let is_marked = dice.chance(15);
    if is_marked {
        let _ = writeln!(text, "    mark: {}\n    ports: [{}, {}]", nth + 1, 80 + nth, 90 + nth);
        let _ = writeln!(text, "    protocol: [{protocol}]");
    } else if persistent && dice.chance(25) {
        let _ = writeln!(text, "    port: any\n    protocol: {protocol}");
    } else {
        let _ = writeln!(text, "    port: {}\n    protocol: {protocol}", 80 + nth);
    }
    if persistent {
        text.push_str("    persistence: 60\n");
    }
    if method == "tun" && dice.chance(60) {
        let _ = writeln!(text, "    tunnel: {}", roll_tunnel(dice, nth));
    }
    text.push_str("    real_servers:\n");
    let servers = draft.with_role("real_server");
    // With persistence one of several would get all requests of a client.
    let most = if persistent { 1 } else { 1 + dice.below(3) };
    let is_mapped = !persistent && !is_marked && dice.chance(12);
    let mut chosen = dice.some_of(&servers, most);
    if chosen.len() > 1 && dice.chance(70) {
        chosen.retain(|host| *host != director);
    }
    for host in chosen {
        let mut method = if dice.rarely(12, 40) { roll_method(dice) } else { method };
        let is_near = draft.hosts[host].shares(&draft.hosts[director], ipv6).is_some();
        if !is_near && matches!(method, "dr" | "nat") && dice.chance(75) {
            method = dice.one_of(&["tun", "fullnat"]);
        }
        let server = roll_server(draft, dice, host, (director, ipv6), method, is_mapped);
        let _ = writeln!(text, "      - {server}");
    }
    text
}

fn roll_method(dice: &mut Dice) -> &'static str {
    dice.one_of(&["dr", "dr", "dr", "nat", "nat", "tun", "tun", "fullnat"])
}

fn roll_tunnel(dice: &mut Dice, nth: usize) -> String {
    match dice.below(5) {
        0 => "gre".to_owned(),
        1 => "{type: gre, checksum: full}".to_owned(),
        2 => format!("{{type: gue, port: {}}}", 5555 + nth),
        3 => format!("{{type: gue, port: {}, checksum: full}}", 5565 + nth),
        _ => "ipip".to_owned(),
    }
}

fn roll_vip(draft: &mut Draft, dice: &mut Dice, director: usize, ipv6: bool, nth: usize) -> String {
    let number = FIRST_VIP + nth;
    let here: Vec<Segment> =
        draft.hosts[director].segments.iter().copied().filter(|it| it.ipv6 == ipv6).collect();
    if here.is_empty() {
        return if ipv6 { "2001:db8:64::1".to_owned() } else { "100.64.0.1".to_owned() };
    }
    let near = dice.one_of(&here);
    let end = if dice.is_nasty() { 60 } else { 100 };
    match dice.below(end) {
        0..22 => {
            let vip =
                if ipv6 { format!("2001:db8:64::{nth}a") } else { format!("100.64.0.{number}") };
            draft.foreign.push((vip.clone(), director));
            vip
        }
        22..28 => format!("{}/{}", near.address(number), if ipv6 { 64 } else { 24 }),
        28..33 => near.address(draft.hosts[director].number),
        33..37 => {
            let network = dice.below(draft.networks.len());
            Segment { ipv6, network, part: 0 }.address(number)
        }
        _ => near.address(number),
    }
}

/// A real server, as the file has it.
fn roll_server(
    draft: &mut Draft,
    dice: &mut Dice,
    host: usize,
    (director, ipv6): (usize, bool),
    method: &'static str,
    is_mapped: bool,
) -> String {
    let name = draft.hosts[host].name.clone();
    let mut keys = vec![format!("host: {name}"), format!("forward: {method}")];
    let shared = draft.hosts[host].shares(&draft.hosts[director], ipv6);
    if method == "nat" && host != director && shared.is_some() && dice.rarely(88, 75) {
        draft.hosts[host].gateway_by_method = Some(director);
        draft.hosts[host].derived_gateway = dice.chance(60);
    }
    let other = method == "tun" && dice.chance(12);
    let family = if other { !ipv6 } else { ipv6 };
    let all = draft.hosts[host].segments.clone();
    let own: Vec<Segment> = all.into_iter().filter(|it| it.ipv6 == family).collect();
    if own.len() > 1 || other && !own.is_empty() {
        let near = shared.filter(|_| !other && dice.chance(75));
        let at = near.unwrap_or_else(|| dice.one_of(&own));
        keys.push(format!("address: \"{}\"", at.address(draft.hosts[host].number)));
    }
    if is_mapped && (matches!(method, "nat" | "fullnat") || dice.chance(10)) {
        keys.push("port: 8080".to_owned());
    }
    format!("{{{}}}", keys.join(", "))
}
