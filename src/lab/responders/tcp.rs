//! A small web server: the host's name, and large bodies each way. HTTP/1.0 (RFC 1945), one request
//! a connection. Over SCTP as well, which looks the same from here.
//!
//! `GET /download/N` is answered with N bytes of [`crate::lab::bulk`]; `POST /upload/N` takes as many
//! and compares them. Any other request gets the page: name, and the client's address as seen here.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{Served, answer};
use crate::lab::bulk;

/// As much as is read of a request, in bytes.
const LONGEST_REQUEST: usize = 8192;
/// How long a client may take for its request and for hearing the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where megabytes go through an emulated machine.
const PATIENCE_FOR_BULK: Duration = Duration::from_mins(2);
/// Clients served at one time. One more, and whoever has been connected longest has to go: a
/// client that asks in earnest is done in milliseconds.
const MOST_CLIENTS: usize = 64;
/// After a failed accept (no file descriptors left, for instance).
const PAUSE: Duration = Duration::from_millis(20);

/// Answers until it is aborted. Clients do not wait for each other.
pub(super) async fn serve(listener: TcpListener, name: Arc<str>, served: Served) {
    let mut clients = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((client, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while clients.try_join_next().is_some() {}
        oldest_first.retain(|client| !client.is_finished());
        if oldest_first.len() >= MOST_CLIENTS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        let (name, served) = (Arc::clone(&name), served.clone());
        oldest_first.push_back(clients.spawn(async move {
            // A client that fails is its own witness: it counts the failure.
            if talk(client, from.ip(), &name).await.is_ok() {
                served.count();
            }
        }));
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Page,
    Download(u64),
    Upload(u64),
}

impl Wanted {
    fn of(request: &[u8]) -> Self {
        let line = request.split(|byte| *byte == b'\r' || *byte == b'\n').next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        let path = line.split(' ').nth(1).unwrap_or_default();
        let bytes = |count: &str| count.parse().ok().filter(|count| *count <= bulk::MOST);
        let download = path.strip_prefix("/download/").and_then(bytes).map(Self::Download);
        let upload = || path.strip_prefix("/upload/").and_then(bytes).map(Self::Upload);
        download.or_else(upload).unwrap_or(Self::Page)
    }
}

async fn talk(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    from: IpAddr,
    name: &str,
) -> io::Result<()> {
    let (head, rest) = timeout(PATIENCE, read_request(&mut client)).await??;
    match Wanted::of(&head) {
        Wanted::Page => timeout(PATIENCE, say(&mut client, "200 OK", &answer(name, from))).await?,
        Wanted::Download(bytes) => {
            timeout(PATIENCE_FOR_BULK, send(&mut client, name, bytes)).await?
        }
        Wanted::Upload(bytes) => {
            let verdict = timeout(PATIENCE_FOR_BULK, take(&mut client, &rest, bytes)).await??;
            let (status, more) = match verdict {
                Ok(()) => ("200 OK", format!("{bytes} bytes\n")),
                Err(why) => ("400 Bad Request", format!("{why}\n")),
            };
            timeout(PATIENCE, say(&mut client, status, &(answer(name, from) + &more))).await?
        }
    }
}

fn header(status: &str, length: u64, name: &str) -> String {
    format!(
        "HTTP/1.0 {status}\r\nServer: {name}\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

async fn say(to: &mut (impl AsyncWrite + Unpin), status: &str, text: &str) -> io::Result<()> {
    let name = text.lines().next().unwrap_or_default();
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    // In one piece: a message of its own where the protocol has messages.
    to.write_all(format!("{}{text}", header(status, length, name)).as_bytes()).await?;
    to.shutdown().await
}

async fn send(to: &mut (impl AsyncWrite + Unpin), name: &str, bytes: u64) -> io::Result<()> {
    to.write_all(header("200 OK", bytes, name).as_bytes()).await?;
    let mut sent = 0;
    while sent < bytes {
        let piece = bulk::piece(sent, bytes);
        to.write_all(&piece).await?;
        sent += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    to.shutdown().await
}

/// Takes `bytes` bytes, of which `already` have come with the request. The inner result: whether they
/// are what they should be.
async fn take(
    from: &mut (impl AsyncRead + Unpin),
    already: &[u8],
    bytes: u64,
) -> io::Result<Result<(), String>> {
    let mut check = bulk::Check::default();
    check.take(already);
    let mut piece = vec![0; bulk::PIECE];
    while check.got() < bytes {
        let got = from.read(&mut piece).await?;
        if got == 0 {
            break;
        }
        check.take(piece.get(..got).unwrap_or_default());
    }
    Ok(check.verdict(bytes))
}

/// Reads up to the empty line that ends a request's header; what has come behind it is the second.
async fn read_request(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while request.len() < LONGEST_REQUEST {
        let got = from.read(&mut piece).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&piece[..got]);
        if let Some(end) = end_of_header(&request) {
            let rest = request.split_off(end);
            return Ok((request, rest));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// RFC 1945 appendix B: a bare line feed is a line's end, too.
fn end_of_header(request: &[u8]) -> Option<usize> {
    let find = |end: &[u8]| {
        request.windows(end.len()).position(|window| window == end).map(|at| at + end.len())
    };
    match (find(b"\n\n"), find(b"\r\n\r\n")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut bytes = bytes;
        read_request(&mut bytes).await
    }

    #[tokio::test]
    async fn requests_end_with_an_empty_line_and_nothing_is_read_for_ever() {
        let (head, rest) = read(b"GET / HTTP/1.0\r\n\r\nbody").await.unwrap();
        assert_eq!(
            (head.as_slice(), rest.as_slice()),
            (&b"GET / HTTP/1.0\r\n\r\n"[..], &b"body"[..])
        );
        assert!(read(b"GET /\n\n").await.is_ok());
        assert!(read(b"GET / HTTP/1.0\r\n").await.is_err());
        assert!(read(b"").await.is_err());
        let endless = vec![b'x'; 10 * LONGEST_REQUEST];
        assert_eq!(read(&endless).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_wanted_stands_in_the_first_line() {
        assert_eq!(Wanted::of(b"GET /download/17 HTTP/1.0\r\n\r\n"), Wanted::Download(17));
        assert_eq!(Wanted::of(b"POST /upload/17 HTTP/1.0\r\n\r\n"), Wanted::Upload(17));
        let too_much = format!("GET /download/{} HTTP/1.0\r\n\r\n", bulk::MOST + 1);
        for page in ["GET / HTTP/1.0\r\n\r\n", "", "\n\n", "GET /upload/-1 x\n", &too_much] {
            assert_eq!(Wanted::of(page.as_bytes()), Wanted::Page, "{page:?}");
        }
    }

    /// What a client gets that sends `request` and hears all.
    async fn told(request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(64);
        let from = "192.0.2.9".parse().unwrap();
        let serving = tokio::spawn(async move { talk(server, from, "web1").await });
        client.write_all(request).await.unwrap();
        let mut page = String::new();
        client.read_to_string(&mut page).await.unwrap();
        serving.await.unwrap().unwrap();
        page
    }

    #[tokio::test]
    async fn the_page_has_name_and_client_and_an_upload_is_compared() {
        let page = told(b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(page.ends_with("\r\n\r\nweb1\n192.0.2.9\n"), "{page}");
        let upload = |body: &[u8]| [b"POST /upload/5 HTTP/1.0\r\n\r\n", body].concat();
        let good = told(&upload(&bulk::piece(0, 5))).await;
        assert!(good.starts_with("HTTP/1.0 200 ") && good.ends_with("5 bytes\n"), "{good}");
        let bad = told(&upload(b"hello")).await;
        assert!(bad.starts_with("HTTP/1.0 400 ") && bad.contains("is another"), "{bad}");
    }
}
