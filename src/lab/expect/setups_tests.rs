//! Each expectation on what it promises, and on everything that breaks it.

#![allow(clippy::unwrap_used)]

use super::*;

#[allow(clippy::unnecessary_wraps, reason = "as `Asked` has it")]
fn answer(server: &str, saw: &str) -> Result<Answer, String> {
    Ok(Answer { server: server.to_owned(), saw: saw.parse().ok() })
}

fn asked(source: &str, port: u16, server: &str) -> Asked {
    Asked { source: source.parse().unwrap(), port, result: answer(server, source) }
}

fn failed(source: &str, port: u16) -> Asked {
    Asked { source: source.parse().unwrap(), port, result: Err("timed out".to_owned()) }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn addresses(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

const ONE: &str = "192.0.2.1";
const TWO: &str = "192.0.2.2";

#[test]
fn a_client_that_stays_is_told_from_one_that_does_not() {
    let open = names(&["rs1", "rs2"]);
    let sticks = |asked: &[Asked], mask: &str, apart| {
        super::sticks(asked, &open, mask.parse().unwrap(), apart)
    };
    let all = "255.255.255.255";
    let good = [asked(ONE, 80, "rs1"), asked(ONE, 22, "rs1"), asked(TWO, 80, "rs2")];
    assert_eq!(
        sticks(&good, all, 2).unwrap(),
        "192.0.2.1 2 times by rs1 (ports 22, 80), 192.0.2.2 1 times by rs2 (port 80)"
    );
    // Under a mask both are one client.
    let why = sticks(&good, "255.255.255.0", 1).unwrap_err();
    assert!(why.contains("192.0.2.0") && why.contains("did not stay"), "{why}");
    let same = [asked(ONE, 80, "rs1"), asked(TWO, 80, "rs1")];
    assert!(sticks(&same, "255.255.255.0", 1).is_ok());
    assert!(sticks(&same, all, 1).is_ok(), "by chance, or by hash");
    assert!(sticks(&same, all, 2).unwrap_err().contains("expected 2 real servers"));
    // The ports count: an entry of its own for each would send them elsewhere.
    assert!(sticks(&[asked(ONE, 80, "rs1"), asked(ONE, 443, "rs2")], all, 1).is_err());
    assert!(sticks(&[asked(ONE, 80, "rs1"), failed(ONE, 80)], all, 1).is_err());
    assert!(sticks(&[asked(ONE, 80, "rs3")], all, 1).is_err(), "no real server of its own");
    assert!(sticks(&[], all, 1).is_err());
}

#[test]
fn ipv6_clients_have_masks_as_well() {
    let open = names(&["rs1", "rs2"]);
    let asked = [asked("2001:db8::1", 80, "rs1"), asked("2001:db8::2", 80, "rs2")];
    let network = "ffff:ffff:ffff:ffff::".parse().unwrap();
    let host = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
    assert!(sticks(&asked, &open, network, 1).is_err());
    assert!(sticks(&asked, &open, host, 2).is_ok());
}

#[test]
fn every_port_must_be_asked_and_answer() {
    let ports = BTreeSet::from([80, 443]);
    let good = [asked(ONE, 80, "rs1"), asked(ONE, 443, "rs2"), asked(ONE, 80, "rs2")];
    assert_eq!(
        answers_on_every_port(&good, &ports).unwrap(),
        "answered 2 on port 80, 1 on port 443"
    );
    assert!(answers_on_every_port(&good[..1], &ports).is_err());
    assert!(answers_on_every_port(&[asked(ONE, 80, "rs1"), failed(ONE, 443)], &ports).is_err());
}

#[test]
fn what_is_not_passed_on_is_answered_by_nobody() {
    assert_eq!(is_not_passed_on(&[failed(ONE, 81)]).unwrap(), "port 81: timed out");
    assert!(is_not_passed_on(&[failed(ONE, 81), asked(ONE, 81, "rs1")]).is_err());
    assert!(is_not_passed_on(&[]).is_err());
}

#[test]
fn full_nat_hides_the_client_and_nothing_else_does() {
    let director = BTreeMap::from([("rs1".to_owned(), addresses(&["10.0.0.1", "10.0.0.2"]))]);
    let client = BTreeMap::from([("rs1".to_owned(), addresses(&[ONE]))]);
    let seen =
        |saw: &str| Asked { source: ONE.parse().unwrap(), port: 80, result: answer("rs1", saw) };
    assert_eq!(sees(&[seen("10.0.0.1")], &director).unwrap(), "rs1 saw 10.0.0.1");
    let why = sees(&[seen("10.0.0.1"), seen(ONE)], &director).unwrap_err();
    assert_eq!(why, "rs1 saw 192.0.2.1 and not 10.0.0.1 or 10.0.0.2");
    assert!(sees(&[seen("")], &director).is_err());
    assert!(sees(&[failed(ONE, 80)], &director).is_err());
    assert!(sees(&[], &director).is_err());
    assert!(sees(&[seen(ONE)], &client).is_ok());
    assert!(sees(&[seen("10.0.0.1")], &client).is_err());
    assert!(sees(&[seen(ONE)], &BTreeMap::new()).is_err());
}

#[test]
fn who_is_drained_gets_nothing_and_the_others_all() {
    let (shut, open) = (names(&["rs3"]), names(&["rs1", "rs2"]));
    let good = [asked(ONE, 80, "rs1"), asked(ONE, 80, "rs2"), asked(ONE, 80, "rs2")];
    assert_eq!(is_drained(&good, &shut, &open).unwrap(), "rs3 0, rs1 1, rs2 2");
    assert!(is_drained(&good[..1], &shut, &open).is_err(), "rs2 answered nobody");
    let leak = [&good[..], &[asked(ONE, 80, "rs3")]].concat();
    assert!(is_drained(&leak, &shut, &open).is_err());
    let lost = [&good[..], &[failed(ONE, 80)]].concat();
    assert!(is_drained(&lost, &shut, &open).is_err());
}

#[test]
fn one_server_is_no_spread() {
    let by = |servers: &[&str]| servers.iter().map(|s| answer(s, ONE)).collect::<Vec<_>>();
    assert_eq!(is_spread(&by(&["rs1", "rs2", "rs1"]), 2).unwrap(), "rs1 2, rs2 1 from one port");
    assert!(is_spread(&by(&["rs1", "rs1"]), 2).is_err());
    assert!(is_spread(&[], 2).is_err());
    assert!(
        is_spread(&[answer("rs1", ONE), Err("timed out".into()), answer("rs2", ONE)], 2).is_err()
    );
}

#[test]
fn a_transfer_that_took_icmp_or_went_one_way_only_does_not_count() {
    let through = |server: &str, too_large| Ok(Transfer { server: server.to_owned(), too_large });
    let good = [(Way::Up, through("rs1", 0)), (Way::Down, through("rs2", 0))];
    assert_eq!(came_through(&good, 9).unwrap(), "9 bytes down rs2; up rs1; no ICMP was needed");
    assert!(came_through(&good[..1], 9).is_err());
    assert!(came_through(&[(Way::Up, through("rs1", 1)), good[1].clone()], 9).is_err());
    assert!(came_through(&[(Way::Up, Err("timed out".into())), good[1].clone()], 9).is_err());
    assert!(came_through(&[], 9).is_err());
}
