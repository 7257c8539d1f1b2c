//! Control groups that the revert timer must not stay in: a service manager ends what is in them when a
//! login ends, or when the main process of a service does.
//!
//! It goes to the group of the host's first process, in each hierarchy. Nothing ends what is in there
//! before the host, or the container, is stopped. A process may always go there: under version 2 only a
//! group without enabled controllers, or the root, takes processes (cgroups(7), "no internal processes"),
//! and the first process is in such a one already. A group of our own would be left behind, and the service
//! manager does not know it; the root of a container's part of the tree is no group for processes where its
//! service manager hands controllers down.
//!
//! [`to_leave`] decides, and is pure; [`leave`] obeys.

use std::fs;
use std::path::{Path, PathBuf};

/// A control group that is left, in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Departure {
    /// Its path, as /proc/self/cgroup has it.
    pub from: String,
    /// Files to write to, one for each place where the hierarchy is mounted: the first that takes it will do.
    pub to: Vec<PathBuf>,
    /// Whether staying means to end with the login. A service manager goes by its own hierarchy only, version
    /// 2 or `name=`, and not by those of single controllers.
    pub ends_with_login: bool,
}

/// Leaves them. What could not be left, for people.
pub(super) fn leave() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (own, init) = (read("/proc/self/cgroup"), read("/proc/1/cgroup"));
    let mut notes = Vec::new();
    for departure in to_leave(&own, &init, &read("/proc/self/mountinfo")) {
        let Departure { from, to, ends_with_login } = departure;
        let mut why = "its file system is not mounted here".to_owned();
        // 0 is whoever writes it (cgroups(7)).
        let left = to.iter().any(|path| match fs::write(path, "0") {
            Ok(()) => true,
            Err(error) => {
                why = format!("{}: {error}", path.display());
                false
            }
        });
        if !left && ends_with_login {
            notes.push(format!(
                "the revert timer is still in the control group {from} ({why}): where ending the login \
                 ends what it started, the timer ends with it"
            ));
        }
    }
    notes
}

/// Which control groups to leave, from the texts of /proc/self/cgroup, /proc/1/cgroup and
/// /proc/self/mountinfo (cgroups(7), proc_pid_mountinfo(5)). A unit that the first process is in as well
/// (the scope of a container) is no reason to leave.
pub(super) fn to_leave(own: &str, init: &str, mountinfo: &str) -> Vec<Departure> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    let departures = groups(own).filter_map(|(controllers, from)| {
        let target = groups(init).find(|(named, _)| *named == controllers);
        let target = target.map_or("/", |(_, path)| path);
        let end = end(controllers, from, target)?;
        let fitting = mounts.iter().filter(|mount| mount.is_of(controllers));
        Some(Departure {
            from: from.to_owned(),
            to: fitting.filter_map(|mount| mount.procs(target)).collect(),
            ends_with_login: end == End::Login && is_managers(controllers),
        })
    });
    departures.collect()
}

/// Each hierarchy's controllers (none: version 2) and path.
fn groups(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((controllers, path))
    })
}

/// Whether a service manager keeps its groups in this hierarchy.
fn is_managers(controllers: &str) -> bool {
    controllers.is_empty() || controllers.starts_with("name=")
}

/// What ends what is in a control group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The service manager, when it stops the unit.
    Unit,
    /// The login.
    Login,
}

/// What ends the group `from` before `target`, that of the first process; `None`: nothing does.
fn end(controllers: &str, from: &str, target: &str) -> Option<End> {
    if controllers == "name=elogind" {
        // Its groups are sessions and nothing else.
        return (from != target && from != "/").then_some(End::Login);
    }
    let mut shared = target.split('/').map(Some).chain(std::iter::repeat(None));
    let below = from.split('/').skip_while(|part| shared.next() == Some(Some(part)));
    below.filter_map(end_of_unit).max()
}

/// The same for one part of a path, by the names that systemd gives its units.
fn end_of_unit(name: &str) -> Option<End> {
    if let Some(slice) = name.strip_suffix(".slice") {
        return (slice == "user" || slice.starts_with("user-")).then_some(End::Login);
    }
    if let Some(scope) = name.strip_suffix(".scope") {
        return Some(if scope.starts_with("session-") { End::Login } else { End::Unit });
    }
    let service = name.strip_suffix(".service")?;
    // An instance is one of a user (`user@1000`), of a connection (`ssh@3-192.0.2.1:22-192.0.2.9:50000`), or
    // of a terminal (`serial-getty@ttyS0`); `console-getty` has no other.
    let login = service.contains('@') || service.ends_with("getty");
    Some(if login { End::Login } else { End::Unit })
}

/// Where a hierarchy is mounted.
#[derive(Debug)]
struct Mount<'a> {
    /// The group that is seen at `point`.
    root: &'a str,
    point: &'a str,
    /// Of version 1 the controllers, among options; `None`: version 2.
    options: Option<&'a str>,
}

impl<'a> Mount<'a> {
    /// `36 35 0:28 ROOT POINT OPTIONS TAGS... - TYPE SOURCE OPTIONS`; blanks within are `\040`, and what has
    /// one is no mount of a service manager.
    fn parse(line: &'a str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (root, point) = (head.next()?, head.next()?);
        let mut tail = tail.split(' ');
        let options = match tail.next()? {
            "cgroup2" => None,
            "cgroup" => Some(tail.nth(1)?),
            _ => return None,
        };
        Some(Self { root, point, options })
    }

    fn is_of(&self, controllers: &str) -> bool {
        match self.options {
            None => controllers.is_empty(),
            Some(options) => {
                let is_there = |name: &str| options.split(',').any(|option| option == name);
                !controllers.is_empty() && controllers.split(',').all(is_there)
            }
        }
    }

    /// The file that takes processes for `group`, if that is seen here.
    fn procs(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(self.root).ok()?;
        let is_plain = |part| matches!(part, std::path::Component::Normal(_));
        below
            .components()
            .all(is_plain)
            .then(|| Path::new(self.point).join(below).join("cgroup.procs"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
                      31 23 0:27 / /proc rw - proc proc rw\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                          32 31 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
                          33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                          34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                          35 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";

    fn files(departure: &Departure) -> Vec<&str> {
        departure.to.iter().map(|path| path.to_str().unwrap()).collect()
    }

    /// Whether the only group of version 2 is left, and whether it ends with the login.
    fn v2(own: &str, init: &str) -> Option<bool> {
        let all = to_leave(&format!("0::{own}\n"), &format!("0::{init}\n"), V2);
        assert!(all.len() < 2);
        all.first().map(|departure| {
            let expected = format!("/sys/fs/cgroup{init}/cgroup.procs").replace("//", "/");
            assert_eq!((departure.from.as_str(), files(departure)), (own, vec![&*expected]));
            departure.ends_with_login
        })
    }

    #[test]
    fn every_group_that_ends_with_the_login_is_left_for_that_of_the_first_process() {
        let logins = [
            "/user.slice/user-0.slice/session-5.scope",
            "/user.slice/user-1000.slice/session-c2.scope",
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope",
            "/user.slice/user-1000.slice/user@1000.service/session.slice/dbus.service",
            "/system.slice/system-ssh.slice/ssh@3-192.0.2.1:22-192.0.2.9:50000.service",
            "/system.slice/system-sshd.slice/sshd@0-192.0.2.1:22-[2001:db8::9]:50000.service",
            "/system.slice/ssh@7-1234-0.service",
            "/system.slice/system-dropbear.slice/dropbear@0-192.0.2.1:22-192.0.2.9:5.service",
            "/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service",
            "/system.slice/console-getty.service",
        ];
        for own in logins {
            for init in ["/init.scope", "/"] {
                assert_eq!(v2(own, init), Some(true), "{own}");
            }
        }
    }

    /// What is left in a service ends with its main process: but whether that is the login is not known.
    #[test]
    fn another_unit_is_left_where_that_can_be_and_no_word_is_lost_where_not() {
        for own in ["/system.slice/ssh.service", "/system.slice/run-u7.service", "/a.scope"] {
            assert_eq!(v2(own, "/init.scope"), Some(false), "{own}");
        }
    }

    #[test]
    fn what_the_first_process_is_in_too_and_what_is_no_unit_is_not_left() {
        let docker = "/system.slice/docker-0123.scope";
        let pod = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-0123.scope";
        for own in ["/", "/init.scope", docker, pod, "/docker/0123", "/lxc.payload.c1"] {
            assert_eq!(v2(own, own), None, "{own}");
        }
        for own in ["/", "/system.slice", "/machines/x", "/some.slice/limited"] {
            assert_eq!(v2(own, "/init.scope"), None, "{own}");
        }
        assert_eq!(v2(&format!("{docker}/worker"), docker), None);
        assert_eq!(to_leave("", "", V2), []);
        assert_eq!(to_leave("junk\n1:2", "junk", "junk - junk"), []);
    }

    /// A container whose groups are seen by their names outside.
    #[test]
    fn within_a_container_only_its_own_units_count() {
        let nspawn = "/machine.slice/systemd-nspawn@c1.service/payload";
        let init = format!("{nspawn}/init.scope");
        assert_eq!(
            v2(&format!("{nspawn}/user.slice/user-0.slice/session-1.scope"), &init),
            Some(true)
        );
        assert_eq!(v2(&format!("{nspawn}/machines/x"), &init), None);
        // Only its part of the tree is mounted.
        let own = format!("0::{nspawn}/system.slice/ssh@1-a-b.service");
        let mounts = format!("30 23 0:26 {nspawn} /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
        let all = to_leave(&own, &format!("0::{init}"), &mounts);
        assert_eq!(files(&all[0]), ["/sys/fs/cgroup/init.scope/cgroup.procs"]);
        // Or another part than that of the first process: then it is said that it cannot be left.
        let elsewhere = "30 23 0:26 /other /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let all = to_leave(&own, &format!("0::{init}"), elsewhere);
        assert_eq!((files(&all[0]), all[0].ends_with_login), (vec![], true));
        let outside = to_leave(&own, "0::/../init.scope", V2);
        assert_eq!(files(&outside[0]), [""; 0]);
    }

    #[test]
    fn each_hierarchy_is_left_and_the_service_managers_own_ones_matter() {
        let own = "12:pids:/user.slice/user-0.slice/session-5.scope\n\
                   5:cpu,cpuacct:/user.slice\n\
                   4:freezer:/\n\
                   1:name=systemd:/user.slice/user-0.slice/session-5.scope\n\
                   0::/user.slice/user-0.slice/session-5.scope\n";
        let init = "12:pids:/init.scope\n5:cpu,cpuacct:/\n4:freezer:/\n1:name=systemd:/init.scope\n\
                    0::/init.scope\n";
        let all = to_leave(own, init, HYBRID);
        let found: Vec<(Vec<&str>, bool)> =
            all.iter().map(|departure| (files(departure), departure.ends_with_login)).collect();
        assert_eq!(
            found,
            [
                (vec!["/sys/fs/cgroup/pids/init.scope/cgroup.procs"], false),
                (vec!["/sys/fs/cgroup/cpu,cpuacct/cgroup.procs"], false),
                (vec!["/sys/fs/cgroup/systemd/init.scope/cgroup.procs"], true),
                (vec!["/sys/fs/cgroup/unified/init.scope/cgroup.procs"], true),
            ]
        );
        // Without systemd: elogind names a session's group by its number.
        let elogind = "33 31 0:30 / /sys/fs/cgroup/elogind rw - cgroup cgroup rw,name=elogind\n";
        let all = to_leave("1:name=elogind:/c1", "1:name=elogind:/", elogind);
        assert_eq!((all.len(), all[0].ends_with_login), (1, true));
        assert_eq!(to_leave("1:name=elogind:/", "1:name=elogind:/", elogind), []);
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_is_tried_at_both() {
        let twice = format!("{V2}40 23 0:26 / /mnt/cgroup rw - cgroup2 none rw\n");
        let all = to_leave("0::/user.slice/session-1.scope", "0::/", &twice);
        assert_eq!(files(&all[0]), ["/sys/fs/cgroup/cgroup.procs", "/mnt/cgroup/cgroup.procs"]);
    }
}
