//! What `ipvsadm -Sn` shows for a table: ipvsadm(8)'s words, written without a look at how lvsprov
//! speaks of the same things.

use std::collections::BTreeSet;
use std::process::Command;

use lvsprov::kernel::ipvs::Table;
use lvsprov::state::{
    Destination, ForwardingMethod, Protocol, ServiceFlags, ServiceKey, Tunnel, VirtualService,
};

use crate::support::netns_host::{NetnsHost, run};

/// A line as the set of its options: their order differs from version to version.
pub type Line = BTreeSet<String>;

/// What ipvsadm shows now.
pub fn shown(netns: &NetnsHost) -> BTreeSet<Line> {
    let text = netns.run(|| run(Command::new("ipvsadm").arg("-Sn")));
    text.lines().map(line).collect()
}

fn line(text: &str) -> Line {
    options(text).into_iter().filter(|option| option != "--tun-type ipip").collect()
}

/// Options with their values.
pub fn options(text: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        // Of a mark above 2147483647 ipvsadm prints a negative number.
        let of_mark = word != "-6" && options.last().is_some_and(|option| option == "-f");
        match options.last_mut().filter(|_| of_mark || !word.starts_with('-')) {
            Some(option) => *option = format!("{option} {word}"),
            None => options.push(word.to_owned()),
        }
    }
    options
}

/// What ipvsadm should show for `table`.
pub fn expected(table: &Table) -> BTreeSet<Line> {
    let mut all = BTreeSet::new();
    for (key, service) in table {
        all.insert(of_service(key, service));
        for (rip, destination) in &service.destinations {
            let mut line = name(key);
            line.insert("-a".to_owned());
            line.insert(format!("-r {rip}"));
            line.extend(of_destination(destination));
            all.insert(line);
        }
    }
    all
}

fn name(key: &ServiceKey) -> Line {
    match key {
        ServiceKey::Address(protocol, address) => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            Line::from([format!("{option} {address}")])
        }
        ServiceKey::Fwmark { v6, mark } => {
            let mut line = Line::from([format!("-f {}", mark.cast_signed())]);
            line.extend(v6.then(|| "-6".to_owned()));
            line
        }
    }
}

fn of_service(key: &ServiceKey, service: &VirtualService) -> Line {
    let mut line = name(key);
    line.insert("-A".to_owned());
    line.insert(format!("-s {}", service.scheduler));
    let flags = service.flags;
    if flags.has(ServiceFlags::PERSISTENT) {
        line.insert(format!("-p {}", service.timeout));
        if key.is_ipv6() && service.netmask != 128 {
            line.insert(format!("-M {}", service.netmask));
        }
        if !key.is_ipv6() && service.netmask != u32::MAX {
            line.insert(format!("-M {}", std::net::Ipv4Addr::from(service.netmask)));
        }
    }
    line.extend(service.engine.as_ref().map(|engine| format!("--pe {engine}")));
    line.extend(flags.has(ServiceFlags::ONE_PACKET).then(|| "-o".to_owned()));
    // Of these two ipvsadm leaves out the third, and writes a bare `-b` if it is alone.
    let names: &[&str] = match service.scheduler.as_str() {
        "sh" => &["sh-fallback", "sh-port"],
        "mh" => &["mh-fallback", "mh-port"],
        _ => &["flag-1", "flag-2", "flag-3"],
    };
    let bits = [ServiceFlags::SCHEDULER_1, ServiceFlags::SCHEDULER_2, ServiceFlags::SCHEDULER_3];
    let set = bits.iter().zip(names).filter(|(bit, _)| flags.has(**bit)).map(|(_, name)| *name);
    let set: Vec<&str> = set.collect();
    if bits.iter().any(|bit| flags.has(*bit)) {
        line.insert(format!("-b {}", set.join(",")).trim_end().to_owned());
    }
    line
}

fn of_destination(destination: &Destination) -> Line {
    let method = match destination.method {
        ForwardingMethod::Masquerade => "-m",
        ForwardingMethod::Tunnel => "-i",
        ForwardingMethod::DirectRoute => "-g",
        ForwardingMethod::Local | ForwardingMethod::Bypass => unreachable!("nobody asks for it"),
    };
    let mut line = Line::from([method.to_owned(), format!("-w {}", destination.weight)]);
    let (kind, port, flags) = match destination.tunnel {
        Tunnel::Ipip => return line,
        Tunnel::Gue { port, flags } => ("gue", Some(port), flags),
        Tunnel::Gre { flags } => ("gre", None, flags),
    };
    let checksum = ["--tun-nocsum", "--tun-csum", "--tun-remcsum"][usize::from(flags)];
    line.extend([format!("--tun-type {kind}"), checksum.to_owned()]);
    line.extend(port.map(|port| format!("--tun-port {port}")));
    line
}
