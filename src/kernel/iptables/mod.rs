//! Rules of iptables-legacy and ip6tables-legacy, which nftables does not see, as [`crate::state::firewall`] has rules. Read,
//! never changed.
//!
//! Tables that do not exist in the namespace are not asked for: asking makes them (net/netfilter/x_tables.c,
//! `xt_find_table_lock`).

mod blob;

use std::fs;
use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::error::{Error, Result};
use super::sys::read_option;
use crate::state::firewall::{FilterFamily, FilterTable};
use blob::{INFO_LENGTH, TableShape};

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES (include/uapi/linux/netfilter_ipv4/ip_tables.h); those of IPv6 are numbered alike.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `struct ipt_get_entries` before its entries.
const ENTRIES_AT: usize = 40;
/// Rules of one table that are followed at most: a controller gets them with each observation.
const MOST_RULES: usize = 4000;
/// So often a table is read that changes meanwhile.
const TRIES: usize = 5;

/// All tables of the namespace of the calling thread.
pub fn observe() -> Result<Vec<FilterTable>> {
    let mut all = Vec::new();
    for family in [FilterFamily::Iptables, FilterFamily::Ip6tables] {
        for name in names(family)? {
            match table(family, &name) {
                Ok(found) => all.extend(found),
                // Rules that cannot be read hinder nothing: what they do is not known.
                Err(error) => all.push(FilterTable {
                    unread: Some(error.to_string()),
                    ..blob::empty(family, &name, &TableShape::any())
                }),
            }
        }
    }
    Ok(all)
}

/// The tables that exist; none where the kernel has no such module.
fn names(family: FilterFamily) -> Result<Vec<String>> {
    let path = match family {
        FilterFamily::Ip6tables => "/proc/thread-self/net/ip6_tables_names",
        _ => "/proc/thread-self/net/ip_tables_names",
    };
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::new(format!("cannot read {path}")).because(error)),
    }
}

/// `None`: it is gone, or of a name that the kernel has not.
fn table(family: FilterFamily, name: &str) -> io::Result<Option<FilterTable>> {
    let (domain, level) = match family {
        FilterFamily::Ip6tables => (AddressFamily::Inet6, nix::libc::SOL_IPV6),
        _ => (AddressFamily::Inet, nix::libc::SOL_IP),
    };
    let socket = socket(domain, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let mut last = io::Error::from(io::ErrorKind::Interrupted);
    for _ in 0..TRIES {
        let mut info = [0; INFO_LENGTH];
        let Some(to) = info.get_mut(..name.len()).filter(|_| name.len() < 32) else {
            return Ok(None);
        };
        to.copy_from_slice(name.as_bytes());
        match read_option(&socket, level, GET_INFO, &mut info) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let shape = TableShape::read(&info).ok_or(io::ErrorKind::InvalidData)?;
        if shape.rules > MOST_RULES {
            let why = format!("{} rules are too many", shape.rules);
            return Ok(Some(FilterTable {
                unread: Some(why),
                ..blob::empty(family, name, &shape)
            }));
        }
        let mut entries = vec![0; ENTRIES_AT + shape.size];
        if let Some(to) = entries.get_mut(..name.len()) {
            to.copy_from_slice(name.as_bytes());
        }
        let size = u32::try_from(shape.size).map_err(|_| io::ErrorKind::InvalidData)?;
        if let Some(to) = entries.get_mut(32..36) {
            to.copy_from_slice(&size.to_ne_bytes());
        }
        match read_option(&socket, level, GET_ENTRIES, &mut entries) {
            Ok(_) => {
                let entries = entries.get(ENTRIES_AT..).unwrap_or_default();
                let unread =
                    |why| FilterTable { unread: Some(why), ..blob::empty(family, name, &shape) };
                return Ok(Some(blob::table(family, name, &shape, entries).unwrap_or_else(unread)));
            }
            // Its size is another one now.
            Err(error) if error.raw_os_error() == Some(nix::libc::EAGAIN) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
