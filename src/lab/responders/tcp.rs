//! A small web server over TCP or SCTP: the host's name, and large bodies in both directions. HTTP/1.0
//! (RFC 1945), one request for each connection.
//!
//! `GET /download/N` returns N bytes of [`crate::lab::bulk`]; `POST /upload/N` receives N bytes and
//! compares them. `GET /talk` returns the host's name for each further line of the client, until that closes the connection.
//! Any other request gets the page: the host's name and the client's address.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{RequestCounter, answer};
use crate::lab::bulk;

/// Maximum size of a request header, in bytes.
const MAX_REQUEST: usize = 8192;
/// Time limit of a request and of its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of a large body, also in an emulated machine.
const BULK_TIMEOUT: Duration = Duration::from_mins(2);
/// Time limit from one line of a talk to the next: longer than any death in a chaos run.
const TALK_TIMEOUT: Duration = Duration::from_hours(2);
/// Maximum number of simultaneous clients. One more closes the oldest connection: a test request takes
/// milliseconds.
const MAX_CLIENTS: usize = 64;
/// Pause after a failed accept (for example without free file descriptors).
const PAUSE: Duration = Duration::from_millis(20);

/// Serves clients concurrently until it is aborted.
pub(super) async fn serve(listener: TcpListener, name: Arc<str>, served: RequestCounter) {
    let mut clients = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((client, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while clients.try_join_next().is_some() {}
        oldest_first.retain(|client| !client.is_finished());
        if oldest_first.len() >= MAX_CLIENTS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        let (name, served) = (Arc::clone(&name), served.clone());
        oldest_first.push_back(clients.spawn(async move {
            // The client counts failures.
            if serve_client(client, from.ip(), &name).await.is_ok() {
                served.count();
            }
        }));
    }
}

/// The kind of a request.
#[derive(Debug, PartialEq, Eq)]
enum HttpRequest {
    Page,
    Download(u64),
    Upload(u64),
    Talk,
}

impl HttpRequest {
    fn of(request: &[u8]) -> Self {
        let line = request.split(|byte| *byte == b'\r' || *byte == b'\n').next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        let path = line.split(' ').nth(1).unwrap_or_default();
        let bytes = |count: &str| count.parse().ok().filter(|count| *count <= bulk::MAX_TRANSFER);
        let download = path.strip_prefix("/download/").and_then(bytes).map(Self::Download);
        let upload = || path.strip_prefix("/upload/").and_then(bytes).map(Self::Upload);
        let talk = || (path == "/talk").then_some(Self::Talk);
        download.or_else(upload).or_else(talk).unwrap_or(Self::Page)
    }
}

async fn serve_client(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    from: IpAddr,
    name: &str,
) -> io::Result<()> {
    let (head, rest) = timeout(REQUEST_TIMEOUT, read_request(&mut client)).await??;
    match HttpRequest::of(&head) {
        HttpRequest::Page => {
            timeout(REQUEST_TIMEOUT, respond(&mut client, "200 OK", &answer(name, from))).await?
        }
        HttpRequest::Download(bytes) => {
            timeout(BULK_TIMEOUT, send(&mut client, name, bytes)).await?
        }
        HttpRequest::Talk => talk(&mut client, name).await,
        HttpRequest::Upload(bytes) => {
            let verdict = timeout(BULK_TIMEOUT, take(&mut client, &rest, bytes)).await??;
            let (status, more) = match verdict {
                Ok(()) => ("200 OK", format!("{bytes} bytes\n")),
                Err(why) => ("400 Bad Request", format!("{why}\n")),
            };
            timeout(REQUEST_TIMEOUT, respond(&mut client, status, &(answer(name, from) + &more)))
                .await?
        }
    }
}

fn header(status: &str, length: u64, name: &str) -> String {
    format!(
        "HTTP/1.0 {status}\r\nServer: {name}\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

async fn respond(to: &mut (impl AsyncWrite + Unpin), status: &str, text: &str) -> io::Result<()> {
    let name = text.lines().next().unwrap_or_default();
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    // One write: one message in protocols with messages.
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

/// The host's name at once, and again for each line of the client.
async fn talk(with: &mut (impl AsyncRead + AsyncWrite + Unpin), name: &str) -> io::Result<()> {
    let line = format!("{name}\n");
    with.write_all(format!("HTTP/1.0 200 OK\r\nServer: {name}\r\n\r\n{line}").as_bytes()).await?;
    let mut piece = [0; 64];
    loop {
        let got = timeout(TALK_TIMEOUT, with.read(&mut piece)).await??;
        if got == 0 {
            return Ok(());
        }
        let lines = piece.get(..got).unwrap_or_default().iter().filter(|byte| **byte == b'\n');
        for _ in lines {
            with.write_all(line.as_bytes()).await?;
        }
    }
}

/// Receives `bytes` bytes, of which `already` came with the request. The inner result: whether they match.
async fn take(
    from: &mut (impl AsyncRead + Unpin),
    already: &[u8],
    bytes: u64,
) -> io::Result<Result<(), String>> {
    let mut check = bulk::TransferCheck::default();
    check.take(already);
    let mut piece = vec![0; bulk::PIECE];
    while check.got() < bytes {
        let got = from.read(&mut piece).await?;
        if got == 0 {
            break;
        }
        check.take(piece.get(..got).unwrap_or_default());
    }
    Ok(check.result(bytes))
}

/// Reads a request header, up to the empty line. Returns it with the bytes after it.
async fn read_request(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while request.len() < MAX_REQUEST {
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

/// RFC 1945 appendix B: a bare line feed also ends a line.
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
    async fn requests_end_with_an_empty_line_and_reading_is_bounded() {
        let (head, rest) = read(b"GET / HTTP/1.0\r\n\r\nbody").await.unwrap();
        assert_eq!(
            (head.as_slice(), rest.as_slice()),
            (&b"GET / HTTP/1.0\r\n\r\n"[..], &b"body"[..])
        );
        assert!(read(b"GET /\n\n").await.is_ok());
        assert!(read(b"GET / HTTP/1.0\r\n").await.is_err());
        assert!(read(b"").await.is_err());
        let endless = vec![b'x'; 10 * MAX_REQUEST];
        assert_eq!(read(&endless).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_first_line_has_the_kind_of_request() {
        assert_eq!(
            HttpRequest::of(b"GET /download/17 HTTP/1.0\r\n\r\n"),
            HttpRequest::Download(17)
        );
        assert_eq!(HttpRequest::of(b"POST /upload/17 HTTP/1.0\r\n\r\n"), HttpRequest::Upload(17));
        let too_much = format!("GET /download/{} HTTP/1.0\r\n\r\n", bulk::MAX_TRANSFER + 1);
        for page in ["GET / HTTP/1.0\r\n\r\n", "", "\n\n", "GET /upload/-1 x\n", &too_much] {
            assert_eq!(HttpRequest::of(page.as_bytes()), HttpRequest::Page, "{page:?}");
        }
    }

    /// The complete response to `request`.
    async fn exchange(request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(64);
        let from = "192.0.2.9".parse().unwrap();
        let serving = tokio::spawn(async move { serve_client(server, from, "web1").await });
        client.write_all(request).await.unwrap();
        let mut page = String::new();
        client.read_to_string(&mut page).await.unwrap();
        serving.await.unwrap().unwrap();
        page
    }

    #[tokio::test]
    async fn a_talk_answers_each_line_and_ends_with_the_client() {
        assert_eq!(HttpRequest::of(b"GET /talk HTTP/1.0\r\n\r\n"), HttpRequest::Talk);
        let (mut client, server) = tokio::io::duplex(64);
        let from = "192.0.2.9".parse().unwrap();
        let serving = tokio::spawn(async move { serve_client(server, from, "web1").await });
        client.write_all(b"GET /talk HTTP/1.0\r\n\r\n").await.unwrap();
        let mut first = [0; 64];
        let head = "HTTP/1.0 200 OK\r\nServer: web1\r\n\r\nweb1\n";
        client.read_exact(&mut first[..head.len()]).await.unwrap();
        assert_eq!(&first[..head.len()], head.as_bytes());
        for _ in 0..2 {
            client.write_all(b"?\n").await.unwrap();
            client.read_exact(&mut first[..5]).await.unwrap();
            assert_eq!(&first[..5], b"web1\n");
        }
        drop(client);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_page_has_name_and_client_and_an_upload_is_compared() {
        let page = exchange(b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(page.ends_with("\r\n\r\nweb1\n192.0.2.9\n"), "{page}");
        let upload = |body: &[u8]| [b"POST /upload/5 HTTP/1.0\r\n\r\n", body].concat();
        let good = exchange(&upload(&bulk::piece(0, 5))).await;
        assert!(good.starts_with("HTTP/1.0 200 ") && good.ends_with("5 bytes\n"), "{good}");
        let bad = exchange(&upload(b"hello")).await;
        assert!(bad.starts_with("HTTP/1.0 400 ") && bad.contains("differs"), "{bad}");
    }
}
