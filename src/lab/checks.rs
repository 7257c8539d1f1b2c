//! Health checks as the applications of the lab can pass them, and answers to questions of DNS. Pure.
//!
//! The applications are the lab's own ([`super::responders`]): HTTP without TLS, with a page of theirs for every path, and
//! datagrams. A check that they could never pass would take all real servers out.

use std::collections::BTreeSet;

use super::responders::Endpoint;
use crate::state::Protocol;
use crate::topology::{CheckQuestion, DnsRecord, HttpQuestion, Topology};

/// The topology with checks that the lab's applications pass, and a sentence for each service whose checks were changed.
pub fn answerable(topology: &Topology) -> (Topology, Vec<String>) {
    let mut topology = topology.clone();
    let mut notes = Vec::new();
    for service in &mut topology.services {
        let by_tcp = service.protocols().contains(&Protocol::Tcp);
        let mut changed = BTreeSet::new();
        for check in service.real_servers.iter_mut().filter_map(|it| it.check.as_mut()) {
            if let Some((question, why)) = instead_of(&check.question, by_tcp) {
                changed.insert((check.question.as_str(), question.as_str(), why));
                check.question = question;
            }
        }
        for (was, is, why) in changed {
            let name = &service.name;
            notes.push(if was == is {
                format!("the {was} check of {name} takes any page in the lab: {why}")
            } else {
                format!("the {was} check of {name} is a {is} check in the lab: {why}")
            });
        }
    }
    (topology, notes)
}

/// What is asked instead, and why; `None`: the question as it is.
fn instead_of(question: &CheckQuestion, by_tcp: bool) -> Option<(CheckQuestion, &'static str)> {
    match question {
        CheckQuestion::Tcp | CheckQuestion::Dns { .. } => None,
        CheckQuestion::Http(HttpQuestion { tls: true, .. }) => {
            Some((CheckQuestion::Tcp, "its applications speak no TLS"))
        }
        CheckQuestion::Http(http) => {
            let ok = http.status.iter().any(|(from, to)| (*from..=*to).contains(&200));
            let plain = HttpQuestion { status: vec![(200, 200)], body: None, ..http.clone() };
            (!ok || http.body.is_some()).then_some((
                CheckQuestion::Http(plain),
                "its applications answer with 200 and a page of their own",
            ))
        }
        CheckQuestion::Script { .. } => {
            let dns = CheckQuestion::Dns { name: ".".to_owned(), record: DnsRecord::Soa };
            let question = if by_tcp { CheckQuestion::Tcp } else { dns };
            Some((question, "it runs no script of yours"))
        }
    }
}

/// The ports that checks ask, beside those of clients.
pub(super) fn endpoints(topology: &Topology) -> BTreeSet<Endpoint> {
    let mut all = BTreeSet::new();
    for service in &topology.services {
        for server in &service.real_servers {
            let Some(check) = &server.check else { continue };
            let protocol = match check.question {
                CheckQuestion::Dns { .. } => Protocol::Udp,
                CheckQuestion::Tcp | CheckQuestion::Http(_) | CheckQuestion::Script { .. } => {
                    Protocol::Tcp
                }
            };
            if let Some(port) = service.check_port(server) {
                all.insert(Endpoint { host: server.host.clone(), protocol, port });
            }
        }
    }
    all
}

/// The bytes of a header of DNS (RFC 1035, 4.1.1).
const DNS_HEADER: usize = 12;

/// The answer to a question of DNS, without records and without an error; `None`: `datagram` is no question.
pub(super) fn dns_answer(datagram: &[u8]) -> Option<Vec<u8>> {
    let (header, question) = datagram.split_at_checked(DNS_HEADER)?;
    // A standard query with one question, and nothing else but additional records.
    let is_query = header.get(2)? & 0xf8 == 0 && header.get(4..10)? == [0, 1, 0, 0, 0, 0];
    if !is_query {
        return None;
    }
    let question = question.get(..question_length(question)?)?;
    let mut answer = datagram.get(..DNS_HEADER)?.to_vec();
    // A response, with recursion available; the error code is 0; no additional records.
    *answer.get_mut(2)? |= 0x80;
    *answer.get_mut(3)? = 0x80;
    answer.get_mut(10..12)?.fill(0);
    answer.extend_from_slice(question);
    Some(answer)
}

/// The bytes of a question: labels, each with its length before it, an empty one at the end, type and class (RFC 1035, 4.1.2).
fn question_length(question: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1 + length;
        match length {
            0 => return (question.len() >= at + 4).then_some(at + 4),
            1..=63 => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::topology::read;

    fn topology(services: &str) -> Topology {
        let text = format!(
            "version: 1\nname: t\nnetworks: {{lan: [192.0.2.0/24]}}\ndefaults: {{forward: dr}}\nhosts:\n  \
             client: {{role: client, interfaces: {{eth0: 192.0.2.9/24}}}}\n  \
             lvs: {{role: director, interfaces: {{eth0: 192.0.2.1/24}}}}\n  \
             rs1: {{role: real_server, interfaces: {{eth0: 192.0.2.11/24}}}}\nservices:\n{services}"
        );
        read("t", &text).topology.unwrap()
    }

    #[test]
    fn what_the_applications_cannot_pass_is_asked_in_another_way_and_said() {
        let same = topology(
            "  - {vip: 192.0.2.80, port: 80, check: {type: http, path: /health}, real_servers: [rs1]}\n  \
             - {vip: 192.0.2.80, port: 81, check: tcp, real_servers: [rs1]}\n  \
             - {vip: 192.0.2.80, port: 53, protocol: udp, check: {type: dns, name: x.example, record: A}, real_servers: [rs1]}\n",
        );
        assert_eq!(answerable(&same), (same.clone(), Vec::new()));
        let other = topology(
            "  - {name: page, vip: 192.0.2.80, port: 80, check: {type: http, body: fine}, real_servers: [rs1]}\n  \
             - {name: moved, vip: 192.0.2.80, port: 81, check: {type: http, status: 301}, real_servers: [rs1]}\n  \
             - {name: tls, vip: 192.0.2.80, port: 443, check: https, real_servers: [rs1]}\n  \
             - {name: mail, vip: 192.0.2.80, port: 25, check: {type: script, command: [/bin/check]}, real_servers: [rs1]}\n  \
             - {name: log, vip: 192.0.2.80, port: 514, protocol: udp, check: {type: script, command: [/bin/check]}, real_servers: [rs1]}\n",
        );
        let (asked, notes) = answerable(&other);
        assert_eq!(
            notes,
            // In the order of their ports.
            [
                "the script check of mail is a tcp check in the lab: it runs no script of yours",
                "the http check of page takes any page in the lab: its applications answer with 200 and a page of their own",
                "the http check of moved takes any page in the lab: its applications answer with 200 and a page of their own",
                "the https check of tls is a tcp check in the lab: its applications speak no TLS",
                "the script check of log is a dns check in the lab: it runs no script of yours",
            ]
        );
        assert_eq!(answerable(&asked), (asked.clone(), Vec::new()));
    }

    #[test]
    fn applications_listen_where_checks_ask() {
        let topology = topology(
            "  - {vip: 192.0.2.80, port: 80, check: {type: http, port: 8080}, real_servers: [rs1]}\n  \
             - {vip: 192.0.2.80, port: 53, protocol: udp, check: {type: dns, name: x.example, record: A}, real_servers: [rs1]}\n",
        );
        let all: Vec<String> = endpoints(&topology).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["tcp port 8080 of rs1", "udp port 53 of rs1"]);
    }

    #[test]
    fn a_question_of_dns_gets_an_answer_and_nothing_else_does() {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x07example\x03org\x00\x00\x01\x00\x01");
        let answer = dns_answer(&query).unwrap();
        assert_eq!(answer.len(), query.len());
        assert_eq!(answer[..4], [0x12, 0x34, 0x81, 0x80]);
        assert_eq!(answer[4..], query[4..]);
        assert_eq!(dns_answer(&answer), None, "an answer is no question");
        for length in 0..query.len() {
            assert_eq!(dns_answer(&query[..length]), None, "{length}");
        }
        for text in [&b"hello, who is there? I am the client"[..], b"OPTIONS sip:x SIP/2.0\r\n\r\n"]
        {
            assert_eq!(dns_answer(text), None);
        }
    }
}
