//! Settings of which several values serve: a stricter one, or a looser one, that a host has already is no reason to
//! write.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ConfItem, HostState, Route, RouteKey, Sysctl};
use crate::names::IfName;

/// The values that serve where one is wanted. The wanted one serves whatever else the host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceptedValues {
    /// These.
    Of(BTreeSet<u32>),
    /// `rp_filter` of a device: any with which source validation is not strict. The larger of `all` and the device's
    /// counts (include/linux/inetdevice.h, `IN_DEV_RPFILTER`), and only 1 is strict (net/ipv4/fib_frontend.c,
    /// `__fib_validate_source`).
    NotStrict,
    /// `accept_ra` of a device that forwards: any with which forwarding takes away no default route that came by a
    /// router advertisement. With 0 the kernel takes none: a daemon such as systemd-networkd reads advertisements, or
    /// none does. With 1 it took them, and stops to (net/ipv6/route.c, `rt6_purge_dflt_routers`).
    KeepsAdvertisedRoute,
}

/// What else on a host decides whether a value serves. What is not known lets none serve.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter_of_all: Option<&'a str>,
    /// The default route of IPv6.
    pub default6: Option<&'a Route>,
}

impl<'a> Surroundings<'a> {
    /// Those of a host in this state.
    pub fn of(state: &'a HostState) -> Self {
        let rp_filter = state.sysctls.get(&Sysctl::all(ConfItem::RpFilter));
        let default6 = state.routes.iter().find(|(key, _)| is_default6(key));
        Self {
            rp_filter_of_all: rp_filter.map(String::as_str),
            default6: default6.map(|(_, route)| route),
        }
    }
}

/// Whether it is the default route of IPv6.
pub fn is_default6(key: &RouteKey) -> bool {
    key.0.prefix_len() == 0 && key.0.addr().is_ipv6()
}

/// `RTPROT_RA` (include/uapi/linux/rtnetlink.h): made by the kernel of a router advertisement, or by a daemon.
const ADVERTISED: u8 = 9;

impl AcceptedValues {
    /// These values.
    pub fn of(values: impl IntoIterator<Item = u32>) -> Self {
        Self::Of(values.into_iter().collect())
    }

    /// The values that serve both.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Of(ours), Self::Of(theirs)) => Self::Of(&ours & theirs),
            (ours, _) => ours,
        }
    }

    /// Whether `value` serves whatever else the host has.
    pub fn serves_anywhere(&self, value: &str) -> bool {
        let Some(value) = number(value) else { return false };
        match self {
            Self::Of(values) => values.contains(&value),
            Self::NotStrict => value > 1,
            Self::KeepsAdvertisedRoute => value == 0 || value == 2,
        }
    }

    /// Whether `value` of `key` serves on a host with these surroundings.
    pub fn serves(&self, key: &Sysctl, value: &str, around: Surroundings<'_>) -> bool {
        if self.serves_anywhere(value) {
            return true;
        }
        let Some(value) = number(value) else { return false };
        match self {
            Self::Of(_) => false,
            Self::NotStrict => around
                .rp_filter_of_all
                .and_then(number)
                .is_some_and(|of_all| of_all.max(value) != 1),
            Self::KeepsAdvertisedRoute => !key.device().is_some_and(|dev| came_by(dev, around)),
        }
    }
}

/// Whether the default route came by a router advertisement on `dev`.
fn came_by(dev: &IfName, around: Surroundings<'_>) -> bool {
    let is_advertised =
        |route: &Route| route.protocol == ADVERTISED && route.dev.as_ref() == Some(dev);
    around.default6.is_some_and(is_advertised)
}

fn number(value: &str) -> Option<u32> {
    value.trim().parse().ok()
}

/// The setting that counts together with `key` where not the wanted value alone serves.
pub fn counts_together(key: &Sysctl) -> Option<Sysctl> {
    matches!(key, Sysctl::Conf(_, ConfItem::RpFilter) if key.device().is_some())
        .then(|| Sysctl::all(ConfItem::RpFilter))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{Conf6Item, ConfDev};

    fn serving(
        accepted: &AcceptedValues,
        key: &Sysctl,
        around: Surroundings<'_>,
    ) -> Vec<&'static str> {
        let values = ["0", "1", "2", "3", "8", "-1", "", "many"];
        values.into_iter().filter(|value| accepted.serves(key, value, around)).collect()
    }

    #[test]
    fn source_validation_is_strict_with_1_only() {
        let key = Sysctl::dev(&"eth0".parse().unwrap(), ConfItem::RpFilter);
        let with = |of_all| {
            let around = Surroundings { rp_filter_of_all: of_all, default6: None };
            serving(&AcceptedValues::NotStrict, &key, around)
        };
        assert_eq!(with(Some("0")), ["0", "2", "3", "8"]);
        assert_eq!(with(Some("1")), ["2", "3", "8"]);
        assert_eq!(with(Some("2")), ["0", "1", "2", "3", "8"]);
        assert_eq!(with(None), ["2", "3", "8"]);
    }

    #[test]
    fn accept_ra_matters_where_the_default_route_came_by_an_advertisement() {
        let key = Sysctl::Conf6(ConfDev::Dev("eth0".parse().unwrap()), Conf6Item::AcceptRa);
        let with = |dev: &str, protocol| {
            let dev = Some(dev.parse().unwrap());
            let route = Route { protocol, ..Route::via("fe80::1".parse().unwrap(), dev) };
            let around = Surroundings { rp_filter_of_all: None, default6: Some(&route) };
            serving(&AcceptedValues::KeepsAdvertisedRoute, &key, around)
        };
        assert_eq!(with("eth0", 9), ["0", "2"]);
        assert_eq!(with("eth0", 4), ["0", "1", "2", "3", "8"]);
        assert_eq!(with("eth1", 9), ["0", "1", "2", "3", "8"]);
        let none = Surroundings::default();
        let without = serving(&AcceptedValues::KeepsAdvertisedRoute, &key, none);
        assert_eq!(without, ["0", "1", "2", "3", "8"]);
    }

    #[test]
    fn what_serves_two_serves_each() {
        let both = AcceptedValues::of([1, 2]).and(&AcceptedValues::of([1]));
        assert_eq!(both, AcceptedValues::of([1]));
    }
}
