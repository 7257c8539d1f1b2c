//! The expressions of nf_tables that lvsprov's rules consist of, with their exact attributes
//! (include/uapi/linux/netfilter/nf_tables.h). Pure.
//!
//! All of them use one register (NFT_REG_1, 16 bytes). An expression with other attributes than lvsprov
//! writes is [`Expr::Other`]. Attributes that are zero count as absent, because the kernel dumps some
//! that the request did not have (`flags` of a lookup).

use std::collections::BTreeMap;

use crate::kernel::wire::{self, AttributeList, WireError};

/// NFT_REG_1.
const REGISTER: u32 = 1;
/// NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA, NFTA_DATA_VALUE.
pub(super) const LIST_ELEMENT: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;

/// NFTA_DATA_VERDICT, NFTA_VERDICT_CODE; NF_DROP, NF_ACCEPT, and NFT_REG_VERDICT.
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const REGISTER_OF_VERDICT: u32 = 0;
/// NFT_CMP_EQ, NFT_CMP_NEQ.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// NFT_META_MARK, NFT_META_IIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO.
const META_MARK: u32 = 3;
const META_IN_NAME: u32 = 6;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
/// NFT_CT_DST_IP, NFT_CT_DST_IP6: since Linux 4.17, for tables of family inet.
const CT_DESTINATION: u32 = 20;
const CT_DESTINATION6: u32 = 22;
/// IPPROTO_FRAGMENT; offset and length of a fragment's place in its header, with 3 bits more (RFC 8200, 4.5).
const FRAGMENT: u8 = 44;
const PLACE_OFFSET: u32 = 2;
const PLACE_LENGTH: u32 = 2;
/// NFT_EXTHDR_OP_TCPOPT; the option TCPOPT_MAXSEG (RFC 9293, 3.2); offset and length of its value in bytes.
const EXTHDR_TCP_OPTION: u32 = 1;
const OPTION_MSS: u8 = 2;
const MSS_OFFSET: u32 = 2;
const MSS_LENGTH: u32 = 2;

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads NFPROTO_IPV4 or NFPROTO_IPV6, one byte.
    LoadFamily,
    /// Loads the transport protocol's number, one byte.
    LoadProtocol,
    /// Loads the name of the device where the packet came in, 16 bytes.
    LoadInName,
    /// Loads bytes of the packet. Where it is too short, the rule does not match.
    LoadPacket {
        /// The header from whose start `offset` counts: NFT_PAYLOAD_NETWORK_HEADER or _TRANSPORT_.
        base: u32,
        /// In bytes.
        offset: u32,
        /// In bytes, 1-16.
        length: u32,
    },
    /// Loads the place of a fragment of IPv6, 2 bytes. Where the packet is no fragment, the rule does not match.
    LoadFragmentPlace,
    /// Loads the original destination of the connection, from connection tracking.
    LoadOriginalDestination {
        /// IPv6.
        v6: bool,
    },
    /// Continues if the register equals this.
    Equal(Vec<u8>),
    /// Continues if the register does not equal this.
    NotEqual(Vec<u8>),
    /// Continues if the register is an element of a set.
    InSet {
        /// The set's name.
        set: String,
        /// Its number within a transaction; 0 in a dump.
        id: u32,
    },
    /// Masks the register with these bits.
    Keep(Vec<u8>),
    /// Loads a constant.
    Constant(Vec<u8>),
    /// Sets the packet's mark to the register (host byte order).
    StoreMark,
    /// Sets the segment's MSS option to the register (2 bytes, network order), if it has one that is
    /// greater (net/netfilter/nft_exthdr.c, `nft_exthdr_tcp_set_eval`).
    StoreMss,
    /// Source NAT to an address of the outgoing interface.
    Masquerade,
    /// Counts packets and bytes. What it has counted is not read.
    Counter,
    /// Drops the packet.
    Drop,
    /// Ends the packet's way through the base chain.
    Accept,
    /// Any other expression, by its name.
    Other(String),
}

/// NFT_PAYLOAD_NETWORK_HEADER.
pub const NETWORK: u32 = 1;
/// NFT_PAYLOAD_TRANSPORT_HEADER.
pub const TRANSPORT: u32 = 2;

impl Expr {
    fn name(&self) -> &str {
        match self {
            Self::LoadFamily | Self::LoadProtocol | Self::LoadInName | Self::StoreMark => "meta",
            Self::LoadPacket { .. } => "payload",
            Self::LoadOriginalDestination { .. } => "ct",
            Self::Equal(_) | Self::NotEqual(_) => "cmp",
            Self::InSet { .. } => "lookup",
            Self::Keep(_) => "bitwise",
            Self::Constant(_) | Self::Drop | Self::Accept => "immediate",
            Self::StoreMss | Self::LoadFragmentPlace => "exthdr",
            Self::Masquerade => "masq",
            Self::Counter => "counter",
            Self::Other(name) => name,
        }
    }

    /// Its attributes, numbered by `enum nft_NAME_attributes`.
    fn attributes(&self) -> Vec<(u16, Vec<u8>)> {
        let number = |number: u32| number.to_be_bytes().to_vec();
        let register = || number(REGISTER);
        match self {
            Self::LoadFamily => vec![(2, number(META_FAMILY)), (1, register())],
            Self::LoadProtocol => vec![(2, number(META_PROTOCOL)), (1, register())],
            Self::LoadInName => vec![(2, number(META_IN_NAME)), (1, register())],
            Self::StoreMark => vec![(2, number(META_MARK)), (3, register())],
            Self::LoadPacket { base, offset, length } => vec![
                (1, register()),
                (2, number(*base)),
                (3, number(*offset)),
                (4, number(*length)),
            ],
            Self::LoadOriginalDestination { v6 } => {
                let key = if *v6 { CT_DESTINATION6 } else { CT_DESTINATION };
                // Direction: IP_CT_DIR_ORIGINAL, one byte.
                vec![(2, number(key)), (1, register()), (3, vec![0])]
            }
            Self::Equal(value) => vec![(1, register()), (2, number(EQUAL)), (3, data(value))],
            Self::NotEqual(value) => {
                vec![(1, register()), (2, number(NOT_EQUAL)), (3, data(value))]
            }
            Self::InSet { set, id } => {
                let mut name = set.as_bytes().to_vec();
                name.push(0);
                vec![(2, register()), (1, name), (4, number(*id))]
            }
            Self::Keep(mask) => {
                let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
                let zeroes = vec![0; mask.len()];
                vec![
                    (1, register()),
                    (2, register()),
                    (3, number(length)),
                    (4, data(mask)),
                    (5, data(&zeroes)),
                ]
            }
            Self::Constant(value) => vec![(1, register()), (2, data(value))],
            Self::StoreMss => vec![
                (7, register()),
                (2, vec![OPTION_MSS]),
                (3, number(MSS_OFFSET)),
                (4, number(MSS_LENGTH)),
                (6, number(EXTHDR_TCP_OPTION)),
            ],
            Self::LoadFragmentPlace => vec![
                (1, register()),
                (2, vec![FRAGMENT]),
                (3, number(PLACE_OFFSET)),
                (4, number(PLACE_LENGTH)),
            ],
            Self::Drop => vec![(1, number(REGISTER_OF_VERDICT)), (2, verdict(DROP))],
            Self::Accept => vec![(1, number(REGISTER_OF_VERDICT)), (2, verdict(ACCEPT))],
            Self::Masquerade | Self::Counter | Self::Other(_) => Vec::new(),
        }
    }

    /// Adds it to a list of expressions.
    pub fn encode(&self, list: &mut AttributeList) {
        let mut inside = AttributeList::default();
        for (kind, value) in self.attributes() {
            inside.put(kind | nested(self, kind), &value);
        }
        let mut element = AttributeList::default();
        element.put_text(EXPR_NAME, self.name());
        element.put_nested(EXPR_DATA, &inside);
        list.put_nested(LIST_ELEMENT, &element);
    }

    /// Reads one element of a list of expressions.
    pub fn decode(element: &[u8]) -> Result<Self, WireError> {
        let (mut name, mut found) = (String::new(), BTreeMap::new());
        for attribute in wire::attributes(element) {
            match attribute? {
                (EXPR_NAME, value) => name = wire::read_text(value, "an expression's name")?,
                (EXPR_DATA, value) => {
                    found = wire::attributes(value).collect::<Result<_, WireError>>()?;
                }
                _ => {}
            }
        }
        Ok(match candidate(&name, &found) {
            Some(candidate) if candidate.is(&found) => candidate,
            _ => Self::Other(name),
        })
    }

    /// Whether `found` are exactly its attributes.
    fn is(&self, found: &BTreeMap<u16, &[u8]>) -> bool {
        if *self == Self::Counter {
            return true;
        }
        let own: BTreeMap<u16, Vec<u8>> = self.attributes().into_iter().collect();
        let is_zero = |value: &[u8]| value.iter().all(|byte| *byte == 0);
        let all_present = own.iter().all(|(kind, value)| match found.get(kind) {
            Some(present) => present == value,
            None => is_zero(value) && matches!(self, Self::InSet { .. }),
        });
        all_present && found.iter().all(|(kind, value)| own.contains_key(kind) || is_zero(value))
    }
}

/// NLA_F_NESTED where the attribute holds data.
fn nested(expr: &Expr, kind: u16) -> u16 {
    let holds_data = match expr {
        Expr::Equal(_) | Expr::NotEqual(_) => kind == 3,
        Expr::Keep(_) => kind >= 4,
        Expr::Constant(_) | Expr::Drop | Expr::Accept => kind == 2,
        _ => false,
    };
    if holds_data { wire::NESTED } else { 0 }
}

/// A constant in `NFTA_DATA_VALUE`.
pub(super) fn data(value: &[u8]) -> Vec<u8> {
    let mut inside = AttributeList::default();
    inside.put(DATA_VALUE, value);
    inside.into_bytes()
}

/// A verdict in `NFTA_DATA_VERDICT`.
fn verdict(code: u32) -> Vec<u8> {
    let (mut inside, mut outside) = (AttributeList::default(), AttributeList::default());
    inside.put_be32(VERDICT_CODE, code);
    outside.put(DATA_VERDICT, &inside.into_bytes());
    outside.into_bytes()
}

/// The constant in `NFTA_DATA_VALUE`; `None` for a verdict.
pub(super) fn value_in(bytes: &[u8]) -> Option<&[u8]> {
    wire::attributes(bytes).find_map(|attribute| match attribute {
        Ok((DATA_VALUE, value)) => Some(value),
        _ => None,
    })
}

/// The expression with the variable attributes of `found`; the caller compares the constant ones.
fn candidate(name: &str, found: &BTreeMap<u16, &[u8]>) -> Option<Expr> {
    let number = |kind: u16| wire::read_be32(found.get(&kind)?, "a number").ok();
    let value = |kind: u16| value_in(found.get(&kind)?).map(<[u8]>::to_vec);
    Some(match name {
        "meta" => match number(2)? {
            META_FAMILY => Expr::LoadFamily,
            META_PROTOCOL => Expr::LoadProtocol,
            META_IN_NAME => Expr::LoadInName,
            META_MARK => Expr::StoreMark,
            _ => return None,
        },
        "payload" => Expr::LoadPacket { base: number(2)?, offset: number(3)?, length: number(4)? },
        "ct" => Expr::LoadOriginalDestination { v6: number(2)? == CT_DESTINATION6 },
        "cmp" if number(2)? == NOT_EQUAL => Expr::NotEqual(value(3)?),
        "cmp" => Expr::Equal(value(3)?),
        "lookup" => {
            let set = wire::read_text(found.get(&1)?, "a set's name").ok()?;
            Expr::InSet { set, id: number(4).unwrap_or(0) }
        }
        "bitwise" => Expr::Keep(value(4)?),
        "immediate" => match value(2) {
            Some(value) => Expr::Constant(value),
            None if found.get(&2).is_some_and(|found| **found == verdict(ACCEPT)) => Expr::Accept,
            None => Expr::Drop,
        },
        "exthdr" if found.contains_key(&7) => Expr::StoreMss,
        "exthdr" => Expr::LoadFragmentPlace,
        "masq" => Expr::Masquerade,
        "counter" => Expr::Counter,
        _ => return None,
    })
}
