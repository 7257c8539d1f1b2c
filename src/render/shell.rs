//! One edit of a host as a line for a POSIX shell, by the usual programs: ip(8), ipvsadm(8), nft(8), modprobe(8). Pure.
//!
//! Every line may be run again: it makes what is missing, and leaves the rest. Each word that comes from a topology
//! is quoted.

use std::borrow::Cow;
use std::net::IpAddr;

use super::nft;
use crate::state::announcement::is_announced;
use crate::state::{
    Address, AddressKey, Edit, GuePort, HostState, KeyedEdit, Link, Route, RouteKey, Scope, Sysctl,
    TunnelDevice, TunnelKind, VirtualService,
};

/// `word` as one word of a POSIX shell, whatever it holds (XCU, 2.2).
pub fn quote(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
    }
}

/// The words as one command.
pub(super) fn line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// What does `edit`; `None`: nothing by itself, as it is part of another edit. `Err`: why no usual program can.
/// Functions of templates/init-script.sh.j2 are used. `wanted`: the state that is made.
pub(super) fn command(edit: &Edit, wanted: &HostState) -> Result<Option<String>, &'static str> {
    Ok(Some(match edit {
        Edit::Module(edit) => line(["module", edit.key.as_str()]),
        Edit::Sysctl(KeyedEdit { key, after: Some(value), .. }) => {
            line(["setting", &below_proc_sys(key), value])
        }
        Edit::Link(KeyedEdit { key, after: Some(Link::Up), .. }) => {
            line(["ip", "link", "set", "dev", key.as_str(), "up"])
        }
        Edit::Address(KeyedEdit { key, after: Some(address), .. }) => {
            let add = add_address(key, address);
            if is_announced(key) && key.net.addr().is_ipv4() {
                let announce = line(["announce", key.dev.as_str(), &key.net.addr().to_string()]);
                format!("{add}\n{announce}")
            } else {
                add
            }
        }
        Edit::Route(KeyedEdit { key, after: Some(route), .. }) => replace_route(key, route)?,
        Edit::Tunnel(KeyedEdit { key, after: Some(device), .. }) => {
            add_tunnel(key.as_str(), device)
        }
        Edit::GuePort(KeyedEdit { key, after: Some(_), .. }) => add_gue_port(*key),
        Edit::Table(KeyedEdit { key, after: Some(rules), .. }) => {
            let Some(script) = nft::script(key, rules) else { return Ok(None) };
            format!("nft -f - <<'RULES'\n{script}RULES")
        }
        Edit::Service(KeyedEdit { key, after: Some(_), .. }) => {
            let service = wanted.services.get(key).cloned();
            let services = service.into_iter().map(|service| (key.clone(), service)).collect();
            by_ipvsadm(&HostState { services, ..HostState::default() })
        }
        Edit::Timeouts(KeyedEdit { after: Some(timeouts), .. }) => {
            by_ipvsadm(&HostState { timeouts: Some(*timeouts), ..HostState::default() })
        }
        Edit::Daemon(KeyedEdit { key, after: Some(daemon), .. }) => {
            let daemons = [(*key, daemon.clone())].into();
            let start = by_ipvsadm(&HostState { daemons, ..HostState::default() });
            format!("ipvsadm --stop-daemon {key} 2>/dev/null || :\n{start}")
        }
        // With its service.
        Edit::Destination(_) => return Ok(None),
        Edit::Instance(_) => {
            return Err(
                "`lvsprov render keepalived` prints its configuration, and the host's own service starts it",
            );
        }
        _ => return Err("it removes something, which a bare host does not have"),
    }))
}

/// What takes back `edit`, as far as a host that leaves the cluster does so.
pub(super) fn withdrawal(edit: &Edit) -> Option<String> {
    let command = match edit {
        Edit::Address(KeyedEdit { key, after: Some(_), .. }) => {
            let net = key.net.to_string();
            line(["ip", "address", "delete", &net, "dev", key.dev.as_str()])
        }
        Edit::Service(KeyedEdit { key, after: Some(_), .. }) => {
            let services = [(key.clone(), VirtualService::plain(key, "rr"))].into();
            let state = HostState { services, ..HostState::default() };
            let words = words_of_rules(&state).into_iter().next()?;
            let named = words.iter().skip(1).take_while(|word| *word != "-s");
            line(["ipvsadm", "-D"].into_iter().chain(named.map(String::as_str)))
        }
        Edit::Daemon(edit) => line(["ipvsadm", "--stop-daemon", &edit.key.to_string()]),
        _ => return None,
    };
    Some(format!("{command} 2>/dev/null || :"))
}

/// The path of a setting below /proc/sys.
pub(super) fn below_proc_sys(key: &Sysctl) -> String {
    let path = key.path();
    path.strip_prefix("/proc/sys").unwrap_or(&path).display().to_string()
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "-6" } else { "-4" }
}

pub(super) fn add_address(key: &AddressKey, address: &Address) -> String {
    let Address { scope, label, broadcast, nodad, deprecated } = address;
    let AddressKey { dev, net } = key;
    let (net, scope) = (net.to_string(), scope.number().to_string());
    let mut words = vec!["ip", family(key.net.addr()), "address", "replace", &net];
    words.extend(["dev", dev.as_str()]);
    if key.net.addr().is_ipv4() {
        words.extend(["scope", &scope]);
    }
    let broadcast = broadcast.map(|address| address.to_string());
    if let Some(broadcast) = &broadcast {
        words.extend(["broadcast", broadcast]);
    }
    if let Some(label) = label {
        words.extend(["label", label]);
    }
    words.extend(nodad.then_some("nodad"));
    if *deprecated {
        words.extend(["preferred_lft", "0"]);
    }
    line(words)
}

/// `Err`: the route has what neither lvsprov nor this line can say.
pub(super) fn replace_route(key: &RouteKey, route: &Route) -> Result<String, &'static str> {
    let Route { gateway, dev, scope, metric, protocol, source, onlink, unsupported } = route;
    if !unsupported.is_empty() {
        return Err("it has attributes that lvsprov does not know");
    }
    let to = if key.0.prefix_len() == 0 { "default".to_owned() } else { key.0.to_string() };
    let (gateway, source) = (gateway.map(|it| it.to_string()), source.map(|it| it.to_string()));
    let (metric, protocol, scope) =
        (metric.to_string(), protocol.to_string(), (*scope != Scope::Global).then_some(*scope));
    let scope = scope.map(|scope| scope.number().to_string());
    let mut words = vec!["ip", family(key.0.addr()), "route", "replace", &to];
    for (name, value) in [
        ("via", gateway.as_deref()),
        ("dev", dev.as_ref().map(crate::names::IfName::as_str)),
        ("src", source.as_deref()),
        ("scope", scope.as_deref()),
        ("metric", (route.metric != 0).then_some(metric.as_str())),
        ("proto", Some(protocol.as_str())),
    ] {
        if let Some(value) = value {
            words.extend([name, value]);
        }
    }
    words.extend(onlink.then_some("onlink"));
    Ok(line(words))
}

fn add_tunnel(dev: &str, device: &TunnelDevice) -> String {
    let TunnelDevice { kind, local, checksum } = device;
    let (name, local) = (kind.to_string(), local.to_string());
    let mut words = vec!["ip", "link", "add", "dev", dev, "type", &name, "local", &local];
    match kind {
        TunnelKind::Ip6tnl => words.extend(["mode", "any"]),
        TunnelKind::Gre | TunnelKind::Ip6gre if *checksum => words.push("csum"),
        TunnelKind::Gre | TunnelKind::Ip6gre => {}
    }
    let there = line(["ip", "link", "show", "dev", dev]);
    format!("{there} >/dev/null 2>&1 || {}", line(words))
}

fn add_gue_port(GuePort { v6, port }: GuePort) -> String {
    let port = port.to_string();
    let mut words = vec!["ip", "fou", "add", "port", &port, "gue"];
    words.extend(v6.then_some("-6"));
    format!("{} 2>/dev/null || ip fou show | grep -q 'port {port} gue'", line(words))
}

/// The lines of ipvsadm for the IPVS part of `state`, as words.
fn words_of_rules(state: &HostState) -> Vec<Vec<String>> {
    let text = super::ipvsadm::rules(state).text;
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn by_ipvsadm(state: &HostState) -> String {
    let lines = words_of_rules(state).into_iter().map(|words| {
        let (first, rest) = words.split_first().map_or(("", &[][..]), |(a, b)| (a.as_str(), b));
        let rest = rest.iter().map(String::as_str);
        match first {
            "-A" => line(std::iter::once("service").chain(rest)),
            "-a" => line(std::iter::once("server").chain(rest)),
            first => line(["ipvsadm", first].into_iter().chain(rest)),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    #[test]
    fn a_word_stays_one_word_whatever_it_holds() {
        for word in
            ["", "a b", "$(id)", "`id`", "a'b", "*", "[2001:db8::1]:80", "a\nb", "\\", "~", "#x"]
        {
            let script = format!("printf %s {}", quote(word));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{script}");
        }
        assert_eq!(line(["ip", "address", "192.0.2.1/32"]), "ip address 192.0.2.1/32");
    }

    #[test]
    fn addresses_and_routes_are_as_the_state_has_them() {
        let key: AddressKey = "2001:db8::80/128@lo".parse().unwrap();
        let mut address = Address::plain(Scope::Global);
        (address.nodad, address.deprecated) = (true, true);
        assert_eq!(
            add_address(&key, &address),
            "ip -6 address replace 2001:db8::80/128 dev lo nodad preferred_lft 0"
        );
        let address = Address { label: Some("lo:x y".to_owned()), ..Address::plain(Scope::Host) };
        assert_eq!(
            add_address(&"192.0.2.80/32@lo".parse().unwrap(), &address),
            "ip -4 address replace 192.0.2.80/32 dev lo scope 254 label 'lo:x y'"
        );
        let route = Route::via("192.0.2.1".parse().unwrap(), None);
        assert_eq!(
            replace_route(&"default".parse().unwrap(), &route).unwrap(),
            "ip -4 route replace default via 192.0.2.1 proto 4"
        );
        let odd = Route { unsupported: vec!["mtu".to_owned()], ..route };
        assert!(replace_route(&"default".parse().unwrap(), &odd).is_err());
    }
}
