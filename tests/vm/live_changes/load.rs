//! Clients that never stop asking, and connections that stay open. Every thread is in the client's
//! namespace, and each connection comes from a source port that was not used for long: IPVS remembers
//! one for two minutes after it is over.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lvsprov::lab::Lab;
use lvsprov::names::HostName;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Handle, Runtime};

use crate::support::speed;

/// TCP has sent its first packet three times by then; [`speed::scaled`].
const PATIENCE: Duration = Duration::from_secs(6);
/// From the end of a request to the beginning of the next one.
const PAUSE: Duration = Duration::from_millis(2);
/// How long an open connection may take to answer, before it counts as cut; [`speed::scaled`].
const SILENCE: Duration = Duration::from_secs(4);

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Runs `work` on a thread that is in the namespace of `host`.
pub fn on<T: Send + 'static>(
    lab: &Lab,
    host: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let host: HostName = host.parse().unwrap();
    let namespace = lab.namespace(&host).unwrap().try_clone_to_owned().unwrap();
    thread::spawn(move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// Answers every line with the name of the host, on `ports`, as long as `runtime` lives.
pub fn serve(runtime: &Runtime, lab: &Lab, host: &str, ports: &[u16]) {
    serve_on(runtime.handle(), lab, host, ports);
}

/// The same by a handle.
pub fn serve_on(runtime: &Handle, lab: &Lab, host: &str, ports: &[u16]) {
    serve_at(runtime, lab, host, Ipv4Addr::UNSPECIFIED, ports);
}

/// The same, on one address only.
pub fn serve_at(runtime: &Handle, lab: &Lab, host: &str, address: Ipv4Addr, ports: &[u16]) {
    for port in ports {
        let (name, port) = (format!("{host}\n"), *port);
        let listener = on(lab, host, move || TcpListener::bind((address, port)).unwrap());
        let listener = listener.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(answer(client, name.clone()));
            }
        });
    }
}

/// Until the client ends it, or it is reset.
async fn answer(mut client: tokio::net::TcpStream, name: String) {
    let mut line = [0; 64];
    while client.read(&mut line).await.is_ok_and(|got| got > 0) {
        if client.write_all(name.as_bytes()).await.is_err() {
            break;
        }
    }
}

/// A connection on which anything can be asked, again and again.
pub struct Talk {
    lines: BufReader<TcpStream>,
    /// Who answered first.
    pub server: String,
}

impl Talk {
    fn open(target: SocketAddrV4, patience: Duration) -> io::Result<Self> {
        Self::bound(target, patience, bind_in_turn)
    }

    fn bound(
        target: SocketAddrV4,
        patience: Duration,
        bind: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(&socket)?;
        let millis = i64::try_from(speed::scaled(patience).as_millis()).unwrap();
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))?;
        connect(socket.as_raw_fd(), &SockaddrIn::from(target))?;
        let mut talk =
            Self { lines: BufReader::new(TcpStream::from(socket)), server: String::new() };
        talk.server = talk.ask()?;
        Ok(talk)
    }

    /// Asks once more.
    fn ask(&mut self) -> io::Result<String> {
        self.lines.get_mut().write_all(b"who?\n")?;
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Whether it is still answered by the same server.
    fn is_alive(&mut self) -> bool {
        let timeout = Some(speed::scaled(SILENCE));
        self.lines.get_ref().set_read_timeout(timeout).unwrap();
        self.ask().is_ok_and(|server| server == self.server)
    }
}

fn bind_in_turn(socket: &OwnedFd) -> io::Result<()> {
    for _ in 0..64 {
        let port = 32_768 + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 28_232;
        let from = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
        match bind(socket.as_raw_fd(), &from) {
            Err(nix::Error::EADDRINUSE) => {}
            done => return Ok(done?),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Who answers a request from each of these ports, which are free or were used before.
pub fn from_ports(
    lab: &Lab,
    client: &str,
    target: SocketAddrV4,
    ports: Vec<u16>,
) -> Vec<(u16, Option<String>)> {
    let ask = move |port: &u16| {
        let bound = |socket: &OwnedFd| {
            setsockopt(socket, sockopt::ReuseAddr, &true)?;
            let from = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, *port));
            Ok(bind(socket.as_raw_fd(), &from)?)
        };
        Talk::bound(target, PATIENCE, bound).ok().map(|talk| talk.server)
    };
    let all = move || ports.iter().map(|port| (*port, ask(port))).collect();
    on(lab, client, all).join().unwrap()
}

/// Opens connections that stay.
pub fn talks(lab: &Lab, client: &str, target: SocketAddrV4, count: usize) -> Vec<Talk> {
    let open = move || (0..count).map(|_| Talk::open(target, PATIENCE).unwrap()).collect();
    on(lab, client, open).join().unwrap()
}

/// The same until `server` has `count` of them.
pub fn talks_to(
    lab: &Lab,
    client: &str,
    target: SocketAddrV4,
    server: &'static str,
    count: usize,
) -> Vec<Talk> {
    let open = move || {
        let mut all: Vec<Talk> = Vec::new();
        while all.iter().filter(|talk| talk.server == server).count() < count {
            assert!(all.len() < 50 * count, "{server} gets no connections");
            all.push(Talk::open(target, PATIENCE).unwrap());
        }
        all
    };
    on(lab, client, open).join().unwrap()
}

/// How many of them are dead now.
pub fn dead(talks: Vec<Talk>) -> usize {
    let asking: Vec<_> =
        talks.into_iter().map(|mut talk| thread::spawn(move || talk.is_alive())).collect();
    asking.into_iter().map(|one| one.join().unwrap()).filter(|alive| !alive).count()
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which of the clients.
    pub client: usize,
    pub began: Instant,
    pub took: Duration,
    /// Who answered, or why nobody did.
    pub result: Result<String, String>,
}

/// Clients that ask all the time.
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<Request>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `count` threads on each of `clients`.
    pub fn start(lab: &Lab, clients: &[&str], count: usize, target: SocketAddrV4) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(Mutex::new(Vec::new()));
        let each = clients.iter().flat_map(|client| std::iter::repeat_n(*client, count));
        let clients = each.enumerate().map(|(number, client)| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            on(lab, client, move || {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let talk = Talk::open(target, PATIENCE);
                    let result = talk.map(|talk| talk.server).map_err(|error| error.to_string());
                    let took = began.elapsed();
                    let request = Request { client: number, began, took, result };
                    made.lock().unwrap().push(request);
                    thread::sleep(PAUSE);
                }
            })
        });
        Self { clients: clients.collect(), stop, made }
    }

    /// All that were made since the last time.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.made.lock().unwrap())
    }

    /// Waits until each client has done `count` requests that it began from now on: then what was under
    /// way is done too.
    pub fn pass(&self, count: usize) {
        let now = Instant::now();
        let patience = now + speed::patience();
        loop {
            let mut done = vec![0; self.clients.len()];
            for request in self.made.lock().unwrap().iter().filter(|r| r.began >= now) {
                done[request.client] += 1;
            }
            if done.iter().all(|done| *done >= count) {
                return;
            }
            assert!(Instant::now() < patience, "the clients do not get on");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets those that are under way finish, and returns all that were not taken.
    pub fn stop(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let mut made = self.made.lock().unwrap();
        std::mem::take(&mut *made)
    }
}

/// By what failed how often.
pub fn failures(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for why in requests.iter().filter_map(|request| request.result.as_ref().err()) {
        *all.entry(why.clone()).or_default() += 1;
    }
    all
}

/// In one line: how many, how fast, by whom, how many had to be sent again.
pub fn told(requests: &[Request]) -> String {
    let mut servers: BTreeMap<&str, usize> = BTreeMap::new();
    for server in requests.iter().filter_map(|request| request.result.as_deref().ok()) {
        *servers.entry(server).or_default() += 1;
    }
    let first = requests.iter().map(|request| request.began).min();
    let last = requests.iter().map(|request| request.began + request.took).max();
    let time = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    let again = requests.iter().filter(|r| r.took > Duration::from_millis(900)).count();
    #[allow(clippy::cast_precision_loss)]
    let rate = requests.len() as f64 / time.max(0.001);
    format!(
        "{} requests in {time:.1} s ({rate:.0}/s), answered by {servers:?}, {again} later than 0.9 s, failed {:?}",
        requests.len(),
        failures(requests)
    )
}
