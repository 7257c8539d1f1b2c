//! SIP over TCP and UDP, by persistence with the engine `sip`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::UdpSocket;

use lvsprov::kernel::traffic;
use lvsprov::lab;
use lvsprov::state::Protocol;

use super::steps::{LINES, at, finds};
use super::tables::DIRECT;
use super::trial_lab::{TrialLab, name, patience};
use super::{Ask, Served, VIP};
use crate::live_changes::load;
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![calls_of_sip_have_real_servers_of_their_own]
}

/// The engine finds a Call-ID in UDP alone: what has none is dropped, each call has a real server of its own.
fn calls_of_sip_have_real_servers_of_their_own() {
    const RULE: &str = "engine-without-udp";
    const ENGINE: &str = "persistence: {timeout: 60, engine: sip}";
    let service = |port: u16, words: &str| {
        format!(
            "- {{vip: 192.0.2.100, port: {port}, forward: dr, scheduler: rr, real_servers: [web1, web2], {words}}}"
        )
    };
    let broken = service(5060, ENGINE);
    let without_engine = service(LINES, "persistence: 60");
    let over_udp = service(5060, &format!("protocol: udp, {ENGINE}"));
    let one_packet = service(5070, &format!("protocol: udp, one_packet: true, {ENGINE}"));
    assert!(finds(RULE, DIRECT, &broken));
    for mended in [&without_engine, &over_udp, &one_packet] {
        assert!(!finds(RULE, DIRECT, mended), "{mended}");
    }
    assert!(!finds("one-packet-persistent", DIRECT, &one_packet));
    lab::isolate().unwrap();
    let lab = TrialLab::build(DIRECT, &broken);
    for server in ["web1", "web2"] {
        load::serve(&lab.runtime, &lab.lab, server, &[5060, LINES]);
    }
    lab.apply(&[broken, without_engine, over_udp, one_packet].join("\n"));
    lab.expect(RULE, VIP, &[Ask::Tcp(5060, 2)], &Served::None("timed out"));
    let talks = load::talks(&lab.lab, "client", at(LINES), 4);
    assert!(talks.iter().all(|talk| talk.server == talks[0].server), "by the client's address");
    let answers = calls(&lab, 5060, false, &["a", "b", "a", "b"].map(invitation));
    assert!(alternate(&answers), "{answers:?}");
    let without_call = ["who?".to_owned(), "OPTIONS sip:x SIP/2.0\r\n\r\n".to_owned()];
    let answers = calls(&lab, 5060, false, &without_call);
    assert_eq!(answers, [Err(ErrorKind::WouldBlock), Err(ErrorKind::WouldBlock)]);
    // What `verify` sends is a call each.
    let fetch = || {
        let fetched = traffic::fetch(at(5060).into(), Protocol::Udp, 4, patience());
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(fetched)
    };
    let fetched = lab.lab.run_in(&name("client"), fetch).unwrap().unwrap();
    let even = ["web1", "web2"].map(|server| (server.to_owned(), 2));
    assert_eq!(fetched.answers, BTreeMap::from(even), "{fetched:?}");
    // From one port all are one connection, unless each packet is scheduled by itself: then the template of its call decides.
    let answers = calls(&lab, 5060, true, &["c", "d", "c", "d"].map(invitation));
    assert!(answers.iter().all(|answer| answer.is_ok() && *answer == answers[0]), "{answers:?}");
    let answers = calls(&lab, 5070, true, &["e", "f", "e", "f"].map(invitation));
    assert!(alternate(&answers), "{answers:?}");
}

/// Whether two real servers answer in turn.
fn alternate(answers: &[Result<String, ErrorKind>]) -> bool {
    let all_answered = answers.iter().all(Result::is_ok);
    all_answered && answers.windows(2).all(|pair| pair[0] != pair[1])
}

/// A request of SIP (RFC 3261, 7) with this Call-ID.
fn invitation(call: &str) -> String {
    format!(
        "INVITE sip:web@192.0.2.100 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{call}\r\n\
         From: <sip:a@192.0.2.10>;tag=1\r\nTo: <sip:web@192.0.2.100>\r\nCall-ID: {call}@192.0.2.10\r\n\
         CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The real server that answers each datagram; all come from one port, or each from its own.
fn calls(
    lab: &TrialLab,
    port: u16,
    from_one_port: bool,
    datagrams: &[String],
) -> Vec<Result<String, ErrorKind>> {
    let open = || {
        let socket = UdpSocket::bind("192.0.2.10:0").unwrap();
        socket.connect(at(port)).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        socket
    };
    let ask = |socket: &UdpSocket, datagram: &String| {
        let mut answer = [0; 256];
        socket.send(datagram.as_bytes()).map_err(|error| error.kind())?;
        let got = socket.recv(&mut answer).map_err(|error| error.kind())?;
        let text = String::from_utf8_lossy(&answer[..got]);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let all = || {
        let one = open();
        let each = datagrams.iter();
        each.map(|it| if from_one_port { ask(&one, it) } else { ask(&open(), it) }).collect()
    };
    let answers = lab.lab.run_in(&name("client"), all).unwrap();
    println!("calls: {answers:?}");
    answers
}
