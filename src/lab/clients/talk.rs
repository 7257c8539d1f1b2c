//! Connections that stay open, and answer now and then whether they still work.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::request::{connect, in_time, parse_response, request};
use super::sockets::SocketFactory;
use crate::lab::{Lab, LabError};
use crate::names::HostName;
use crate::state::Protocol;

/// Maximum length of a line, in bytes.
const LONGEST_LINE: u64 = 4096;

/// An open TCP connection to a real server.
pub struct Talk {
    lines: BufReader<TcpStream>,
    /// The real server.
    pub server: String,
}

/// Opens `count` connections from `client` to `target`, one after another, each within `patience`. The inner error has the
/// reason of the first that failed.
///
/// # Errors
/// If there is no such host or its namespace cannot be entered.
pub async fn open_talks(
    lab: &Lab,
    client: &HostName,
    target: SocketAddr,
    count: usize,
    patience: Duration,
) -> Result<Result<Vec<Talk>, String>, LabError> {
    let sockets = SocketFactory::of(lab, client)?;
    let mut all = Vec::new();
    for _ in 0..count {
        match in_time(patience, Talk::open(&sockets, target)).await {
            Ok(talk) => all.push(talk),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(all))
}

impl Talk {
    async fn open(sockets: &SocketFactory, target: SocketAddr) -> io::Result<Self> {
        let mut stream = connect(sockets, None, target, Protocol::Tcp).await?;
        // A dead one ends with the program: its retransmissions would go on for minutes.
        stream.set_zero_linger()?;
        stream.write_all(request("GET", "/talk", target).as_bytes()).await?;
        let mut talk = Self { lines: BufReader::new(stream), server: String::new() };
        while !talk.line().await?.is_empty() {}
        talk.server = parse_response(talk.line().await?.as_bytes())?.server;
        Ok(talk)
    }

    /// A line without its end.
    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if (&mut self.lines).take(LONGEST_LINE).read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Whether its real server answers on it within `patience`.
    pub async fn works(&mut self, patience: Duration) -> bool {
        let asking = async {
            self.lines.get_mut().write_all(b"?\n").await?;
            self.line().await
        };
        in_time(patience, asking).await.is_ok_and(|server| server == self.server)
    }
}
