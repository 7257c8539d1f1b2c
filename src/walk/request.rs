//! What is asked of the walk, and what it says.

use std::net::IpAddr;

use super::death::Death;
use crate::names::{HostName, NetworkName};
use crate::state::examination::RouteQuestion;
use crate::state::{DestinationKey, Protocol};

/// Whose request is followed, and to which real server IPVS sends it.
#[derive(Debug, Clone, Copy)]
pub struct WalkRequest<'a> {
    /// The client.
    pub client: &'a HostName,
    /// The address that it asks.
    pub vip: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port that it asks.
    pub port: u16,
    /// The director.
    pub director: &'a HostName,
    /// The real server's host.
    pub real_server: &'a HostName,
    /// The real server in IPVS.
    pub destination: DestinationKey,
}

/// The way of a request and its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// What happened, in order.
    pub hops: Vec<Hop>,
    /// How it ended.
    pub end: WalkVerdict,
    /// The hops from this one on are of the reply; `None`: there is no reply.
    pub reply_from: Option<usize>,
    /// It may as well be answered: several devices of a host answer for one address, and which one wins is chance.
    pub by_chance: bool,
    /// The route lookups on the way, in order.
    pub lookups: Vec<Lookup>,
    /// Rules of other programs on the way whose verdict is not known, and on which host.
    pub unclear: Vec<(HostName, String)>,
}

/// A route lookup on a host: its kernel can be asked the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Where.
    pub host: HostName,
    /// The packet.
    pub question: RouteQuestion,
    /// Whether the walk has the packet go on from here.
    pub passes: bool,
}

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where.
    pub host: HostName,
    /// What.
    pub text: String,
    /// The network over which the packet leaves the host; `None`: it stays there.
    pub over: Option<NetworkName>,
}

/// How a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkVerdict {
    /// The client gets the reply.
    Answered,
    /// A packet dies; `in_reply`: the reply, not the request.
    Dead {
        /// Where and why.
        death: Death,
        /// Whether it is the reply.
        in_reply: bool,
    },
    /// It leaves what is known; this is missing.
    Unknown(String),
}
