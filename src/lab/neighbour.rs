//! IPv6's neighbour discovery on the wire (RFC 4861), as far as it says who has an address.

use std::net::Ipv6Addr;

use crate::kernel::arp::Mac;

/// Ethernet header, IPv6 header, ICMPv6 up to the target address, and one option with an address.
pub(super) const FRAME: usize = 14 + 40 + 24 + 8;
/// Where ICMPv6 begins, and where its options do.
const ICMP: usize = 14 + 40;
const OPTIONS: usize = ICMP + 24;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// A neighbour solicitation or advertisement as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourFrame {
    /// "I have it" and not "who has it?".
    pub advertisement: bool,
    /// Whose frame it is: the link-layer address that it says its sender has, else that of the frame.
    pub mac: Mac,
    /// The source address; unspecified while its sender still makes sure that it is free to use.
    pub source: Ipv6Addr,
    /// Which address it is about.
    pub target: Ipv6Addr,
}

impl NeighbourFrame {
    /// From the bytes of an Ethernet frame; `None` if they are neither.
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
        let said = match frame.get(OPTIONS..OPTIONS + 8) {
            Some([kind, 1, mac @ ..]) if *kind == option => mac.try_into().ok(),
            _ => None,
        };
        let mut source_of_frame = [0; 6];
        source_of_frame.copy_from_slice(&head[6..12]);
        Some(Self {
            advertisement,
            mac: Mac(said.unwrap_or(source_of_frame)),
            source: address(head, 14 + 8),
            target: address(head, ICMP + 8),
        })
    }

    /// Whether hearers learn from it that `mac` has `address`: it is advertised, or a solicitation
    /// has it as source and names a link-layer address (RFC 4861, 7.2.3).
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
        let said = [2, 1, 2, 0, 0, 0, 0, 7];
        let heard = NeighbourFrame::parse(&frame(136, OTHER, VIP, &said)).unwrap();
        assert_eq!(heard.mac, Mac([2, 0, 0, 0, 0, 7]));
        assert!(heard.claims(VIP) && !heard.claims(OTHER));
        let heard = NeighbourFrame::parse(&frame(135, OTHER, VIP, &said)).unwrap();
        assert_eq!(heard.mac, Mac([2, 0, 0, 0, 0, 1]), "that option is not a solicitation's");
        assert!(heard.claims(OTHER) && !heard.claims(VIP));
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_nothing() {
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
