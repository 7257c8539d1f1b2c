//! One request: a page over TCP or SCTP, or one datagram in each direction over UDP.

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

use super::sockets::SocketFactory;
use super::{ClientRequest, Response};
use crate::names::HostName;
use crate::state::Protocol;

/// Maximum number of response bytes that are read.
const LONGEST_ANSWER: u64 = 4096;

/// The next source port, counted up through Linux's ephemeral range. IPVS keeps a connection after its
/// end (TCP 120 s, UDP 300 s: ip_vs_proto_tcp.c, ip_vs_proto_udp.c in net/netfilter/ipvs); a request
/// from the same port within that time goes to the old real server and is not scheduled. The kernel
/// chooses random UDP ports, and TCP ports in sequences that restart every 10 s
/// (net/core/secure_seq.c): both repeat too soon. The first port is random, so that two runs in one lab
/// start differently.
static NEXT_PORT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(()) >> 1));
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = 28_232;
/// Maximum number of used ports to skip.
const TRIES: usize = 64;

/// Sends one request; `Err` has the reason of the failure.
pub(super) async fn ask_once(
    sockets: &SocketFactory,
    question: ClientRequest,
) -> Result<Response, String> {
    let ClientRequest { from, target, protocol, patience } = question;
    let asking = async {
        match protocol {
            Protocol::Tcp | Protocol::Sctp => {
                let mut stream = connect(sockets, from, target, protocol).await?;
                let page = fetch(&mut stream, &request("GET", "/", target)).await?;
                body(&page).and_then(parse_response)
            }
            Protocol::Udp => {
                let socket = open_udp(sockets, from, target).await?;
                parse_response(&exchange(&socket).await?)
            }
        }
    };
    in_time(patience, asking).await
}

/// The result of `work` within the timeout, or the reason of the failure.
pub(super) async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, String> {
    let done = timeout(patience, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| reason(&error))
}

/// A connection from the next source port.
pub(super) async fn connect(
    sockets: &SocketFactory,
    from: Option<IpAddr>,
    target: SocketAddr,
    protocol: Protocol,
) -> io::Result<TcpStream> {
    let socket = sockets.open(target, protocol).await?;
    bind_next_port(&socket, from, target)?;
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

/// Reads to the end: closing with unread data would send a reset.
pub(super) async fn read_page(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut page).await?;
    Ok(page)
}

/// A UDP socket bound to the next source port.
pub(super) async fn open_udp(
    sockets: &SocketFactory,
    from: Option<IpAddr>,
    target: SocketAddr,
) -> io::Result<UdpSocket> {
    let socket = sockets.open(target, Protocol::Udp).await?;
    bind_next_port(&socket, from, target)?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    // A connected socket receives datagrams from its destination only.
    socket.connect(target).await?;
    Ok(socket)
}

/// Sends one datagram and receives one.
pub(super) async fn exchange(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    socket.send(b"who?\n").await?;
    let mut answer = vec![0; usize::try_from(LONGEST_ANSWER).unwrap_or(usize::MAX)];
    let got = socket.recv(&mut answer).await?;
    answer.truncate(got);
    Ok(answer)
}

fn bind_next_port(socket: &OwnedFd, from: Option<IpAddr>, target: SocketAddr) -> io::Result<()> {
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

/// The body of a 200 response.
pub(super) fn body(page: &[u8]) -> io::Result<&[u8]> {
    let end = page.windows(4).position(|four| four == b"\r\n\r\n");
    let Some((head, body)) = end.map(|end| page.split_at(end + 4)) else {
        let kind = io::ErrorKind::UnexpectedEof;
        return Err(io::Error::new(kind, "the response is incomplete"));
    };
    if head.split(|byte| *byte == b' ').nth(1) != Some(b"200") {
        return Err(io::Error::other("the response is not a 200"));
    }
    Ok(body)
}

/// Parses a response: the host's name, and on the second line the client's address as the host saw it.
pub(super) fn parse_response(answer: &[u8]) -> io::Result<Response> {
    let text = std::str::from_utf8(answer).ok().unwrap_or_default();
    let mut lines = text.lines();
    let server = lines.next().and_then(|line| line.trim_end().parse::<HostName>().ok());
    let server = server.ok_or_else(|| io::Error::other("answered, but not with a host's name"))?;
    let saw = lines.next().and_then(|line| line.trim_end().parse().ok());
    Ok(Response { server: server.into(), saw })
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

    fn answer(server: &str, saw: Option<&str>) -> Response {
        Response { server: server.to_owned(), saw: saw.map(|address| address.parse().unwrap()) }
    }

    #[test]
    fn a_response_is_a_page_with_a_host_name() {
        let page = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nweb1\n192.0.2.9\n";
        assert_eq!(parse_response(body(page).unwrap()).unwrap(), answer("web1", Some("192.0.2.9")));
        assert_eq!(
            parse_response(b"web1\n2001:db8::1\n").unwrap(),
            answer("web1", Some("2001:db8::1"))
        );
        assert_eq!(parse_response(b"web1\nmore\n").unwrap(), answer("web1", None));
        assert!(body(b"HTTP/1.0 404 Not Found\r\n\r\nweb1\n").is_err());
        assert!(body(b"HTTP/1.0 200 OK\r\n").is_err());
        for bad in [&b""[..], b"\n", b"<html>", b"\xff\xfe", b"a b\n"] {
            assert!(parse_response(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn the_last_source_port_is_the_kernels() {
        assert_eq!(u32::from(FIRST_PORT) + u32::from(PORTS) - 1, 60_999);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = body(&bytes).and_then(parse_response);
            let _ = parse_response(&bytes);
        }
    }
}
