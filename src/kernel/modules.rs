//! Kernel modules: whether one is present or can be loaded, and loading it.
//!
//! A built-in module has a folder under /sys/module only if it has parameters. So its effects count as well:
//! ip_vs makes a file under /proc/net, ipip the device tunl0. A module without a visible effect (fou6,
//! nf_tables) that is in no list of modules is found among the kernel's symbols. Using it instead would load it.
//!
//! `modprobe --show-depends` was tried in place of the lists and not taken (docs/libraries.md).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use flate2::read::GzDecoder;
use memchr::{memchr, memmem, memrchr};

use super::error::{Error, Result};
use super::ipvs;
use crate::state::{Capability, Module};

/// The cure where IPVS is missing.
pub const CURE_IP_VS: &str = "install the kernel's full set of modules (Ubuntu: \
     linux-modules-extra-$(uname -r); Debian: linux-image-amd64 and not the cloud kernel) and boot \
     that kernel; in a container the machine's own kernel must have it: `modprobe ip_vs` there";

fn cure(module: Module) -> String {
    if module == Module::IpVs {
        return CURE_IP_VS.to_owned();
    }
    format!(
        "install the kernel's full set of modules (Ubuntu: linux-modules-extra-$(uname -r); Debian: \
         linux-image-amd64) and boot that kernel; in a container the machine's own kernel must have \
         it: `modprobe {module}` there"
    )
}

/// Paths of modprobe. Never $PATH: this runs as root.
const MODPROBE: [&str; 4] =
    ["/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe", "/usr/bin/modprobe"];

/// Bytes of the kernel's configuration that are read; Debian's is 0.3 MB.
const LARGEST_CONFIGURATION: u64 = 4 << 20;

/// Whether the running kernel has `module`, or could load it. Loads nothing.
pub fn capability(module: Module) -> Capability {
    InstalledModules::look().capability(module)
}

/// What is installed for the running kernel: the folder and its lists, by depmod(8).
pub struct InstalledModules(std::result::Result<(PathBuf, Arc<ModuleLists>), String>);

impl InstalledModules {
    /// Reads the lists; loads nothing.
    pub fn look() -> Self {
        Self(folder().map(|folder| {
            let lists = ModuleLists::of(&folder);
            (folder, lists)
        }))
    }

    /// Whether the running kernel has each module, or could load it.
    pub fn capabilities(&self) -> BTreeMap<Module, Capability> {
        Module::ALL.iter().map(|module| (*module, self.capability(*module))).collect()
    }

    fn capability(&self, module: Module) -> Capability {
        if works_now(module) {
            return Capability::Present;
        }
        let listed = match &self.0 {
            Ok((folder, lists)) => from_lists(module, folder, lists),
            Err(why) => Capability::Missing(why.clone()),
        };
        match listed {
            // A self-built kernel, whose list of modules is not installed.
            Capability::Missing(_) if built_in().contains(&module) => Capability::Present,
            found => found,
        }
    }

    /// Schedulers and persistence engines that are loaded, built in, or on disk. `None` where no list of the
    /// running kernel's modules is installed: then only a try shows whether one exists.
    pub fn parts(&self) -> Option<BTreeSet<String>> {
        let (_, lists) = self.0.as_ref().ok()?;
        let mut parts = &lists.built_in.parts | &lists.on_disk.parts;
        if parts.is_empty() {
            return None;
        }
        for loaded in fs::read_dir("/sys/module").into_iter().flatten().flatten() {
            let name = loaded.file_name();
            let part = name.to_str().and_then(|name| name.strip_prefix("ip_vs_"));
            parts.extend(part.map(str::to_owned));
        }
        Some(parts)
    }
}

fn from_lists(module: Module, folder: &Path, lists: &ModuleLists) -> Capability {
    let name = module.as_str();
    if lists.built_in.files.contains_key(&module) {
        return Capability::Present;
    }
    let Some(file) = lists.on_disk.files.get(&module) else {
        return Capability::Missing(format!(
            "{name} is neither loaded nor listed in {0}/modules.builtin or {0}/modules.dep",
            folder.display()
        ));
    };
    let file = folder.join(file);
    if !file.exists() {
        return Capability::Missing(format!(
            "modules.dep lists {}, but this file does not exist",
            file.display()
        ));
    }
    if fs::read("/proc/sys/kernel/modules_disabled").is_ok_and(|value| value.starts_with(b"1")) {
        return Capability::Missing(format!(
            "{} exists, but kernel.modules_disabled is 1: no module can be loaded until the next \
             boot",
            file.display()
        ));
    }
    Capability::Loadable
}

fn works_now(module: Module) -> bool {
    let in_sys = Path::new("/sys/module").join(module.as_str()).is_dir();
    if module == Module::IpVs {
        return in_sys || ipvs::is_loaded();
    }
    // Never look up an interface by its name (SIOCGIFINDEX, if_nametoindex): for tunl0 that loads ipip, whose
    // alias is netdev-tunl0 (net/core/dev_ioctl.c, `dev_load`); other modules likewise.
    let conf = Path::new("/proc/sys/net/ipv4/conf");
    in_sys || module.device().is_some_and(|dev| conf.join(dev).is_dir())
}

/// A function of each module that the compiler does not inline, because its address is taken.
fn symbol(module: Module) -> &'static str {
    match module {
        Module::IpVs => "ip_vs_conn_in_get",
        Module::IpVsFtp => "ip_vs_ftp_out",
        Module::Ipip => "ipip_newlink",
        Module::Ip6Tnl => "ip6_tnl_newlink",
        Module::Sit => "ipip6_newlink",
        Module::IpGre => "ipgre_newlink",
        Module::Ip6Gre => "ip6gre_newlink",
        Module::Fou => "fou_build_header",
        Module::Fou6 => "fou6_build_header",
        Module::NfTables => "nf_tables_newtable",
    }
}

/// The option of each module in the kernel's configuration (net/**/Kconfig, Makefile).
fn option(module: Module) -> &'static str {
    match module {
        Module::IpVs => "CONFIG_IP_VS",
        Module::IpVsFtp => "CONFIG_IP_VS_FTP",
        Module::Ipip => "CONFIG_NET_IPIP",
        Module::Ip6Tnl => "CONFIG_IPV6_TUNNEL",
        Module::Sit => "CONFIG_IPV6_SIT",
        Module::IpGre => "CONFIG_NET_IPGRE",
        Module::Ip6Gre => "CONFIG_IPV6_GRE",
        Module::Fou => "CONFIG_NET_FOU",
        Module::Fou6 => "CONFIG_IPV6_FOU",
        Module::NfTables => "CONFIG_NF_TABLES",
    }
}

/// The built-in modules: by the kernel's configuration if it shows it (`CONFIG_IKCONFIG_PROC`), else by its
/// symbols, which takes 20 times as long. Read once: they do not change while the kernel runs.
fn built_in() -> &'static BTreeSet<Module> {
    static BUILT_IN: OnceLock<BTreeSet<Module>> = OnceLock::new();
    BUILT_IN.get_or_init(|| {
        if let Some(found) = File::open("/proc/config.gz").ok().and_then(among_options) {
            return found;
        }
        let Ok(symbols) = File::open("/proc/kallsyms") else { return BTreeSet::new() };
        among_symbols(BufReader::with_capacity(256 * 1024, symbols))
    })
}

/// Lines of the packed text are `OPTION=y`, `OPTION=m` or `# OPTION is not set`. `None` if it is cut off or of another
/// kind.
fn among_options(packed: impl Read) -> Option<BTreeSet<Module>> {
    let mut text = Vec::new();
    GzDecoder::new(packed).take(LARGEST_CONFIGURATION).read_to_end(&mut text).ok()?;
    memmem::find(&text, b"CONFIG_NET=y")?;
    let is_built_in = |module: &&Module| {
        memmem::find(&text, format!("\n{}=y\n", option(**module)).as_bytes()).is_some()
    };
    Some(Module::ALL.iter().filter(is_built_in).copied().collect())
}

/// Lines are `ADDRESS TYPE NAME`, followed by `\t[MODULE]` for a symbol of a loaded module (kernel/kallsyms.c,
/// `s_show`). The kernel's own symbols come first.
fn among_symbols(mut symbols: impl BufRead) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match symbols.read_until(b'\n', &mut line) {
            Ok(read) if read > 0 && !line.contains(&b'[') => {}
            _ => return found,
        }
        let name = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        found.extend(Module::ALL.iter().filter(|module| symbol(**module).as_bytes() == name));
    }
}

fn folder() -> std::result::Result<PathBuf, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| format!("/proc/sys/kernel/osrelease: {error}"))?;
    let folder = Path::new("/lib/modules").join(release.trim());
    if folder.is_dir() {
        Ok(folder)
    } else {
        Err(format!(
            "{} does not exist: no modules are installed for this kernel",
            folder.display()
        ))
    }
}

/// The entries of modules.dep and modules.builtin that lvsprov uses.
#[derive(Debug, Default)]
struct ModuleLists {
    built_in: ModuleList,
    on_disk: ModuleList,
}

impl ModuleLists {
    /// Reads the lists in `folder`; again only after they changed. modules.dep has thousands of lines, and
    /// each observation checks each module.
    fn of(folder: &Path) -> Arc<Self> {
        static LAST: Mutex<Option<(ListStamp, Arc<ModuleLists>)>> = Mutex::new(None);
        let stamp = ListStamp::of(folder);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lists)) = last.as_ref().filter(|(known, _)| *known == stamp) {
            return Arc::clone(lists);
        }
        let read = |file: &str| ModuleList::of(&fs::read(folder.join(file)).unwrap_or_default());
        let lists = Self { built_in: read("modules.builtin"), on_disk: read("modules.dep") };
        let lists = Arc::new(lists);
        *last = Some((stamp, Arc::clone(&lists)));
        lists
    }
}

/// Identifies a version of a folder's lists: device, inode, length and time of modules.dep, which depmod(8)
/// replaces.
#[derive(Debug, PartialEq, Eq)]
struct ListStamp(PathBuf, Option<[u64; 3]>, Option<SystemTime>);

impl ListStamp {
    fn of(folder: &Path) -> Self {
        let file = fs::metadata(folder.join("modules.dep")).ok();
        let numbers = file.as_ref().map(|file| [file.dev(), file.ino(), file.len()]);
        Self(folder.to_owned(), numbers, file.and_then(|file| file.modified().ok()))
    }
}

/// The module files in the text of modules.dep or modules.builtin (depmod(8)), as name and path. Lines start
/// with `kernel/.../NAME.ko`, compressed or not; in modules.dep a colon and the dependencies follow.
fn module_files(list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            let file = &line[..memchr(b':', line).unwrap_or(line.len())];
            let base = &file[memrchr(b'/', file).map_or(0, |slash| slash + 1)..];
            let name = &base[..memchr(b'.', base).unwrap_or(base.len())];
            if base[name.len()..].starts_with(b".ko") {
                return Some((name, file));
            }
        }
        None
    })
}

/// What a list has of the modules that lvsprov knows. A name has `_` or `-`, which are equal.
#[derive(Debug, Default)]
struct ModuleList {
    files: BTreeMap<Module, PathBuf>,
    /// IPVS's schedulers and persistence engines, without `ip_vs_`.
    parts: BTreeSet<String>,
}

impl ModuleList {
    fn of(list: &[u8]) -> Self {
        let mut found = Self::default();
        for (name, file) in module_files(list) {
            if let Some(part) = name.strip_prefix(b"ip_vs_") {
                found.parts.insert(String::from_utf8_lossy(part).into_owned());
            }
            let is = |module: &&Module| same_name(name, module.as_str().as_bytes());
            if let Some(module) = Module::ALL.iter().find(is) {
                let file = || PathBuf::from(OsStr::from_bytes(file));
                found.files.entry(*module).or_insert_with(file);
            }
        }
        found
    }
}

fn same_name(a: &[u8], b: &[u8]) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| plain(*a) == plain(*b))
}

/// Loads `module` and verifies that it is present.
pub fn load(module: Module) -> Result<()> {
    let present = || capability(module) == Capability::Present;
    if present() {
        return Ok(());
    }
    let tried = modprobe(module.as_str());
    if present() {
        return Ok(());
    }
    // The kernel runs modprobe itself when a socket looks up the family: also for a container.
    if module == Module::IpVs && ipvs::IpvsSocket::open().is_ok() && present() {
        return Ok(());
    }
    let error = Error::new(format!("cannot load the kernel module {module}"));
    let error = match tried {
        Err(why) => error.because(why),
        Ok(()) => match capability(module) {
            Capability::Missing(why) => error.because(why),
            _ => error.because(
                "modprobe succeeded, but the module is not present (modprobe.d may replace it)",
            ),
        },
    };
    Err(error.cure(cure(module)))
}

/// Loads the module of an IPVS scheduler (`ip_vs_NAME`) or persistence engine (`ip_vs_pe_NAME`), if it is not
/// loaded. No error if it does not exist: the kernel refuses the service then.
///
/// The kernel would load it by itself, but under the lock of the IPVS table (ip_vs_ctl.c, `__ip_vs_mutex`).
/// Observed on Linux 6.1: the module of lblc or lblcr then waits for a network namespace that is being
/// removed, which waits for this lock (`ip_vs_service_nets_cleanup`): IPVS deadlocks.
pub fn load_part(name: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let module = format!("ip_vs_{name}");
    let loaded = Path::new("/sys/module").join(module.replace('-', "_")).is_dir();
    if name.is_empty() || !name.chars().all(plain) || loaded {
        return;
    }
    if let Err(why) = modprobe(&module) {
        tracing::debug!(
            why,
            "modprobe failed: the kernel loads the module, or refuses the service"
        );
    }
}

fn modprobe(module: &str) -> std::result::Result<(), String> {
    let Some(program) = MODPROBE.iter().find(|path| Path::new(path).exists()) else {
        return Err(format!("this host has no modprobe: none of {} exists", MODPROBE.join(", ")));
    };
    let done = Command::new(program)
        .arg(module)
        .env_clear()
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&done.stderr);
    let reason = stderr.lines().next().unwrap_or("no message");
    Err(format!("{program} {module}: {}: {reason}", done.status))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn a_module_is_found_by_its_whole_name() {
        let list =
            b"kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko.xz\n\
            kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/lib/libcrc32c.ko.xz\n\
            kernel/net/ipv4/ipip.ko:\nkernel/net/nf-tables.ko.zst:\nkernel/net/sit.o:\nkernel/fou\n";
        let found = ModuleList::of(list);
        let expected = [
            (Module::IpVs, "kernel/net/netfilter/ipvs/ip_vs.ko.xz"),
            (Module::Ipip, "kernel/net/ipv4/ipip.ko"),
            (Module::NfTables, "kernel/net/nf-tables.ko.zst"),
        ];
        assert_eq!(found.files, expected.map(|(module, file)| (module, file.into())).into());
        assert!(found.parts.iter().eq(["rr"]));
        assert!(ModuleList::of(b"\n:\n/\n.ko\n\xff\xfe").files.is_empty());
        let engine = b"kernel/net/netfilter/ipvs/ip_vs_pe_sip.ko: a/ip_vs_x.ko\nip_vs_\n";
        assert!(ModuleList::of(engine).parts.iter().eq(["pe_sip"]));
    }

    #[test]
    fn lists_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text| fs::write(folder.path().join("modules.dep"), text).unwrap();
        assert!(ModuleLists::of(folder.path()).on_disk.files.is_empty());
        write("a/ipip.ko:\n");
        assert!(ModuleLists::of(folder.path()).on_disk.files.contains_key(&Module::Ipip));
        write("a/ipip.ko:\na/sit.ko:\n");
        assert!(ModuleLists::of(folder.path()).on_disk.files.contains_key(&Module::Sit));
    }

    #[test]
    fn the_configuration_tells_what_is_built_in() {
        let packed = |text: &str| {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(text.as_bytes()).unwrap();
            writer.finish().unwrap()
        };
        let whole = packed(
            "CONFIG_NET=y\nCONFIG_IP_VS=m\nCONFIG_NET_IPIP=y\nCONFIG_NET_FOU_IP_TUNNELS=y\n\
             # CONFIG_NF_TABLES is not set\nCONFIG_IPV6_SIT=y\n",
        );
        let expected = BTreeSet::from([Module::Ipip, Module::Sit]);
        assert_eq!(among_options(&whole[..]), Some(expected));
        assert_eq!(among_options(&whole[..whole.len() - 9]), None, "cut off");
        assert_eq!(among_options(&packed("CONFIG_64BIT=y\n")[..]), None, "no networking");
        assert_eq!(among_options(&b"CONFIG_NET=y\n"[..]), None, "not packed");
    }

    #[test]
    fn only_the_kernels_own_symbols_count() {
        let text = "ffffffff81f6ab60 t nf_tables_newtable\n0000000000000000 T fou_build_header_x\n\
            ffffffff81f71490 t ipip_newlink\nffffffffc0447800 t ipip6_newlink\t[sit]\n";
        let found = among_symbols(text.as_bytes());
        assert_eq!(found, BTreeSet::from([Module::NfTables, Module::Ipip]));
        assert!(among_symbols(&b"\xff\n\n x"[..]).is_empty());
    }
}
