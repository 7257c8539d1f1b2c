//! Fetches a kernel from the distribution's package and unpacks it without installing it.
//!
//! For Debian and its derivatives: `apt-get download`, `dpkg-deb -x`, `depmod -b`. apt verifies the
//! packages; they are requested by their full names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::image;
use super::kernel::KernelError;

const BY_HAND: &str = "or give a kernel by --kernel IMAGE or LVSPROV_KERNEL";

/// Modules for hardware that the guest does not have: more than half of the total size.
const USELESS: [&str; 12] = [
    "sound",
    "drivers/gpu",
    "drivers/media",
    "drivers/iio",
    "drivers/usb",
    "drivers/scsi",
    "drivers/staging",
    "drivers/infiniband",
    "drivers/hwmon",
    "drivers/input",
    "drivers/net/ethernet",
    "drivers/net/wireless",
];

/// Fetches the distribution's newest kernel into `kernels/RELEASE` and returns the release. The folder
/// appears when it is complete. The caller holds the cache's lock.
pub(super) fn into_folder(kernels: &Path) -> Result<String, KernelError> {
    let meta = meta_package()?;
    let depends = depends_of(&meta)?;
    let packages = packages(&depends).ok_or_else(|| {
        failed(
            format!("{meta} does not depend on a linux-image package: {depends}"),
            BY_HAND.to_owned(),
        )
    })?;
    tracing::warn!(package = %packages.image, "fetching a kernel for the VM (about 70 MB, once)");
    let work = tempfile::Builder::new().prefix("fetching-").tempdir_in(kernels);
    let work =
        work.map_err(|e| failed(format!("cannot create a folder: {e}"), BY_HAND.to_owned()))?;
    download(work.path(), &packages)?;
    let tree = work.path().join("tree");
    for file in archives(work.path(), packages.all.len())? {
        run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&tree), "install the package dpkg")?;
    }
    prepare(&tree, &packages.release)?;
    let target = kernels.join(&packages.release);
    // Removes an incomplete folder of the same release.
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|e| file_error(&target, &e))?;
    }
    fs::rename(&tree, &target).map_err(|e| file_error(&target, &e))?;
    Ok(packages.release)
}

/// The packages to fetch.
#[derive(Debug, PartialEq, Eq)]
struct Packages {
    image: String,
    release: String,
    all: Vec<String>,
}

/// The packages, from the `Depends` field of the meta package. Debian's image package contains the modules;
/// Ubuntu has them in linux-modules and linux-modules-extra.
fn packages(depends: &str) -> Option<Packages> {
    let names = depends.split(',').filter_map(|one| one.split_whitespace().next());
    let is_plain = |name: &&str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+'))
    };
    let names: Vec<&str> = names.filter(is_plain).collect();
    let image = *names.iter().find(|name| name.starts_with("linux-image-"))?;
    let release = image.strip_prefix("linux-image-")?;
    // "linux-image-amd64" has no release: a meta package may depend on another one.
    release.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    let mut all = vec![image.to_owned()];
    let extra = format!("linux-modules-extra-{release}");
    if release.ends_with("-generic") {
        all.push(format!("linux-modules-{release}"));
    }
    if names.contains(&extra.as_str()) {
        all.push(extra);
    }
    Some(Packages { image: image.to_owned(), release: release.to_owned(), all })
}

/// The meta package of the distribution's newest kernel.
fn meta_package() -> Result<String, KernelError> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    meta_package_of(&release, std::env::consts::ARCH).ok_or_else(|| {
        failed(
            "lvsprov can fetch kernels of Debian and Ubuntu only".to_owned(),
            format!("install a kernel with ip_vs, ipip, 9p and virtio, {BY_HAND}"),
        )
    })
}

fn meta_package_of(os_release: &str, architecture: &str) -> Option<String> {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let like = format!("{} {}", field("ID"), field("ID_LIKE"));
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        _ => return None,
    };
    if like.split_whitespace().any(|id| id == "ubuntu") {
        return Some("linux-image-generic".to_owned());
    }
    let debian = like.split_whitespace().any(|id| id == "debian");
    debian.then(|| format!("linux-image-{architecture}"))
}

fn depends_of(package: &str) -> Result<String, KernelError> {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions", package]);
    let refresh = "let apt learn about packages first: apt-get update";
    let text = run(&mut command, refresh)?;
    let field = text.lines().find_map(|line| line.strip_prefix("Depends:"));
    field.map(str::to_owned).ok_or_else(|| {
        failed(format!("apt does not know the package {package}"), format!("{refresh}, {BY_HAND}"))
    })
}

fn download(work: &Path, packages: &Packages) -> Result<(), KernelError> {
    let mut command = Command::new("apt-get");
    command.args(["download", "-q"]).args(&packages.all).current_dir(work);
    run(&mut command, "check the network, and run apt-get update")?;
    Ok(())
}

/// The downloaded archives; an error if not `wanted` many.
fn archives(work: &Path, wanted: usize) -> Result<Vec<PathBuf>, KernelError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let all: io::Result<Vec<PathBuf>> =
            fs::read_dir(work)?.map(|entry| Ok(entry?.path())).collect();
        let archive = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
        Ok(all?.into_iter().filter(archive).collect())
    };
    let files = list().map_err(|e| file_error(work, &e))?;
    if files.len() == wanted {
        return Ok(files);
    }
    let found = files.len();
    Err(failed(format!("{found} packages were downloaded, not {wanted}"), BY_HAND.to_owned()))
}

/// Completes the unpacked tree: /lib, the module index, without useless modules.
fn prepare(tree: &Path, release: &str) -> Result<(), KernelError> {
    let lib = tree.join("lib");
    // Newer packages have /usr/lib only, which depmod may not search by default.
    if !lib.join("modules").exists() {
        std::os::unix::fs::symlink("usr/lib", &lib).map_err(|e| file_error(&lib, &e))?;
    }
    let drivers = lib.join("modules").join(release).join("kernel");
    let useless = USELESS.iter().map(|path| drivers.join(path));
    for path in useless.chain([tree.join("usr/share"), tree.join("etc")]) {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|e| file_error(&path, &e))?;
        }
    }
    let depmod = ["/usr/sbin/depmod", "/sbin/depmod"].into_iter().find(|p| Path::new(p).exists());
    let mut command = Command::new(depmod.unwrap_or("depmod"));
    command.arg("-b").arg(tree).arg(release);
    run(&mut command, "install the package kmod")?;
    if let Err(error) = image::unpack(&tree.join("boot"), release) {
        tracing::debug!(%error, "the kernel stays packed");
    }
    Ok(())
}

/// Runs a program and returns its output.
fn run(command: &mut Command, cure: &str) -> Result<String, KernelError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        failed(format!("cannot run {name}: {error}"), format!("{cure}, {BY_HAND}"))
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let output_text = String::from_utf8_lossy(&output.stderr);
    let output_text = output_text.trim().replace('\n', " / ");
    Err(failed(
        format!("{name} failed ({}): {output_text}", output.status),
        format!("{cure}, {BY_HAND}"),
    ))
}

fn failed(why: String, cure: String) -> KernelError {
    KernelError::Fetch { why, cure }
}

fn file_error(path: &Path, error: &io::Error) -> KernelError {
    failed(format!("{}: {error}", path.display()), BY_HAND.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_image_package_is_found_in_the_dependencies_of_the_meta_package() {
        let debian = packages(" linux-image-6.1.0-56-amd64 (= 6.1.192-2)").unwrap();
        assert_eq!(debian.release, "6.1.0-56-amd64");
        assert_eq!(debian.all, ["linux-image-6.1.0-56-amd64"]);
        let ubuntu = packages(
            "linux-image-6.8.0-50-generic, linux-modules-extra-6.8.0-50-generic, linux-firmware, x",
        );
        assert_eq!(
            ubuntu.unwrap().all,
            [
                "linux-image-6.8.0-50-generic",
                "linux-modules-6.8.0-50-generic",
                "linux-modules-extra-6.8.0-50-generic",
            ]
        );
        for bad in ["", "linux-image-amd64", "linux-firmware", "linux-image-6.1*", ",,"] {
            assert_eq!(packages(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_meta_package_is_the_distributions() {
        let of = |text: &str| meta_package_of(text, "x86_64");
        assert_eq!(of("ID=debian\n").as_deref(), Some("linux-image-amd64"));
        assert_eq!(of("ID=ubuntu\nID_LIKE=debian\n").as_deref(), Some("linux-image-generic"));
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert_eq!(of(mint).as_deref(), Some("linux-image-generic"));
        assert_eq!(of("ID=fedora\n"), None);
        assert_eq!(meta_package_of("ID=debian\n", "aarch64").as_deref(), Some("linux-image-arm64"));
        assert_eq!(meta_package_of("ID=debian\n", "riscv64"), None);
    }
}
