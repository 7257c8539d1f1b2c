//! Where the sockets of kept ssh connections lie, and what they are called.
//!
//! A user who can open such a socket is root on the host behind it. So a folder is used only if it belongs to
//! the present user alone, and every folder above it to that user or root. After `su` without `-`
//! XDG_RUNTIME_DIR still is that of the other user, who could replace the folder. A socket's name is a digest
//! of everything that decides where the connection goes, so that another target, or a changed configuration,
//! never uses an old connection.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use super::super::{Options, TransportErrorKind};
use crate::topology::SshTarget;
use crate::visible::hex;

/// A socket's path has at most 107 bytes (`sun_path` in unix(7), less its NUL). Behind the folder
/// come our name (40) and the 17 bytes that ssh itself appends while it binds.
const FOLDER_LIMIT: usize = 107 - 40 - 17;

/// A dead socket is not swept away before this age: it may be one that is just coming up.
const SWEEP_AGE: Duration = Duration::from_mins(2);

/// The sockets of one target.
#[derive(Debug, Clone)]
pub(super) struct ControlSockets {
    /// Where a kept connection of this target is found.
    pub kept: PathBuf,
    /// Belongs to the present user alone.
    pub folder: PathBuf,
    name: String,
}

impl ControlSockets {
    /// Finds, or makes, the folder, and gives the names.
    pub fn of(target: &SshTarget, options: &Options) -> Result<Self, TransportErrorKind> {
        let folder = folder(options)?;
        sweep(&folder);
        let name = name(target, options);
        Ok(Self { kept: folder.join(&name), folder, name })
    }

    /// A pause that differs from target to target, below 256 ms: those that were turned away together
    /// must not come back together.
    pub fn stagger(&self) -> Duration {
        let spread = u64::from_str_radix(self.name.get(..2).unwrap_or("0"), 16).unwrap_or(0);
        Duration::from_millis(spread)
    }

    /// A path that no other connection uses.
    pub fn fresh(&self) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{}.{:x}.{count:x}", self.name, std::process::id()))
    }
}

fn folder(options: &Options) -> Result<PathBuf, TransportErrorKind> {
    let mut last = None;
    for folder in candidates(options) {
        match private(&folder) {
            Ok(folder) => return Ok(folder),
            Err(why) => {
                tracing::info!("not used for the sockets of ssh: {}: {why}", folder.display());
                last = Some(TransportErrorKind::ControlFolder { path: folder, why });
            }
        }
    }
    Err(last.unwrap_or_else(|| TransportErrorKind::ControlFolder {
        path: PathBuf::from("/"),
        why: "no folder is known".to_owned(),
    }))
}

fn candidates(options: &Options) -> Vec<PathBuf> {
    if let Some(folder) = &options.control_dir {
        return vec![folder.clone()];
    }
    let uid = geteuid();
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
    let system = uid.is_root().then(|| PathBuf::from("/run"));
    let mut folders: Vec<PathBuf> =
        runtime.into_iter().chain(system).map(|base| base.join("lvsprov")).collect();
    folders.push(PathBuf::from(format!("/tmp/lvsprov-{uid}")));
    folders
}

/// Makes the folder where it is missing, sees that it is ours alone and that no other user can put another
/// in its place, and gives its real path: symbolic links may lead to it, and are not followed later.
fn private(folder: &Path) -> Result<PathBuf, String> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err("it is not a folder of its own".to_owned());
    };
    let parent =
        fs::canonicalize(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    for above in parent.ancestors() {
        let found = fs::symlink_metadata(above).map_err(|e| format!("{}: {e}", above.display()))?;
        if let Some(why) = why_open_to_other_users(found.uid(), found.mode(), geteuid().as_raw()) {
            return Err(format!("{}, in which it lies, {why}", above.display()));
        }
    }
    let folder = parent.join(name);
    alone(&folder)?;
    Ok(folder)
}

/// Why another user than root could put something else in the place of what lies in a folder of `owner`
/// with `mode`; `None`: none could. In a folder like /tmp (sticky, stat(2)) only the owner of a thing can move it.
fn why_open_to_other_users(owner: u32, mode: u32, own: u32) -> Option<String> {
    if owner != own && owner != 0 {
        return Some(format!("belongs to user id {owner}"));
    }
    let (writable, sticky) = (mode & 0o022 != 0, mode & 0o1000 != 0);
    (writable && !sticky)
        .then(|| format!("can be written by other users (mode {:04o})", mode & 0o7777))
}

fn alone(folder: &Path) -> Result<(), String> {
    let bytes = folder.as_os_str().as_encoded_bytes();
    if bytes.len() > FOLDER_LIMIT {
        return Err(format!("its path is longer than {FOLDER_LIMIT} bytes"));
    }
    // ssh expands %-sequences, ${...} and ~ in ControlPath (ssh_config(5), TOKENS).
    if bytes
        .iter()
        .any(|b| matches!(b, b'%' | b'$' | b'~' | b'"' | b'\\') || b.is_ascii_whitespace())
    {
        return Err("its path has a character that ssh would expand".to_owned());
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("it cannot be made: {error}"));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(|e| e.to_string())?;
    if !found.is_dir() {
        return Err("it is not a folder".to_owned());
    }
    if found.uid() != geteuid().as_raw() {
        return Err(format!("it belongs to user id {}", found.uid()));
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!("other users may enter it (mode {:04o})", found.mode() & 0o7777));
    }
    Ok(())
}

fn name(target: &SshTarget, options: &Options) -> String {
    let SshTarget { host, user, port } = target;
    let config = options
        .ssh_config
        .clone()
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh/config")));
    let state = config.as_deref().and_then(|path| fs::metadata(path).ok()).map(|found| {
        let changed = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        (found.len(), changed)
    });
    // Debug text keeps the fields apart: no two different tuples read the same.
    let all = format!("{:?}", (host, user, port, config, state));
    hex(&Sha256::digest(all)[..10])
}

/// Removes, once a process, sockets without a listener.
fn sweep(folder: &Path) {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if is_old_socket(&path) && is_dead(&path) {
                // Another process may have removed it, which is as good.
                let _ = fs::remove_file(&path);
            }
        }
    });
}

fn is_old_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        let age = found.modified().ok().and_then(|time| time.elapsed().ok());
        found.file_type().is_socket() && age.is_some_and(|age| age > SWEEP_AGE)
    })
}

fn is_dead(path: &Path) -> bool {
    matches!(UnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn target(host: &str, user: Option<&str>, port: Option<u16>) -> SshTarget {
        SshTarget { host: host.to_owned(), user: user.map(str::to_owned), port }
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let base = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private(&open).unwrap_err().contains("other users may enter"));
        let link = base.path().join("link");
        std::os::unix::fs::symlink("/root", &link).unwrap();
        assert_eq!(private(&link).unwrap_err(), "it is not a folder");
        let good = base.path().join("good");
        assert_eq!(private(&good).unwrap(), good);
        assert_eq!(private(&good).unwrap(), good);
        assert_eq!(fs::metadata(&good).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        assert!(geteuid().is_root(), "needs root: makes a folder that belongs to another user");
        let base = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
        let theirs = base.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
        assert_eq!(private(&theirs).unwrap_err(), "it belongs to user id 65534");
    }

    #[test]
    fn a_folder_below_one_of_another_user_is_refused() {
        assert!(geteuid().is_root(), "needs root: makes a folder that belongs to another user");
        let base = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
        // As XDG_RUNTIME_DIR is after `su` without `-`.
        let theirs = base.path().join("1000");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&theirs, Some(1000), None).unwrap();
        let why = format!("{}, in which it lies, belongs to user id 1000", theirs.display());
        assert_eq!(private(&theirs.join("lvsprov")).unwrap_err(), why);
        assert!(!theirs.join("lvsprov").exists());
        // Deeper too, and behind a link.
        fs::create_dir(theirs.join("ours")).unwrap();
        assert_eq!(private(&theirs.join("ours/lvsprov")).unwrap_err(), why);
        std::os::unix::fs::symlink(&theirs, base.path().join("link")).unwrap();
        assert_eq!(private(&base.path().join("link/lvsprov")).unwrap_err(), why);
    }

    #[test]
    fn who_could_replace_a_folder_in_another() {
        assert_eq!(why_open_to_other_users(0, 0o40755, 1000), None);
        assert_eq!(why_open_to_other_users(1000, 0o40700, 1000), None);
        assert_eq!(why_open_to_other_users(0, 0o41777, 1000), None);
        assert_eq!(why_open_to_other_users(1000, 0o40700, 0).unwrap(), "belongs to user id 1000");
        assert_eq!(
            why_open_to_other_users(1001, 0o41777, 1000).unwrap(),
            "belongs to user id 1001"
        );
        let why = "can be written by other users (mode 0775)";
        assert_eq!(why_open_to_other_users(0, 0o40775, 1000).unwrap(), why);
        assert!(why_open_to_other_users(0, 0o40757, 0).is_some());
    }

    #[test]
    fn paths_that_ssh_would_expand_or_cut_are_refused() {
        for bad in ["/tmp/%h", "/tmp/a b", "/tmp/${HOME}"] {
            assert!(private(Path::new(bad)).is_err(), "{bad}");
        }
        let long = format!("/tmp/{}", "x".repeat(60));
        assert!(private(Path::new(&long)).unwrap_err().contains("longer"));
    }

    #[test]
    fn another_target_or_configuration_has_another_name() {
        let config = tempfile::NamedTempFile::new().unwrap();
        let options = Options { ssh_config: Some(config.path().to_owned()), ..Options::default() };
        let one = name(&target("a", None, None), &options);
        assert_eq!(one, name(&target("a", None, None), &options));
        assert_eq!(one.len(), 20);
        for other in [
            target("b", None, None),
            target("a", Some("root"), None),
            target("a", None, Some(22)),
            target("a\", Some(\"root", None, None),
        ] {
            assert_ne!(one, name(&other, &options), "{other}");
        }
        fs::write(config.path(), "Host a\n").unwrap();
        assert_ne!(one, name(&target("a", None, None), &options));
    }
}
