//! A real sshd on the loopback for one test, with keys and configurations of its own.
//!
//! It runs in a mount and a PID namespace: `/var/lib`, where the agent is stored, is a small file
//! system that only it sees, root's home is empty, and whatever was started under it dies with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::topology::{Reach, SshTarget};
use lvsprov::transport::Options;
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lvsprov");

/// Polls until `done` gives something, for as long as anything may take.
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + crate::support::speed::patience();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the host is to be like.
#[derive(Default)]
pub struct Like {
    /// More lines for sshd_config.
    pub config: String,
    /// Programs that are found before the host's own: name and script.
    pub tools: Vec<(&'static str, String)>,
    /// Nothing but these busybox applets is found besides `tools`.
    pub only: Option<&'static [&'static str]>,
    /// Size of the file system at /var/lib; 512m unless told.
    pub room: Option<&'static str>,
    /// Who logs in: root, or another user who exists only here and may use the real sudo without a
    /// password.
    pub user: Option<&'static str>,
}

/// A host.
pub struct Sshd {
    pub folder: TempDir,
    pub port: u16,
    room: String,
    user: String,
    process: Option<Child>,
}

impl Sshd {
    pub fn plain() -> Self {
        Self::like(&Like::default())
    }

    pub fn like(like: &Like) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "needs root: starts sshd in namespaces");
        let folder = tempfile::Builder::new().prefix("t").tempdir_in("/tmp").unwrap();
        for name in ["host_key", "user_key", "other_key"] {
            keygen(&folder.path().join(name));
        }
        let port = free_port();
        let path = tools(folder.path(), like);
        let at = folder.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nPidFile none\n\
             AuthorizedKeysFile {at}/user_key.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n\
             SetEnv PATH={path}\n{}\n",
            like.config
        );
        fs::write(folder.path().join("sshd_config"), config).unwrap();
        let room = like.room.unwrap_or("512m").to_owned();
        let user = like.user.unwrap_or("root").to_owned();
        if like.user.is_some() {
            account(folder.path(), &user);
        }
        let mut sshd = Self { folder, port, room, user, process: None };
        sshd.know(&sshd.file("host_key.pub"));
        sshd.write_client_config("user_key", port);
        sshd.start();
        sshd
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts (again) the daemon on an empty /var/lib.
    pub fn start(&mut self) {
        let prepare = "mount -t tmpfs -o size=$1,mode=755 none /var/lib && \
                       mount -t tmpfs none /root && mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd && \
                       for F in $(cd \"$3\" 2>/dev/null && ls); do mount --bind \"$3/$F\" \"/etc/$F\" || exit; done && \
                       exec /usr/sbin/sshd -D -e -f $2";
        let log = fs::OpenOptions::new().create(true).append(true).open(self.file("log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "sh", "-c", prepare, "sh", &self.room])
            .arg(self.file("sshd_config"))
            .arg(self.file("etc"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        until("sshd listens", || {
            let line = TcpStream::connect(("127.0.0.1", self.port)).ok().and_then(|stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line).ok()?;
                Some(line)
            });
            line.filter(|line| line.starts_with("SSH-"))
        });
    }

    /// Ends the daemon and everything under it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The first process inside.
    fn init(&self) -> u32 {
        let outer = self.process.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Where the host's own root is seen from here.
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.init()).into()
    }

    /// The agents that lie on the host, by name.
    pub fn stored(&self) -> Vec<PathBuf> {
        let folder = self.root().join("var/lib/lvsprov/agent");
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// The agents that run on the host, by their number here.
    pub fn running_agents(&self) -> Vec<i32> {
        let inside = fs::read_link(format!("/proc/{}/ns/pid", self.init())).unwrap();
        processes()
            .filter(|(id, line)| {
                line.contains("/lvsprov-")
                    && line.ends_with(" agent")
                    && !line.contains("sh -c")
                    && fs::read_link(format!("/proc/{id}/ns/pid")).is_ok_and(|ns| ns == inside)
            })
            .map(|(id, _)| id)
            .collect()
    }

    /// How many logins there were.
    pub fn logins(&self) -> usize {
        let log = fs::read_to_string(self.file("log")).unwrap();
        log.lines().filter(|line| line.contains("Accepted publickey")).count()
    }

    /// Makes the file `public` the one key known for the host.
    pub fn know(&self, public: &Path) {
        let key = fs::read_to_string(public).unwrap();
        fs::write(self.file("known_hosts"), format!("host {key}")).unwrap();
    }

    /// The user's ssh configuration: `host` leads to `port`.
    pub fn write_client_config(&self, identity: &str, port: u16) {
        let at = self.folder.path().display();
        let config = format!(
            "Host host\n HostName 127.0.0.1\n Port {port}\n User {}\n HostKeyAlias host\n \
             IdentityFile {at}/{identity}\n IdentitiesOnly yes\n IdentityAgent none\n \
             UserKnownHostsFile {at}/known_hosts\n GlobalKnownHostsFile /dev/null\n LogLevel QUIET\n",
            self.user
        );
        fs::write(self.file("ssh_config"), config).unwrap();
    }

    /// How the client configuration names it.
    #[allow(clippy::unused_self)] // reads as a property of the host, beside `options`
    pub fn reach(&self) -> Reach {
        Reach::Ssh(SshTarget { host: "host".to_owned(), user: None, port: None })
    }

    pub fn options(&self) -> Options {
        Options {
            ssh_config: Some(self.file("ssh_config")),
            control_dir: Some(self.file("c")),
            agent_binary: Some(PROGRAM.into()),
            ..super::patient()
        }
    }

    /// The sockets of connections that came up from here.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.file("c")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The ssh masters that run for this host.
    pub fn masters(&self) -> Vec<i32> {
        let marker = self.file("ssh_config").display().to_string();
        let ssh = |line: &str| line.starts_with("ssh ") && line.contains(" -M ");
        let mut ids: Vec<i32> =
            processes().filter(|(_, l)| ssh(l) && l.contains(&marker)).map(|(id, _)| id).collect();
        // A master that renamed itself shows the path of its socket instead.
        let sockets = self.file("c").display().to_string();
        let renamed = |l: &str| l.starts_with("ssh: ") && l.contains(&sockets);
        ids.extend(processes().filter(|(_, l)| renamed(l)).map(|(id, _)| id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
        // A master whose host is gone ends by itself; one that was stopped by a test does not.
        for id in self.masters() {
            kill(id, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Every process: number and command line.
pub fn processes() -> impl Iterator<Item = (i32, String)> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned();
        Some((id, words))
    })
}

pub fn kill(id: i32, signal: nix::sys::signal::Signal) {
    // It may be gone already.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal);
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// What stands in /etc of a host where `user` may become root.
fn account(folder: &Path, user: &str) {
    let etc = folder.join("etc");
    fs::create_dir(&etc).unwrap();
    // The user's own sshd process reads the key.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
    let more = [
        ("passwd", format!("{user}:x:64999:64999::/:/bin/sh\n"), 0o644),
        ("group", format!("{user}:x:64999:\n"), 0o644),
        ("shadow", format!("{user}:*:19000:0:99999:7:::\n"), 0o600),
    ];
    for (name, line, mode) in more {
        let there = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        fs::write(etc.join(name), there + &line).unwrap();
        fs::set_permissions(etc.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let sudoers = etc.join("sudoers");
    fs::write(&sudoers, format!("Defaults env_reset\n{user} ALL=(ALL) NOPASSWD: ALL\n")).unwrap();
    fs::set_permissions(&sudoers, fs::Permissions::from_mode(0o440)).unwrap();
}

/// Writes the tools; the PATH that finds them.
fn tools(folder: &Path, like: &Like) -> String {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    for (name, script) in &like.tools {
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let rest = match like.only {
        None => "/usr/bin:/bin:/usr/sbin:/sbin".to_owned(),
        Some(applets) => {
            let few = folder.join("few");
            fs::create_dir(&few).unwrap();
            for name in applets {
                std::os::unix::fs::symlink("/usr/bin/busybox", few.join(name)).unwrap();
            }
            few.display().to_string()
        }
    };
    format!("{}:{rest}", bin.display())
}
