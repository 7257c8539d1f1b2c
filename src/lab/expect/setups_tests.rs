//! Each expectation with results that meet it and results that violate it.

#![allow(clippy::unwrap_used)]

use super::*;

#[allow(clippy::unnecessary_wraps, reason = "the type of `RequestResult::result`")]
fn answer(server: &str, saw: &str) -> Result<Response, String> {
    Ok(Response { server: server.to_owned(), saw: saw.parse().ok() })
}

fn results(source: &str, port: u16, server: &str) -> RequestResult {
    RequestResult { source: source.parse().unwrap(), port, result: answer(server, source) }
}

fn failed(source: &str, port: u16) -> RequestResult {
    RequestResult { source: source.parse().unwrap(), port, result: Err("timed out".to_owned()) }
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
fn persistence_holds_or_is_reported_as_violated() {
    let open = names(&["rs1", "rs2"]);
    let sticks = |results: &[RequestResult], mask: &str, apart| {
        super::sticks(results, &open, mask.parse().unwrap(), apart)
    };
    let all = "255.255.255.255";
    let good = [results(ONE, 80, "rs1"), results(ONE, 22, "rs1"), results(TWO, 80, "rs2")];
    assert_eq!(
        sticks(&good, all, 2).unwrap(),
        "192.0.2.1 2 times by rs1 (ports 22, 80), 192.0.2.2 1 times by rs2 (port 80)"
    );
    // Under this mask both addresses are one client.
    let why = sticks(&good, "255.255.255.0", 1).unwrap_err();
    assert!(why.contains("192.0.2.0") && why.contains("persistence failed"), "{why}");
    let same = [results(ONE, 80, "rs1"), results(TWO, 80, "rs1")];
    assert!(sticks(&same, "255.255.255.0", 1).is_ok());
    assert!(sticks(&same, all, 1).is_ok(), "by chance, or by hash");
    assert!(sticks(&same, all, 2).unwrap_err().contains("expected 2 real servers"));
    // Requests to several ports count: a template for each port would violate persistence.
    assert!(sticks(&[results(ONE, 80, "rs1"), results(ONE, 443, "rs2")], all, 1).is_err());
    assert!(sticks(&[results(ONE, 80, "rs1"), failed(ONE, 80)], all, 1).is_err());
    assert!(sticks(&[results(ONE, 80, "rs3")], all, 1).is_err(), "no real server of its own");
    assert!(sticks(&[], all, 1).is_err());
}

#[test]
fn ipv6_clients_have_masks_as_well() {
    let open = names(&["rs1", "rs2"]);
    let results = [results("2001:db8::1", 80, "rs1"), results("2001:db8::2", 80, "rs2")];
    let network = "ffff:ffff:ffff:ffff::".parse().unwrap();
    let host = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
    assert!(sticks(&results, &open, network, 1).is_err());
    assert!(sticks(&results, &open, host, 2).is_ok());
}

#[test]
fn every_port_must_be_asked_and_answer() {
    let ports = BTreeSet::from([80, 443]);
    let good = [results(ONE, 80, "rs1"), results(ONE, 443, "rs2"), results(ONE, 80, "rs2")];
    assert_eq!(
        answers_on_every_port(&good, &ports).unwrap(),
        "answered 2 on port 80, 1 on port 443"
    );
    assert!(answers_on_every_port(&good[..1], &ports).is_err());
    assert!(answers_on_every_port(&[results(ONE, 80, "rs1"), failed(ONE, 443)], &ports).is_err());
}

#[test]
fn an_unmarked_port_gets_no_response() {
    assert_eq!(is_not_passed_on(&[failed(ONE, 81)]).unwrap(), "port 81: timed out");
    assert!(is_not_passed_on(&[failed(ONE, 81), results(ONE, 81, "rs1")]).is_err());
    assert!(is_not_passed_on(&[]).is_err());
}

#[test]
fn only_full_nat_hides_the_client() {
    let director = BTreeMap::from([("rs1".to_owned(), addresses(&["10.0.0.1", "10.0.0.2"]))]);
    let client = BTreeMap::from([("rs1".to_owned(), addresses(&[ONE]))]);
    let seen = |saw: &str| RequestResult {
        source: ONE.parse().unwrap(),
        port: 80,
        result: answer("rs1", saw),
    };
    assert_eq!(sees(&[seen("10.0.0.1")], &director).unwrap(), "rs1 saw 10.0.0.1");
    let why = sees(&[seen("10.0.0.1"), seen(ONE)], &director).unwrap_err();
    assert_eq!(why, "rs1 saw 192.0.2.1, not 10.0.0.1 or 10.0.0.2");
    assert!(sees(&[seen("")], &director).is_err());
    assert!(sees(&[failed(ONE, 80)], &director).is_err());
    assert!(sees(&[], &director).is_err());
    assert!(sees(&[seen(ONE)], &client).is_ok());
    assert!(sees(&[seen("10.0.0.1")], &client).is_err());
    assert!(sees(&[seen(ONE)], &BTreeMap::new()).is_err());
}

#[test]
fn drained_servers_get_no_requests_and_the_others_get_all() {
    let (shut, open) = (names(&["rs3"]), names(&["rs1", "rs2"]));
    let good = [results(ONE, 80, "rs1"), results(ONE, 80, "rs2"), results(ONE, 80, "rs2")];
    assert_eq!(is_drained(&good, &shut, &open).unwrap(), "rs3 0, rs1 1, rs2 2");
    assert!(is_drained(&good[..1], &shut, &open).is_err(), "rs2 answered no request");
    let leak = [&good[..], &[results(ONE, 80, "rs3")]].concat();
    assert!(is_drained(&leak, &shut, &open).is_err());
    let lost = [&good[..], &[failed(ONE, 80)]].concat();
    assert!(is_drained(&lost, &shut, &open).is_err());
}

#[test]
fn one_server_is_no_spread() {
    let by = |servers: &[&str]| servers.iter().map(|s| answer(s, ONE)).collect::<Vec<_>>();
    assert_eq!(
        is_spread(&by(&["rs1", "rs2", "rs1"]), 2).unwrap(),
        "rs1 2, rs2 1 from one source port"
    );
    assert!(is_spread(&by(&["rs1", "rs1"]), 2).is_err());
    assert!(is_spread(&[], 2).is_err());
    assert!(
        is_spread(&[answer("rs1", ONE), Err("timed out".into()), answer("rs2", ONE)], 2).is_err()
    );
}

#[test]
fn a_transfer_that_took_icmp_or_went_one_way_only_does_not_count() {
    let through = |server: &str, too_large| Ok(Transfer { server: server.to_owned(), too_large });
    let good =
        [(TransferDirection::Up, through("rs1", 0)), (TransferDirection::Down, through("rs2", 0))];
    assert_eq!(arrived_complete(&good, 9).unwrap(), "9 bytes down rs2; up rs1; no ICMP needed");
    assert!(arrived_complete(&good[..1], 9).is_err());
    assert!(
        arrived_complete(&[(TransferDirection::Up, through("rs1", 1)), good[1].clone()], 9)
            .is_err()
    );
    assert!(
        arrived_complete(&[(TransferDirection::Up, Err("timed out".into())), good[1].clone()], 9)
            .is_err()
    );
    assert!(arrived_complete(&[], 9).is_err());
}
