//! One request: a page over TCP, or a datagram each way over UDP.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{SockType, SockaddrStorage, bind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::sockets::Sockets;
use crate::topology::{HostName, Protocol};

/// As much as is read of an answer, in bytes.
const LONGEST_ANSWER: u64 = 4096;

/// Source ports for UDP, taken in turn from the range that Linux itself picks from. IPVS keeps a
/// UDP entry for 300 s (net/netfilter/ipvs/ip_vs_proto_udp.c), so a port that comes round by chance
/// within that time would go to its old real server and not be scheduled at all. TCP needs no such
/// care: the kernel moves on through its ports by itself (net/ipv4/inet_hashtables.c). The first is
/// drawn by lot, so that two runs in one lab do not begin with the same.
static NEXT_PORT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(()) >> 1));
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = 28_232;
/// How many ports in a row may be taken.
const TRIES: usize = 64;

/// The name that was answered, or the reason why none was.
pub(super) async fn ask_once(
    sockets: &Sockets,
    target: SocketAddr,
    protocol: Protocol,
    patience: Duration,
) -> Result<String, String> {
    let asking = async {
        match protocol {
            Protocol::Tcp => over_tcp(sockets, target).await.and_then(|page| body(&page)),
            Protocol::Udp => over_udp(sockets, target).await,
            Protocol::Sctp => Err(io::Error::other("the lab does not speak SCTP")),
        }
    };
    let answer = match timeout(patience, asking).await {
        Ok(answer) => answer.and_then(|text| name(&text)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    answer.map_err(|error| reason(&error))
}

async fn over_tcp(sockets: &Sockets, target: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = sockets.open(target, SockType::Stream).await?;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let mut stream = socket.connect(target).await?;
    let request = format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", target.ip());
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    // To its end: closing with something unread would send a reset.
    stream.take(LONGEST_ANSWER).read_to_end(&mut page).await?;
    Ok(page)
}

async fn over_udp(sockets: &Sockets, target: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = sockets.open(target, SockType::Datagram).await?;
    bind_in_turn(&socket, target.is_ipv4())?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    // Connected, it hears only what comes from the address that it asks.
    socket.connect(target).await?;
    socket.send(b"who?\n").await?;
    let mut answer = vec![0; usize::try_from(LONGEST_ANSWER).unwrap_or(usize::MAX)];
    let got = socket.recv(&mut answer).await?;
    answer.truncate(got);
    Ok(answer)
}

fn bind_in_turn(socket: &OwnedFd, ipv4: bool) -> io::Result<()> {
    let any: IpAddr =
        if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for _ in 0..TRIES {
        let turn = NEXT_PORT.fetch_add(1, Ordering::Relaxed) % u64::from(PORTS);
        let port = u16::try_from(turn).map_or(FIRST_PORT, |turn| FIRST_PORT + turn);
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port))) {
            Err(nix::Error::EADDRINUSE) => {}
            done => return Ok(done?),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// What a page says, if it is one that was found.
fn body(page: &[u8]) -> io::Result<Vec<u8>> {
    let text = String::from_utf8_lossy(page);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        let kind = io::ErrorKind::UnexpectedEof;
        return Err(io::Error::new(kind, "the answer ended before its time"));
    };
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other("answered, but not with a page"));
    }
    Ok(body.as_bytes().to_vec())
}

/// A responder answers with the name of its host: whatever is no such name is no answer.
fn name(answer: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(answer).ok().map(str::trim_end);
    let name = text.and_then(|text| text.parse::<HostName>().ok());
    name.map(String::from).ok_or_else(|| io::Error::other("answered, but not with a host's name"))
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

    #[test]
    fn an_answer_is_a_page_with_a_hosts_name() {
        let page = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nweb1\n";
        assert_eq!(name(&body(page).unwrap()).unwrap(), "web1");
        assert!(body(b"HTTP/1.0 404 Not Found\r\n\r\nweb1\n").is_err());
        assert!(body(b"HTTP/1.0 200 OK\r\n").is_err());
        for bad in [&b""[..], b"\n", b"<html>", b"\xff\xfe", b"a b\n"] {
            assert!(name(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn the_last_source_port_is_the_kernels() {
        assert_eq!(u32::from(FIRST_PORT) + u32::from(PORTS) - 1, 60_999);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = body(&bytes).and_then(|body| name(&body));
            let _ = name(&bytes);
        }
    }
}
