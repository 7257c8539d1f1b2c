//! Reads the kernel's counters of dropped packets: /proc/net/netstat, snmp, snmp6 and stat/.

use std::fs;
use std::io;

use super::error::{Error, Result};
use crate::state::examination::{DropCounter, DropCounters};

/// Of the network namespace of the calling thread.
const FOLDER: &str = "/proc/thread-self/net";

/// The counters that this kernel has.
pub fn read() -> Result<DropCounters> {
    let mut all = DropCounters::new();
    let mut of = |file: &str, parse: fn(&str) -> DropCounters| -> Result<()> {
        let path = format!("{FOLDER}/{file}");
        match fs::read_to_string(&path) {
            Ok(text) => all.extend(parse(&text)),
            // A kernel without IPv6, or without connection tracking.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::new(format!("cannot read {path}")).because(error)),
        }
        Ok(())
    };
    of("netstat", in_two_lines)?;
    of("snmp", in_two_lines)?;
    of("snmp6", in_pairs)?;
    of("stat/rt_cache", |text| {
        by_processor(text, &[("in_martian_src", DropCounter::MartianSource)])
    })?;
    of("stat/nf_conntrack", |text| {
        let wanted =
            [("invalid", DropCounter::ConntrackInvalid), ("drop", DropCounter::ConntrackDrop)];
        by_processor(text, &wanted)
    })?;
    Ok(all)
}

/// A line of names, and below it one of numbers, both with the same first word (net/ipv4/proc.c).
fn in_two_lines(text: &str) -> DropCounters {
    let mut found = DropCounters::new();
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() != names.first() {
            names = words;
            continue;
        }
        for (name, value) in names.iter().zip(&words).skip(1) {
            let counter = match (names.first().copied(), *name) {
                (Some("TcpExt:"), "IPReversePathFilter") => DropCounter::ReversePathFilter,
                (Some("TcpExt:"), "ArpFilter") => DropCounter::ArpFilter,
                (Some("Ip:"), "InAddrErrors") => DropCounter::InAddrErrors,
                (Some("Ip:"), "OutNoRoutes") => DropCounter::OutNoRoutes,
                _ => continue,
            };
            found.extend(value.parse().ok().map(|value: u64| (counter, value)));
        }
        names.clear();
    }
    found
}

/// A name and a number in each line (net/ipv6/proc.c).
fn in_pairs(text: &str) -> DropCounters {
    let pair = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        let counter = match name {
            "Ip6InAddrErrors" => DropCounter::Ip6InAddrErrors,
            "Ip6InNoRoutes" => DropCounter::Ip6InNoRoutes,
            "Ip6OutNoRoutes" => DropCounter::Ip6OutNoRoutes,
            _ => return None,
        };
        Some((counter, value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A line of names, then one of hexadecimal numbers for each processor (net/ipv4/route.c, `rt_cpu_seq_show`;
/// net/netfilter/nf_conntrack_standalone.c, `ct_cpu_seq_show`).
fn by_processor(text: &str, wanted: &[(&str, DropCounter)]) -> DropCounters {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let mut found = DropCounters::new();
    for line in lines {
        for (name, value) in names.iter().zip(line.split_whitespace()) {
            let counter = wanted.iter().find(|(wanted, _)| wanted == name);
            if let (Some((_, counter)), Ok(value)) = (counter, u64::from_str_radix(value, 16)) {
                let sum = found.entry(*counter).or_default();
                *sum = sum.saturating_add(value);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent ArpFilter IPReversePathFilter\nTcpExt: 1 2 3\n\
                    IpExt: InNoRoutes\nIpExt: 9\n";
        let found = in_two_lines(text);
        let expected = [(DropCounter::ArpFilter, 2), (DropCounter::ReversePathFilter, 3)];
        assert_eq!(found, expected.into());
        let text =
            "Ip: Forwarding InAddrErrors OutNoRoutes\nIp: 1 7 8\nTcp: InAddrErrors\nTcp: 5\n";
        let expected = [(DropCounter::InAddrErrors, 7), (DropCounter::OutNoRoutes, 8)];
        assert_eq!(in_two_lines(text), expected.into());
        let text = "Ip6InReceives                   \t11\nIp6InNoRoutes                   \t12\n";
        assert_eq!(in_pairs(text), [(DropCounter::Ip6InNoRoutes, 12)].into());
        let text = "entries  in_hit in_martian_src\n00000001  00000002 0000000a\n00000001  00000002 00000006\n";
        let wanted = [("in_martian_src", DropCounter::MartianSource)];
        assert_eq!(by_processor(text, &wanted), [(DropCounter::MartianSource, 16)].into());
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        for text in ["", "TcpExt:", "TcpExt: ArpFilter\n", "TcpExt: ArpFilter\nTcpExt: x\n"] {
            assert_eq!(in_two_lines(text), DropCounters::new(), "{text}");
        }
        assert_eq!(in_pairs("Ip6InNoRoutes\nx y z\n"), DropCounters::new());
        let wanted = [("drop", DropCounter::ConntrackDrop)];
        assert_eq!(by_processor("drop\nxyz\n", &wanted), DropCounters::new());
    }

    #[test]
    fn this_kernel_has_the_counters_of_ipv4() {
        let found = read().unwrap_or_default();
        assert!(found.contains_key(&DropCounter::InAddrErrors), "{found:?}");
        assert!(found.contains_key(&DropCounter::ReversePathFilter), "{found:?}");
    }
}
