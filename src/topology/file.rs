//! Reads the topology file from disk: the only I/O of this module.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Size limit of a topology file: far above any real cluster, and small enough to hold in memory.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why a topology file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Opening or reading failed.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The path is a folder, a device or a socket.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The given path.
        path: PathBuf,
    },
    /// The file exceeds the size limit.
    #[error("{} is larger than {MAX_BYTES} bytes, the limit for a topology file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8.
    #[error("{} is not UTF-8 text: invalid byte at offset {offset} (from 0)", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Offset of the first invalid byte, from 0.
        offset: usize,
    },
}

/// The text of a topology file, at most 4 MiB of UTF-8. `-` is an ordinary file name.
///
/// A pipe (`/dev/stdin`, `<(...)`) is read to its end or to the limit.
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
    fn folders_devices_large_files_and_other_encodings_are_refused() {
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
