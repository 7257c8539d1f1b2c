//! What is asked of the walk, and what it says.

use std::net::IpAddr;

use super::death::Death;
use crate::names::HostName;
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
    /// It may as well be answered: several devices of a host answer for one address, and which one wins is chance.
    pub by_chance: bool,
}

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where.
    pub host: HostName,
    /// What.
    pub text: String,
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
