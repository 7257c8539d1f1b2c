//! Values under /proc/sys.

use lvsprov::state::{Edit, Sysctl};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::NetnsHost;

pub fn cases() -> Vec<Case> {
    cases![
        a_value_is_set_only_if_it_is_what_was_expected,
        an_interface_with_a_dot_in_its_name_is_reached,
        what_does_not_exist_is_left_out_and_cannot_be_set,
        a_value_that_the_kernel_refuses_is_named,
        ip_forward_is_seen_with_all_that_it_changes_and_can_be_put_back,
        steps_end_at_the_first_that_fails
    ]
}

fn set(key: &str, before: &str, after: &str) -> Edit {
    let key = key.parse().unwrap();
    Edit::change::<Sysctl>(key, before.to_owned(), after.to_owned())
}

fn a_value_is_set_only_if_it_is_what_was_expected() {
    let netns = NetnsHost::new();
    let change = set("net.ipv4.conf.lo.arp_ignore", "0", "1");
    netns.do_all(vec![change.clone()]);
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "1");
    netns.set_sysctl("conf/lo/arp_ignore", "2");
    netns.fails(change.inverse().unwrap(), "expected 1, found 2");
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "2");
}

fn an_interface_with_a_dot_in_its_name_is_reached() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("link add v0.100 type veth peer name v1.100");
    // A VLAN is called so; not every kernel has VLANs, so this is a pair with such a name.
    let key = "net/ipv4/conf/v0.100/rp_filter";
    let before = netns.sysctl("conf/v0.100/rp_filter");
    let after = if before == "2" { "1" } else { "2" };
    let outcome = netns.do_all(vec![set(key, &before, after)]);
    assert_eq!(netns.sysctl("conf/v0.100/rp_filter"), after);
    assert_eq!(outcome.failure, None);
    let seen = netns.look(&[key]).state.sysctls;
    assert_eq!(seen[&key.parse().unwrap()], after);
}

fn what_does_not_exist_is_left_out_and_cannot_be_set() {
    let netns = NetnsHost::new();
    let seen = netns.look(&["net.ipv4.conf.eth7.rp_filter", "net/ipv4/conf/eth7.1/rp_filter"]);
    assert!(seen.state.sysctls.is_empty());
    for key in ["net.ipv4.conf.eth7.rp_filter", "net/ipv4/conf/eth7.1/rp_filter"] {
        let failure = netns.fails(set(key, "0", "1"), "this host has no such setting");
        assert!(failure.cure.unwrap().contains("this host has no interface eth7"));
    }
}

fn a_value_that_the_kernel_refuses_is_named() {
    let netns = NetnsHost::new();
    let before = netns.sysctl("conf/lo/arp_ignore");
    let change = set("net.ipv4.conf.lo.arp_ignore", &before, "many");
    let failure = netns.fails(change, "cannot set net.ipv4.conf.lo.arp_ignore to \"many\"");
    assert!(failure.cure.unwrap().contains("a value that the kernel accepts"));
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), before);
}

fn ip_forward_is_seen_with_all_that_it_changes_and_can_be_put_back() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("link add v0.100 type veth peer name v1.100");
    netns.set_sysctl("conf/v1/forwarding", "1");
    netns.set_sysctl("conf/all/accept_redirects", "1");
    let before = netns.look(&["net.ipv4.ip_forward"]).state.sysctls;
    let value = |key: &str| before[&key.parse().unwrap()].as_str();
    assert_eq!(value("net.ipv4.ip_forward"), "0");
    assert_eq!(value("net.ipv4.conf.v1.forwarding"), "1");
    assert_eq!(value("net/ipv4/conf/v0.100/forwarding"), "0");

    netns.do_all(vec![set("net.ipv4.ip_forward", "0", "1")]);
    assert_eq!(netns.sysctl("conf/all/accept_redirects"), "0");
    assert_eq!(netns.sysctl("conf/v0.100/forwarding"), "1");
    let during = netns.look(&["net.ipv4.ip_forward"]).state.sysctls;
    assert_eq!(during.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());

    // As a plan would: ip_forward first, then whatever is not as it was.
    netns.do_all(vec![set("net.ipv4.ip_forward", "1", "0")]);
    let now = netns.look(&["net.ipv4.ip_forward"]).state.sysctls;
    let mend = |(key, was): (&lvsprov::state::Sysctl, &String)| {
        let is = &now[key];
        (is != was).then(|| set(&key.to_string(), is, was))
    };
    let steps: Vec<_> = before.iter().filter_map(mend).collect();
    assert!(!steps.is_empty(), "ip_forward changed nothing else: this test shows nothing");
    netns.do_all(steps);
    assert_eq!(netns.look(&["net.ipv4.ip_forward"]).state.sysctls, before);
    assert_eq!(netns.sysctl("conf/v1/forwarding"), "1");
    assert_eq!(netns.sysctl("conf/all/accept_redirects"), "1");
}

fn steps_end_at_the_first_that_fails() {
    let netns = NetnsHost::new();
    let outcome = netns.act(vec![
        set("net.ipv4.conf.lo.arp_ignore", "0", "1"),
        set("net.ipv4.conf.lo.arp_announce", "7", "2"),
        set("net.ipv4.conf.lo.rp_filter", "0", "2"),
    ]);
    assert_eq!(outcome.done, 1);
    assert!(outcome.failure.unwrap().message.contains("arp_announce"));
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "1");
    assert_eq!(netns.sysctl("conf/lo/rp_filter"), "0");
}
