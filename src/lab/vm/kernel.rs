//! Finds the guest's kernel: given, in the cache, installed, or fetched now.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cache::Cache;
use super::fetch;
use super::modules::{self, ModulesError};

/// The cache's folder of fetched kernels: `kernels/RELEASE/{boot,lib}`.
const KERNELS: &str = "kernels";

/// A bootable kernel with its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// The image that QEMU loads.
    pub image: PathBuf,
    /// The folder that becomes `/lib/modules/RELEASE` in the guest.
    pub modules: PathBuf,
    /// `uname -r` in the guest.
    pub release: String,
}

/// Why no kernel was found for the guest.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The given image is not a kernel in a known layout.
    #[error(
        "{} cannot be booted: {why}; name an image vmlinuz-RELEASE whose modules lie in \
         ../lib/modules/RELEASE or /lib/modules/RELEASE", .image.display()
    )]
    Given {
        /// The given path.
        image: PathBuf,
        /// The reason.
        why: String,
    },
    /// Modules are missing.
    #[error("the kernel lacks modules that the lab needs")]
    Modules(#[from] ModulesError),
    /// The cache cannot be used.
    #[error("the cache {} cannot be used", .cache.display())]
    Cache {
        /// The folder.
        cache: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Fetching failed.
    #[error("this machine has no kernel for the VM, and fetching one failed: {why}; {cure}")]
    Fetch {
        /// The reason.
        why: String,
        /// The cure.
        cure: String,
    },
}

/// The kernel to boot: `given` or `$LVSPROV_KERNEL`; else a kernel in the cache; else an installed one with
/// all needed modules; else the distribution's kernel, fetched now into the cache (about 70 MB).
///
/// # Errors
/// See [`KernelError`].
pub fn locate(cache: &Cache, given: Option<&Path>) -> Result<GuestKernel, KernelError> {
    let variable = std::env::var_os("LVSPROV_KERNEL").filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(image) = given.map(Path::to_owned).or(variable) {
        return from_image(&image);
    }
    if let Some(kernel) = fetched(cache).or_else(installed) {
        return Ok(kernel);
    }
    let unusable = |source| KernelError::Cache { cache: cache.path().to_owned(), source };
    let lock = cache.lock().map_err(unusable)?;
    // Another process may have fetched it during the wait.
    if let Some(kernel) = fetched(cache) {
        return Ok(kernel);
    }
    let kernels = cache.path().join(KERNELS);
    fs::create_dir_all(&kernels).map_err(unusable)?;
    let release = fetch::into_folder(&kernels)?;
    drop(lock);
    let kernel = from_layout(&kernels.join(&release), &release);
    let kernel =
        kernel.filter(|k| File::open(&k.image).is_ok()).ok_or_else(|| KernelError::Fetch {
            why: format!("the package of {release} does not contain boot/vmlinuz-{release}"),
            cure: "give an image by --kernel or LVSPROV_KERNEL".to_owned(),
        })?;
    require_modules(&kernel)?;
    Ok(kernel)
}

/// The most recently fetched complete kernel of the cache.
fn fetched(cache: &Cache) -> Option<GuestKernel> {
    let mut found: Vec<(SystemTime, GuestKernel)> = Vec::new();
    for entry in fs::read_dir(cache.path().join(KERNELS)).ok()?.flatten() {
        let Ok(release) = entry.file_name().into_string() else { continue };
        let Some(kernel) = from_layout(&entry.path(), &release).filter(is_usable) else { continue };
        let made = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        found.push((made, kernel));
    }
    found.into_iter().max_by_key(|(made, _)| *made).map(|(_, kernel)| kernel)
}

/// The last installed kernel by name with all needed modules.
fn installed() -> Option<GuestKernel> {
    let mut images: Vec<PathBuf> =
        fs::read_dir("/boot").ok()?.flatten().map(|entry| entry.path()).collect();
    images.sort();
    images.iter().rev().find_map(|image| from_image(image).ok().filter(is_usable))
}

/// The kernel of an image: the release from its name, the modules from the usual folders.
fn from_image(image: &Path) -> Result<GuestKernel, KernelError> {
    let wrong = |why: String| KernelError::Given { image: image.to_owned(), why };
    File::open(image).map_err(|error| wrong(error.to_string()))?;
    let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let release = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-"));
    let release = release.ok_or_else(|| wrong("its name has no release in it".to_owned()))?;
    let beside = image.parent().and_then(Path::parent).map(|base| base.join("lib/modules"));
    let places = beside.into_iter().chain([PathBuf::from("/lib/modules")]);
    let modules = places.map(|place| place.join(release)).find(|path| path.is_dir());
    let modules = modules.ok_or_else(|| wrong(format!("there are no modules of {release}")))?;
    let image = image.canonicalize().map_err(|error| wrong(error.to_string()))?;
    let kernel = GuestKernel { image, modules, release: release.to_owned() };
    require_modules(&kernel)?;
    Ok(kernel)
}

fn from_layout(folder: &Path, release: &str) -> Option<GuestKernel> {
    let modules = folder.join("lib/modules").join(release);
    let unpacked = folder.join("boot").join(format!("vmlinux-{release}"));
    let packed = folder.join("boot").join(format!("vmlinuz-{release}"));
    let image = if unpacked.is_file() { unpacked } else { packed };
    modules.is_dir().then(|| GuestKernel { image, modules, release: release.to_owned() })
}

fn is_usable(kernel: &GuestKernel) -> bool {
    File::open(&kernel.image).is_ok() && require_modules(kernel).is_ok()
}

fn require_modules(kernel: &GuestKernel) -> Result<(), ModulesError> {
    let wanted = [modules::FOR_THE_ROOT, modules::FOR_THE_LAB].concat();
    modules::in_order(&kernel.modules, &wanted).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn layout(base: &Path, release: &str, modules: &str) {
        let folder = base.join("lib/modules").join(release);
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(base.join("boot")).unwrap();
        fs::write(base.join("boot").join(format!("vmlinuz-{release}")), "image").unwrap();
        fs::write(folder.join("modules.dep"), modules).unwrap();
        fs::write(folder.join("modules.builtin"), "").unwrap();
    }

    fn all_modules() -> String {
        let all = [modules::FOR_THE_ROOT, modules::FOR_THE_LAB].concat();
        all.iter().map(|name| format!("kernel/{name}.ko:\n")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn only_complete_kernels_of_the_cache_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        assert_eq!(fetched(&cache), None);
        let kernels = cache.path().join(KERNELS);
        layout(&kernels.join("6.1.0"), "6.1.0", "kernel/net/netfilter/ipvs/ip_vs.ko:\n");
        assert_eq!(fetched(&cache), None);
        layout(&kernels.join("6.2.0"), "6.2.0", &all_modules());
        let kernel = fetched(&cache).unwrap();
        assert_eq!(kernel.release, "6.2.0");
        assert_eq!(kernel.image, kernels.join("6.2.0/boot/vmlinuz-6.2.0"));
    }

    #[test]
    fn a_given_kernel_is_accepted_or_refused_with_its_missing_modules() {
        let folder = tempfile::tempdir().unwrap();
        layout(folder.path(), "6.1.0", &all_modules());
        let image = folder.path().join("boot/vmlinuz-6.1.0");
        assert_eq!(from_image(&image).unwrap().release, "6.1.0");
        layout(folder.path(), "6.0.0", "kernel/drivers/virtio/virtio_pci.ko:\n");
        let error = from_image(&folder.path().join("boot/vmlinuz-6.0.0")).unwrap_err();
        let KernelError::Modules(ModulesError::Missing { missing, .. }) = error else {
            panic!("{error}");
        };
        assert!(missing.contains(&"ip_vs".to_owned()), "{missing:?}");
        for bad in ["boot/vmlinuz-9", "boot", "nothing"] {
            let error = from_image(&folder.path().join(bad)).unwrap_err();
            assert!(matches!(error, KernelError::Given { .. }), "{bad}: {error}");
        }
    }
}
