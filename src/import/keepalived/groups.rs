//! `virtual_server_group`: VIPs and marks under one name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::remark::quote;
use super::super::words;
use super::KeepalivedReader;
use super::tree::Statement;

/// Maximum number of addresses of a range; keepalived warns about larger ones itself.
const MAX_RANGE: u128 = 1024;

/// A `virtual_server_group`.
#[derive(Debug, Default)]
pub(super) struct ServerGroup {
    pub line: u32,
    pub members: Vec<GroupMember>,
    /// Whether a virtual server uses it.
    pub used: bool,
}

/// An address or firewall mark of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GroupMember {
    /// Address and port; 0: every port.
    Address(IpAddr, u16),
    /// A mark, with its address family if given.
    Mark(u32, Option<AddressFamily>),
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressFamily {
    V4,
    V6,
}

impl AddressFamily {
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "inet" => Some(Self::V4),
            "inet6" => Some(Self::V6),
            _ => None,
        }
    }
}

impl KeepalivedReader {
    pub(super) fn group(&mut self, statement: &Statement) {
        let name = statement.word(1).unwrap_or_default().to_owned();
        let mut group = ServerGroup { line: statement.line, ..ServerGroup::default() };
        for entry in statement.children() {
            self.remarks.line = Some(entry.line);
            match members(entry) {
                Ok(members) => {
                    if !self.has_room(members.len(), &quote(&name)) {
                        break;
                    }
                    group.members.extend(members);
                }
                Err(why) => self.remarks.not_understood(quote(&entry.words.join(" ")), why),
            }
        }
        self.groups.insert(name, group);
    }

    /// The members of a `virtual_server` statement.
    pub(super) fn members(&mut self, statement: &Statement) -> Vec<GroupMember> {
        let result = match statement.keyword_of_parameters() {
            "group" => {
                let name = statement.word(2).unwrap_or_default();
                match self.groups.get_mut(name) {
                    Some(group) => {
                        group.used = true;
                        Ok(group.members.clone())
                    }
                    None => Err("no virtual_server_group has this name; left out".to_owned()),
                }
            }
            _ => member_of(statement.words.get(1..).unwrap_or_default()).map(|member| vec![member]),
        };
        result.unwrap_or_else(|why| {
            self.remarks.not_understood(quote(&statement.words.join(" ")), why);
            Vec::new()
        })
    }
}

impl Statement {
    fn keyword_of_parameters(&self) -> &str {
        self.word(1).unwrap_or_default()
    }
}

/// `ADDRESS [PORT]` or `fwmark N [inet|inet6]`.
fn member_of(words: &[String]) -> Result<GroupMember, String> {
    let first = words.first().map_or("", String::as_str);
    let second = words.get(1).map_or("0", String::as_str);
    if first == "fwmark" {
        let mark = words::number(second, 1, u32::MAX)
            .ok_or("a firewall mark is a number from 1 to 4294967295")?;
        let family = match words.get(2) {
            None => None,
            Some(word) => Some(AddressFamily::named(word).ok_or("a family is inet or inet6")?),
        };
        return Ok(GroupMember::Mark(mark, family));
    }
    let address =
        words::address(first).ok_or("it is neither an address, nor fwmark N, nor group NAME")?;
    let port =
        words::port(second).ok_or("its port is neither a number (0-65535) nor a known name")?;
    Ok(GroupMember::Address(address, port))
}

/// The members of an entry; a range becomes one member for each address.
fn members(entry: &Statement) -> Result<Vec<GroupMember>, String> {
    let first = entry.keyword();
    let Some((first_address, last_address)) = range(first)? else {
        return member_of(&entry.words).map(|member| vec![member]);
    };
    let port = entry.word(1).unwrap_or("0");
    let port =
        words::port(port).ok_or("its port is neither a number (0-65535) nor a known name")?;
    let addresses = between(first_address, last_address).ok_or_else(|| {
        format!("the range is empty, mixes families, or has more than {MAX_RANGE} addresses")
    })?;
    Ok(addresses.into_iter().map(|address| GroupMember::Address(address, port)).collect())
}

/// `A.B.C.D-E`, `A.B.C.D-E.F.G.H`, `A.B.C.D/LEN`, and the same for IPv6, where the short form of the
/// end is hexadecimal.
fn range(text: &str) -> Result<Option<(IpAddr, IpAddr)>, String> {
    if let Some((_, bits)) = text.split_once('/') {
        let net: ipnet::IpNet =
            text.parse().map_err(|_| "it is not a subnet (ADDRESS/LENGTH)".to_owned())?;
        if bits == "0" || net.addr() != net.network() {
            return Err("the host bits of a range must be 0".to_owned());
        }
        let last = match net {
            ipnet::IpNet::V4(net) => IpAddr::V4(net.broadcast()),
            ipnet::IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        };
        return Ok(Some((net.network(), last)));
    }
    let Some((first, last)) = text.split_once('-') else { return Ok(None) };
    let wrong = || "it is not a range (ADDRESS-LAST)".to_owned();
    let first = words::address(first).ok_or_else(wrong)?;
    if let Some(last) = words::address(last) {
        return Ok(Some((first, last)));
    }
    let last = match first {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, last.parse().map_err(|_| wrong())?))
        }
        IpAddr::V6(v6) => {
            let low = u16::from_str_radix(last, 16).map_err(|_| wrong())?;
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !0xffff | u128::from(low)))
        }
    };
    Ok(Some((first, last)))
}

fn between(first: IpAddr, last: IpAddr) -> Option<Vec<IpAddr>> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            let count = u128::from(last.checked_sub(first)?);
            (count < MAX_RANGE)
                .then(|| (first..=last).map(|n| Ipv4Addr::from_bits(n).into()).collect())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            let count = last.checked_sub(first)?;
            (count < MAX_RANGE)
                .then(|| (first..=last).map(|n| Ipv6Addr::from_bits(n).into()).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_expand_as_in_keepalived() {
        let count = |text: &str| {
            let (first, last) = range(text).unwrap().unwrap();
            between(first, last).map(|all| (all.len(), all.first().copied(), all.last().copied()))
        };
        let v4 = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(count("192.168.200.3-10"), Some((8, v4("192.168.200.3"), v4("192.168.200.10"))));
        assert_eq!(
            count("192.168.200.250-192.168.201.2"),
            Some((9, v4("192.168.200.250"), v4("192.168.201.2")))
        );
        assert_eq!(count("192.168.202.8/29"), Some((8, v4("192.168.202.8"), v4("192.168.202.15"))));
        assert_eq!(count("2001:db8::1-a"), Some((10, v4("2001:db8::1"), v4("2001:db8::a"))));
        assert_eq!(count("10.0.0.9-3"), None);
        assert_eq!(count("2001:db8::-2001:db9::"), None);
        for bad in ["192.168.202.9/29", "10.0.0.1-x", "10.0.0.1-300", "0.0.0.0/0"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
