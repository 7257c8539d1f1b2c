//! Test servers on the real servers. A response has the host's name, so that clients can count, and the
//! client's address as the host saw it.
//!
//! One listener for each port of a real server, on all addresses of the host: under DR and TUN requests
//! arrive for the VIP, under NAT for the RIP. Sockets are created in the host's namespace and served by
//! the caller's runtime. [`crate::lab::clients`] sends the requests.

mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen,
    setsockopt, socket, sockopt,
};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{Lab, LabError, targets};
use crate::names::HostName;
use crate::state::Protocol;
use crate::topology::Topology;

/// A listening port of a real server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its host.
    pub host: HostName,
    /// Its protocol.
    pub protocol: Protocol,
    /// The real server's own port, 1-65535.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, protocol, port } = self;
        write!(f, "{protocol} port {port} of {host}")
    }
}

/// Number of requests that one endpoint has answered.
#[derive(Debug, Clone, Default)]
struct RequestCounter(Arc<AtomicU64>);

impl RequestCounter {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The responders of a lab. They end when this value is dropped.
pub struct Responders {
    /// Each has a listener for IPv4, and one for IPv6 if the kernel supports it.
    running: BTreeMap<Endpoint, Vec<JoinHandle<()>>>,
    served: BTreeMap<Endpoint, RequestCounter>,
    not_served: BTreeMap<Endpoint, &'static str>,
}

/// Starts a responder for every port of every real server in `topology`, on the current runtime,
/// which must have its I/O and time drivers enabled. When it returns, all of them listen.
///
/// # Errors
/// Outside of a runtime; if a port is in use.
pub async fn start(lab: &Lab, topology: &Topology) -> Result<Responders, LabError> {
    start_at(lab, targets::endpoints(topology)).await
}

/// Starts a responder at each of `endpoints`, as [`start`] does.
///
/// # Errors
/// As [`start`].
// Async without an await: the type shows that it needs a runtime.
#[allow(clippy::unused_async)]
pub async fn start_at(lab: &Lab, endpoints: BTreeSet<Endpoint>) -> Result<Responders, LabError> {
    let runtime = Handle::try_current()
        .map_err(|error| LabError::io("serve the real servers' ports")(io::Error::other(error)))?;
    let mut sockets = BTreeMap::new();
    let mut not_served = BTreeMap::new();
    for endpoint in endpoints {
        let opened = lab.run_in(&endpoint.host, || open(endpoint.protocol, endpoint.port))?;
        match opened {
            Ok(opened) => {
                sockets.insert(endpoint, opened);
            }
            Err(Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT)
                if endpoint.protocol == Protocol::Sctp =>
            {
                not_served.insert(endpoint, "the running kernel has no SCTP");
            }
            Err(errno) => return Err(LabError::errno(format!("listen on {endpoint}"))(errno)),
        }
    }
    // Start serving after all sockets are open: an error until here closes all of them.
    let mut started = Responders { running: BTreeMap::new(), served: BTreeMap::new(), not_served };
    for (endpoint, sockets) in sockets {
        let served = RequestCounter::default();
        started.served.insert(endpoint.clone(), served.clone());
        for socket in sockets {
            let serving = serve(socket, &endpoint, served.clone());
            let serving = serving.map_err(LabError::io(format!("serve {endpoint}")))?;
            started.running.entry(endpoint.clone()).or_default().push(runtime.spawn(serving));
        }
    }
    Ok(started)
}

/// Length of the accept queue.
const BACKLOG: i32 = 128;

/// A socket for each address family. Must be called in the namespace of the host.
fn open(protocol: Protocol, port: u16) -> Result<Vec<OwnedFd>, Errno> {
    let v4 = open_one(protocol, (Ipv4Addr::UNSPECIFIED, port).into())?;
    match open_one(protocol, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(v6) => Ok(vec![v4, v6]),
        // A kernel without IPv6: no requests over IPv6 either.
        Err(Errno::EAFNOSUPPORT) => Ok(vec![v4]),
        Err(errno) => Err(errno),
    }
}

fn open_one(protocol: Protocol, at: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family, kind, flags, number)?;
    if at.is_ipv6() {
        setsockopt(&made, sockopt::Ipv6V6Only, &true)?;
    }
    if protocol == Protocol::Udp {
        udp::enable_destination_address(&made, at.is_ipv6())?;
        bind(made.as_raw_fd(), &SockaddrStorage::from(at))?;
    } else {
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
        bind(made.as_raw_fd(), &SockaddrStorage::from(at))?;
        listen(&made, Backlog::new(BACKLOG)?)?;
    }
    Ok(made)
}

fn serve(
    socket: OwnedFd,
    endpoint: &Endpoint,
    served: RequestCounter,
) -> io::Result<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let name: Arc<str> = endpoint.host.as_str().into();
    Ok(match endpoint.protocol {
        Protocol::Tcp | Protocol::Sctp => {
            let listener = std::net::TcpListener::from(socket);
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Box::pin(tcp::serve(listener, name, served))
        }
        Protocol::Udp => {
            let socket = tokio::net::UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
            Box::pin(udp::serve(socket, name, served))
        }
    })
}

/// The response: the host's name and the client's address.
fn answer(name: &str, client: IpAddr) -> String {
    format!("{name}\n{client}\n")
}

impl Responders {
    /// Number of requests that each endpoint has answered so far. A stopped endpoint keeps its count.
    pub fn served(&self) -> BTreeMap<Endpoint, u64> {
        let count = |served: &RequestCounter| served.0.load(Ordering::Relaxed);
        self.served.iter().map(|(endpoint, served)| (endpoint.clone(), count(served))).collect()
    }

    /// Endpoints of the topology that are not served, with the reason.
    pub fn not_served(&self) -> &BTreeMap<Endpoint, &'static str> {
        &self.not_served
    }

    /// Stops all responders of a host: afterwards its ports are closed. (A child process that is starting
    /// at that moment has copies of the sockets until its exec(2): until then clients still connect, and
    /// are reset later.)
    pub async fn stop(&mut self, host: &HostName) {
        self.stop_those(|at| at.host == *host).await;
    }

    /// Stops the responder at `endpoint`, as [`Responders::stop`] does.
    pub async fn stop_at(&mut self, endpoint: &Endpoint) {
        self.stop_those(|at| at == endpoint).await;
    }

    /// Starts a responder at each of `endpoints`, where none runs. Their counts begin anew.
    ///
    /// # Errors
    /// As [`start`].
    pub async fn start_again(
        &mut self,
        lab: &Lab,
        endpoints: BTreeSet<Endpoint>,
    ) -> Result<(), LabError> {
        let mut started = start_at(lab, endpoints).await?;
        self.running.append(&mut started.running);
        self.served.append(&mut started.served);
        Ok(())
    }

    async fn stop_those(&mut self, chosen: impl Fn(&Endpoint) -> bool) {
        let (stopping, going_on) =
            std::mem::take(&mut self.running).into_iter().partition(|(at, _)| chosen(at));
        self.running = going_on;
        let stopping: BTreeMap<Endpoint, Vec<JoinHandle<()>>> = stopping;
        for task in stopping.into_values().flatten() {
            task.abort();
            // An aborted task always returns "cancelled"; by then its sockets are closed.
            let _ = task.await;
        }
    }
}

impl Drop for Responders {
    fn drop(&mut self) {
        for task in self.running.values().flatten() {
            task.abort();
        }
    }
}
