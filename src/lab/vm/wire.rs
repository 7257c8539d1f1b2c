//! Frames from the guest to the host over one virtio-serial port.
//!
//! One port carries the program's output, errors and exit code, so their order is preserved.

use std::io::{self, Read, Write};

/// Name of the port.
pub(super) const PORT: &str = "lvsprov";
/// Maximum length of a frame.
const LONGEST: usize = 1 << 20;

/// A message of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GuestFrame {
    /// The first process runs.
    Hello,
    /// Standard output of the program.
    Out(Vec<u8>),
    /// Standard error of the program.
    Err(Vec<u8>),
    /// The program ended with this code.
    Exit(i32),
    /// The program could not be started; the reason.
    Failed(String),
}

impl GuestFrame {
    /// Kind, length (32 bits, little-endian), payload.
    pub(super) fn write_to(&self, port: &mut impl Write) -> io::Result<()> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Hello => (b'H', &[]),
            Self::Out(bytes) => (b'O', bytes),
            Self::Err(bytes) => (b'E', bytes),
            Self::Exit(code) => (b'X', &code.to_le_bytes()),
            Self::Failed(text) => (b'F', text.as_bytes()),
        };
        let payload = payload.get(..LONGEST).unwrap_or(payload);
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(5 + payload.len());
        bytes.push(kind);
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        port.write_all(&bytes)
    }

    /// The next frame; `None` at the end of the stream.
    pub(super) fn read_from(port: &mut impl Read) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut kind = [0];
        if port.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        port.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > LONGEST {
            return Err(invalid("a frame above the maximum length"));
        }
        let mut payload = vec![0; length];
        port.read_exact(&mut payload)?;
        Ok(Some(match kind[0] {
            b'H' => Self::Hello,
            b'O' => Self::Out(payload),
            b'E' => Self::Err(payload),
            b'X' => {
                let code = payload.try_into().map_err(|_| invalid("an exit code of odd length"))?;
                Self::Exit(i32::from_le_bytes(code))
            }
            b'F' => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            _ => return Err(invalid("a frame of an unknown kind")),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = GuestFrame> {
        prop_oneof![
            Just(GuestFrame::Hello),
            any::<Vec<u8>>().prop_map(GuestFrame::Out),
            any::<Vec<u8>>().prop_map(GuestFrame::Err),
            any::<i32>().prop_map(GuestFrame::Exit),
            any::<String>().prop_map(GuestFrame::Failed),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_a_round_trip(frames in prop::collection::vec(frame(), 0..8)) {
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.write_to(&mut bytes).unwrap();
            }
            let mut port = bytes.as_slice();
            let mut read = Vec::new();
            while let Some(frame) = GuestFrame::read_from(&mut port).unwrap() {
                read.push(frame);
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn any_bytes_are_read_without_panic_and_to_an_end(bytes: Vec<u8>) {
            let mut port = bytes.as_slice();
            while let Ok(Some(_)) = GuestFrame::read_from(&mut port) {}
        }
    }

    #[test]
    fn fuzz_vm_wire() {
        let seeds = crate::support::fuzz::samples(&frame(), 50).into_iter().map(|frame| {
            let mut bytes = Vec::new();
            frame.write_to(&mut bytes).unwrap();
            bytes
        });
        crate::support::fuzz::target!("fuzz_vm_wire", 3000, seeds.collect(), |bytes| {
            let mut port = bytes;
            while let Ok(Some(frame)) = GuestFrame::read_from(&mut port) {
                let mut again = Vec::new();
                frame.write_to(&mut again).unwrap();
                assert_eq!(GuestFrame::read_from(&mut again.as_slice()).unwrap(), Some(frame));
            }
        });
    }
}
