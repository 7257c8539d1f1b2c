//! Bytes for large transfers: what the n-th one must be, so that both ends can tell a loss, a double and a swap.

/// The most that is asked for at once, in bytes.
pub const MOST: u64 = 16 << 20;
/// How much is written at once, in bytes.
pub(super) const PIECE: usize = 16 << 10;

/// The `nth` byte, from 0. Without a period that a segment's length could be a multiple of.
fn byte(nth: u64) -> u8 {
    // The highest byte of the product with the golden ratio.
    nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

/// The bytes from the `from`th to the one before `to`, but no more than a piece.
pub(super) fn piece(from: u64, to: u64) -> Vec<u8> {
    let end = to.min(from.saturating_add(u64::try_from(PIECE).unwrap_or(u64::MAX)));
    (from..end).map(byte).collect()
}

/// What has come so far, against what was sent.
#[derive(Debug, Default)]
pub(super) struct Check {
    got: u64,
    wrong: Option<u64>,
}

impl Check {
    /// The next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for found in bytes {
            if *found != byte(self.got) && self.wrong.is_none() {
                self.wrong = Some(self.got);
            }
            self.got = self.got.saturating_add(1);
        }
    }

    /// How many bytes have come.
    pub(super) fn got(&self) -> u64 {
        self.got
    }

    /// Whether exactly the first `expected` bytes have come.
    pub(super) fn verdict(&self, expected: u64) -> Result<(), String> {
        match self.wrong {
            Some(at) => Err(format!("byte {at} of {expected} is another than was sent")),
            None if self.got != expected => Err(format!("{} of {expected} bytes came", self.got)),
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

    fn verdict(bytes: &[u8], expected: u64) -> Result<(), String> {
        let mut check = Check::default();
        for piece in bytes.chunks(1000) {
            check.take(piece);
        }
        check.verdict(expected)
    }

    #[test]
    fn what_was_sent_is_right_and_nothing_else() {
        let sent = all(100_000);
        assert_eq!(verdict(&sent, 100_000), Ok(()));
        assert_eq!(verdict(&sent[..99_999], 100_000), Err("99999 of 100000 bytes came".into()));
        let mut flipped = sent.clone();
        flipped[70_000] ^= 1;
        assert!(verdict(&flipped, 100_000).is_err_and(|why| why.contains("byte 70000")));
        // A segment that is missing, for every usual length of one.
        for length in [536, 1180, 1220, 1400, 1440, 1460, 8192] {
            let mut gap = sent[..20_000].to_vec();
            gap.extend(&sent[20_000 + length..]);
            assert!(verdict(&gap, 100_000).is_err_and(|why| why.contains("byte 200")), "{length}");
        }
    }
}
