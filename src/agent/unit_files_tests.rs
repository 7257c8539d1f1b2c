#![allow(clippy::unwrap_used)]
use std::cell::{Cell, RefCell};

use super::super::drift_timer;
use super::super::file_tree::BESIDE;
use super::super::transaction::memory::disk::{Files, Kept};
use super::*;

fn all(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                folders.push(path.clone());
            }
            found.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn it_is_installed_whole_brought_up_to_date_and_removed_without_a_trace() {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    let other = units.join("nftables.service.wants/other.service");
    let dispatcher = root.path().join("etc/NetworkManager/dispatcher.d");
    let network = root.path().join("etc/systemd/network");
    let folders = [other.parent().unwrap(), &root.path().join("usr/local/lib"), &dispatcher];
    for folder in folders.into_iter().chain([network.as_path()]) {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(&other, "").unwrap();
    let before = all(root.path());
    let (program, none) = (root.path().join("program"), BTreeSet::new());
    fs::write(&program, "one").unwrap();
    let files = UnitFiles::below(root.path());
    assert!(!files.are_installed(&program));
    let earlier = &files.earlier_program;
    fs::create_dir_all(earlier.parent().unwrap()).unwrap();
    fs::write(earlier, "an earlier version").unwrap();
    files.install(&program, &none, None).unwrap();
    assert!(files.are_installed(&program) && !earlier.exists());
    assert_eq!(fs::metadata(&files.program).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_to_string(units.join("multi-user.target.wants").join(NAME)).unwrap(), UNIT);
    let script = dispatcher.join(DISPATCHER_NAME);
    assert!(is_dispatcher(&script));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!is_dispatcher(&script), "NetworkManager does not start it");
    let drop_in = network.join("10-eth0.network.d/lvsprov.conf");
    files.install(&program, &[drop_in].into(), Some(60)).unwrap();
    File::open(&program).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(files.are_installed(&program), "touched, and the same program");
    // Each of its parts may be missing or another.
    let spoil: [fn(&UnitFiles); 4] = [
        |files| fs::write(&files.program, "two").unwrap(),
        |files| fs::write(&files.units[0].path, "[Unit]").unwrap(),
        |files| fs::remove_file(&files.units[2].path).unwrap(),
        |files| fs::remove_file(&files.units[0].links[0]).unwrap(),
    ];
    for spoil in spoil {
        spoil(&files);
        assert!(!files.are_installed(&program));
        files.install(&program, &none, None).unwrap();
        assert!(files.are_installed(&program));
    }
    assert!(is_dispatcher(&script));
    assert!(files.remove().unwrap());
    assert!(!files.remove().unwrap());
    fs::remove_file(&program).unwrap();
    assert_eq!(all(root.path()), before);
}

#[test]
fn a_script_of_another_program_stays() {
    let root = tempfile::tempdir().unwrap();
    let script = root.path().join("etc/NetworkManager/dispatcher.d").join(DISPATCHER_NAME);
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let (program, none) = (root.path().join("program"), BTreeSet::new());
    fs::write(&program, "one").unwrap();
    let files = UnitFiles::below(root.path());
    let error = files.install(&program, &none, None).unwrap_err().to_string();
    assert!(error.contains("90-lvsprov was not written by lvsprov"), "{error}");
    assert!(!files.program.exists(), "nothing else was written");
    assert!(!files.remove().unwrap());
    assert_eq!(fs::read_to_string(&script).unwrap(), "#!/bin/sh\n");
}

/// A disk in memory, whose power fails at one of its writes.
struct CrashingTree {
    files: RefCell<Files>,
    /// Writes until the power fails; `None`: it does not.
    left: Cell<Option<usize>>,
}

impl CrashingTree {
    fn of(files: &Files, left: Option<usize>) -> Self {
        Self { files: RefCell::new(files.clone()), left: Cell::new(left) }
    }

    /// A write; `half`: what is written of it as the power fails.
    fn change(
        &self,
        write: impl FnOnce(&mut Files) -> io::Result<()>,
        half: impl FnOnce(&mut Files),
    ) -> io::Result<()> {
        match self.left.get() {
            Some(0) => {
                half(&mut self.files.borrow_mut());
                // Nothing is written afterwards.
                Err(io::Error::other("the power failed"))
            }
            left => {
                self.left.set(left.map(|left| left - 1));
                write(&mut self.files.borrow_mut())
            }
        }
    }
}

impl FileTree for CrashingTree {
    fn is_there(&self, path: &Path) -> bool {
        path == Path::new("/") || self.files.borrow().is_folder(path).is_ok()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|files| files.make_folder(path), |_| {})
    }

    fn write(&self, path: &Path, _: u32, content: &mut dyn io::Read) -> io::Result<()> {
        let mut text = Vec::new();
        content.read_to_end(&mut text)?;
        let file = Cell::new(0);
        self.change(
            |files| {
                file.set(files.write_new(path, &text)?);
                Ok(())
            },
            |files| drop(files.write_new(path, &text[..text.len() / 2])),
        )?;
        self.change(
            |files| {
                files.sync_file(file.get());
                Ok(())
            },
            |_| {},
        )
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        if self.is_there(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let text = target.to_str().unwrap().as_bytes().to_owned();
        // It has its target as it has its name.
        let make = |files: &mut Files| {
            let file = files.write_new(path, &text)?;
            files.sync_file(file);
            Ok(())
        };
        self.change(make, |_| {})
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|files| files.rename(from, to), |_| {})
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|files| files.remove(path), |_| {})
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|files| files.remove_folder(path), |_| {})
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|files| files.sync_folder(path), |_| {})
    }
}

const OLD: &[u8] = b"an earlier program";
const NEW: &[u8] = b"this program";
const DROP_IN_FILE: &str = "/etc/systemd/network/10-eth0.network.d/lvsprov.conf";

/// The files of a host with NetworkManager and networkd.
fn host_files() -> UnitFiles {
    let mut files = UnitFiles::below(Path::new("/"));
    files.dispatcher = Some(Path::new(DISPATCHER_FOLDER).join(DISPATCHER_NAME));
    files
}

fn for_others() -> Vec<PathBuf> {
    vec![Path::new(DISPATCHER_FOLDER).join(DISPATCHER_NAME), PathBuf::from(DROP_IN_FILE)]
}

/// A host as it was before lvsprov.
fn bare() -> Files {
    let tree = CrashingTree::of(&Files::default(), None);
    let other = format!("{UNIT_FOLDER}/multi-user.target.wants/other.service");
    put(&tree, Path::new(&other), 0o644, &mut "[Unit]".as_bytes()).unwrap();
    for path in [DISPATCHER_FOLDER, "/etc/systemd/network", "/usr/local/lib"] {
        put(&tree, &Path::new(path).join("other"), 0o644, &mut "x".as_bytes()).unwrap();
    }
    tree.files.into_inner()
}

fn install(files: &Files, program: &[u8], left: Option<usize>) -> (Files, bool) {
    let tree = CrashingTree::of(files, left);
    let done = host_files().write(&tree, &mut &*program, &[DROP_IN_FILE.into()].into(), Some(60));
    (tree.files.into_inner(), done.is_ok())
}

fn take_away(files: &Files, left: Option<usize>) -> (Files, bool) {
    let tree = CrashingTree::of(files, left);
    let done = host_files().take_away(&tree, &for_others());
    (tree.files.into_inner(), done.is_ok())
}

/// Every choice of what a power cut keeps of what was not synced.
fn after_power_cuts(files: &Files) -> Vec<Files> {
    let pending = files.unsynced();
    assert!(pending < 12, "{pending} changes of names are not synced");
    let choices = [Kept::Nothing, Kept::All];
    let names = (0..1 << pending).map(Kept::Names);
    let crash = |kept| {
        let mut files = files.clone();
        files.crash(&kept);
        files
    };
    choices.into_iter().chain(names).map(crash).collect()
}

/// Nothing fails at boot: each link has its unit, and each unit its program, whole.
fn boots_without_failure(files: &Files, what: &str) {
    let all = files.all();
    let unit_files = host_files();
    let text = |path: &Path| all.get(path.to_str().unwrap()).map(Vec::as_slice);
    for unit in &unit_files.units {
        if unit.links.iter().any(|link| text(link).is_some()) {
            assert_eq!(text(&unit.path), Some(unit.text.as_bytes()), "{what}: {:?}", unit.path);
            let program = text(&unit_files.program);
            assert!(program == Some(OLD) || program == Some(NEW), "{what}: {program:?}");
        }
    }
    let [link, timer, service] = unit_files.timer.all();
    if text(&link).is_some() {
        let expected = drift_timer::timer(60);
        assert_eq!(text(&timer), Some(expected.as_bytes()), "{what}");
        assert_eq!(text(&service), Some(drift_timer::SERVICE.as_bytes()), "{what}");
    }
}

/// The host boots, and no topology needs the unit: what the boot unit removes is gone, and what is left has no effect.
fn leaves_nothing_with_an_effect(files: &Files, what: &str) {
    let unit_files = host_files();
    let boot = &unit_files.units[0];
    let is_started = files.read(&boot.links[0]).is_ok();
    let files = if is_started { take_away(files, None).0 } else { files.clone() };
    let (all, before) = (files.all(), bare().all());
    let left: Vec<&String> = all.keys().filter(|path| !before.contains_key(*path)).collect();
    if is_started {
        assert_eq!(left, Vec::<&String>::new(), "{what}");
    }
    let harmless = |path: &&String| {
        let path = Path::new(path.as_str());
        let is_folder = files.is_folder(path).unwrap();
        let is_beside = path.ends_with(BESIDE);
        let of_boot = path == boot.path || boot.links.iter().any(|link| link == path);
        is_folder || is_beside || of_boot || path == unit_files.program
    };
    let harmful: Vec<&&String> = left.iter().filter(|path| !harmless(path)).collect();
    assert_eq!(harmful, Vec::<&&String>::new(), "{what}");
    // Another apply takes it over, and then a destroy leaves nothing.
    let (whole, _) = install(&files, NEW, None);
    assert_eq!(
        take_away(&whole, None).0.all().keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
}

#[test]
fn power_that_fails_at_any_write_of_the_unit_does_no_harm() {
    let bare = bare();
    let (old, _) = install(&bare, OLD, None);
    let mut tried = 0;
    for (name, from, work) in [
        ("install", &bare, (|files, left| install(files, NEW, left)) as fn(&Files, _) -> _),
        ("update", &old, |files, left| install(files, NEW, left)),
        ("remove", &old, take_away),
    ] {
        for at in 0.. {
            let (cut, done) = work(from, Some(at));
            for files in after_power_cuts(&cut) {
                let what = format!("{name}, write {at}");
                tried += 1;
                boots_without_failure(&files, &what);
                match name {
                    // A receipt has named it all the time.
                    "update" => {
                        assert!(files.read(&host_files().units[0].links[0]).is_ok(), "{what}");
                    }
                    _ if done && name == "install" => {
                        assert_eq!(files.all(), cut.all(), "{what}: something of it is lost");
                    }
                    _ => leaves_nothing_with_an_effect(&files, &what),
                }
            }
            if done {
                break;
            }
        }
    }
    println!("{tried} power cuts were tried");
    assert!(tried > 300, "only {tried} were tried");
}
