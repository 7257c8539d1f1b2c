//! IPv6 neighbour discovery frames (RFC 4861) that announce the owner of an address.

use std::net::Ipv6Addr;

use crate::kernel::arp::Mac;

/// Ethernet header, IPv6 header, ICMPv6 up to the target address, and one option with an address.
pub(super) const FRAME: usize = 14 + 40 + 24 + 8;
/// Offsets of ICMPv6 and of its options.
const ICMP: usize = 14 + 40;
const OPTIONS: usize = ICMP + 24;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// A neighbour solicitation or advertisement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourFrame {
    /// True for an advertisement, false for a solicitation.
    pub advertisement: bool,
    /// The link-layer address in the frame's option, else the source address of the frame.
    pub mac: Mac,
    /// The source address; unspecified during duplicate address detection.
    pub source: Ipv6Addr,
    /// The target address.
    pub target: Ipv6Addr,
}

impl NeighbourFrame {
    /// Parses an Ethernet frame; `None` if it is neither.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let head: &[u8; OPTIONS] = frame.first_chunk()?;
        // EtherType and next header; extension headers are not allowed here (RFC 6980).
        if head[12..14] != [0x86, 0xdd] || head[20] != 58 {
            return None;
        }
        let (advertisement, option) = match head[ICMP] {
            SOLICITATION => (false, SOURCE_LINK_ADDRESS),
            ADVERTISEMENT => (true, TARGET_LINK_ADDRESS),
            _ => return None,
        };
        let option_mac = match frame.get(OPTIONS..OPTIONS + 8) {
            Some([kind, 1, mac @ ..]) if *kind == option => mac.try_into().ok(),
            _ => None,
        };
        let mut source_of_frame = [0; 6];
        source_of_frame.copy_from_slice(&head[6..12]);
        Some(Self {
            advertisement,
            mac: Mac(option_mac.unwrap_or(source_of_frame)),
            source: address(head, 14 + 8),
            target: address(head, ICMP + 8),
        })
    }

    /// Whether receivers learn from it that `mac` has `address`: it is the target of an advertisement, or
    /// the source of a solicitation with a link-layer address (RFC 4861, 7.2.3).
    pub fn claims(&self, address: Ipv6Addr) -> bool {
        if self.advertisement { self.target == address } else { self.source == address }
    }
}

fn address(head: &[u8; OPTIONS], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&head[at..at + 16]);
    octets.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);

    fn frame(kind: u8, source: Ipv6Addr, target: Ipv6Addr, option: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; OPTIONS];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[20] = 58;
        frame[22..38].copy_from_slice(&source.octets());
        frame[ICMP] = kind;
        frame[ICMP + 8..].copy_from_slice(&target.octets());
        frame.extend_from_slice(option);
        frame
    }

    #[test]
    fn an_advertisement_claims_its_target_and_a_solicitation_its_source() {
        let option_mac = [2, 1, 2, 0, 0, 0, 0, 7];
        let parsed = NeighbourFrame::parse(&frame(136, OTHER, VIP, &option_mac)).unwrap();
        assert_eq!(parsed.mac, Mac([2, 0, 0, 0, 0, 7]));
        assert!(parsed.claims(VIP) && !parsed.claims(OTHER));
        let parsed = NeighbourFrame::parse(&frame(135, OTHER, VIP, &option_mac)).unwrap();
        assert_eq!(
            parsed.mac,
            Mac([2, 0, 0, 0, 0, 1]),
            "this option does not belong to a solicitation"
        );
        assert!(parsed.claims(OTHER) && !parsed.claims(VIP));
    }

    #[test]
    fn short_and_other_frames_are_refused() {
        let whole = frame(136, OTHER, VIP, &[]);
        for length in 0..whole.len() {
            assert_eq!(NeighbourFrame::parse(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(NeighbourFrame::parse(&frame(134, OTHER, VIP, &[])), None);
        for at in [12, 13, 20] {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert_eq!(NeighbourFrame::parse(&other), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = NeighbourFrame::parse(&bytes);
        }
    }
}
