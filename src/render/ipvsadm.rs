//! Rules for `ipvsadm -R`: one command on each line, as `ipvsadm -S` prints them, sorted by protocol, VIP
//! and port.
//!
//! Measured with ipvsadm 1.31 on Linux 6.1: -R accepts thresholds, `--set` and `--start-daemon`, which -S
//! does not print. It does not accept comments: a line with `#` is an error. After a line that the kernel
//! refuses it continues, and its exit code is that of the last line. So the sync daemons, which cannot be
//! started twice, come first.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::{Rendered, Unsupported};
use crate::state::{
    Destination, DestinationKey, ForwardingMethod, HostState, Item, Protocol, ServiceFlags,
    ServiceKey, SyncDaemon, Timeouts, Tunnel, VirtualService,
};

/// ipvsadm's longest timeout: 31 days, in seconds (`MAX_TIMEOUT`).
const LONGEST: u32 = 86_400 * 31;

/// ipvsadm's highest threshold (`INT_MAX`); the kernel accepts any u32.
const HIGHEST: u32 = i32::MAX.cast_unsigned();

/// The IPVS part of `state` as rules. The same state gives the same text.
pub fn rules(state: &HostState) -> Rendered {
    let mut rendered = Rendered::default();
    for (role, daemon) in &state.daemons {
        let SyncDaemon { interface, id, max_length, group, port, ttl } = daemon;
        let mut line = format!(
            "--start-daemon {role} --mcast-interface {interface} --syncid {id} --mcast-group {group} \
             --mcast-port {port} --mcast-ttl {ttl}"
        );
        if *max_length != 0 {
            push(&mut line, format_args!(" --sync-maxlen {max_length}"));
        }
        rendered.line(&line);
    }
    if let Some(Timeouts { tcp, tcp_fin, udp }) = state.timeouts {
        let [tcp, tcp_fin, udp] =
            [("tcp", tcp), ("tcp-fin", tcp_fin), ("udp", udp)].map(|(name, seconds)| {
                rendered.at_most(seconds, LONGEST, || format!("the {name} timeout"))
            });
        rendered.line(&format!("--set {tcp} {tcp_fin} {udp}"));
    }
    for (key, service) in &state.services {
        rendered.service(key, service);
    }
    rendered.unsupported.extend(state.items().iter().filter_map(|item| unsupported(state, item)));
    rendered
}

impl Rendered {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn service(&mut self, key: &ServiceKey, service: &VirtualService) {
        let VirtualService { scheduler, flags, timeout, netmask, engine, destinations } = service;
        let name = name(key);
        let mut line = format!("-A {name} -s {scheduler}");
        if flags.has(ServiceFlags::PERSISTENT) {
            let timeout = self.at_most(*timeout, LONGEST, || format!("the persistence of {key}"));
            push(&mut line, format_args!(" -p {timeout}"));
        }
        match (key.is_ipv6(), *netmask) {
            (false, u32::MAX) | (true, 128) => {}
            (false, mask) => push(&mut line, format_args!(" -M {}", Ipv4Addr::from_bits(mask))),
            (true, bits) => push(&mut line, format_args!(" -M {bits}")),
        }
        if let Some(engine) = engine {
            push(&mut line, format_args!(" --pe {engine}"));
        }
        if flags.has(ServiceFlags::ONE_PACKET) {
            line.push_str(" -o");
        }
        let scheduler_flags = scheduler_flags(scheduler, *flags);
        if !scheduler_flags.is_empty() {
            push(&mut line, format_args!(" -b {}", scheduler_flags.join(",")));
        }
        self.line(&line);
        for (at, destination) in destinations {
            self.destination(key, &name, *at, destination);
        }
    }

    fn destination(
        &mut self,
        key: &ServiceKey,
        name: &str,
        at: DestinationKey,
        destination: &Destination,
    ) {
        let Destination { method, weight, upper_threshold, lower_threshold, tunnel } = destination;
        let how = match method {
            ForwardingMethod::Masquerade => "-m",
            ForwardingMethod::Tunnel => "-i",
            // The kernel makes a local destination Local by itself, with any requested method.
            ForwardingMethod::DirectRoute | ForwardingMethod::Local => "-g",
            ForwardingMethod::Bypass => {
                self.unsupported.push(Unsupported {
                    what: format!("{at} of {key}"),
                    why: "ipvsadm has no option for a bypass destination".to_owned(),
                });
                return;
            }
        };
        let mut line = format!("-a {name} -r {at} {how} -w {weight}");
        for (option, which, threshold) in
            [("-x", "upper", *upper_threshold), ("-y", "lower", *lower_threshold)]
        {
            let threshold = self
                .at_most(threshold, HIGHEST, || format!("the {which} threshold of {at} of {key}"));
            if threshold != 0 {
                push(&mut line, format_args!(" {option} {threshold}"));
            }
        }
        if *method == ForwardingMethod::Tunnel {
            tunnel_options(&mut line, *tunnel);
        }
        self.line(&line);
    }

    /// `value`, or ipvsadm's maximum with an entry in the list of unsupported settings.
    fn at_most(&mut self, value: u32, most: u32, what: impl FnOnce() -> String) -> u32 {
        if value > most {
            let why = format!("ipvsadm's maximum is {most}, which is written instead of {value}");
            self.unsupported.push(Unsupported { what: what(), why });
        }
        value.min(most)
    }
}

fn push(line: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = line.write_fmt(more);
}

/// The options of a service's key. With an IPv6 service ipvsadm reads the mask as a prefix length.
fn name(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address(protocol, address) => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {address}")
        }
        ServiceKey::Fwmark { v6: false, mark } => format!("-f {mark}"),
        ServiceKey::Fwmark { v6: true, mark } => format!("-f {mark} -6"),
    }
}

/// Flag names as `ipvsadm -S` prints them.
fn scheduler_flags(scheduler: &str, flags: ServiceFlags) -> Vec<&'static str> {
    let names = match scheduler {
        "sh" => ["sh-fallback", "sh-port", "flag-3"],
        "mh" => ["mh-fallback", "mh-port", "flag-3"],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let bits = [ServiceFlags::SCHEDULER_1, ServiceFlags::SCHEDULER_2, ServiceFlags::SCHEDULER_3];
    bits.into_iter().zip(names).filter(|(bit, _)| flags.has(*bit)).map(|(_, name)| name).collect()
}

fn tunnel_options(line: &mut String, tunnel: Tunnel) {
    let flags = match tunnel {
        Tunnel::Ipip => return,
        Tunnel::Gre { flags } => {
            line.push_str(" --tun-type gre");
            flags
        }
        Tunnel::Gue { port, flags } => {
            push(line, format_args!(" --tun-type gue --tun-port {port}"));
            flags
        }
    };
    line.push_str(match flags {
        0 => " --tun-nocsum",
        1 => " --tun-csum",
        _ => " --tun-remcsum",
    });
}

/// A setting that a rules file does not support, with its value.
fn unsupported(state: &HostState, item: &Item) -> Option<Unsupported> {
    match item {
        // ipvsadm loads the module itself.
        Item::Service(_)
        | Item::Timeouts
        | Item::Daemon(_)
        | Item::Module(crate::state::Module::IpVs) => None,
        _ => Some(Unsupported::of(state, item, "a rules file of ipvsadm")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::import;

    /// Rules with every option, in the order and spelling of the result.
    const ALL: &str = "\
--start-daemon master --mcast-interface eth0 --syncid 7 --mcast-group 224.0.0.81 --mcast-port 8848 --mcast-ttl 1 --sync-maxlen 1400
--set 900 120 300
-A -t 192.0.2.1:0 -s rr -p 600 -M 255.255.255.0
-a -t 192.0.2.1:0 -r 10.0.0.1:0 -g -w 0
-A -t 192.0.2.1:80 -s sh -b sh-fallback,sh-port,flag-3
-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 2147483647 -x 100 -y 50
-a -t 192.0.2.1:80 -r [2001:db8::5]:80 -i -w 1 --tun-type gre --tun-csum
-A -t [2001:db8::1]:443 -s mh -p 60 -M 64 -b mh-port
-a -t [2001:db8::1]:443 -r 10.0.0.1:443 -i -w 1
-a -t [2001:db8::1]:443 -r [2001:db8::5]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
-A -u 192.0.2.1:5060 -s wlc -p 60 --pe sip -o -b flag-1
-A --sctp-service 192.0.2.1:80 -s rr
-A -f 4294967295 -s rr -o
-A -f 8 -6 -s rr -p 300 -M 64
-a -f 8 -6 -r [2001:db8::5]:0 -g -w 1
";

    fn state_of(text: &str) -> HostState {
        let rules = import::ipvsadm::read(text);
        assert_eq!(rules.remarks, []);
        let timeouts = match rules.timeouts {
            import::GivenTimeouts { tcp: Some(tcp), tcp_fin: Some(tcp_fin), udp: Some(udp) } => {
                Some(Timeouts { tcp, tcp_fin, udp })
            }
            _ => None,
        };
        let (services, daemons) = (rules.services, rules.daemons);
        HostState { services, timeouts, daemons, ..HostState::default() }
    }

    #[test]
    fn what_is_read_is_written_again() {
        let state = state_of(ALL);
        assert_eq!(rules(&state), Rendered { text: ALL.to_owned(), unsupported: Vec::new() });
    }

    #[test]
    fn what_is_too_much_for_ipvsadm_is_told() {
        let mut state = state_of(
            "-A -t 192.0.2.1:80 -s rr -p 3000000\n-a -t 192.0.2.1:80 -r 10.0.0.1 -x 3000000000\n",
        );
        state.sysctls.insert("net.ipv4.vs.conntrack".parse().unwrap(), "1".to_owned());
        let rendered = rules(&state);
        assert_eq!(
            rendered.text,
            "-A -t 192.0.2.1:80 -s rr -p 2678400\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1 -x 2147483647\n"
        );
        let said: Vec<_> = rendered.unsupported.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "the persistence of tcp 192.0.2.1:80: ipvsadm's maximum is 2678400, which is written instead of 3000000",
                "the upper threshold of 10.0.0.1:80 of tcp 192.0.2.1:80: ipvsadm's maximum is 2147483647, which is written instead of 3000000000",
                "net.ipv4.vs.conntrack = 1: not in a rules file of ipvsadm; set it, for example with /etc/sysctl.d",
            ]
        );
    }
}
