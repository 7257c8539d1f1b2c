//! A web server of one page: the host's name. HTTP/1.0 (RFC 1945), one request a connection.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Served;

/// As much as is read of a request, in bytes.
const LONGEST_REQUEST: usize = 8192;
/// How long a client may take for its request and for hearing the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients served at one time. One more, and whoever has been connected longest has to go: a
/// client that asks in earnest is done in milliseconds.
const MOST_CLIENTS: usize = 64;
/// After a failed accept (no file descriptors left, for instance).
const PAUSE: Duration = Duration::from_millis(20);

/// Answers until it is aborted. Clients do not wait for each other.
pub(super) async fn serve(listener: TcpListener, answer: Arc<str>, served: Served) {
    let mut clients = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
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
        let (answer, served) = (Arc::clone(&answer), served.clone());
        oldest_first.push_back(clients.spawn(async move {
            // A client that fails is its own witness: it counts the failure.
            if let Ok(Ok(())) = timeout(PATIENCE, talk(client, &answer)).await {
                served.count();
            }
        }));
    }
}

async fn talk(mut client: TcpStream, answer: &str) -> io::Result<()> {
    read_request(&mut client).await?;
    let length = answer.len();
    let page = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{answer}"
    );
    client.write_all(page.as_bytes()).await?;
    client.shutdown().await
}

/// Reads up to the empty line that ends a request's header. What is in it does not matter.
async fn read_request(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while request.len() < LONGEST_REQUEST {
        let got = from.read(&mut piece).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&piece[..got]);
        if ends_header(&request) {
            return Ok(());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// RFC 1945 appendix B: a bare line feed is a line's end, too.
fn ends_header(request: &[u8]) -> bool {
    request.windows(2).any(|pair| pair == b"\n\n")
        || request.windows(4).any(|four| four == b"\r\n\r\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes;
        read_request(&mut bytes).await
    }

    #[tokio::test]
    async fn requests_end_with_an_empty_line_and_nothing_is_read_for_ever() {
        assert!(read(b"GET / HTTP/1.0\r\n\r\n").await.is_ok());
        assert!(read(b"GET /\n\n").await.is_ok());
        assert!(read(b"GET / HTTP/1.0\r\n").await.is_err());
        assert!(read(b"").await.is_err());
        let endless = vec![b'x'; 10 * LONGEST_REQUEST];
        assert_eq!(read(&endless).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
