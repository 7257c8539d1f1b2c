//! Bytes for large transfers. The position determines the value, so both ends detect lost, repeated and
//! reordered data.

/// Maximum size of one transfer, in bytes.
pub const MAX_TRANSFER: u64 = 16 << 20;
/// Size of one write, in bytes.
pub(super) const PIECE: usize = 16 << 10;

/// The `nth` byte, from 0. The sequence has no period that a segment's length could be a multiple of.
fn byte(nth: u64) -> u8 {
    // The highest byte of the product with the golden ratio.
    nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

/// The bytes `from..to`, at most [`PIECE`].
pub(super) fn piece(from: u64, to: u64) -> Vec<u8> {
    let end = to.min(from.saturating_add(u64::try_from(PIECE).unwrap_or(u64::MAX)));
    (from..end).map(byte).collect()
}

/// Compares received bytes with the expected ones.
#[derive(Debug, Default)]
pub(super) struct TransferCheck {
    got: u64,
    wrong: Option<u64>,
}

impl TransferCheck {
    /// Adds the next received bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for found in bytes {
            if *found != byte(self.got) && self.wrong.is_none() {
                self.wrong = Some(self.got);
            }
            self.got = self.got.saturating_add(1);
        }
    }

    /// Number of received bytes.
    pub(super) fn got(&self) -> u64 {
        self.got
    }

    /// Whether exactly the first `expected` bytes were received.
    pub(super) fn result(&self, expected: u64) -> Result<(), String> {
        match self.wrong {
            Some(at) => Err(format!("byte {at} of {expected} differs from the sent one")),
            None if self.got != expected => {
                Err(format!("{} of {expected} bytes received", self.got))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while u64::try_from(bytes.len()).unwrap_or(u64::MAX) < length {
            bytes.extend(piece(u64::try_from(bytes.len()).unwrap_or(u64::MAX), length));
        }
        bytes
    }

    fn result(bytes: &[u8], expected: u64) -> Result<(), String> {
        let mut check = TransferCheck::default();
        for piece in bytes.chunks(1000) {
            check.take(piece);
        }
        check.result(expected)
    }

    #[test]
    fn only_the_sent_bytes_pass() {
        let sent = all(100_000);
        assert_eq!(result(&sent, 100_000), Ok(()));
        assert_eq!(result(&sent[..99_999], 100_000), Err("99999 of 100000 bytes received".into()));
        let mut flipped = sent.clone();
        flipped[70_000] ^= 1;
        assert!(result(&flipped, 100_000).is_err_and(|why| why.contains("byte 70000")));
        // A missing segment, for common segment lengths.
        for length in [536, 1180, 1220, 1400, 1440, 1460, 8192] {
            let mut gap = sent[..20_000].to_vec();
            gap.extend(&sent[20_000 + length..]);
            assert!(result(&gap, 100_000).is_err_and(|why| why.contains("byte 200")), "{length}");
        }
    }
}
