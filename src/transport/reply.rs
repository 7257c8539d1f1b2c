//! A host's answers, read with caution: what a host sends is not trusted.
//!
//! An honest answer passes as it is. One that is too long, that holds more values than its length
//! explains (each becomes a value in memory, many times its size), or a text that no agent sends, is
//! refused; so is one that all hosts together leave no room for. What a terminal would obey is
//! replaced in every text ([`crate::visible`]), before the text becomes a field: no field can be forgotten.
//! Long answers are decoded on a thread of their own, so that a waiting task can be cancelled.

use std::mem;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::frame::{self, FrameError, HEADER, LIMIT, STEP};
use crate::protocol::Hello;
use crate::visible;

/// The longest hello, in bytes.
const HELLO_LIMIT: usize = 4 << 10;

/// The longest text in an answer, in bytes. The longest honest ones are lines of a few hundred.
const TEXT_LIMIT: usize = 1 << 20;

/// How many values an answer may hold whatever its length, and how many bytes it must have for each
/// beyond them. Large honest tables have 17 bytes a value.
const VALUES: usize = 64 << 10;
const BYTES_PER_VALUE: usize = 8;

/// What the answers of all hosts may take together, in KiB: those that are being read, and the last one
/// of each host. In memory an answer takes at most some seven times its length.
const BUDGET: usize = 512 << 10;
static ROOM: Semaphore = Semaphore::const_new(BUDGET);

/// Shorter answers are decoded where they are read: that takes less than a millisecond.
const SHORT: usize = 64 << 10;

/// What one host's answer takes of the room for all of them; dropped, it gives that back.
#[derive(Debug)]
pub(super) struct MemoryShare {
    room: &'static Semaphore,
    taken: Option<SemaphorePermit<'static>>,
}

impl Default for MemoryShare {
    fn default() -> Self {
        Self { room: &ROOM, taken: None }
    }
}

impl MemoryShare {
    /// Takes so much more, in bytes. Does not wait for others to give back: they may be waiting too.
    fn grow(&mut self, bytes: usize) -> Result<(), FrameError> {
        let full = || FrameError::Budget { limit: BUDGET << 10 };
        let units = u32::try_from(bytes.div_ceil(1 << 10)).map_err(|_| full())?;
        let more = self.room.try_acquire_many(units).map_err(|_| full())?;
        match &mut self.taken {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// The first message of an agent; `None`: the stream ended before it.
pub(super) async fn hello<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<Option<Hello>, FrameError> {
    let Some(body) = body(stream, HELLO_LIMIT, &mut MemoryShare::default()).await? else {
        return Ok(None);
    };
    decode(body).map(Some)
}

/// The next answer; `None`: the stream ended where one could have begun. `share` is what it takes.
pub(super) async fn read<T, R>(
    stream: &mut R,
    share: &mut MemoryShare,
) -> Result<Option<T>, FrameError>
where
    T: DeserializeOwned + Send + 'static,
    R: AsyncRead + Unpin,
{
    let Some(body) = body(stream, LIMIT, share).await? else { return Ok(None) };
    if body.len() <= SHORT {
        return decode(body).map(Some);
    }
    // It goes along: should nobody wait any more, the memory is free when the thread is done.
    let taken = mem::take(share);
    let work = tokio::task::spawn_blocking(move || (decode(body), taken));
    let (decoded, taken) = work
        .await
        .map_err(|source| FrameError::Stream { source: std::io::Error::other(source) })?;
    *share = taken;
    decoded.map(Some)
}

async fn body<R: AsyncRead + Unpin>(
    stream: &mut R,
    limit: usize,
    share: &mut MemoryShare,
) -> Result<Option<Vec<u8>>, FrameError> {
    let failed = |source| FrameError::Stream { source };
    let mut header = Vec::with_capacity(HEADER);
    stream.take(HEADER as u64).read_to_end(&mut header).await.map_err(failed)?;
    let Some(length) = frame::announced(&header, limit)? else { return Ok(None) };
    let mut body = Vec::new();
    while body.len() < length {
        let step = (length - body.len()).min(STEP);
        // Memory is counted as it is needed, never for what was only announced.
        share.grow(step)?;
        if stream.take(step as u64).read_to_end(&mut body).await.map_err(failed)? < step {
            break;
        }
    }
    frame::whole(&body, length)?;
    Ok(Some(body))
}

fn decode<T: DeserializeOwned>(body: Vec<u8>) -> Result<T, FrameError> {
    frame::message(&screen(body)?)
}

/// The same JSON without anything that a terminal would obey; or why it is refused.
fn screen(body: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    if is_plain(&body)? {
        return Ok(body);
    }
    // What is no UTF-8 is no JSON either: its reader says where.
    match std::str::from_utf8(&body) {
        Ok(text) => clean(text),
        Err(_) => Ok(body),
    }
}

/// Counts what is in `body`; whether every text in it is printable ASCII, or has at most the escapes that
/// JSON itself needs and the tab.
fn is_plain(body: &[u8]) -> Result<bool, FrameError> {
    let limit = VALUES + body.len() / BYTES_PER_VALUE;
    let (mut values, mut plain) = (0, true);
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let start = at;
                while let Some(byte) = body.get(at) {
                    at += 1;
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            plain &= matches!(body.get(at), Some(b'"' | b'\\' | b'/' | b't'));
                            at += 1;
                        }
                        b' '..=b'~' => {}
                        _ => plain = false,
                    }
                }
                let length = at - start;
                if length > TEXT_LIMIT {
                    return Err(FrameError::LongText { length, limit: TEXT_LIMIT });
                }
            }
            b',' | b'[' | b'{' => {
                values += 1;
                if values > limit {
                    return Err(FrameError::Crowded { length: body.len(), values, limit });
                }
            }
            _ => {}
        }
    }
    Ok(plain)
}

/// JSON with what a terminal would obey replaced in every text of it, written out or escaped. Outside a
/// text JSON has no such character, and no backslash.
fn clean(text: &str) -> Result<Vec<u8>, FrameError> {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut escape = String::new();
    let mut rest = text;
    while let Some(at) =
        rest.find(|c| c == '\\' || (visible::is_hidden(c) && !c.is_ascii_whitespace()))
    {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (c, length) = character(from);
        match c {
            Some(c) if visible::is_hidden(c) => {
                escape.clear();
                visible::escape(c, &mut escape);
                out.push_str(&escape.replace('\\', "\\\\"));
            }
            _ => out.push_str(from.get(..length).unwrap_or(from)),
        }
        rest = from.get(length..).unwrap_or_default();
        if out.len() > LIMIT {
            return Err(FrameError::TooLong { length: out.len(), limit: LIMIT });
        }
    }
    out.push_str(rest);
    Ok(out.into_bytes())
}

/// The character that `text`, which is not empty, begins with, an escape decoded, and how many bytes
/// it takes. `None`: an escape that means nothing, which is left to the JSON reader.
fn character(text: &str) -> (Option<char>, usize) {
    let mut chars = text.chars();
    let first = chars.next();
    if first != Some('\\') {
        return (first, first.map_or(0, char::len_utf8));
    }
    let Some(second) = chars.next() else { return (None, 1) };
    let length = 1 + second.len_utf8();
    match second {
        'n' => (Some('\n'), length),
        'r' => (Some('\r'), length),
        'b' => (Some('\u{8}'), length),
        'f' => (Some('\u{c}'), length),
        'u' => match (unit(text), text.get(6..).and_then(unit)) {
            (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
                (char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)), 12)
            }
            (Some(unit), _) => (char::from_u32(unit), 6),
            (None, _) => (None, length),
        },
        _ => (None, length),
    }
}

/// The number in `\uXXXX`.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests;
