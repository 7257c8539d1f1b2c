//! What answers on the real servers: each says its own name, so that a client can count who answered.
//!
//! A listener for each port that a real server of the topology serves, on all of the host's IPv4
//! addresses, because under DR and TUN a request comes for the VIP and under NAT for the RIP.
//! Sockets are made inside the host's namespace and served by the caller's runtime. Asking is the
//! business of [`crate::lab::clients`].

mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{Lab, LabError};
use crate::topology::{HostName, Protocol, Topology};

/// Where a real server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Which host.
    pub host: HostName,
    /// TCP or UDP.
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

/// How many requests one endpoint has answered.
#[derive(Debug, Clone, Default)]
struct Served(Arc<AtomicU64>);

impl Served {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The responders of a lab. They end when this value is dropped.
pub struct Responders {
    running: BTreeMap<Endpoint, JoinHandle<()>>,
    served: BTreeMap<Endpoint, Served>,
    not_served: BTreeMap<Endpoint, &'static str>,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Starts a responder for every port of every real server in `topology`, on the current runtime,
/// which must have its I/O and time drivers enabled. When it returns, all of them listen.
///
/// # Errors
/// Outside of a runtime; where a port cannot be had, for instance because something else listens.
// Async although it never waits: it needs a runtime, and says so by its type.
#[allow(clippy::unused_async)]
pub async fn start(lab: &Lab, topology: &Topology) -> Result<Responders, LabError> {
    let runtime = Handle::try_current()
        .map_err(|error| LabError::io("serve the real servers' ports")(io::Error::other(error)))?;
    let mut sockets = BTreeMap::new();
    let mut not_served = BTreeMap::new();
    for service in &topology.services {
        for server in &service.real_servers {
            let (host, protocol, port) = (server.host.clone(), service.protocol, server.port);
            let endpoint = Endpoint { host, protocol, port };
            if let Some(reason) = reason_not_to_serve(protocol, server.rip.is_ipv6()) {
                not_served.insert(endpoint, reason);
            } else if let Entry::Vacant(new) = sockets.entry(endpoint) {
                let socket = lab.run_in(&new.key().host, || open(protocol, port))?;
                let what = format!("listen on {}", new.key());
                new.insert(socket.map_err(LabError::io(what))?);
            }
        }
    }
    // Only now that nothing is missing: until here, an error closes all of them at once.
    let mut started = Responders { running: BTreeMap::new(), served: BTreeMap::new(), not_served };
    for (endpoint, socket) in sockets {
        let served = Served::default();
        started.served.insert(endpoint.clone(), served.clone());
        let serving = serve(socket, endpoint.host.as_str(), served);
        let serving = serving.map_err(LabError::io(format!("serve {endpoint}")))?;
        started.running.insert(endpoint, runtime.spawn(serving));
    }
    Ok(started)
}

fn reason_not_to_serve(protocol: Protocol, ipv6: bool) -> Option<&'static str> {
    match (protocol, ipv6) {
        (Protocol::Sctp, _) => Some("the lab has no SCTP responder"),
        (_, true) => Some("the lab's responders speak IPv4 only"),
        (Protocol::Tcp | Protocol::Udp, false) => None,
    }
}

/// To be called in the namespace of the host.
fn open(protocol: Protocol, port: u16) -> io::Result<Socket> {
    let all = (Ipv4Addr::UNSPECIFIED, port);
    match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(all)?;
            listener.set_nonblocking(true)?;
            Ok(Socket::Tcp(listener))
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(all)?;
            udp::ask_for_destination(&socket)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Udp(socket))
        }
        Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn serve(
    socket: Socket,
    host: &str,
    served: Served,
) -> io::Result<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> {
    let answer: Arc<str> = format!("{host}\n").into();
    Ok(match socket {
        Socket::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Box::pin(tcp::serve(listener, answer, served))
        }
        Socket::Udp(socket) => {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            Box::pin(udp::serve(socket, answer, served))
        }
    })
}

impl Responders {
    /// How many requests each endpoint has answered so far. One that was stopped keeps its number.
    pub fn served(&self) -> BTreeMap<Endpoint, u64> {
        let count = |served: &Served| served.0.load(Ordering::Relaxed);
        self.served.iter().map(|(endpoint, served)| (endpoint.clone(), count(served))).collect()
    }

    /// What the topology asks for and nobody answers, with the reason.
    pub fn not_served(&self) -> &BTreeMap<Endpoint, &'static str> {
        &self.not_served
    }

    /// Stops all responders of a host, as if its programs had died: afterwards its ports are closed.
    /// (A child process that is being started in that very moment has copies of the sockets until its
    /// program runs: for so long, clients are still connected, and then reset.)
    pub async fn stop(&mut self, host: &HostName) {
        let (stopping, going_on) =
            std::mem::take(&mut self.running).into_iter().partition(|(at, _)| at.host == *host);
        self.running = going_on;
        let stopping: BTreeMap<Endpoint, JoinHandle<()>> = stopping;
        for task in stopping.into_values() {
            task.abort();
            // An aborted task always answers "cancelled"; by then its sockets are closed.
            let _ = task.await;
        }
    }
}

impl Drop for Responders {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}
