//! What a host does with a packet that comes in: source validation, and the choice between delivering,
//! forwarding and dropping (net/ipv4/route.c, `ip_route_input_slow`; net/ipv4/fib_frontend.c,
//! `fib_validate_source`). IPv6 has no source validation.

use std::net::IpAddr;

use super::death::Cause;
use super::machine::Machine;
use super::routes::Flow;
use crate::names::IfName;
use crate::state::routing::{RouteEntry, RouteKind};

/// The addresses of a packet, as routing sees them.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub target: IpAddr,
    /// Firewall mark.
    pub mark: u32,
}

/// Why a packet that came in is not taken.
#[derive(Debug)]
pub enum NotTaken {
    /// It dies.
    Dies(Cause),
    /// What becomes of it depends on rules or routes that the walk does not follow.
    Unclear,
}

impl From<Cause> for NotTaken {
    fn from(cause: Cause) -> Self {
        Self::Dies(cause)
    }
}

/// What happens to a packet that came in.
#[derive(Debug)]
pub enum Input<'a> {
    /// It is for this host.
    Local,
    /// It goes on by this route.
    Forward(&'a RouteEntry),
}

impl Machine {
    /// What happens to a packet that came in on `dev`.
    pub fn input(&self, dev: &IfName, packet: Addresses) -> Result<Input<'_>, NotTaken> {
        if !self.devices.get(dev).is_some_and(|device| device.up) {
            return Err(Cause::DeviceDown { dev: dev.clone() }.into());
        }
        let Addresses { source, target, mark } = packet;
        let flow = Flow { source: Some(source), target, iif: Some(dev), oif: None, mark };
        let ipv6 = target.is_ipv6();
        let route = self.route(&flow);
        match route {
            Some(RouteEntry { kind: RouteKind::Unclear, .. }) => Err(NotTaken::Unclear),
            Some(RouteEntry { kind: RouteKind::Local, .. }) => {
                self.validate(dev, packet, None)?;
                Ok(Input::Local)
            }
            _ if !self.forwards(dev, ipv6) => {
                Err(Cause::NotForwarding { dev: dev.clone(), target }.into())
            }
            Some(route) if route.kind == RouteKind::Unicast => {
                self.validate(dev, packet, route.dev.as_ref())?;
                Ok(Input::Forward(route))
            }
            Some(_) => Err(Cause::RouteRefuses { target }.into()),
            None => Err(Cause::NoRoute { target }.into()),
        }
    }

    /// Source validation. `leaves`: the device by which the packet would leave.
    fn validate(
        &self,
        dev: &IfName,
        packet: Addresses,
        leaves: Option<&IfName>,
    ) -> Result<(), NotTaken> {
        let Addresses { source, target, mark: _ } = packet;
        if source.is_ipv6() {
            return Ok(());
        }
        let rp_filter = self.rp_filter(dev);
        let own = || NotTaken::Dies(Cause::OwnSource { dev: dev.clone(), source });
        if rp_filter == 0 && !self.custom_rules {
            let taken = !self.has(source) || self.accept_local(dev);
            return if taken { Ok(()) } else { Err(own()) };
        }
        let invalid = |towards: Option<&IfName>, loose_passes, refused| {
            NotTaken::Dies(Cause::SourceInvalid {
                dev: dev.clone(),
                source,
                rp_filter,
                of_all: self.rp_filter_is_of_all(dev),
                towards: towards.cloned(),
                loose_passes,
                refused,
            })
        };
        // The question is asked the other way round: how would we reach the source from here? Its mark counts
        // only with src_valid_mark.
        let flow = Flow { source: Some(target), target: source, iif: leaves, oif: None, mark: 0 };
        let route = match self.route(&flow) {
            Some(route) if route.kind != RouteKind::Refuses => route,
            _ if rp_filter == 0 => return Ok(()),
            refusing => return Err(invalid(None, false, refusing.is_some())),
        };
        if route.kind == RouteKind::Unclear {
            return Err(NotTaken::Unclear);
        }
        if route.kind == RouteKind::Local && !self.accept_local(dev) {
            return Err(own());
        }
        if route.dev.as_ref() == Some(dev) {
            return Ok(());
        }
        let no_address =
            self.devices.get(dev).is_none_or(|it| it.of_family(false).next().is_none());
        let towards = route.dev.as_ref();
        match (rp_filter, no_address) {
            (0, _) => Ok(()),
            (_, true) => Err(invalid(towards, false, false)),
            (1, false) => Err(invalid(towards, true, false)),
            (_, false) => Ok(()),
        }
    }
}
