//! keepalived's own reading of a configuration: what it prints under `--dump-conf` (check_data.c, `dump_check_data`; 2.2.7).

use std::collections::BTreeMap;

/// Names of fields with their values.
pub type Fields = BTreeMap<String, String>;

/// A service as keepalived sees it; each address and mark of a group is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DumpedService {
    pub fields: Fields,
    /// By address and port.
    pub reals: BTreeMap<String, Fields>,
    /// The check of each of them that has one.
    pub checks: BTreeMap<String, Fields>,
}

/// The lines without time, from the topology on.
fn lines(log: &str) -> Vec<&str> {
    let from = log.lines().skip_while(|line| !line.contains("------< LVS Topology >------"));
    let dump = from.take_while(|line| !line.contains("ctivating healthchecker"));
    // `Sat Nov 28 12:00:00 2026: `: the colons of the time have no blank behind them.
    dump.filter_map(|line| line.split_once(": ").map(|(_, rest)| rest)).collect()
}

/// The services in the log of a keepalived that has begun to check.
pub fn services(log: &str) -> BTreeMap<String, DumpedService> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut all: Vec<(String, DumpedService)> = Vec::new();
    let mut real = None;
    let mut check: Option<(usize, String)> = None;
    let mut of_sorry = false;
    for line in lines(log).into_iter().map(str::trim) {
        if let Some(members) = groups.values_mut().last().filter(|_| all.is_empty()) {
            members.extend(member(line));
        }
        if let Some(rest) = line.strip_prefix("Virtual Server Group = ") {
            groups.insert(rest.split(',').next().unwrap().to_owned(), Vec::new());
        } else if let Some(rest) = line.strip_prefix("VS ") {
            all.push((name(rest), DumpedService::default()));
            (real, of_sorry) = (None, false);
        } else if let Some((of, to)) =
            line.split_once(" -> ").filter(|_| line.starts_with(['[', 'F']))
        {
            let at = all.iter().position(|(name, service)| is_meant(of, name, service));
            let at = at.unwrap_or_else(|| panic!("{of} is no service\n{log}"));
            check = Some((at, plain(to)));
        } else if let Some((at, to)) = &check {
            let fields = all[*at].1.checks.entry(to.clone()).or_default();
            take_check(fields, line);
        } else if let Some((_, service)) = all.last_mut() {
            if let Some(rest) = line.strip_prefix("RIP = ") {
                let words: Vec<&str> =
                    rest.split([',', ' ', '=']).filter(|it| !it.is_empty()).collect();
                let to = format!("{}:{}", words[0], words[2]);
                service
                    .reals
                    .entry(to.clone())
                    .or_default()
                    .insert("weight".to_owned(), words[4].to_owned());
                real = Some(to);
            } else if let Some(to) = &real {
                take(service.reals.get_mut(to).unwrap(), "", line);
            } else {
                of_sorry =
                    (of_sorry || line.starts_with("sorry server")) && !line.starts_with("alive");
                let line = line.replace(" (duplicates rs)", "");
                take(&mut service.fields, if of_sorry { "sorry server: " } else { "" }, &line);
            }
        }
    }
    all.into_iter().flat_map(|(name, service)| expanded(name, &service, &groups)).collect()
}

/// Whether `[192.0.2.1]:tcp:80` is this service: one address may have the same port of TCP and of UDP.
fn is_meant(text: &str, name: &str, service: &DumpedService) -> bool {
    let protocol = text.rsplit(':').nth(1).filter(|word| matches!(*word, "tcp" | "udp" | "sctp"));
    let own = service.fields.get("protocol").map(|own| own.to_ascii_lowercase());
    plain(text) == name && protocol.is_none_or(|protocol| own.as_deref() == Some(protocol))
}

/// `name = value` or `name is value`.
fn take(fields: &mut Fields, prefix: &str, line: &str) {
    let pair = line.split_once(" = ").or_else(|| line.split_once(" is "));
    if let Some((name, value)) = pair {
        fields.insert(format!("{prefix}{name}"), plain(value));
    }
}

fn take_check(fields: &mut Fields, line: &str) {
    let before = |fields: &mut Fields, name: &str, more: &str| {
        let all = fields.entry(name.to_owned()).or_default();
        *all = if all.is_empty() { more.to_owned() } else { format!("{all} {more}") };
    };
    match line.split_once(' ') {
        _ if line.starts_with(|c: char| c.is_ascii_digit()) => before(fields, "status", line),
        Some(("Fast", rest)) => before(fields, "Fast recovery", rest.rsplit(' ').next().unwrap()),
        Some(("Enable", rest)) => before(fields, "Enable SNI", rest.rsplit(' ').next().unwrap()),
        Some(("Regex", rest)) if rest.starts_with("ref count") => {}
        _ => take(fields, "", line),
    }
}

/// `GROUP = [name]:0`, `FWMARK = 1`, `VIP = 192.0.2.1, VPORT = 80`.
fn name(text: &str) -> String {
    match text.split_once(" = ").unwrap() {
        ("FWMARK", mark) => format!("FWM {mark}"),
        ("VIP", rest) => rest.replace(", VPORT = ", ":"),
        (_, group) => group.to_owned(),
    }
}

/// `[192.0.2.1]:tcp:80` as `192.0.2.1:80`; other text as it is.
fn plain(text: &str) -> String {
    let Some((address, rest)) = text.trim().strip_prefix('[').and_then(|it| it.split_once(']'))
    else {
        return text.trim().to_owned();
    };
    match rest.rsplit_once(':') {
        Some(("", port)) if address.parse::<std::net::IpAddr>().is_err() => {
            format!("[{address}]:{port}")
        }
        Some((_, port)) => format!("{address}:{port}"),
        None => text.trim().to_owned(),
    }
}

/// The members of a line of a group.
fn member(line: &str) -> Vec<String> {
    if let Some(mark) = line.strip_prefix("FWMARK = ") {
        return vec![format!("FWM {}", mark.split(' ').next().unwrap())];
    }
    if let Some(rest) = line.strip_prefix("VIP = ") {
        return vec![rest.replace(", VPORT = ", ":")];
    }
    let Some(rest) = line.strip_prefix("VIP Range = ") else { return Vec::new() };
    let (range, port) = rest.split_once(", VPORT = ").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let bits = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().to_bits();
    let all = bits(first)..=bits(last);
    all.map(|bits| format!("{}:{port}", std::net::Ipv4Addr::from_bits(bits))).collect()
}

/// A service of a group once for each member.
fn expanded(
    name: String,
    service: &DumpedService,
    groups: &BTreeMap<String, Vec<String>>,
) -> Vec<(String, DumpedService)> {
    let group = name.strip_prefix('[').and_then(|name| name.split_once("]:")).map(|(name, _)| name);
    let names = match group.and_then(|group| groups.get(group)) {
        Some(members) => members.clone(),
        None => vec![name],
    };
    let protocol = service.fields.get("protocol").cloned().unwrap_or_default();
    let whole =
        |name: String| if name.starts_with("FWM") { name } else { format!("{name} {protocol}") };
    names.into_iter().map(|name| (whole(name), service.clone())).collect()
}
