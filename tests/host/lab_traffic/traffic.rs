//! What goes beyond one IPv4 request after another: IPv6, large bodies, many datagrams from one port,
//! SCTP where the kernel has it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lvsprov::lab::capture::{FrameCapture, claims_of};
use lvsprov::lab::clients::{self, ClientRequest, Response, Transfer, TransferDirection};
use lvsprov::lab::network::Management;
use lvsprov::lab::responders::{self, Endpoint, Responders};
use lvsprov::lab::{self, Lab};
use lvsprov::state::Protocol;

use super::{IMPATIENCE, PATIENCE, TOPOLOGY, WEB1, WEB2, host, ip, until};
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        real_servers_answer_over_ipv6_and_say_whom_they_saw,
        a_client_asks_from_the_address_that_it_is_told,
        a_datagram_over_ipv6_is_answered_from_the_address_that_was_asked,
        datagrams_from_one_port_are_answered_one_by_one,
        a_megabyte_goes_each_way_byte_for_byte,
        a_transfer_tells_when_it_took_icmp_to_get_through,
        sctp_is_spoken_or_listed_as_not_served,
        the_watch_hears_who_advertises_an_address
    ]
}

const CLIENT6: &str = "2001:db8::250";
const WEB1_6: &str = "2001:db8::3";
const MEGABYTE: u64 = 1 << 20;

/// The lab of the other tests, with IPv6 addresses as well.
fn in_lab6<F: Future<Output = ()>>(test: impl FnOnce(&'static Lab) -> F) {
    lab::isolate().unwrap();
    let mut topology = lvsprov::check::examine("evidence", TOPOLOGY).topology.unwrap();
    for (name, last) in [("client", 0x250), ("director", 2), ("web1", 3), ("web2", 4)] {
        let interfaces = &mut topology.hosts.get_mut(&host(name)).unwrap().interfaces;
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        let interface = interfaces.values_mut().next().unwrap();
        interface.addresses.push(format!("{address}/64").parse().unwrap());
    }
    let lab = Box::leak(Box::new(Lab::build(&topology, Management::None).unwrap()));
    tokio::runtime::Runtime::new().unwrap().block_on(test(lab));
}

async fn serve(lab: &Lab, at: &[(&str, Protocol, u16)]) -> Responders {
    let endpoint = |(name, protocol, port): &(&str, _, _)| Endpoint {
        host: host(name),
        protocol: *protocol,
        port: *port,
    };
    let endpoints: BTreeSet<Endpoint> = at.iter().map(endpoint).collect();
    responders::start_at(lab, endpoints).await.unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn question(target: SocketAddr, protocol: Protocol) -> ClientRequest {
    ClientRequest { from: None, target, protocol, patience: PATIENCE }
}

async fn ask(lab: &Lab, question: ClientRequest) -> Vec<Result<Response, String>> {
    clients::ask_each(lab, &host("client"), &[question; 2]).await.unwrap()
}

fn answers(server: &str, saw: &str, count: usize) -> Vec<Result<Response, String>> {
    vec![Ok(Response { server: server.to_owned(), saw: Some(saw.parse().unwrap()) }); count]
}

fn real_servers_answer_over_ipv6_and_say_whom_they_saw() {
    in_lab6(async |lab| {
        let _responders =
            serve(lab, &[("web1", Protocol::Tcp, 80), ("web1", Protocol::Udp, 53)]).await;
        for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::Udp)] {
            let six = ask(lab, question(at(WEB1_6, port), protocol)).await;
            assert_eq!(six, answers("web1", CLIENT6, 2));
            let four = ask(lab, question(SocketAddr::from((WEB1, port)), protocol)).await;
            assert_eq!(four, answers("web1", "172.25.7.250", 2));
        }
        let nobody = ClientRequest {
            patience: IMPATIENCE,
            ..question(at("2001:db8::99", 80), Protocol::Tcp)
        };
        assert_eq!(ask(lab, nobody).await, vec![Err("timed out".to_owned()); 2]);
        assert_eq!(
            ask(lab, question(at(WEB1_6, 81), Protocol::Tcp)).await,
            vec![Err("refused".to_owned()); 2]
        );
    });
}

fn a_client_asks_from_the_address_that_it_is_told() {
    in_lab6(async |lab| {
        ip(lab, "client", "address add 172.25.7.251/24 dev eth0");
        ip(lab, "client", "address add 2001:db8::251/64 dev eth0 nodad");
        let _responders =
            serve(lab, &[("web1", Protocol::Tcp, 80), ("web1", Protocol::Udp, 53)]).await;
        for (from, to) in [("172.25.7.251", "172.25.7.3"), ("2001:db8::251", WEB1_6)] {
            for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::Udp)] {
                let from_there: IpAddr = from.parse().unwrap();
                let question =
                    ClientRequest { from: Some(from_there), ..question(at(to, port), protocol) };
                assert_eq!(ask(lab, question).await, answers("web1", from, 2));
            }
        }
    });
}

/// Under DR and TUN the request comes for an address that is on no wire.
fn a_datagram_over_ipv6_is_answered_from_the_address_that_was_asked() {
    in_lab6(async |lab| {
        ip(lab, "web1", "address add 2001:db8:9::7/128 dev lo");
        ip(lab, "web1", "address add 2001:db8::33/64 dev eth0 nodad");
        ip(lab, "client", "route add 2001:db8:9::7 via 2001:db8::3");
        let _responders = serve(lab, &[("web1", Protocol::Udp, 53)]).await;
        for asked in [WEB1_6, "2001:db8::33", "2001:db8:9::7"] {
            let got = ask(lab, question(at(asked, 53), Protocol::Udp)).await;
            assert_eq!(got, answers("web1", CLIENT6, 2), "{asked}");
        }
    });
}

fn datagrams_from_one_port_are_answered_one_by_one() {
    in_lab6(async |lab| {
        let responders = serve(lab, &[("web2", Protocol::Udp, 53)]).await;
        let target = SocketAddr::from((WEB2, 53));
        let got = clients::ask_from_one_port(lab, &host("client"), target, 5, PATIENCE).await;
        assert_eq!(got.unwrap(), answers("web2", "172.25.7.250", 5));
        until("all are counted", || responders.served().values().sum::<u64>() == 5).await;
    });
}

fn a_megabyte_goes_each_way_byte_for_byte() {
    in_lab6(async |lab| {
        let _responders = serve(lab, &[("web1", Protocol::Tcp, 80)]).await;
        for target in [SocketAddr::from((WEB1, 80)), at(WEB1_6, 80)] {
            for way in [TransferDirection::Up, TransferDirection::Down] {
                let done =
                    clients::transfer(lab, &host("client"), target, way, MEGABYTE, PATIENCE).await;
                let expected = Transfer { server: "web1".to_owned(), too_large: 0 };
                assert_eq!(done.unwrap(), Ok(expected), "{way}");
            }
        }
    });
}

/// The way back says less than the way there takes: only ICMP can tell, and it is counted.
fn a_transfer_tells_when_it_took_icmp_to_get_through() {
    in_lab6(async |lab| {
        // Through the director, whose way to web1 is narrower than everybody's interfaces.
        for (address, via, web) in [
            ("10.9.8.7/32", "172.25.7.2", "172.25.7.3"),
            ("2001:db8:9::7/128", "2001:db8::2", WEB1_6),
        ] {
            let to = address.split('/').next().unwrap();
            ip(lab, "web1", &format!("address add {address} dev lo"));
            ip(lab, "client", &format!("route add {to} via {via}"));
            ip(lab, "director", &format!("route add {to} via {web} mtu lock 1400"));
        }
        super::set(lab, "director", "net/ipv4/ip_forward", "1");
        super::set(lab, "director", "net/ipv4/conf/all/send_redirects", "0");
        super::set(lab, "director", "net/ipv4/conf/eth0/send_redirects", "0");
        super::set(lab, "director", "net/ipv6/conf/all/forwarding", "1");
        let _responders = serve(lab, &[("web1", Protocol::Tcp, 80)]).await;
        for to in ["10.9.8.7", "2001:db8:9::7"] {
            let up = async || {
                let way = TransferDirection::Up;
                clients::transfer(lab, &host("client"), at(to, 80), way, MEGABYTE, PATIENCE).await
            };
            let first = up().await.unwrap().unwrap();
            assert!(first.server == "web1" && first.too_large > 0, "{to}: {first:?}");
        }
    });
}

fn sctp_is_spoken_or_listed_as_not_served() {
    in_lab6(async |lab| {
        let responders = serve(lab, &[("web1", Protocol::Sctp, 80)]).await;
        if !responders.not_served().is_empty() {
            // Then it must be for this reason; the virtual machine's kernel has it.
            let there = std::fs::read_to_string("/proc/net/protocols").unwrap();
            assert!(!there.contains("SCTP"), "{:?}", responders.not_served());
            return;
        }
        for (to, saw) in [("172.25.7.3", "172.25.7.250"), (WEB1_6, CLIENT6)] {
            let got = ask(lab, question(at(to, 80), Protocol::Sctp)).await;
            assert_eq!(got, answers("web1", saw, 2));
        }
    });
}

/// An address on lo is answered for by nobody but by whoever has it on the wire: no setting is needed.
fn the_watch_hears_who_advertises_an_address() {
    in_lab6(async |lab| {
        ip(lab, "director", "address add 2001:db8::80/128 dev eth0 nodad");
        ip(lab, "web1", "address add 2001:db8::80/128 dev lo");
        ip(lab, "web2", "address add 2001:db8::81/64 dev eth0 nodad");
        let watch = FrameCapture::start(lab).unwrap();
        for to in ["2001:db8::80", "2001:db8::81"] {
            let got = ask(lab, question(at(to, 9), Protocol::Tcp)).await;
            assert_eq!(got, vec![Err("refused".to_owned()); 2]);
        }
        let frames = watch.stop().unwrap();
        let owners = |address: &str| {
            let claims = claims_of(&frames, address.parse().unwrap());
            claims.keys().map(|mac| lab.owner_of(*mac).unwrap().0.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(owners("2001:db8::80"), ["director"], "{frames:?}");
        assert_eq!(owners("2001:db8::81"), ["web2"], "{frames:?}");
        assert!(owners("2001:db8::82").is_empty());
    });
}
