//! Frames: how a byte stream is divided into messages.
//!
//! A frame is its length as a 32-bit big-endian number, then that many bytes of JSON. This module
//! knows nothing of what the messages mean ([`crate::protocol`]) nor of who carries the bytes.
//! The rules are pure functions; an asynchronous reader (the controller's, [`super::reply`], which also
//! bounds what a host may send) and a blocking one (the agent's) obey them.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes that a frame may announce: 64 MiB. For a host with 10,000 services and 100,000
/// destinations the longest request and the longest answer have about 25 MiB.
pub const LIMIT: usize = 64 << 20;

/// How many bytes the length takes.
pub const HEADER: usize = 4;

/// Memory is set aside in steps of this, as the bytes arrive, never for what was only announced.
pub(super) const STEP: usize = 64 << 10;

/// What can be wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is beyond what is taken.
    #[error(
        "a frame of {length} bytes was announced, the limit is {limit}: this is not the agent's protocol"
    )]
    TooLong {
        /// What was announced, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, after {got} of {wanted} bytes")]
    Truncated {
        /// How many bytes of the frame came, its length included where that was known.
        got: usize,
        /// How many there should have been, at least.
        wanted: usize,
    },
    /// The bytes are no such message.
    #[error("a frame of {length} bytes is not a message that is known here")]
    Garbage {
        /// The length of the frame, in bytes.
        length: usize,
        /// What the JSON reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A message could not be turned into JSON.
    #[error("a message could not be written as JSON")]
    Unwritable {
        /// What the JSON writer says.
        #[source]
        source: serde_json::Error,
    },
    /// More values than any honest frame of that length has.
    #[error(
        "a frame of {length} bytes holds {values} values, the limit is {limit}: this is not an agent's answer"
    )]
    Crowded {
        /// The length of the frame, in bytes.
        length: usize,
        /// How many values it holds, at least.
        values: usize,
        /// How many it may hold.
        limit: usize,
    },
    /// A longer text than any honest frame has.
    #[error(
        "a frame holds a text of {length} bytes, the limit is {limit}: this is not an agent's answer"
    )]
    LongText {
        /// The length of the text, in bytes.
        length: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// There is no more memory for the answers of all hosts together.
    #[error("the answers of all hosts together take more than {limit} bytes")]
    Budget {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The stream itself failed.
    #[error("the stream failed")]
    Stream {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FrameError {
    /// Whether no agent of ours sends such a frame.
    pub(super) fn is_hostile(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::Crowded { .. } | Self::LongText { .. } => true,
            Self::Truncated { .. }
            | Self::Garbage { .. }
            | Self::Unwritable { .. }
            | Self::Budget { .. }
            | Self::Stream { .. } => false,
        }
    }
}

/// A message as a whole frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)
        .map_err(|source| FrameError::Unwritable { source })?;
    let length = frame.len() - HEADER;
    let header = u32::try_from(length)
        .ok()
        .filter(|_| length <= LIMIT)
        .ok_or(FrameError::TooLong { length, limit: LIMIT })?;
    frame[..HEADER].copy_from_slice(&header.to_be_bytes());
    Ok(frame)
}

/// The first frame of `bytes` and how many bytes it took; `None`: more bytes are needed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = body_length(*header, LIMIT)?;
    match rest.get(..length) {
        Some(body) => Ok(Some((message(body)?, HEADER + length))),
        None => Ok(None),
    }
}

/// Reads one frame, on a thread that may wait; `None`: the stream ended where a frame could have begun.
pub fn read_blocking<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut header = Vec::with_capacity(HEADER);
    fill_blocking(stream, HEADER, &mut header)?;
    let Some(length) = announced(&header, LIMIT)? else { return Ok(None) };
    let mut body = Vec::with_capacity(length.min(STEP));
    fill_blocking(stream, length, &mut body)?;
    whole(&body, length)?;
    message(&body).map(Some)
}

fn fill_blocking(
    stream: &mut impl Read,
    count: usize,
    into: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let mut part = stream.take(count as u64);
    part.read_to_end(into).map(drop).map_err(|source| FrameError::Stream { source })
}

/// What came of a header; `None`: nothing came, the stream had ended. No more than `limit` bytes may follow.
pub(super) fn announced(header: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    match <[u8; HEADER]>::try_from(header) {
        Ok(header) => body_length(header, limit).map(Some),
        Err(_) if header.is_empty() => Ok(None),
        Err(_) => Err(FrameError::Truncated { got: header.len(), wanted: HEADER }),
    }
}

/// Whether all of an announced body came.
pub(super) fn whole(body: &[u8], length: usize) -> Result<(), FrameError> {
    if body.len() < length {
        return Err(FrameError::Truncated { got: HEADER + body.len(), wanted: HEADER + length });
    }
    Ok(())
}

fn body_length(header: [u8; HEADER], limit: usize) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length <= limit { Ok(length) } else { Err(FrameError::TooLong { length, limit }) }
}

pub(super) fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    // Seen to be UTF-8 as a whole it is not looked at text by text: a sixth of the time.
    let read = match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(body),
    };
    read.map_err(|source| FrameError::Garbage { length: body.len(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::failure::Failure;
    use crate::protocol::{Fetched, Hello, Reply, Request};

    fn failure() -> impl Strategy<Value = Failure> {
        (any::<String>(), prop::collection::vec(any::<String>(), 0..4), any::<Option<String>>())
            .prop_map(|(message, causes, cure)| Failure { message, causes, cure })
    }

    fn reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            failure().prop_map(Reply::Refused),
            prop::collection::btree_set(any::<String>(), 0..5).prop_map(Reply::Answered),
            (
                prop::collection::btree_map(any::<String>(), any::<u32>(), 0..5),
                prop::collection::btree_map(any::<String>(), any::<u32>(), 0..5)
            )
                .prop_map(|(answers, failures)| Reply::Fetched(Fetched { answers, failures })),
        ]
    }

    fn split(bytes: &[u8]) -> (Vec<Reply>, Result<(), FrameError>) {
        let mut stream = bytes;
        let mut replies = Vec::new();
        loop {
            match read_blocking(&mut stream) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => return (replies, Ok(())),
                Err(error) => return (replies, Err(error)),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(reply in reply()) {
            let frame = encode(&reply).unwrap();
            let (back, used) = decode::<Reply>(&frame).unwrap().unwrap();
            prop_assert_eq!(back, reply);
            prop_assert_eq!(used, frame.len());
        }

        #[test]
        fn frames_in_a_row_come_back_one_by_one(replies in prop::collection::vec(reply(), 0..6)) {
            let stream: Vec<u8> = replies.iter().flat_map(|r| encode(r).unwrap()).collect();
            let (back, end) = split(&stream);
            prop_assert_eq!(back, replies);
            prop_assert!(end.is_ok());
        }

        #[test]
        fn a_frame_cut_anywhere_is_an_error_and_never_a_message(reply in reply(), cut in any::<prop::sample::Index>()) {
            let frame = encode(&reply).unwrap();
            let cut = 1 + cut.index(frame.len() - 1);
            let (back, end) = split(&frame[..cut]);
            prop_assert!(back.is_empty());
            let truncated = matches!(end, Err(FrameError::Truncated { .. }));
            prop_assert!(truncated);
            prop_assert!(decode::<Reply>(&frame[..cut]).unwrap().is_none());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Reply>(&bytes);
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Hello>(&bytes);
            let _ = split(&bytes);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let mut bytes = u32::MAX.to_be_bytes().to_vec();
        bytes.extend([b'x'; 32]);
        let mut stream = bytes.as_slice();
        let error = read_blocking::<Reply>(&mut stream).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { length: 0xffff_ffff, .. }), "{error:?}");
        assert_eq!(stream.len(), 32);
    }

    #[test]
    fn an_announced_frame_takes_no_memory_before_it_comes() {
        let bytes = u32::try_from(LIMIT).unwrap().to_be_bytes();
        let error = read_blocking::<Reply>(&mut bytes.as_slice()).unwrap_err();
        assert!(matches!(error, FrameError::Truncated { got: HEADER, .. }), "{error:?}");
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let body = vec![b'['; 100_000];
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(body);
        assert!(matches!(
            decode::<serde_json::Value>(&bytes),
            Err(FrameError::Garbage { length: 100_000, .. })
        ));
    }

    #[test]
    fn a_request_with_every_kind_of_key_survives() {
        let request = Request::Observe {
            topology: "dr".parse().unwrap(),
            sysctls: BTreeSet::new(),
            counters: true,
        };
        let frame = encode(&request).unwrap();
        assert_eq!(decode::<Request>(&frame).unwrap().unwrap().0, request);
        let fetched = Reply::Fetched(Fetched {
            answers: BTreeMap::from([("web\u{0}1\n".to_owned(), 3)]),
            failures: BTreeMap::new(),
        });
        let frame = encode(&fetched).unwrap();
        assert_eq!(decode::<Reply>(&frame).unwrap().unwrap().0, fetched);
    }
}
