//! What asks: requests from a client's namespace, each on a connection of its own, and a count of who
//! answered. What a client expects to hear is in [`expect`](super::expect).

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Lab, LabError};
pub use crate::protocol::Fetched as Tally;
use crate::topology::{HostName, Protocol};

/// The reason where no answer came in time.
pub const TIMED_OUT: &str = "timed out";
const LONGEST_ANSWER: u64 = 64 * 1024;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Where.
    pub target: SocketAddr,
    /// Over tcp or udp.
    pub protocol: Protocol,
    /// How long one answer may take, from the first packet to the last.
    pub timeout: Duration,
}

/// Who answered, or why nobody did.
pub type Answer = Result<String, String>;

/// Asks `count` times from `client`, one after the other.
///
/// # Errors
/// If there is no such host, or its namespace cannot be entered. Requests that fail are counted.
pub fn ask(
    lab: &Lab,
    client: &HostName,
    question: Question,
    count: u32,
) -> Result<Tally, LabError> {
    lab.run_in(client, || {
        let mut tally = Tally::default();
        for _ in 0..count {
            add(&mut tally, question.ask());
        }
        tally
    })
}

/// Counts an answer.
pub fn add(tally: &mut Tally, answer: Answer) {
    let Tally { answers, failures } = tally;
    let count = match answer {
        Ok(name) => answers.entry(name).or_default(),
        Err(reason) => failures.entry(reason).or_default(),
    };
    *count = count.saturating_add(1);
}

impl Question {
    /// Asks once, from the calling thread's namespace, on a socket of its own.
    ///
    /// # Errors
    /// Why there was no answer, in few words that are the same for the same reason.
    pub fn ask(&self) -> Answer {
        let deadline = Instant::now() + self.timeout;
        let answer = match self.protocol {
            Protocol::Tcp => over_tcp(self.target, deadline),
            Protocol::Udp => over_udp(self.target, deadline),
            Protocol::Sctp => Err(io::Error::other("the lab asks over tcp and udp only")),
        };
        answer.map(|bytes| name_in(&bytes)).map_err(|error| reason(&error))
    }
}

fn over_tcp(target: SocketAddr, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let read = stream.read(&mut buffer)?;
        answer.extend(&buffer[..read]);
        if read == 0 || answer.len() as u64 > LONGEST_ANSWER {
            return Ok(answer);
        }
    }
}

fn over_udp(target: SocketAddr, deadline: Instant) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // Connected: an answer from another address than the one that was asked is none.
    socket.connect(target)?;
    socket.send(b"who\n")?;
    socket.set_read_timeout(Some(left(deadline)?))?;
    let mut buffer = vec![0; 2048];
    let read = socket.recv(&mut buffer)?;
    buffer.truncate(read);
    Ok(buffer)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The first line of the body; of everything where there is no HTTP head.
fn name_in(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let body = match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/") => body,
        _ => &text,
    };
    body.lines().next().unwrap_or_default().trim().to_owned()
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => TIMED_OUT.to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// One request of a [`Stream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// When it was sent.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// Who answered, or why nobody did.
    pub answer: Answer,
}

/// Requests in the background, one after the other at a bounded rate, until it is stopped or dropped.
pub struct Stream {
    stop: Option<mpsc::Sender<()>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Starts to ask from `client`, at most once per `every` (1 ms and more) and at most `limit` times.
    ///
    /// # Errors
    /// If there is no such host, or its namespace cannot be entered.
    pub fn start(
        lab: &Lab,
        client: &HostName,
        question: Question,
        every: Duration,
        limit: u32,
    ) -> Result<Self, LabError> {
        let every = every.max(Duration::from_millis(1));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel();
        let list = Arc::clone(&asked);
        let flag = Arc::clone(&ended);
        let work = move || {
            for _ in 0..limit {
                let at = Instant::now();
                let answer = question.ask();
                let one = Asked { at, took: at.elapsed(), answer };
                if let Ok(mut list) = list.lock() {
                    list.push(one);
                }
                let rest = every.saturating_sub(at.elapsed());
                if stopped.recv_timeout(rest) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            flag.store(true, Ordering::Release);
        };
        // A thread that is started in the namespace stays in it.
        let thread = lab.run_in(client, move || {
            std::thread::Builder::new().name("client".to_owned()).spawn(work)
        })?;
        let thread = Some(thread.map_err(LabError::io("start a thread"))?);
        Ok(Self { stop: Some(stop), asked, ended, thread })
    }

    /// All requests that are done so far, in order.
    pub fn so_far(&self) -> Vec<Asked> {
        self.asked.lock().map(|list| list.clone()).unwrap_or_default()
    }

    /// Whether it has reached its limit.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits for the request that is under way and returns all.
    pub fn stop(mut self) -> Vec<Asked> {
        self.join();
        self.so_far()
    }

    fn join(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed; what was asked before is still worth something.
            let _ = thread.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.join();
    }
}

/// The first failure after the first answer: a client that was served and then was not.
pub fn interruption(asked: &[Asked]) -> Option<&Asked> {
    let first = asked.iter().position(|one| one.answer.is_ok())?;
    asked.get(first..)?.iter().find(|one| one.answer.is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_first_line_of_the_body() {
        assert_eq!(name_in(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nweb1\nmore\n"), "web1");
        assert_eq!(name_in(b"web2\n"), "web2");
        assert_eq!(name_in(b""), "");
        assert_eq!(name_in(b"HTTP/1.0 200 OK\r\n\r\n"), "");
        assert_eq!(name_in(&[0xff, b'\n']), "\u{fffd}");
    }

    #[test]
    fn an_interruption_is_a_failure_after_an_answer() {
        let asked = |answers: &[bool]| -> Vec<Asked> {
            let one = |ok: &bool| Asked {
                at: Instant::now(),
                took: Duration::ZERO,
                answer: if *ok { Ok("web1".into()) } else { Err(TIMED_OUT.into()) },
            };
            answers.iter().map(one).collect()
        };
        assert_eq!(interruption(&[]), None);
        assert_eq!(interruption(&asked(&[false, false])), None);
        assert_eq!(interruption(&asked(&[false, true, true])), None);
        assert!(interruption(&asked(&[false, true, false, true])).is_some());
    }
}
