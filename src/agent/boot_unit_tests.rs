//! The files of the units, below a root folder.

#![allow(clippy::unwrap_used)]

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
    let program = root.path().join("program");
    fs::write(&program, "one").unwrap();
    let files = UnitFiles::below(root.path());
    assert!(!files.are_installed(&program));
    files.install(&program).unwrap();
    files.timer.install(60).unwrap();
    assert!(files.are_installed(&program));
    assert_eq!(fs::metadata(&files.program).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_to_string(units.join("multi-user.target.wants").join(NAME)).unwrap(), UNIT);
    let script = dispatcher.join(DISPATCHER_NAME);
    assert!(is_dispatcher(&script));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!is_dispatcher(&script), "NetworkManager does not start it");
    let drop_in = network.join("10-eth0.network.d/lvsprov.conf");
    link_managers::install(&drop_in).unwrap();
    File::open(&program).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(files.are_installed(&program), "touched, and the same program");
    // Each of its parts may be missing or another.
    let spoil: [fn(&UnitFiles); 4] = [
        |files| fs::write(&files.program, "two").unwrap(),
        |files| fs::write(&files.units[0].0, "[Unit]").unwrap(),
        |files| fs::remove_file(&files.units[2].0).unwrap(),
        |files| fs::remove_file(&files.links[0].0).unwrap(),
    ];
    for spoil in spoil {
        spoil(&files);
        assert!(!files.are_installed(&program));
        files.install(&program).unwrap();
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
    let program = root.path().join("program");
    fs::write(&program, "one").unwrap();
    let files = UnitFiles::below(root.path());
    let error = files.install(&program).unwrap_err().to_string();
    assert!(error.contains("90-lvsprov was not written by lvsprov"), "{error}");
    assert!(!files.program.exists(), "nothing else was written");
    assert!(!files.remove().unwrap());
    assert_eq!(fs::read_to_string(&script).unwrap(), "#!/bin/sh\n");
}
