//! One request: a page over TCP or SCTP, or a datagram each way over UDP.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, bind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::sockets::Sockets;
use super::{Answer, Question};
use crate::names::HostName;
use crate::state::Protocol;

/// As much as is read of an answer, in bytes.
const LONGEST_ANSWER: u64 = 4096;

/// Source ports, taken in turn from the range that Linux itself picks from. IPVS remembers a
/// connection after it is over (TCP 120 s, UDP 300 s: ip_vs_proto_tcp.c, ip_vs_proto_udp.c in
/// net/netfilter/ipvs), so a request from the same port within that time would go to its old real
/// server and not be scheduled at all. The kernel picks UDP's ports by lot, and those of TCP in a
/// row that begins anew somewhere else every 10 s (net/core/secure_seq.c); left to it, both do repeat
/// soon. The first port is drawn by lot, so that two runs in one lab do not begin with the same.
static NEXT_PORT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(()) >> 1));
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = 28_232;
/// How many ports in a row may be taken.
const TRIES: usize = 64;

/// Who answered and whom it saw, or the reason why nobody did.
pub(super) async fn ask_once(sockets: &Sockets, question: Question) -> Result<Answer, String> {
    let Question { from, target, protocol, patience } = question;
    let asking = async {
        match protocol {
            Protocol::Tcp | Protocol::Sctp => {
                let mut stream = connect(sockets, from, target, protocol).await?;
                let page = fetch(&mut stream, &request("GET", "/", target)).await?;
                body(&page).and_then(said)
            }
            Protocol::Udp => {
                let socket = open_udp(sockets, from, target).await?;
                said(&exchange(&socket).await?)
            }
        }
    };
    in_time(patience, asking).await
}

/// What comes of `work`, or the reason why nothing did.
pub(super) async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, String> {
    let done = timeout(patience, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| reason(&error))
}

/// A connection from a port that was not used for a while.
pub(super) async fn connect(
    sockets: &Sockets,
    from: Option<IpAddr>,
    target: SocketAddr,
    protocol: Protocol,
) -> io::Result<TcpStream> {
    let socket = sockets.open(target, protocol).await?;
    bind_in_turn(&socket, from, target)?;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    socket.connect(target).await
}

/// The head of a request, up to the empty line.
pub(super) fn request(method: &str, path: &str, target: SocketAddr) -> String {
    format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n\r\n", target.ip())
}

async fn fetch(stream: &mut TcpStream, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    read_page(stream).await
}

/// To its end: closing with something unread would send a reset.
pub(super) async fn read_page(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut page).await?;
    Ok(page)
}

/// A socket from whose one port any number of datagrams can be sent.
pub(super) async fn open_udp(
    sockets: &Sockets,
    from: Option<IpAddr>,
    target: SocketAddr,
) -> io::Result<UdpSocket> {
    let socket = sockets.open(target, Protocol::Udp).await?;
    bind_in_turn(&socket, from, target)?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    // Connected, it hears only what comes from the address that it asks.
    socket.connect(target).await?;
    Ok(socket)
}

/// One datagram there and one back.
pub(super) async fn exchange(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    socket.send(b"who?\n").await?;
    let mut answer = vec![0; usize::try_from(LONGEST_ANSWER).unwrap_or(usize::MAX)];
    let got = socket.recv(&mut answer).await?;
    answer.truncate(got);
    Ok(answer)
}

fn bind_in_turn(socket: &OwnedFd, from: Option<IpAddr>, target: SocketAddr) -> io::Result<()> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = from.unwrap_or(any);
    for _ in 0..TRIES {
        let turn = NEXT_PORT.fetch_add(1, Ordering::Relaxed) % u64::from(PORTS);
        let port = u16::try_from(turn).map_or(FIRST_PORT, |turn| FIRST_PORT + turn);
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, port))) {
            Err(nix::Error::EADDRINUSE) => {}
            done => return Ok(done?),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// What a page says, if it is one that was found.
pub(super) fn body(page: &[u8]) -> io::Result<&[u8]> {
    let end = page.windows(4).position(|four| four == b"\r\n\r\n");
    let Some((head, body)) = end.map(|end| page.split_at(end + 4)) else {
        let kind = io::ErrorKind::UnexpectedEof;
        return Err(io::Error::new(kind, "the answer ended before its time"));
    };
    if head.split(|byte| *byte == b' ').nth(1) != Some(b"200") {
        return Err(io::Error::other("answered, but not with a page"));
    }
    Ok(body)
}

/// A responder answers with the name of its host, and on a second line with the address that it saw
/// the client at: whatever begins with no such name is no answer.
pub(super) fn said(answer: &[u8]) -> io::Result<Answer> {
    let text = std::str::from_utf8(answer).ok().unwrap_or_default();
    let mut lines = text.lines();
    let server = lines.next().and_then(|line| line.trim_end().parse::<HostName>().ok());
    let server = server.ok_or_else(|| io::Error::other("answered, but not with a host's name"))?;
    let saw = lines.next().and_then(|line| line.trim_end().parse().ok());
    Ok(Answer { server: server.into(), saw })
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "no route".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(server: &str, saw: Option<&str>) -> Answer {
        Answer { server: server.to_owned(), saw: saw.map(|address| address.parse().unwrap()) }
    }

    #[test]
    fn an_answer_is_a_page_with_a_hosts_name() {
        let page = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nweb1\n192.0.2.9\n";
        assert_eq!(said(body(page).unwrap()).unwrap(), answer("web1", Some("192.0.2.9")));
        assert_eq!(said(b"web1\n2001:db8::1\n").unwrap(), answer("web1", Some("2001:db8::1")));
        assert_eq!(said(b"web1\nmore\n").unwrap(), answer("web1", None));
        assert!(body(b"HTTP/1.0 404 Not Found\r\n\r\nweb1\n").is_err());
        assert!(body(b"HTTP/1.0 200 OK\r\n").is_err());
        for bad in [&b""[..], b"\n", b"<html>", b"\xff\xfe", b"a b\n"] {
            assert!(said(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn the_last_source_port_is_the_kernels() {
        assert_eq!(u32::from(FIRST_PORT) + u32::from(PORTS) - 1, 60_999);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = body(&bytes).and_then(said);
            let _ = said(&bytes);
        }
    }
}
