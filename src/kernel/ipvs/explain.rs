//! The meaning of error numbers: IPVS sends no text.

use nix::errno::Errno;

use super::codec::IpvsRequest;
use crate::kernel::error::Error;
use crate::state::{Destination, DestinationKey, Protocol, ServiceKey, Tunnel};

/// The request that failed.
fn describe(request: &IpvsRequest) -> String {
    match request {
        IpvsRequest::NewService(key, service) => format!("cannot add service {key} ({service})"),
        IpvsRequest::SetService(key, service) => {
            format!("cannot change service {key} to {service}")
        }
        IpvsRequest::DeleteService(key) => format!("cannot remove service {key}"),
        IpvsRequest::GetServices => "cannot read the IPVS services".to_owned(),
        IpvsRequest::GetService(key) => format!("cannot read service {key}"),
        IpvsRequest::NewDestination(service, key, destination) => {
            format!("cannot add real server {key} to {service} ({destination})")
        }
        IpvsRequest::SetDestination(service, key, destination) => {
            format!("cannot change real server {key} of {service} to {destination}")
        }
        IpvsRequest::DeleteDestination(service, key) => {
            format!("cannot remove real server {key} from {service}")
        }
        IpvsRequest::GetDestinations(service) => {
            format!("cannot read the real servers of {service}")
        }
        IpvsRequest::GetTimeouts => "cannot read the IPVS timeouts".to_owned(),
        IpvsRequest::SetTimeouts(_) => "cannot set the IPVS timeouts".to_owned(),
        IpvsRequest::GetInfo => "cannot ask IPVS for its version".to_owned(),
    }
}

/// The error for `errno` in answer to `request` (net/netfilter/ipvs/ip_vs_ctl.c).
pub fn explain(request: &IpvsRequest, errno: Errno) -> Error {
    let (meaning, cure) = meaning(request, errno);
    let what = describe(request);
    let message = if meaning.is_empty() { what } else { format!("{what}: {meaning}") };
    Error::new(message).because(errno).maybe_cure(cure)
}

fn meaning(request: &IpvsRequest, errno: Errno) -> (String, Option<String>) {
    let again = || {
        let cure = "another program changed the IPVS table after it was observed: plan again";
        Some(cure.to_owned())
    };
    match (request, errno) {
        (
            IpvsRequest::NewService(_, service) | IpvsRequest::SetService(_, service),
            Errno::ENOENT,
        ) => {
            let name = &service.scheduler;
            let engine = service.engine.as_deref();
            let or = engine.map(|pe| format!(" or no persistence engine {pe:?}"));
            (
                format!("this kernel has no scheduler {name:?}{}", or.unwrap_or_default()),
                Some(format!(
                    "the module ip_vs_{name} is neither built in nor found by modprobe: take \
                     another scheduler, or install the kernel's full set of modules"
                )),
            )
        }
        (IpvsRequest::NewService(..) | IpvsRequest::NewDestination(..), Errno::EEXIST) => {
            ("it exists already".to_owned(), again())
        }
        (_, Errno::ESRCH) => ("the service does not exist".to_owned(), again()),
        (IpvsRequest::SetDestination(..) | IpvsRequest::DeleteDestination(..), Errno::ENOENT) => {
            ("the service has no such real server".to_owned(), again())
        }
        (IpvsRequest::NewDestination(..) | IpvsRequest::SetDestination(..), Errno::ERANGE) => {
            out_of_range()
        }
        (IpvsRequest::NewService(key, _), Errno::EPROTONOSUPPORT) => {
            let protocol = match key {
                ServiceKey::Address(Protocol::Sctp, _) => "CONFIG_IP_VS_PROTO_SCTP",
                _ => "its protocol",
            };
            (format!("this kernel's IPVS was built without {protocol}"), None)
        }
        (IpvsRequest::NewService(..) | IpvsRequest::SetService(..), Errno::EAFNOSUPPORT) => {
            ("this kernel's IPVS was built without IPv6".to_owned(), None)
        }
        (
            IpvsRequest::NewDestination(_, key, destination)
            | IpvsRequest::SetDestination(_, key, destination),
            Errno::EINVAL,
        ) => invalid_destination(*key, destination),
        (_, Errno::EINVAL) => ("a value is invalid".to_owned(), None),
        (_, Errno::EPERM | Errno::EACCES) => (
            "not permitted".to_owned(),
            Some(
                "IPVS needs root of the initial user namespace: in an unprivileged container or in \
                 `unshare -U` the kernel refuses it even to root"
                    .to_owned(),
            ),
        ),
        (_, Errno::ENOMEM | Errno::ENOBUFS) => ("the kernel has no memory for it".to_owned(), None),
        _ => (String::new(), None),
    }
}

fn out_of_range() -> (String, Option<String>) {
    (
        "the weight or the thresholds are out of range".to_owned(),
        Some(
            "weights and thresholds are 0 to 2147483647, and the lower threshold is not above the \
             upper one"
                .to_owned(),
        ),
    )
}

/// EINVAL has several meanings here: the request decides which.
fn invalid_destination(key: DestinationKey, destination: &Destination) -> (String, Option<String>) {
    const LARGEST: u32 = i32::MAX.unsigned_abs();
    let Destination { method: _, weight: _, upper_threshold, lower_threshold, tunnel } =
        destination;
    if *upper_threshold > LARGEST || *lower_threshold > LARGEST {
        return out_of_range();
    }
    if matches!(tunnel, Tunnel::Gue { port: 0, flags: _ }) {
        return ("a GUE tunnel needs a port".to_owned(), Some("1 to 65535".to_owned()));
    }
    (
        format!("the kernel does not accept {} as a unicast address", key.0.ip()),
        Some(
            "multicast and broadcast addresses cannot be real servers, and IPv4 and IPv6 can be \
             mixed only in a tunnel; in a network namespace without any address no address counts as \
             unicast: set lo up"
                .to_owned(),
        ),
    )
}
