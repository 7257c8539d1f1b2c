//! The throw-away VM. Needs QEMU, and the distribution's kernel (fetched into the cache at first).

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lvsprov::lab::vm::cache::Cache;
use lvsprov::lab::vm::{self, Accel, Kvm, VmError, VmExit, VmOptions, kernel};

use crate::support::cases::{Case, cases};
use crate::support::processes::{processes, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_lvsprov");

pub fn cases() -> Vec<Case> {
    cases![
        vm_passes_the_exit_code_on_and_keeps_the_streams_apart,
        vm_has_ipvs_and_ipip_and_no_network,
        vm_changes_nothing_here_but_the_folder_that_is_shared,
        vm_passes_much_output_on_whole_and_in_time,
        vm_says_what_could_not_be_run,
        vm_refuses_what_cannot_work,
        vm_goes_on_with_emulation_where_kvm_hangs_and_remembers_it,
        vm_goes_on_with_emulation_where_kvm_aborts,
        vm_shows_the_last_words_of_a_guest_that_dies,
        vm_ends_at_its_time_limit,
        vm_dies_with_the_process_that_started_it_and_leaves_no_file,
        vm_works_for_a_user_who_is_not_root,
        vm_says_what_a_user_who_is_not_root_lacks
    ]
}

fn options() -> VmOptions {
    VmOptions { binary: BINARY.into(), kvm: Kvm::Off, ..VmOptions::default() }
}

struct Said {
    exit: VmExit,
    out: String,
    err: String,
}

fn run(options: &VmOptions, program: &str, args: &[&str]) -> Result<Said, VmError> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = vm::run_with(options, Path::new(program), &args, &mut out, &mut err)?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok(Said { exit, out: text(out), err: text(err) })
}

fn sh(options: &VmOptions, script: &str) -> Said {
    run(options, "/bin/sh", &["-c", script]).unwrap_or_else(|error| panic!("{error}"))
}

fn vm_passes_the_exit_code_on_and_keeps_the_streams_apart() {
    let said = sh(&options(), "echo to out; echo to err >&2; exit 7");
    assert_eq!((said.exit.code, said.exit.accel), (7, Accel::Tcg));
    assert_eq!((said.out.as_str(), said.err.as_str()), ("to out\n", "to err\n"));
    assert_ne!(said.exit.kernel, fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    let said = run(&options(), "/bin/true", &[]).unwrap();
    assert_eq!((said.exit.code, said.out.as_str(), said.err.as_str()), (0, "", ""));
    let said = sh(&options(), "kill -9 $$");
    assert_eq!(said.exit.code, 128 + 9);
}

fn vm_has_ipvs_and_ipip_and_no_network() {
    let script = "uname -r; id -u; modprobe -a ip_vs ip_vs_rr ipip || exit 1; ipvsadm -Ln || exit 1; \
        ls /sys/class/net; grep -c . /proc/net/ip_vs; pwd";
    let said = sh(&VmOptions { directory: "/usr/share".into(), ..options() }, script);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(said.exit.code, 0, "{} {}", said.out, said.err);
    assert_eq!(lines[..2], [said.exit.kernel.as_str(), "0"]);
    assert!(lines[2].starts_with("IP Virtual Server"), "{lines:?}");
    assert_eq!(lines[5..], ["lo", "tunl0", "3", "/usr/share"], "{lines:?}");
}

fn vm_changes_nothing_here_but_the_folder_that_is_shared() {
    let shared = tempfile::Builder::new().prefix("shared, with a comma ").tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("kept"), "before").unwrap();
    let (shared_path, other_path) = (shared.path().display(), other.path().display());
    let script = format!(
        "echo inside > /etc/lvsprov-vm-test && cat /etc/lvsprov-vm-test && \
         echo after > '{other_path}/kept' && rm -rf /usr/share/doc && ! test -e /usr/share/doc && \
         echo result > '{shared_path}/result' && mkdir '{shared_path}/sub' && chmod 700 '{shared_path}/sub'"
    );
    let said = sh(&VmOptions { share: vec![shared.path().into()], ..options() }, &script);
    assert_eq!((said.exit.code, said.out.as_str()), (0, "inside\n"), "{}", said.err);
    assert!(!Path::new("/etc/lvsprov-vm-test").exists());
    assert!(Path::new("/usr/share/doc").exists());
    assert_eq!(fs::read_to_string(other.path().join("kept")).unwrap(), "before");
    assert_eq!(fs::read_to_string(shared.path().join("result")).unwrap(), "result\n");
    let mode = fs::metadata(shared.path().join("sub")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

fn vm_passes_much_output_on_whole_and_in_time() {
    let said = sh(&options(), "seq 1 300000; echo end >&2");
    assert_eq!((said.exit.code, said.err.as_str()), (0, "end\n"));
    let expected = (1..=300_000).map(|n| format!("{n}\n")).collect::<Vec<_>>().concat();
    assert_eq!(said.out.len(), expected.len());
    assert!(said.out == expected, "the output differs");
}

fn vm_says_what_could_not_be_run() {
    let Err(VmError::Guest(text)) = run(&options(), "/nowhere/program", &[]) else {
        panic!("ran");
    };
    assert!(text.contains("/nowhere/program") && text.contains("No such file"), "{text}");
}

fn vm_refuses_what_cannot_work() {
    let refused = |options: VmOptions| match run(&options, "/bin/true", &[]) {
        Ok(_) => panic!("it ran"),
        Err(error) => error.to_string(),
    };
    assert!(refused(VmOptions { memory_mib: 16, ..options() }).contains("256"));
    assert!(refused(VmOptions { cpus: Some(0), ..options() }).contains("1 to 64"));
    let nowhere = PathBuf::from("/nowhere");
    assert!(refused(VmOptions { directory: nowhere.clone(), ..options() }).contains("/nowhere"));
    assert!(refused(VmOptions { share: vec![nowhere.clone()], ..options() }).contains("/nowhere"));
    assert!(refused(VmOptions { kernel: Some(nowhere.clone()), ..options() }).contains("/nowhere"));
    let absent = VmOptions { kvm: Kvm::On, kvm_device: nowhere, ..options() };
    assert!(refused(absent).contains("KVM was requested"));
    assert!(refused(VmOptions { binary: "/bin/sh".into(), ..options() }).contains("static"));
}

/// A QEMU whose KVM does `kvm`, and whose emulation is the real one.
fn qemu_with(folder: &Path, kvm: &str) -> PathBuf {
    let real =
        Command::new("sh").args(["-c", "command -v qemu-system-$(uname -m)"]).output().unwrap();
    let real = String::from_utf8(real.stdout).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' kvm '*) {kvm};; esac\nexec {} \"$@\"\n",
        real.trim()
    );
    let path = folder.join("qemu");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A KVM that seems to be there, a verdict of its own, and the kernel that everybody uses.
fn with_broken_kvm(folder: &Path, kvm: &str) -> VmOptions {
    let everybodys = Cache::open(None).unwrap();
    VmOptions {
        kvm: Kvm::Auto,
        kvm_device: "/dev/null".into(),
        qemu: Some(qemu_with(folder, kvm)),
        cache: Some(folder.join("cache")),
        kernel: Some(kernel::locate(&everybodys, None).unwrap().image),
        hello_kvm: Duration::from_secs(1),
        ..options()
    }
}

fn vm_goes_on_with_emulation_where_kvm_hangs_and_remembers_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = with_broken_kvm(folder.path(), "exec sleep 1000");
    let said = sh(&options, "exit 7");
    assert_eq!((said.exit.code, said.exit.accel), (7, Accel::Tcg));
    let why = said.exit.without_kvm.unwrap();
    assert!(why.contains("no message within 1 s"), "{why}");
    assert!(!why.contains("earlier"), "{why}");
    let said = sh(&options, "exit 7");
    let why = said.exit.without_kvm.unwrap();
    assert!(said.exit.code == 7 && why.contains("found earlier"), "{why}");
    let Err(VmError::Broken { accel: Accel::Kvm, what, .. }) =
        run(&VmOptions { kvm: Kvm::On, ..options }, "/bin/true", &[])
    else {
        panic!("KVM that hangs worked");
    };
    assert!(what.contains("no message"), "{what}");
}

fn vm_goes_on_with_emulation_where_kvm_aborts() {
    let folder = tempfile::tempdir().unwrap();
    let options = with_broken_kvm(folder.path(), "echo no such MSR >&2; exit 134");
    let options = VmOptions { hello_kvm: Duration::from_secs(1000), ..options };
    let said = sh(&options, "exit 7");
    assert_eq!((said.exit.code, said.exit.accel), (7, Accel::Tcg));
    let why = said.exit.without_kvm.unwrap();
    assert!(why.contains("no such MSR"), "{why}");
}

fn vm_shows_the_last_words_of_a_guest_that_dies() {
    let script =
        "echo last words of the guest > /dev/kmsg; echo c > /proc/sysrq-trigger; sleep 100";
    let Err(VmError::Broken { details, .. }) = run(&options(), "/bin/sh", &["-c", script]) else {
        panic!("the guest survived");
    };
    assert!(details.contains("guest: ") && details.contains("Kernel panic"), "{details}");
}

fn vm_ends_at_its_time_limit() {
    let limit = Duration::from_secs(15);
    let options = VmOptions { time_limit: Some(limit), ..options() };
    let Err(VmError::TimeLimit(after)) = run(&options, "/bin/sleep", &["1000"]) else {
        panic!("it was not stopped");
    };
    assert!(after >= Duration::from_secs(1) && after < Duration::from_secs(1000));
}

fn vm_dies_with_the_process_that_started_it_and_leaves_no_file() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = Command::new(BINARY)
        .args(["lab", "vm", "--kvm", "off", "--", "/bin/sh", "-c", "echo running; sleep 1000"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "running\n");
    let parent = child.id();
    let qemu: Vec<u32> = processes().filter(|p| p.parent == parent).map(|p| p.id).collect();
    assert_eq!(qemu.len(), 1, "{qemu:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("QEMU is gone", || {
        !processes().any(|p| p.id == qemu[0] && p.command.contains("qemu"))
    });
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

/// Runs this program as a user without any rights, with `environment` and nothing else.
fn as_nobody(folder: &Path, environment: &[(&str, &Path)], args: &[&str]) -> Output {
    // The folder of this build may be closed to others.
    let program = folder.join("lvsprov");
    if !program.exists() {
        fs::copy(BINARY, &program).unwrap();
    }
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(args)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", folder.join("home"))
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// A folder with a home and a cache of that user, with the kernel that everybody uses in it.
fn nobodys_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let found = kernel::locate(&Cache::open(None).unwrap(), None).unwrap();
    let layout = folder.path().join("kernel");
    let copy = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").args(["-rL"]).arg(from).arg(&to).status().unwrap();
        assert!(copied.success());
        to
    };
    let name = format!("vmlinuz-{}", found.release);
    let image = copy(&found.image, layout.join("boot").join(name));
    copy(&found.modules, layout.join("lib/modules").join(&found.release));
    for own in ["home", "cache"] {
        let own = folder.path().join(own);
        fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(65534), Some(65534)).unwrap();
    }
    (folder, image)
}

fn vm_works_for_a_user_who_is_not_root() {
    let (folder, image) = nobodys_folder();
    let kernel: &[(&str, &Path)] = &[("LVSPROV_KERNEL", &image)];
    // In the guest the program is root; outside, what it writes is the user's.
    let shared = folder.path().join("home").display().to_string();
    let script = format!("id -u && echo inside > {shared}/file && cat {shared}/file");
    let vm = ["lab", "vm", "--share", &shared, "--", "/bin/sh", "-c", &script];
    let output = as_nobody(folder.path(), kernel, &vm);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\ninside\n", "{output:?}");
    let written = fs::metadata(folder.path().join("home/file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&written), 65534);

    // And the whole story, from a copy of the playbook: the project's folder may be closed too.
    let playbook = folder.path().join("dr-one-network.yaml");
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/dr-one-network.yaml");
    fs::copy(original, &playbook).unwrap();
    let (junit, playbook) = (format!("{shared}/junit.xml"), playbook.display().to_string());
    let story = ["lab", "run", "--in", "vm", "--junit", &junit, &playbook];
    let output = as_nobody(folder.path(), kernel, &story);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(" proven, 0 failed"), "{output:?}");
    assert!(fs::read_to_string(junit).unwrap().contains("<testsuite"));
}

fn vm_says_what_a_user_who_is_not_root_lacks() {
    let (folder, image) = nobodys_folder();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = |environment: &[(&str, &Path)], program: &str| {
        let vm = ["lab", "vm", "--", program];
        let output = as_nobody(folder.path(), environment, &vm);
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let cache = closed.join("cache");
    let text = refused(&[("LVSPROV_KERNEL", &image), ("LVSPROV_CACHE", &cache)], "/bin/true");
    assert!(text.contains("cannot create") && text.contains("ermission denied"), "{text}");
    let text = refused(&[("LVSPROV_KERNEL", &closed.join("vmlinuz-1"))], "/bin/true");
    assert!(text.contains("vmlinuz-1") && text.contains("ermission denied"), "{text}");
    // The guest is root, but the machine's files are opened by QEMU, which is the user.
    let program = closed.join("program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    let text = refused(&[("LVSPROV_KERNEL", &image)], program.to_str().unwrap());
    assert!(text.contains("program") && text.contains("user who started the VM"), "{text}");
}
