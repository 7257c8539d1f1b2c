//! The parsers on real sources, and on generated text.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::format_collect)] // short, and only here

use proptest::prelude::*;

use super::*;
use crate::state::{Destination, ForwardingMethod, ServiceFlags, Tunnel, VirtualService};
use crate::support::fuzz;

fn only(rules: &IpvsRules) -> (String, &VirtualService) {
    assert_eq!(rules.services.len(), 1, "{rules:?}");
    let (key, service) = rules.services.first_key_value().unwrap();
    (key.to_string(), service)
}

/// The destination that `-a LINE` adds to a service.
fn server(line: &str) -> Destination {
    let rules = ipvsadm::read(&format!("-A -f 1 -s rr\n-a -f 1 {line}\n"));
    let (_, service) = only(&rules);
    service.destinations.first_key_value().unwrap_or_else(|| panic!("{rules:?}")).1.clone()
}

fn kinds(rules: &IpvsRules) -> Vec<RemarkKind> {
    rules.remarks.iter().map(|remark| remark.kind).collect()
}

#[test]
fn long_and_short_options_are_the_same() {
    let lines = [
        "-A -t 192.0.2.1:80 -s sh -p 600 -M 255.255.255.0 -b sh-fallback,sh-port --pe sip",
        "ipvsadm -At 192.0.2.1:http -ssh -p600 -M=255.255.255.0 -b flag-1,flag-2 --pe=sip",
        "sudo /sbin/ipvsadm --add-service --tcp-service=192.0.2.1:80 --scheduler sh --persistent=600 \
         --netmask 255.255.255.0 --sched-flags sh-port,sh-fallback pe sip # why",
    ];
    for line in lines {
        let rules = ipvsadm::read(line);
        assert_eq!((rules.taken, kinds(&rules)), (1, vec![]), "{line}: {rules:?}");
        let (key, service) = only(&rules);
        assert_eq!(key, "tcp 192.0.2.1:80");
        assert_eq!((service.timeout, service.netmask), (600, 0xffff_ff00));
        assert_eq!(service.engine.as_deref(), Some("sip"));
        let all = ServiceFlags::PERSISTENT | ServiceFlags::SCHEDULER_1 | ServiceFlags::SCHEDULER_2;
        assert_eq!(service.flags.bits(), all, "{line}");
        assert_eq!(service.scheduler, "sh");
    }
}

#[test]
fn options_that_a_line_lacks_have_ipvsadms_defaults() {
    let rules = ipvsadm::read("-A -t 192.0.2.1 -p\n-a -t 192.0.2.1 -r 10.0.0.1\n");
    let (key, service) = only(&rules);
    assert_eq!(key, "tcp 192.0.2.1:0");
    assert_eq!((service.scheduler.as_str(), service.timeout), ("wlc", 360));
    let (place, destination) = service.destinations.first_key_value().unwrap();
    assert_eq!(place.to_string(), "10.0.0.1:0");
    assert_eq!(destination.weight, 1);
    assert_eq!(destination.method, ForwardingMethod::DirectRoute);
    assert_eq!(kinds(&rules), [RemarkKind::Guessed]);
}

#[test]
fn version_1_27_prints_words_without_dashes() {
    let rules = ipvsadm::read("-A -u 192.0.2.1:5060 -s rr -p 60 pe sip ops\n");
    let (_, service) = only(&rules);
    assert_eq!(service.engine.as_deref(), Some("sip"));
    assert!(service.flags.has(ServiceFlags::ONE_PACKET | ServiceFlags::PERSISTENT));
    assert!(rules.remarks.is_empty(), "{rules:?}");
}

#[test]
fn marks_have_a_family_and_no_sign() {
    let text = "-A -f 8 -s rr -p 600\n-A -f 8 -6 -s rr -p 60 -M 64\n-A -f -1 -s rr\n";
    let rules = ipvsadm::read(text);
    let keys: Vec<_> = rules.services.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["fwmark4 8", "fwmark4 4294967295", "fwmark6 8"]);
    assert_eq!(rules.services.last_key_value().unwrap().1.netmask, 64);
    assert_eq!(kinds(&rules), [RemarkKind::Guessed]);
}

#[test]
fn real_servers_have_methods_thresholds_and_tunnels() {
    let masq = server("-r 10.0.0.1 -m -w 5 -x 100 -y 50");
    assert_eq!(masq.method, ForwardingMethod::Masquerade);
    assert_eq!((masq.weight, masq.upper_threshold, masq.lower_threshold), (5, 100, 50));
    for (line, tunnel) in [
        ("-r 10.0.0.1 -i", Tunnel::Ipip),
        ("-r 10.0.0.1 -i --tun-type ipip", Tunnel::Ipip),
        ("-r 10.0.0.1 -i --tun-type gre --tun-csum", Tunnel::Gre { flags: 1 }),
        ("-r 10.0.0.1 --ipip --tun-type=gue --tun-port=6080", Tunnel::Gue { port: 6080, flags: 0 }),
        (
            "-r [2001:db8::1]:80 -i --tun-type gue --tun-port 6080 --tun-remcsum",
            Tunnel::Gue { port: 6080, flags: 2 },
        ),
    ] {
        assert_eq!(server(line).tunnel, tunnel, "{line}");
    }
    // A weight outside the kernel's range becomes 1.
    assert_eq!(server("-r 10.0.0.1 -w 2147483648").weight, 1);
    assert_eq!(server("-r 10.0.0.1 -w 2147483647").weight, 2_147_483_647);
}

#[test]
fn commands_run_in_their_order() {
    let text = "-A -t 192.0.2.1:80\n-C\n-A -t 192.0.2.2:80 -s rr\n-a -t 192.0.2.2:80 -r 10.0.0.1 -m\n\
        -a -t 192.0.2.2:80 -r 10.0.0.2 -m\n-e -t 192.0.2.2:80 -r 10.0.0.1 -m -w 7\n\
        -d -t 192.0.2.2:80 -r 10.0.0.2\n-E -t 192.0.2.2:80 -s wrr\n";
    let rules = ipvsadm::read(text);
    assert_eq!((rules.taken, kinds(&rules)), (8, vec![]), "{rules:?}");
    let (_, service) = only(&rules);
    assert_eq!(service.scheduler, "wrr");
    let weights: Vec<_> = service.destinations.values().map(|d| d.weight).collect();
    assert_eq!(weights, [7]);
}

#[test]
fn timeouts_and_daemons_are_taken() {
    let text = "--set 600 0 30\n--start-daemon master --mcast-interface eth1 --syncid 7 --mcast-ttl 4\n\
        --start-daemon=backup --mcast-interface=eth1 --mcast-group ff02::81 --sync-maxlen 1400\n";
    let rules = ipvsadm::read(text);
    assert_eq!((rules.taken, kinds(&rules)), (3, vec![]), "{rules:?}");
    let timeouts = GivenTimeouts { tcp: Some(600), tcp_fin: None, udp: Some(30) };
    assert_eq!(rules.timeouts, timeouts);
    let printed: Vec<_> = rules.daemons.values().map(ToString::to_string).collect();
    assert_eq!(
        printed,
        [
            "on eth1, id 7, 224.0.0.81 port 8848, ttl 4",
            "on eth1, id 0, ff02::81 port 8848, ttl 1, at most 1400 bytes"
        ]
    );
}

/// Lines that ipvsadm or the kernel would refuse, or that import cannot parse.
#[test]
fn left_out_parts_have_a_remark() {
    let refused = [
        "-A -t www.example.org:80 -s rr",
        "-A -t 192.0.2.9:no-such-service -s rr",
        "-A -t 192.0.2.9:0 -s rr",
        "-A -t 192.0.2.9:65536 -s rr",
        "-A -f 0",
        "-A -s rr",
        "-A -t 192.0.2.1:80",
        "-E -t 192.0.2.9:80",
        "-D -t 192.0.2.9:80",
        "-a -t 192.0.2.9:80 -r 10.0.0.1",
        "-a -t 192.0.2.1:80",
        "-a -t 192.0.2.1:80 -r web1:http -m",
        "-a -t 192.0.2.1:80 -r [2001:db8::1]:80 -g",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 -m --tun-type gre",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gue",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gre --tun-remcsum",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 (null) -w 1",
        "--set 900 120",
        "--start-daemon boss --mcast-interface eth0",
        "--stop-daemon backup",
        "-A -D -t 192.0.2.1:80",
        "-t 192.0.2.1:80",
        "TCP  192.0.2.1:80 rr",
        "-Ln",
        "hello",
    ];
    for line in refused {
        let rules = ipvsadm::read(&format!("-A -t 192.0.2.1:80 -s rr\n{line}\n"));
        assert_eq!(rules.taken, 1, "{line} was taken: {rules:?}");
        assert!(rules.remarks.iter().any(|r| r.line == Some(2)), "{line}: no remark");
    }
    let partly = [
        "-A -t 192.0.2.9:80 -s rr -b mh-port",
        "-A -t 192.0.2.9:80 -o",
        "-A -t 192.0.2.9:80 -p never",
        "-A -t 192.0.2.9:80 -p 5 -M 24",
        "-A -t 192.0.2.9:80 --hash-target",
        "-A -t 192.0.2.9:80 surplus",
        "-A -t 192.0.2.9:80 -w 5",
        "-A -t 192.0.2.9:80 -s",
        "-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -g",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 -m -w heavy",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 -m -x 5 -y 6",
        "-a -t 192.0.2.1:80 -r 10.0.0.1 -b",
        "--start-daemon master --syncid 300",
    ];
    for line in partly {
        let rules = ipvsadm::read(&format!("-A -t 192.0.2.1:80 -s rr\n{line}\n"));
        assert_eq!(rules.taken, 2, "{line} was not taken: {rules:?}");
        assert!(rules.remarks.iter().any(|r| r.line == Some(2)), "{line}: no remark");
    }
}

#[test]
fn the_dialect_follows_from_the_content() {
    for (text, dialect) in [
        ("# mine\n\nipvsadm -C\n", Some(Dialect::Ipvsadm)),
        ("--set 1 2 3", Some(Dialect::Ipvsadm)),
        ("-A -t 1.2.3.4:80", Some(Dialect::Ipvsadm)),
        ("IP Virtual Server version 1.2.1 (size=4096)\n", Some(Dialect::Ipvsadm)),
        ("! Configuration File for keepalived\n\nglobal_defs {\n", Some(Dialect::Keepalived)),
        ("virtual_server 192.0.2.1 80 {\n", Some(Dialect::Keepalived)),
        ("$VIP=192.0.2.1\nvirtual_server ${VIP} 80 {\n", Some(Dialect::Keepalived)),
        ("", None),
        ("frontend http\n  bind :80\n", None),
    ] {
        assert_eq!(Dialect::guess(text), dialect, "{text}");
    }
}

#[test]
fn a_virtual_server_is_a_service() {
    let text = "
virtual_server 192.0.2.1 80 {
    lb_algo sh   ! old word
    sh-port
    lb_kind TUN type gue port 6080 csum
    persistence_timeout
    persistence_granularity 255.255.255.0
    protocol TCP
    delay_loop 6
    real_server 10.0.0.1 80 { # on one line
        weight 3
        uthreshold 100
        lthreshold 50
        TCP_CHECK { connect_timeout 3 }
    }
    real_server 10.0.0.2 80
    {
        lvs_method DR
        HTTP_GET {
            url {
                path /
                status_code 200
            }
        }
    }
}
";
    let rules = keepalived::read(text);
    let (key, service) = only(&rules);
    assert_eq!(key, "tcp 192.0.2.1:80");
    assert_eq!((service.timeout, service.netmask), (360, 0xffff_ff00));
    assert!(service.flags.has(ServiceFlags::SCHEDULER_2 | ServiceFlags::PERSISTENT));
    let printed: Vec<_> =
        service.destinations.iter().map(|(key, to)| format!("{key} {to}")).collect();
    assert_eq!(
        printed,
        [
            "10.0.0.1:80 tun weight 3 thresholds 50..100 gue port 6080 flags 1",
            "10.0.0.2:80 dr weight 1"
        ]
    );
    let remarks: Vec<_> = rules.remarks.iter().map(|it| (it.kind, it.what.as_str())).collect();
    assert_eq!(
        remarks,
        [
            (RemarkKind::Guessed, "via: rip"),
            (RemarkKind::Guessed, "delay_before_retry, by default 1 s"),
            (RemarkKind::Guessed, "HTTP_GET without fast_recovery"),
            (RemarkKind::Guessed, "delay_before_retry, by default 3 s"),
        ]
    );
}

/// The checks of the only service, as a topology has them.
fn checks_of(rules: &IpvsRules) -> Vec<String> {
    assert_eq!(rules.health.len(), 1, "{rules:?}");
    let health = rules.health.first_key_value().unwrap().1;
    health.checks.values().map(|check| checks::value(check, true)).collect()
}

#[test]
fn a_check_has_the_nearest_value() {
    let text = "
virtual_server 192.0.2.1 80 {
    lvs_method NAT
    protocol TCP
    real_server 10.0.0.1 80 {
        delay_loop 20
        HTTP_GET {
            virtualhost b.example.org
            retry 0
            fast_recovery
            url {
                path /a
                virtualhost c.example.org
                status_code 200-204 404
                regex 'a\\056b'
            }
        }
    }
    real_server 10.0.0.2 80 {
        virtualhost d.example.org
        SSL_GET {
            connect_port 8443
            enable_sni
            fast_recovery
            url { path / }
            delay_before_retry 6
        }
    }
    real_server 10.0.0.3 80 {
        MISC_CHECK {
            misc_path \"/bin/check 10.0.0.3 '10.0.0.3 80'\"
            user root
            misc_timeout 4
            delay_before_retry 10
        }
    }
    connect_timeout 4
    delay_loop 10
    retry 2
    virtualhost a.example.org
}
";
    let rules = keepalived::read(text);
    assert_eq!(rules.remarks, [], "{rules:?}");
    assert_eq!(
        checks_of(&rules),
        [
            "{type: http, interval: 20, timeout: 4, fall: 1, path: /a, host: c.example.org, status: [200-204, 404], \
             body_regex: \"a.b\"}",
            "{type: https, port: 8443, interval: 10, timeout: 4, host: d.example.org}",
            "{type: script, interval: 10, timeout: 4, command: [/bin/check, \"{rip}\", \"10.0.0.3 80\"]}",
        ]
    );
}

/// Each of these makes keepalived keep all checks of the virtual server.
#[test]
fn a_check_that_a_topology_cannot_say_stays_with_keepalived() {
    for (check, what) in [
        ("SMTP_CHECK { helo_name a }", "SMTP_CHECK"),
        ("HTTP_GET { url { path / } url { path /b } }", "url in HTTP_GET"),
        (
            "HTTP_GET { url { path / \n digest 640205b7b0fc66c1ea91c463fac6334d } }",
            "digest in HTTP_GET",
        ),
        ("HTTP_GET { url { path / \n regex a \n regex_no_match } }", "regex_no_match in HTTP_GET"),
        ("HTTP_GET { url { path \"/a b\" } }", "HTTP_GET"),
        ("HTTP_GET { virtualhost a_b! \n }", "HTTP_GET"),
        ("DNS_CHECK { name a..b }", "DNS_CHECK"),
        ("TCP_CHECK { fwmark 3 }", "fwmark in TCP_CHECK"),
        ("TCP_CHECK { connect_ip 10.0.0.9 }", "connect_ip in TCP_CHECK"),
        ("MISC_CHECK { misc_path check }", "MISC_CHECK"),
        ("MISC_CHECK { misc_path '/bin/check $HOME' }", "MISC_CHECK"),
        ("MISC_CHECK { misc_path '/bin/check {rip}' }", "misc_path in MISC_CHECK"),
        ("MISC_CHECK { misc_path /bin/check \n misc_dynamic }", "misc_dynamic in MISC_CHECK"),
        ("MISC_CHECK { misc_path /bin/check \n user nobody }", "user in MISC_CHECK"),
        (
            "TCP_CHECK { connect_timeout 1 } \n TCP_CHECK { connect_timeout 2 }",
            "TCP_CHECK as a second check",
        ),
    ] {
        let check = check.replace(" { ", " {\n").replace(" }", "\n}");
        let text = format!(
            "virtual_server 192.0.2.1 80 {{\nlvs_method NAT\nprotocol TCP\nquorum 1\nreal_server 10.0.0.1 80 {{\n{check}\n}}\n\
             real_server 10.0.0.2 80 {{\nTCP_CHECK {{\n}}\n}}\n}}\n"
        );
        let rules = keepalived::read(&text);
        assert_eq!((rules.external.len(), rules.health.len()), (1, 0), "{text}{rules:?}");
        let refused: Vec<_> = rules.remarks.iter().filter(|it| it.line > Some(4)).collect();
        assert!(refused.iter().any(|it| it.what == what), "{what}: {:#?}", rules.remarks);
        let kept = rules.remarks.iter().find(|it| it.line == Some(1)).unwrap();
        assert!(kept.what.contains("TCP_CHECK") && kept.what.contains("quorum"), "{kept}");
    }
}

#[test]
fn a_group_is_a_service_for_each_member() {
    let text = "
virtual_server group G {
    lvs_sched rr
    lvs_method NAT
    protocol UDP
    ops
    real_server 10.0.0.1 1358 { weight 1 }
}
virtual_server_group G {
    192.0.2.1 80
    192.0.2.3-4 domain
    fwmark 1
    nonsense
}
virtual_server fwmark 7 {
    lvs_method TUN
    real_server 2001:db8::1 { weight 2 }
}
";
    let rules = keepalived::read(text);
    let keys: Vec<_> = rules.services.keys().map(ToString::to_string).collect();
    assert_eq!(
        keys,
        ["udp 192.0.2.1:80", "udp 192.0.2.3:53", "udp 192.0.2.4:53", "fwmark4 1", "fwmark6 7"]
    );
    assert_eq!(kinds(&rules), [RemarkKind::NotUnderstood], "{:?}", rules.remarks);
}

#[test]
fn addresses_of_vrrp_are_hints_and_no_password_is_printed() {
    let text = "
global_defs { lvs_timeouts tcp 900 udp 0
  lvs_sync_daemon eth1 VI_1 id 9 group 224.0.0.81
  router_id x }
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    authentication { auth_type PASS
        auth_pass s3cret }
    virtual_ipaddress {
        192.0.2.1/24 dev eth2 label eth2:1
        192.0.2.2
        nowhere
    }
}
virtual_server 192.0.2.1 80 {
    protocol TCP
    lvs_method DR
    real_server 10.0.0.1 80
}
";
    let rules = keepalived::read(text);
    let hint = VipHint { prefix: Some(24), interface: "eth2".parse().ok() };
    assert_eq!(rules.vips.into_iter().collect::<Vec<_>>(), [("192.0.2.1".parse().unwrap(), hint)]);
    assert_eq!(rules.timeouts.tcp, Some(900));
    assert_eq!(rules.daemons.len(), 1);
    let printed: Vec<_> = rules.remarks.iter().map(ToString::to_string).collect();
    let printed = printed.join("\n");
    assert!(!printed.contains("s3cret"), "{printed}");
    for word in ["192.0.2.2", "nowhere", "authentication", "router_id", "lvs_sync_daemon"] {
        assert!(printed.contains(word), "no remark about {word}: {printed}");
    }
}

/// Lines of valid words in random order.
fn near_rules() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        proptest::sample::select(vec![
            "-A",
            "-a",
            "-E",
            "-e",
            "-D",
            "-d",
            "-C",
            "-t",
            "-u",
            "-f",
            "-6",
            "-s",
            "-p",
            "-M",
            "-r",
            "-g",
            "-i",
            "-m",
            "-w",
            "-x",
            "-y",
            "-o",
            "-b",
            "--pe",
            "--set",
            "--start-daemon",
            "master",
            "--syncid",
            "--tun-type",
            "gue",
            "--tun-port",
            "rr",
            "192.0.2.1:80",
            "[2001:db8::1]:80",
            "10.0.0.1",
            "300",
            "-1",
            "255.255.255.0",
            "pe",
            "ops",
            "#",
            "\\",
            "-At",
            "-Ln",
            "TCP",
            "->",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,8}",
    ];
    let line = proptest::collection::vec(word, 0..9).prop_map(|words| words.join(" "));
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

fn near_configuration() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        proptest::sample::select(vec![
            "virtual_server",
            "virtual_server_group",
            "real_server",
            "group",
            "fwmark",
            "{",
            "}",
            "\n",
            "lb_algo",
            "rr",
            "lb_kind",
            "TUN",
            "type",
            "gue",
            "port",
            "80",
            "10.0.0.1",
            "2001:db8::1",
            "192.0.2.1-9",
            "protocol",
            "TCP",
            "weight",
            "3",
            "$A=",
            "$A",
            "${A}",
            "~SEQ(A,1,9)",
            "@x",
            "~LST(A,1,2)",
            "\\\n",
            "\"",
            "'",
            "!",
            "#",
            "global_defs",
            "lvs_timeouts",
            "tcp",
            "vrrp_instance",
            "virtual_ipaddress",
            "persistence_granularity",
            "include",
            "G",
            "ops",
            "TCP_CHECK",
            "HTTP_GET",
            "MISC_CHECK",
            "DNS_CHECK",
            "url",
            "path",
            "/a",
            "status_code",
            "200-299",
            "misc_path",
            "connect_port",
            "delay_loop",
            "retry",
            "quorum",
            "sorry_server",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,6}",
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_result(text in "\\PC*|(?s).{0,200}") {
        Dialect::guess(&text);
        ipvsadm::read(&text);
        keepalived::read(&text);
    }

    #[test]
    fn each_line_of_rules_is_taken_or_named(text in near_rules()) {
        let rules = ipvsadm::read(&text);
        let lines = ipvsadm::logical_lines(&text)
            .iter()
            .filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'))
            .count();
        let named: std::collections::BTreeSet<_> =
            rules.remarks.iter().filter_map(|remark| remark.line).collect();
        prop_assert!(rules.taken + named.len() >= lines, "{lines} lines: {rules:?}");
    }

    #[test]
    fn any_configuration_gives_a_result(text in near_configuration()) {
        let rules = keepalived::read(&text);
        for service in rules.services.values() {
            prop_assert!(service.destinations.values().all(|d| d.lower_threshold <= d.upper_threshold));
        }
    }
}

/// Real sources, as seeds for mutation.
fn texts(dialect: Dialect) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import");
    let mut found: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .chain(std::fs::read_dir(folder.join("keepalived")).unwrap())
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .filter(|text| Dialect::guess(text) == Some(dialect))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    match dialect {
        Dialect::Ipvsadm => found.extend(fuzz::samples(&near_rules(), 64)),
        Dialect::Keepalived => found.extend(fuzz::samples(&near_configuration(), 64)),
    }
    found.into_iter().map(String::into_bytes).collect()
}

#[test]
fn fuzz_import_ipvsadm() {
    fuzz::target!("fuzz_import_ipvsadm", 3000, texts(Dialect::Ipvsadm), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        Dialect::guess(&text);
        ipvsadm::read(&text);
    });
}

#[test]
fn fuzz_import_keepalived() {
    fuzz::target!("fuzz_import_keepalived", 3000, texts(Dialect::Keepalived), |bytes| {
        let rules = keepalived::read(&String::from_utf8_lossy(bytes));
        for service in rules.services.values() {
            assert!(service.destinations.values().all(|d| d.lower_threshold <= d.upper_threshold));
        }
    });
}

/// 100 addresses times 3,000 real servers, and ranges of 1,024 addresses without end.
#[test]
fn the_expansion_of_groups_is_bounded() {
    let servers: String = (0..3_000)
        .map(|n| format!(" real_server 10.1.{}.{} 80 {{ weight 1 }}\n", n / 250, 1 + n % 250))
        .collect();
    let head = "virtual_server_group g {\n 10.0.0.1-100 80\n}\n";
    let text =
        format!("{head}virtual_server group g {{\n lb_kind NAT\n protocol TCP\n{servers}}}\n");
    let rules = keepalived::read(&text);
    assert!(rules.services.is_empty());
    assert!(kinds(&rules).contains(&RemarkKind::NotUnderstood), "{:?}", rules.remarks);

    let ranges: String =
        (0..1_000).map(|n| format!(" 10.{}.{}.0/22 80\n", n / 64, n % 64 * 4)).collect();
    let rules = keepalived::read(&format!("virtual_server_group g {{\n{ranges}}}\n"));
    assert!(kinds(&rules).contains(&RemarkKind::NotUnderstood));
}
