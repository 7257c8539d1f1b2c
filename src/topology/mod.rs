//! The topology file: what a user says about a cluster.
//!
//! [`names`] holds the names and newtypes, [`model`] the resolved topology that the rest of the
//! program works with. Reading the YAML (`document`, `load`) and filling in what was left out
//! (`resolve`) happen here too; whether the result makes sense is the business of [`crate::check`].

pub mod model;
pub mod names;

pub use model::{
    Forward, Gateway, Host, Interface, Network, Position, Protocol, Reach, RealServer, Role,
    Scheduler, Service, SshTarget, Topology,
};
pub use names::{HostName, IfName, NameError, NetworkName, ServiceName, TopologyName};
