//! The topology file on disk: the one place of this module that does I/O.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// No cluster needs more; far below what would hurt.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why a topology file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder, a device, a socket.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// More than a topology could need.
    #[error("{} is larger than {MAX_BYTES} bytes: a topology is never that large", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// Not text.
    #[error("{} is not UTF-8 text: byte {offset} (counted from 0) is wrong", path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
        /// Where the first wrong byte is.
        offset: usize,
    },
}

/// The text of a topology file, at most 4 MiB of UTF-8. `-` is no special name.
///
/// A pipe (`/dev/stdin`, `<(...)`) is read as well, to its end or to the limit.
pub fn read_file(path: &Path) -> Result<String, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let kind = std::fs::metadata(path).map_err(io)?.file_type();
    if !(kind.is_file() || std::os::unix::fs::FileTypeExt::is_fifo(&kind)) {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| FileError::NotText {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_topology_file_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("good"), "name: a\n").unwrap();
        std::fs::write(path("latin1"), b"name: caf\xe9\n").unwrap();
        std::fs::write(path("huge"), vec![b'#'; 4 * 1024 * 1024 + 1]).unwrap();
        assert_eq!(read_file(&path("good")).unwrap(), "name: a\n");
        assert!(matches!(read_file(&path("missing")), Err(FileError::Io { .. })));
        assert!(matches!(read_file(dir.path()), Err(FileError::NotAFile { .. })));
        assert!(matches!(read_file(&path("latin1")), Err(FileError::NotText { offset: 9, .. })));
        assert!(matches!(read_file(&path("huge")), Err(FileError::TooLarge { .. })));
        assert!(matches!(read_file(Path::new("/dev/zero")), Err(FileError::NotAFile { .. })));
    }
}
