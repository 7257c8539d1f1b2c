//! The marks before the first frame: how an agent, or the script that starts it, is recognised on a stream on
//! which a login shell may have printed anything.
//!
//! A mark is [`TOKEN`], a blank, words, and a line feed. It counts wherever it stands: start-up files
//! print without a line feed too. The frames begin right behind the mark [`GreetingMark::Hello`]. Pure.

use std::fmt;

use crate::visible::{visible, visible_lines};

/// What a mark begins with. The script of [`super::ssh`] gets it as an argument, so that a host
/// which only echoes the command line back does not forge one.
pub const TOKEN: &str = "lvsprov@";

/// The most bytes of other output that are skipped before the agent's first word: 64 KiB.
pub const CHATTER_LIMIT: usize = 64 << 10;

/// The longest mark, in bytes after the token.
const MARK_LIMIT: usize = 1024;

/// How much of the chatter is kept for an error message, in bytes.
const KEPT: usize = 600;

/// A mark before the frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GreetingMark {
    /// Frames follow.
    Hello,
    /// The login user is not root; sudo is asked.
    User {
        /// Effective user id.
        uid: u32,
    },
    /// The login user is not root and there is no sudo.
    NoSudo,
    /// The agent lies there, whole, and is started.
    Have {
        /// `uname -m`.
        machine: String,
    },
    /// The agent is not there.
    Need {
        /// `uname -s`.
        system: String,
        /// `uname -m`.
        machine: String,
        /// Whether the host can unpack gzip.
        gzip: bool,
    },
    /// Something on the way to the agent does not belong to root.
    Unsafe {
        /// What.
        path: String,
    },
    /// The script or the agent failed.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

impl fmt::Display for GreetingMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN} ")?;
        match self {
            Self::Hello => f.write_str("hello"),
            Self::User { uid } => write!(f, "user {uid}"),
            Self::NoSudo => f.write_str("nosudo"),
            Self::Have { machine } => write!(f, "have {machine}"),
            Self::Need { system, machine, gzip } => {
                write!(f, "need {system} {machine} {}", if *gzip { "gzip" } else { "raw" })
            }
            Self::Unsafe { path } => write!(f, "unsafe {path}"),
            Self::Failed { reason } => write!(f, "failed {reason}"),
        }?;
        f.write_str("\n")
    }
}

impl GreetingMark {
    fn parse(words: &str) -> Option<Self> {
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        Some(match word {
            "hello" if rest.is_empty() => Self::Hello,
            "user" => Self::User { uid: rest.parse().ok()? },
            "nosudo" if rest.is_empty() => Self::NoSudo,
            "have" if !rest.is_empty() && !rest.contains(' ') => {
                Self::Have { machine: visible(rest).into_owned() }
            }
            "need" => {
                let mut parts = rest.split(' ');
                let (system, machine) = (parts.next()?, parts.next()?);
                let gzip = match parts.next()? {
                    "gzip" => true,
                    "raw" => false,
                    _ => return None,
                };
                if system.is_empty() || machine.is_empty() || parts.next().is_some() {
                    return None;
                }
                let [system, machine] = [system, machine].map(|word| visible(word).into_owned());
                Self::Need { system, machine, gzip }
            }
            "unsafe" => Self::Unsafe { path: visible(rest).into_owned() },
            "failed" => Self::Failed { reason: visible(rest).into_owned() },
            _ => return None,
        })
    }
}

/// Finds marks in a stream that is handed over piece by piece.
#[derive(Debug, Default)]
pub struct MarkScanner {
    /// Bytes since the last mark that are not yet decided on.
    pending: Vec<u8>,
    /// The end of what was skipped.
    chatter: Vec<u8>,
    /// How much was skipped, in bytes.
    skipped: usize,
}

/// What a piece of the stream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanResult {
    /// No mark yet: the whole piece was taken.
    Nothing,
    /// A mark; only so many bytes of the piece were taken, what follows was not looked at.
    Mark(GreetingMark, usize),
    /// More than [`CHATTER_LIMIT`] without a mark: this is not lvsprov's agent.
    TooMuch,
}

impl MarkScanner {
    /// Takes bytes up to the end of the first mark in them.
    pub fn scan(&mut self, piece: &[u8]) -> ScanResult {
        let mut taken = 0;
        for part in piece.split_inclusive(|&b| b == b'\n') {
            taken += part.len();
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n")
                && let Some(mark) = self.line()
            {
                return ScanResult::Mark(mark, taken);
            }
            if self.skipped + self.pending.len() > CHATTER_LIMIT {
                self.skip();
                return ScanResult::TooMuch;
            }
        }
        ScanResult::Nothing
    }

    /// The end of what was skipped, fit for a terminal.
    pub fn chatter(&self) -> String {
        let all = [self.chatter.as_slice(), self.pending.as_slice()].concat();
        let tail = &all[all.len().saturating_sub(KEPT)..];
        visible_lines(&String::from_utf8_lossy(tail))
    }

    /// Decides on a whole line: a mark stands at its end, or it is chatter.
    fn line(&mut self) -> Option<GreetingMark> {
        let token = TOKEN.as_bytes();
        let line = self.pending.strip_suffix(b"\n").unwrap_or(&self.pending);
        let mark = line
            .windows(token.len())
            .rposition(|window| window == token)
            .map(|at| &line[at + token.len()..])
            .filter(|rest| rest.len() <= MARK_LIMIT)
            .and_then(|rest| std::str::from_utf8(rest).ok())
            .and_then(|rest| GreetingMark::parse(rest.strip_prefix(' ')?));
        match mark {
            Some(_) => self.pending.clear(),
            None => self.skip(),
        }
        mark
    }

    fn skip(&mut self) {
        self.skipped += self.pending.len();
        self.chatter.append(&mut self.pending);
        let surplus = self.chatter.len().saturating_sub(KEPT);
        self.chatter.drain(..surplus);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark() -> impl Strategy<Value = GreetingMark> {
        let word = "[A-Za-z0-9_]{1,20}";
        prop_oneof![
            Just(GreetingMark::Hello),
            Just(GreetingMark::NoSudo),
            any::<u32>().prop_map(|uid| GreetingMark::User { uid }),
            word.prop_map(|machine| GreetingMark::Have { machine }),
            (word, word, any::<bool>()).prop_map(|(system, machine, gzip)| GreetingMark::Need {
                system,
                machine,
                gzip
            }),
            "[ -~]{0,80}".prop_map(|path| GreetingMark::Unsafe { path }),
            "[ -~]{0,80}".prop_map(|reason| GreetingMark::Failed { reason }),
        ]
    }

    /// Feeds `stream` in pieces of `size`; the first mark and what follows it.
    fn first(stream: &[u8], size: usize) -> (Option<GreetingMark>, usize) {
        let mut scanner = MarkScanner::default();
        let mut at = 0;
        for piece in stream.chunks(size) {
            match scanner.scan(piece) {
                ScanResult::Nothing => at += piece.len(),
                ScanResult::Mark(mark, taken) => return (Some(mark), at + taken),
                ScanResult::TooMuch => return (None, at),
            }
        }
        (None, at)
    }

    proptest! {
        #[test]
        fn a_mark_is_found_behind_any_chatter_and_nothing_behind_it_is_taken(
            chatter in "[^@]{0,200}",
            mark in mark(),
            after in prop::collection::vec(any::<u8>(), 0..50),
            size in 1_usize..40,
        ) {
            let head = format!("{chatter}{mark}");
            let mut stream = head.clone().into_bytes();
            stream.extend(after);
            prop_assert_eq!(first(&stream, size), (Some(mark), head.len()));
        }

        #[test]
        fn no_bytes_panic_and_all_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            let (mark, taken) = first(&bytes, size);
            prop_assert!(mark.is_some() || taken == bytes.len());
        }
    }

    #[test]
    fn endless_chatter_is_given_up() {
        let mut scanner = MarkScanner::default();
        let results: Vec<ScanResult> = (0..200)
            .map(|_| scanner.scan(&[b'x'; 1000]))
            .filter(|h| *h != ScanResult::Nothing)
            .collect();
        assert!(results.iter().all(|h| *h == ScanResult::TooMuch));
        assert_eq!(results.len(), 200 - CHATTER_LIMIT / 1000);
    }

    #[test]
    fn what_was_skipped_is_shown_without_terminal_codes() {
        let mut scanner = MarkScanner::default();
        scanner.scan(b"Welcome\r\n\x1b[31mto web1\n\nbye");
        assert_eq!(scanner.chatter(), "Welcome\n\\x1b[31mto web1\nbye");
    }

    #[test]
    fn a_command_line_that_is_echoed_back_is_no_mark() {
        let mut scanner = MarkScanner::default();
        let echoed = b"This account is restricted: sh -c echo $M have sh lvsprov@ 0123 456 have\n";
        assert_eq!(scanner.scan(echoed), ScanResult::Nothing);
    }
}
