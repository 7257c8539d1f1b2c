//! What answers on the real servers: over TCP a minimal HTTP server, over UDP one datagram for one.
//! Each says the name of its host, so that a client can count who answered.
//!
//! They listen on every address of their host, so they are there before the VIP is: what makes the
//! service work is what lvsprov sets, not them. Directors and clients have none.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;

use super::{Lab, LabError};
use crate::topology::{HostName, Protocol, Topology};

/// A client that says nothing is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// On which host.
    pub host: HostName,
    /// For which protocol: tcp or udp.
    pub protocol: Protocol,
    /// At which port.
    pub port: u16,
    /// For IPv6, else for IPv4.
    pub v6: bool,
}

/// All responders of a lab. They end when the value is dropped.
pub struct Responders {
    runtime: Option<Runtime>,
    served: Arc<Mutex<BTreeMap<Listener, u64>>>,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl Responders {
    /// Starts a responder on each real server for each service that it serves. When this returns,
    /// they listen.
    ///
    /// # Errors
    /// If a socket cannot be had, or a service is of a kind that the lab cannot answer: SCTP.
    pub fn start(lab: &Lab, topology: &Topology) -> Result<Self, LabError> {
        let mut sockets = Vec::new();
        for listener in listeners(topology)? {
            let socket = lab.run_in(&listener.host, || open(&listener))?;
            let Listener { host, protocol, port, .. } = &listener;
            let what = format!("listen on {protocol} port {port} of {host}");
            sockets.push((listener.clone(), socket.map_err(LabError::io(what))?));
        }
        let served: BTreeMap<Listener, u64> =
            sockets.iter().map(|(listener, _)| (listener.clone(), 0)).collect();
        let served = Arc::new(Mutex::new(served));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("responders")
            .enable_all()
            .build()
            .map_err(LabError::io("start a runtime for the responders"))?;
        let inside = runtime.enter();
        for (listener, socket) in sockets {
            let name = listener.host.as_str().to_owned();
            let counts = Arc::clone(&served);
            let count = move || {
                if let Ok(mut counts) = counts.lock() {
                    *counts.entry(listener.clone()).or_default() += 1;
                }
            };
            let what = "hand a socket to the runtime";
            match socket {
                Socket::Tcp(socket) => {
                    let socket = TcpListener::from_std(socket).map_err(LabError::io(what))?;
                    runtime.spawn(serve_tcp(socket, name, count));
                }
                Socket::Udp(socket) => {
                    let socket = UdpSocket::from_std(socket).map_err(LabError::io(what))?;
                    runtime.spawn(serve_udp(socket, name, count));
                }
            }
        }
        drop(inside);
        Ok(Self { runtime: Some(runtime), served })
    }

    /// How many requests each has answered so far.
    pub fn served(&self) -> BTreeMap<Listener, u64> {
        self.served.lock().map(|served| served.clone()).unwrap_or_default()
    }
}

impl Drop for Responders {
    fn drop(&mut self) {
        // Not by its own drop, which must not happen inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What has to listen where, each once.
fn listeners(topology: &Topology) -> Result<BTreeSet<Listener>, LabError> {
    let mut all = BTreeSet::new();
    for service in &topology.services {
        if service.protocol == Protocol::Sctp {
            let name = &service.name;
            return Err(LabError::Topology(format!(
                "service {name} is sctp: the lab answers tcp and udp only"
            )));
        }
        for real_server in &service.real_servers {
            all.insert(Listener {
                host: real_server.host.clone(),
                protocol: service.protocol,
                port: real_server.port,
                v6: service.vip.is_ipv6(),
            });
        }
    }
    Ok(all)
}

/// Opens a socket in the calling thread's namespace.
fn open(listener: &Listener) -> io::Result<Socket> {
    let Listener { protocol, port, v6, .. } = *listener;
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let any = SocketAddr::new(any, port);
    let domain = if v6 { socket2::Domain::IPV6 } else { socket2::Domain::IPV4 };
    let kind = match protocol {
        Protocol::Udp => socket2::Type::DGRAM,
        Protocol::Tcp | Protocol::Sctp => socket2::Type::STREAM,
    };
    let socket = socket2::Socket::new(domain, kind, None)?;
    if v6 {
        // The same port may be served for IPv4 as well.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    if protocol == Protocol::Udp {
        // The reply must come from the address that was asked, which is the VIP.
        if v6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        socket.bind(&any.into())?;
        return Ok(Socket::Udp(socket.into()));
    }
    socket.set_reuse_address(true)?;
    socket.bind(&any.into())?;
    socket.listen(1024)?;
    Ok(Socket::Tcp(socket.into()))
}

async fn serve_tcp(
    listener: TcpListener,
    name: String,
    count: impl Fn() + Clone + Send + Sync + 'static,
) {
    loop {
        // An error is about one connection that is gone already, or about too many open files.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let name = name.clone();
        let count = count.clone();
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, answer(stream, &name)).await {
                count();
            }
        });
    }
}

/// Reads a request up to its empty line, and answers whatever it was.
async fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut request: Vec<u8> = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await?;
        if read == 0 || request.len() > 16 * 1024 {
            break;
        }
        request.extend(&buffer[..read]);
    }
    let length = name.len() + 1;
    let response = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{name}\n"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

async fn serve_udp(socket: UdpSocket, name: String, count: impl Fn()) {
    let reply = format!("{name}\n");
    loop {
        let fd = socket.as_raw_fd();
        let answered = socket.async_io(Interest::READABLE, || answer_datagram(fd, &reply)).await;
        match answered {
            Ok(()) => count(),
            // An ICMP error of an earlier reply, or a full queue: the next datagram may do better.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Answers one datagram from the address that it was sent to.
fn answer_datagram(fd: RawFd, reply: &str) -> io::Result<()> {
    let mut data = [0; 2048];
    let mut data = [IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let received = recvmsg::<SockaddrStorage>(fd, &mut data, Some(&mut space), MsgFlags::empty())?;
    let to = received.address.ok_or(io::ErrorKind::InvalidData)?;
    let reply = [IoSlice::new(reply.as_bytes())];
    let flags = MsgFlags::MSG_DONTWAIT;
    let sent = match received.cmsgs()?.next() {
        Some(ControlMessageOwned::Ipv4PacketInfo(mut info)) => {
            // ip(7): the source is ipi_spec_dst; which way it leaves is for the routes to say.
            info.ipi_spec_dst = info.ipi_addr;
            info.ipi_ifindex = 0;
            sendmsg(fd, &reply, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(mut info)) => {
            info.ipi6_ifindex = 0;
            sendmsg(fd, &reply, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))
        }
        _ => sendmsg(fd, &reply, &[], flags, Some(&to)),
    };
    sent?;
    Ok(())
}
