//! Test traffic: connections or datagrams to one address, one after the other, each from its own port,
//! counted by the server that answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt,
    sockopt,
};
use nix::{cmsg_space, libc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::error::{Error, Result};
use crate::protocol::Fetched;
use crate::state::Protocol;

/// Sent to a TCP server.
const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// Bytes of an answer that are read at most.
const ANSWER_LIMIT: usize = 16 * 1024;
/// Characters of an answer's line in the report at most.
const LINE_LIMIT: usize = 200;

/// Datagrams sent by this process.
static DATAGRAMS: AtomicU64 = AtomicU64::new(0);

/// Fetches `count` times from `target`, each within `patience`.
pub async fn fetch(
    target: SocketAddr,
    protocol: Protocol,
    count: u32,
    patience: Duration,
) -> Result<Fetched> {
    if protocol == Protocol::Sctp {
        return Err(Error::new("lvsprov sends test traffic over tcp and udp, not over sctp")
            .cure("test an sctp service with another client"));
    }
    let mut fetched = Fetched::default();
    for _ in 0..count {
        let answer = match protocol {
            Protocol::Udp => over_udp(target, patience).await,
            Protocol::Tcp | Protocol::Sctp => over_tcp(target, patience).await,
        };
        match answer {
            Ok(line) => add(&mut fetched.answers, line),
            Err(reason) => add(&mut fetched.failures, reason),
        }
    }
    Ok(fetched)
}

fn add(counts: &mut BTreeMap<String, u32>, what: String) {
    let count = counts.entry(what).or_default();
    *count = count.saturating_add(1);
}

/// The line that tells which server answered, or the reason for no answer.
type ExchangeResult = std::result::Result<String, String>;

async fn over_tcp(target: SocketAddr, patience: Duration) -> ExchangeResult {
    let deadline = tokio::time::Instant::now() + patience;
    let mut stream = match tokio::time::timeout_at(deadline, connect(target)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(Fetched::TIMED_OUT.to_owned()),
    };
    let exchange = async {
        stream.write_all(GET).await?;
        read_answer(&mut stream).await
    };
    match tokio::time::timeout_at(deadline, exchange).await {
        Ok(answer) => answer.map_err(|error| reason(&error)),
        Err(_) => Err(Fetched::SILENT.to_owned()),
    }
}

/// Connects. The error of a refusal by ICMP names the sender of the ICMP message.
async fn connect(target: SocketAddr) -> std::result::Result<TcpStream, String> {
    let describe = |error: io::Error| reason(&error);
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(describe)?;
    // Without these options a refusal by ICMP counts as one by the server.
    let _ = match target {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    };
    let errors = socket.as_fd().try_clone_to_owned().map_err(describe)?;
    socket.connect(target).await.map_err(|error| match rejected_by(&errors) {
        Some(sender) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("{} {sender}", Fetched::REJECTED_BY)
        }
        _ => describe(error),
    })
}

/// The sender of the ICMP error that ended an attempt to connect. `None` without one, and on kernels before 5.8
/// (`tcp_v4_err` queues errors of the handshake since 45af29ca761c).
fn rejected_by(socket: &OwnedFd) -> Option<IpAddr> {
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut bytes = [0; 256];
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, from) => {
            let from = SockaddrIn::from(from?);
            (error.ee_origin == libc::SO_EE_ORIGIN_ICMP).then(|| from.ip().into())
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) => {
            let from = SockaddrIn6::from(from?);
            (error.ee_origin == libc::SO_EE_ORIGIN_ICMP6).then(|| from.ip().into())
        }
        _ => None,
    })
}

/// Reads until the telling line is complete, the server closes, or [`ANSWER_LIMIT`] is reached.
async fn read_answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = match stream.read(&mut chunk).await {
            Ok(length) => length,
            // A server may reset the connection after a complete answer.
            Err(_) if telling_line(&bytes, true).is_some_and(|line| !line.is_empty()) => 0,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let ended = length == 0 || bytes.len() >= ANSWER_LIMIT;
        if let Some(line) = telling_line(&bytes, ended) {
            return Ok(line);
        }
        if ended {
            return Ok(String::new());
        }
    }
}

/// The first line of the body of an HTTP answer, or the first line of another answer. `None`: incomplete.
fn telling_line(bytes: &[u8], ended: bool) -> Option<String> {
    const HTTP: &[u8] = b"HTTP/";
    let maybe_http = bytes.iter().zip(HTTP).all(|(a, b)| a == b);
    let body = if !maybe_http {
        bytes
    } else if bytes.len() < HTTP.len() {
        return ended.then(|| printable(bytes));
    } else {
        match end_of_headers(bytes) {
            Some(at) => bytes.get(at..).unwrap_or_default(),
            None => return ended.then(|| printable(first_line(bytes).0)),
        }
    };
    let (line, complete) = first_line(body);
    (complete || ended).then(|| printable(line))
}

fn end_of_headers(bytes: &[u8]) -> Option<usize> {
    let find = |end: &[u8]| {
        bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len())
    };
    match (find(b"\r\n\r\n"), find(b"\n\n")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn first_line(bytes: &[u8]) -> (&[u8], bool) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (bytes.get(..end).unwrap_or_default(), true),
        None => (bytes, false),
    }
}

/// `line` fit for a terminal: without control characters, at most [`LINE_LIMIT`] characters.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim()
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .take(LINE_LIMIT)
        .collect()
}

async fn over_udp(target: SocketAddr, patience: Duration) -> ExchangeResult {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let exchange = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        // A connected socket receives only answers from the VIP, and gets ICMP errors.
        socket.connect(target).await?;
        socket.send(datagram().as_bytes()).await?;
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).await?;
        Ok(printable(first_line(bytes.get(..length).unwrap_or_default()).0))
    };
    match timeout(patience, exchange).await {
        Ok(answer) => answer.map_err(|error: io::Error| reason(&error)),
        Err(_) => Err(Fetched::TIMED_OUT.to_owned()),
    }
}

/// Sent to a UDP server. Where persistence goes by the calls of SIP, IPVS drops a datagram without a Call-ID
/// (net/netfilter/ipvs/ip_vs_pe_sip.c): this is one of a new call, which an application that expects something else ignores.
fn datagram() -> String {
    let number = DATAGRAMS.fetch_add(1, Ordering::Relaxed);
    format!("lvsprov\r\nCall-ID: {}-{number}@lvsprov\r\n\r\n", std::process::id())
}

/// A short reason, equal for equal errors, so that reasons can be counted.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fetched::REFUSED.to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Fetched::RESET.to_owned(),
        io::ErrorKind::NetworkUnreachable => Fetched::NO_ROUTE.to_owned(),
        io::ErrorKind::HostUnreachable => Fetched::UNREACHABLE.to_owned(),
        io::ErrorKind::TimedOut => Fetched::TIMED_OUT.to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_telling_line() {
        let line = |text: &str, ended| telling_line(text.as_bytes(), ended);
        let whole = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nweb1\nmore\n";
        assert_eq!(line(whole, false).unwrap(), "web1");
        assert_eq!(line("HTTP/1.0 200 OK\r\n\r\nweb1", false), None);
        assert_eq!(line("HTTP/1.0 200 OK\r\n\r\nweb1", true).unwrap(), "web1");
        assert_eq!(line("HTTP/1.0 200 OK\n\nweb2\n", false).unwrap(), "web2");
        assert_eq!(line("HTTP/1.0 204 No Content\r\n", true).unwrap(), "HTTP/1.0 204 No Content");
        assert_eq!(line("220 mail ready\r\n", false).unwrap(), "220 mail ready");
        assert_eq!(line("HTT", false), None);
        assert_eq!(line("", false), None);
        assert_eq!(line("", true).unwrap(), "");
        assert_eq!(line("\u{1b}[2Jx\n", false).unwrap(), "\u{fffd}[2Jx");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), ended: bool) {
            let line = telling_line(&bytes, ended);
            prop_assert!(!ended || line.is_some());
        }
    }
}
