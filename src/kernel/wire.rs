//! Netlink's framing, as far as IPVS and nftables need it: messages, the 4-byte header of a family
//! behind netlink's own, and attributes.
//!
//! Pure. Numbers are in the host's byte order (netlink(7)); a function for network order has `be` in its
//! name. Malformed bytes are a [`WireError`], never a panic. Constants are netlink-packet-core's; its
//! reader was tried and not taken (docs/libraries.md).

pub use netlink_packet_core::{NLA_F_NESTED as NESTED, NLMSG_DONE as DONE, NLMSG_ERROR as ERROR};
use netlink_packet_core::{NLA_HEADER_SIZE as ATTRIBUTE_HEADER, NLA_TYPE_MASK as TYPE_MASK};

/// `struct nlmsghdr`: length u32, type u16, flags u16, sequence u32, port u32.
const HEADER: usize = 16;
/// `struct genlmsghdr`: command u8, version u8, two reserved bytes; and `struct nfgenmsg`: address
/// family u8, version u8, resource u16.
const FAMILY_HEADER: usize = 4;

/// Bytes that are not netlink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the length field gives, or than the type of the value needs.
    #[error("{what} is truncated: {present} of {needed} bytes")]
    Truncated {
        /// The element, with its article: `a netlink message`.
        what: &'static str,
        /// Its length in bytes.
        needed: usize,
        /// Bytes received.
        present: usize,
    },
    /// A length that is smaller than the header it counts.
    #[error("{what} has length {length}, less than its own header")]
    Length {
        /// The element.
        what: &'static str,
        /// Its length field, in bytes.
        length: usize,
    },
    /// A text without its NUL, or not UTF-8.
    #[error("{what} is not NUL-terminated UTF-8")]
    Text {
        /// The element.
        what: &'static str,
    },
}

/// Rounds up to netlink's alignment of 4.
const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The first `N` bytes of `bytes`.
pub fn array<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], WireError> {
    bytes.first_chunk().copied().ok_or(WireError::Truncated {
        what,
        needed: N,
        present: bytes.len(),
    })
}

/// Attributes in the order in which they were put. Always padded to 4 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttributeList(Vec<u8>);

impl AttributeList {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Appends one attribute. A value longer than 65531 bytes is cut there; lvsprov writes none
    /// above 16 KB.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX) - ATTRIBUTE_HEADER)];
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
    }

    /// Appends a number.
    pub fn put_u16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Appends a number.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Appends a number in network order.
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Appends a text with its NUL.
    pub fn put_text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// Appends an attribute that holds attributes.
    pub fn put_nested(&mut self, kind: u16, inside: &Self) {
        self.put(kind | NESTED, &inside.0);
    }
}

/// Iterates over attributes; ends after the first error.
#[derive(Debug, Clone)]
pub struct AttributeIter<'a>(&'a [u8]);

/// The attributes in `bytes`: type (without its flag bits) and value.
pub fn attributes(bytes: &[u8]) -> AttributeIter<'_> {
    AttributeIter(bytes)
}

impl<'a> Iterator for AttributeIter<'a> {
    type Item = Result<(u16, &'a [u8]), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        Some(split_attribute(bytes).map(|(kind, value, rest)| {
            self.0 = rest;
            (kind, value)
        }))
    }
}

fn split_attribute(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), WireError> {
    const WHAT: &str = "a netlink attribute";
    let [a, b, c, d] = array(bytes, WHAT)?;
    let length = usize::from(u16::from_ne_bytes([a, b]));
    let kind = u16::from_ne_bytes([c, d]) & TYPE_MASK;
    if length < ATTRIBUTE_HEADER {
        return Err(WireError::Length { what: WHAT, length });
    }
    let value = bytes.get(ATTRIBUTE_HEADER..length).ok_or(WireError::Truncated {
        what: WHAT,
        needed: length,
        present: bytes.len(),
    })?;
    // The last attribute may lack its padding.
    Ok((kind, value, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// An 8-bit number at the start of `value`. `what`: for the error.
pub fn read_u8(value: &[u8], what: &'static str) -> Result<u8, WireError> {
    array(value, what).map(u8::from_ne_bytes)
}

/// A 16-bit number at the start of `value`.
pub fn read_u16(value: &[u8], what: &'static str) -> Result<u16, WireError> {
    array(value, what).map(u16::from_ne_bytes)
}

/// A 16-bit number in network order.
pub fn read_be16(value: &[u8], what: &'static str) -> Result<u16, WireError> {
    array(value, what).map(u16::from_be_bytes)
}

/// A 32-bit number.
pub fn read_u32(value: &[u8], what: &'static str) -> Result<u32, WireError> {
    array(value, what).map(u32::from_ne_bytes)
}

/// A 32-bit number in network order.
pub fn read_be32(value: &[u8], what: &'static str) -> Result<u32, WireError> {
    array(value, what).map(u32::from_be_bytes)
}

/// A 64-bit number in network order.
pub fn read_be64(value: &[u8], what: &'static str) -> Result<u64, WireError> {
    array(value, what).map(u64::from_be_bytes)
}

/// A 64-bit number.
pub fn read_u64(value: &[u8], what: &'static str) -> Result<u64, WireError> {
    array(value, what).map(u64::from_ne_bytes)
}

/// The text up to the first NUL.
pub fn read_text(value: &[u8], what: &'static str) -> Result<String, WireError> {
    let text = std::ffi::CStr::from_bytes_until_nul(value).map_err(|_| WireError::Text { what })?;
    text.to_str().map(str::to_owned).map_err(|_| WireError::Text { what })
}

/// A complete request to a generic netlink family: both headers and the attributes `body`.
pub fn frame(family: u16, flags: u16, seq: u32, command: u8, version: u8, body: &[u8]) -> Vec<u8> {
    frame_of(family, flags, seq, [command, version, 0, 0], body)
}

/// A complete request: netlink header, the family's header (`struct genlmsghdr` or `nfgenmsg`), attributes.
pub fn frame_of(
    kind: u16,
    flags: u16,
    seq: u32,
    header: [u8; FAMILY_HEADER],
    body: &[u8],
) -> Vec<u8> {
    let length = HEADER + FAMILY_HEADER + aligned(body.len());
    let mut frame = Vec::with_capacity(length);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    frame.extend_from_slice(&kind.to_ne_bytes());
    frame.extend_from_slice(&flags.to_ne_bytes());
    frame.extend_from_slice(&seq.to_ne_bytes());
    frame.extend_from_slice(&0_u32.to_ne_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(body);
    frame.resize(length, 0);
    frame
}

/// One received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`: [`ERROR`], [`DONE`] or a family's number.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub seq: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The command and the attributes of a generic netlink message.
    pub fn generic(&self) -> Result<(u8, &'a [u8]), WireError> {
        let ([command, _, _, _], body) = self.family()?;
        Ok((command, body))
    }

    /// The family's header and the attributes.
    pub fn family(&self) -> Result<([u8; FAMILY_HEADER], &'a [u8]), WireError> {
        let header = array(self.payload, "the header of a netlink family")?;
        Ok((header, self.payload.get(FAMILY_HEADER..).unwrap_or_default()))
    }

    /// The errno, positive, of an [`ERROR`] or [`DONE`] message; 0 acknowledges.
    pub fn errno(&self) -> Result<i32, WireError> {
        // The kernel may end a dump without a number: that counts as 0.
        if self.kind == DONE && self.payload.is_empty() {
            return Ok(0);
        }
        let code = array(self.payload, "a netlink error").map(i32::from_ne_bytes)?;
        Ok(code.saturating_neg())
    }
}

/// Iterates over the messages of a datagram; ends after the first error.
#[derive(Debug, Clone)]
pub struct MessageIter<'a>(&'a [u8]);

/// The messages of one datagram.
pub fn messages(bytes: &[u8]) -> MessageIter<'_> {
    MessageIter(bytes)
}

impl<'a> Iterator for MessageIter<'a> {
    type Item = Result<Message<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        Some(split_message(bytes).map(|(message, rest)| {
            self.0 = rest;
            message
        }))
    }
}

fn split_message(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), WireError> {
    const WHAT: &str = "a netlink message";
    let header: [u8; HEADER] = array(bytes, WHAT)?;
    let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = header;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length < HEADER {
        return Err(WireError::Length { what: WHAT, length });
    }
    let payload = bytes.get(HEADER..length).ok_or(WireError::Truncated {
        what: WHAT,
        needed: length,
        present: bytes.len(),
    })?;
    let message = Message {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        seq: u32::from_ne_bytes([s0, s1, s2, s3]),
        payload,
    };
    Ok((message, bytes.get(aligned(length)..).unwrap_or_default()))
}
