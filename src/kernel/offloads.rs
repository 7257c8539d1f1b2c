//! Which devices merge segments as they receive them (LRO), by the generic netlink family `ethtool`
//! (include/uapi/linux/ethtool_netlink.h; since Linux 5.6). Only read.

use std::collections::BTreeSet;

use super::error::{Error, Result};
use super::generic::GenericSocket;
use super::wire::{self, AttributeList, WireError};
use crate::names::IfName;

const FAMILY: &str = "ethtool";
const VERSION: u8 = 1;
/// `ETHTOOL_MSG_FEATURES_GET`.
const GET_FEATURES: u8 = 11;
/// As net/ethtool/common.c has it (`netdev_features_strings`).
const LRO: &str = "rx-lro";

/// `ETHTOOL_A_*`.
mod attr {
    pub const HEADER: u16 = 1;
    pub const HEADER_DEV_NAME: u16 = 2;
    pub const ACTIVE: u16 = 4;
    pub const BITSET_BITS: u16 = 3;
    pub const BITS_BIT: u16 = 1;
    pub const BIT_NAME: u16 = 2;
}

/// The devices with LRO, in the network namespace of the calling thread; none where the kernel does not say.
pub fn with_lro() -> Result<BTreeSet<IfName>> {
    let Some(mut ethtool) = GenericSocket::open(FAMILY, VERSION)? else {
        return Ok(BTreeSet::new());
    };
    let mut request = AttributeList::default();
    request.put_nested(attr::HEADER, &AttributeList::default());
    let answer =
        ethtool.dump(GET_FEATURES, &request.into_bytes(), |all: &mut BTreeSet<_>, body| {
            all.extend(decode(body)?);
            Ok::<_, WireError>(())
        })?;
    answer.map_err(|errno| Error::new("cannot read the offloads of devices").because(errno))
}

/// The device that an answer is about, if it has LRO.
pub(super) fn decode(body: &[u8]) -> std::result::Result<Option<IfName>, WireError> {
    let (mut dev, mut has_lro) = (None, false);
    for attribute in wire::attributes(body) {
        match attribute? {
            (attr::HEADER, header) => {
                for attribute in wire::attributes(header) {
                    if let (attr::HEADER_DEV_NAME, name) = attribute? {
                        dev = wire::read_text(name, "a device's name")?.parse().ok();
                    }
                }
            }
            (attr::ACTIVE, bitset) => has_lro = names_lro(bitset)?,
            _ => {}
        }
    }
    Ok(dev.filter(|_| has_lro))
}

/// Whether a set of features, of which only those that are on are named, has LRO.
fn names_lro(bitset: &[u8]) -> std::result::Result<bool, WireError> {
    for attribute in wire::attributes(bitset) {
        let (attr::BITSET_BITS, bits) = attribute? else { continue };
        for bit in wire::attributes(bits) {
            let (attr::BITS_BIT, bit) = bit? else { continue };
            for attribute in wire::attributes(bit) {
                if let (attr::BIT_NAME, name) = attribute?
                    && wire::read_text(name, "a feature's name")? == LRO
                {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(dev: &str, features: &[&str]) -> Vec<u8> {
        let mut header = AttributeList::default();
        header.put_text(attr::HEADER_DEV_NAME, dev);
        let mut bits = AttributeList::default();
        for feature in features {
            let mut bit = AttributeList::default();
            bit.put_text(attr::BIT_NAME, feature);
            bits.put_nested(attr::BITS_BIT, &bit);
        }
        let mut bitset = AttributeList::default();
        bitset.put_nested(attr::BITSET_BITS, &bits);
        let mut body = AttributeList::default();
        body.put_nested(attr::HEADER, &header);
        body.put_nested(attr::ACTIVE, &bitset);
        body.into_bytes()
    }

    #[test]
    fn a_device_with_lro_is_named() {
        let gro = answer("eth0", &["rx-gro"]);
        let lro = answer("eth1", &["rx-gro", LRO]);
        assert_eq!(decode(&gro).unwrap(), None);
        assert_eq!(decode(&lro).unwrap(), "eth1".parse().ok());
    }

    #[test]
    fn fuzz_offloads() {
        crate::support::fuzz::target!(
            "fuzz_offloads",
            10_000,
            vec![answer("eth1", &[LRO])],
            |bytes| {
                let _ = decode(bytes);
            }
        );
    }
}
