//! Sockets of a host: a thread in its namespace creates them, one at a time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::sync::oneshot;

use crate::lab::{Lab, LabError};
use crate::names::HostName;
use crate::state::Protocol;

type SocketRequest = (AddressFamily, Protocol, oneshot::Sender<io::Result<OwnedFd>>);

/// Creates sockets in one host's namespace. Its thread ends when this value is dropped.
pub(super) struct SocketFactory {
    requests: mpsc::Sender<SocketRequest>,
}

impl SocketFactory {
    pub(super) fn of(lab: &Lab, host: &HostName) -> Result<Self, LabError> {
        let what = format!("send requests from {host}");
        let namespace = lab.namespace(host)?.try_clone_to_owned();
        let namespace = namespace.map_err(LabError::io(what.clone()))?;
        let (requests, queue) = mpsc::channel::<SocketRequest>();
        let (entered, result) = mpsc::channel();
        let work = move || {
            let inside = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET);
            let there = inside.is_ok();
            // The function that started this thread waits for it.
            let _ = entered.send(inside);
            if there {
                for (family, protocol, answer) in queue {
                    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                    let (kind, protocol) = match protocol {
                        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
                        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
                        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
                    };
                    // If the caller has gone, the socket is closed.
                    let _ = answer.send(socket(family, kind, flags, protocol).map_err(Into::into));
                }
            }
        };
        let name = "client".to_owned();
        thread::Builder::new().name(name).spawn(work).map_err(LabError::io(what.clone()))?;
        match result.recv() {
            Ok(Ok(())) => Ok(Self { requests }),
            Ok(Err(errno)) => Err(LabError::errno(what)(errno)),
            Err(_) => Err(LabError::io(what)(gone())),
        }
    }

    /// A socket that does not block, for the family of `target`.
    pub(super) async fn open(&self, target: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
        let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let (answer, result) = oneshot::channel();
        self.requests.send((family, protocol, answer)).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that creates sockets has ended")
}
