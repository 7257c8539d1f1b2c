//! Large bodies over TCP, compared byte by byte, with the number of ICMP messages they needed.
//!
//! TCP sets DF on its segments (`ip_no_pmtu_disc` 0; IPv6 never fragments on the path). Where a tunnel
//! has a smaller MTU than the client's interface, either the real server's SYN-ACK announces a small MSS,
//! or a router sends "fragmentation needed" (RFC 1191, RFC 8201), which firewalls often drop.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::request::{body, connect, in_time, parse_response, read_page, request};
use super::sockets::SocketFactory;
use crate::lab::{Lab, LabError, bulk};
use crate::names::HostName;
use crate::state::Protocol;

/// Direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferDirection {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

impl std::fmt::Display for TransferDirection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A complete transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The real server.
    pub server: String,
    /// Number of ICMP messages about too large packets that the client received during the transfer:
    /// ICMP destination unreachable, ICMPv6 packet too big.
    pub too_large: u64,
}

/// Sends or fetches `bytes` bytes (at most [`bulk::MAX_TRANSFER`]) over one connection from `client` to
/// `target`, within `patience`, and compares every one. The inner error has the reason of the failure.
///
/// # Errors
/// If there is no such host or its namespace cannot be entered.
pub async fn transfer(
    lab: &Lab,
    client: &HostName,
    target: SocketAddr,
    way: TransferDirection,
    bytes: u64,
    patience: Duration,
) -> Result<Result<Transfer, String>, LabError> {
    let sockets = SocketFactory::of(lab, client)?;
    let told_before = too_large_messages(lab, client, target.ip())?;
    let work = async {
        let mut stream = connect(&sockets, None, target, Protocol::Tcp).await?;
        // One that hangs ends with it: its retransmissions would go on for minutes.
        stream.set_zero_linger()?;
        match way {
            TransferDirection::Up => upload(&mut stream, target, bytes).await,
            TransferDirection::Down => download(&mut stream, target, bytes).await,
        }
    };
    let done = in_time(patience, work).await;
    let too_large = too_large_messages(lab, client, target.ip())?.saturating_sub(told_before);
    Ok(match done {
        Ok(server) => Ok(Transfer { server, too_large }),
        Err(why) => Err(format!("{why} ({too_large} ICMP messages \"packet too large\" received)")),
    })
}

async fn upload(stream: &mut TcpStream, target: SocketAddr, bytes: u64) -> std::io::Result<String> {
    let path = format!("/upload/{bytes}");
    stream.write_all(request("POST", &path, target).as_bytes()).await?;
    let mut sent = 0;
    while sent < bytes {
        let piece = bulk::piece(sent, bytes);
        stream.write_all(&piece).await?;
        sent += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    let page = read_page(stream).await?;
    let text = String::from_utf8_lossy(&page);
    let last = text.lines().last().unwrap_or_default();
    let answer = body(&page).map_err(|error| std::io::Error::other(format!("{error}: {last}")))?;
    parse_response(answer).map(|answer| answer.server)
}

async fn download(
    stream: &mut TcpStream,
    target: SocketAddr,
    bytes: u64,
) -> std::io::Result<String> {
    let path = format!("/download/{bytes}");
    stream.write_all(request("GET", &path, target).as_bytes()).await?;
    let mut page = Vec::new();
    stream.take(bytes.saturating_add(4096)).read_to_end(&mut page).await?;
    let bytes_of_page = body(&page)?;
    let mut check = bulk::TransferCheck::default();
    check.take(bytes_of_page);
    check.result(bytes).map_err(std::io::Error::other)?;
    let head = page.len() - bytes_of_page.len();
    let head = String::from_utf8_lossy(page.get(..head).unwrap_or_default());
    let server = head.lines().find_map(|line| line.strip_prefix("Server: "));
    parse_response(server.unwrap_or_default().as_bytes()).map(|answer| answer.server)
}

/// Number of messages about too large packets that `host` has received, for the family of `to`.
fn too_large_messages(lab: &Lab, host: &HostName, to: IpAddr) -> Result<u64, LabError> {
    let (file, count): (_, fn(&str) -> Option<u64>) = match to {
        IpAddr::V4(_) => ("/proc/thread-self/net/snmp", unreachable_v4),
        IpAddr::V6(_) => ("/proc/thread-self/net/snmp6", too_big_v6),
    };
    let text = lab.run_in(host, || std::fs::read_to_string(file))?;
    let text = text.map_err(LabError::io(format!("read {file} of {host}")))?;
    count(&text).ok_or_else(|| {
        LabError::io(format!("read {file} of {host}"))(std::io::ErrorKind::InvalidData.into())
    })
}

/// `Icmp: InDestUnreachs` of two lines that begin with `Icmp:`, names and values (net/ipv4/proc.c).
fn unreachable_v4(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "InDestUnreachs")?.1.parse().ok()
}

/// `Icmp6InPktTooBigs` (net/ipv6/proc.c).
fn too_big_v6(snmp6: &str) -> Option<u64> {
    let line = snmp6.lines().find_map(|line| line.strip_prefix("Icmp6InPktTooBigs"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let snmp = "Ip: Forwarding\nIp: 1\nIcmp: InMsgs InErrors InCsumErrors InDestUnreachs\n\
                    Icmp: 9 0 0 7\nIcmpMsg: InType3\nIcmpMsg: 7\n";
        assert_eq!(unreachable_v4(snmp), Some(7));
        assert_eq!(unreachable_v4("Icmp: InMsgs\nIcmp: 9\n"), None);
        assert_eq!(too_big_v6("Icmp6InErrors   \t0\nIcmp6InPktTooBigs     \t3\n"), Some(3));
        assert_eq!(too_big_v6(""), None);
    }
}
