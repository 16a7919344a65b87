//! Shell: the boot loaders, read once at start: iPXE, and the signed shim and GRUB.
//!
//! An operator's own folder comes first, and every file in it may be fetched, under its own name:
//! own builds of iPXE, or signed ones with a shim of their own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::{info, warn};

use crate::boot::arch::LOADERS;
use crate::boot::names::{GRUB, SHIM};
use crate::lab::Lab;
use crate::lab::files::Finding;

/// Where the Debian package `ipxe` puts the loaders.
pub const DEBIAN_IPXE: &str = "/usr/lib/ipxe";
/// Where the Debian packages `shim-signed` and `grub-efi-amd64-signed` put them. Only the build
/// `grubnetx64` looks for its menu on the network.
const DEBIAN_SIGNED: [(&str, &str); 2] = [
    (SHIM, "/usr/lib/shim/shimx64.efi.signed"),
    (GRUB, "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
];

/// The command that builds the boot files.
pub const BUILD_BOOT_FILES: &str = "bt-initramfs build --lab . --node BT_NODE";

/// The place of a finding about the small Linux that PCs boot.
pub const BOOT_FILES: &str = "boot files";

/// A loader is at most this long: anything longer is a mistake in the operator's folder.
const MAX_LOADER: u64 = 16 << 20;
/// Files of the operator's own; all of them are kept in memory.
const MAX_OWN: usize = 32;

/// Loaders, in memory, by name. Cheap to clone: TFTP and HTTP serve the same bytes.
#[derive(Debug, Clone, Default)]
pub struct Loaders {
    files: BTreeMap<String, Bytes>,
}

/// Why the loaders cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadersError {
    /// The disk refused.
    #[error("the boot loader {path} cannot be read")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too long to be one.
    #[error("{path} is not a boot loader: it has {size} bytes; the limit is {MAX_LOADER}")]
    TooLong {
        /// Which one.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// More than anybody has.
    #[error("{0} holds more than {MAX_OWN} files; leave only boot loaders there")]
    TooMany(PathBuf),
    /// Without any, nothing boots.
    #[error("no iPXE boot loader in {}; install the Debian package: apt install ipxe", .0.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or "))]
    None(Vec<PathBuf>),
}

impl Loaders {
    /// Reads every file of the first of `folders`, the operator's own, and what it lacks of iPXE
    /// from the others, of shim and GRUB from Debian's packages.
    ///
    /// # Errors
    /// When one cannot be read, or there is no iPXE at all.
    pub fn read(folders: &[&Path]) -> Result<Self, LoadersError> {
        let mut files = BTreeMap::new();
        if let Some(own) = folders.first() {
            read_folder(own, &mut files)?;
        }
        for name in LOADERS {
            let paths = folders.iter().map(|folder| folder.join(name));
            read_first(name, paths, &mut files)?;
        }
        if !LOADERS.iter().any(|name| files.contains_key(*name)) {
            let folders = folders.iter().map(|folder| folder.to_path_buf()).collect();
            return Err(LoadersError::None(folders));
        }
        for (name, path) in DEBIAN_SIGNED {
            read_first(name, [PathBuf::from(path)].into_iter(), &mut files)?;
        }
        Ok(Self { files })
    }

    /// The loader of that exact name.
    pub fn find(&self, name: &str) -> Option<(&str, &Bytes)> {
        self.files.get_key_value(name).map(|(name, bytes)| (name.as_str(), bytes))
    }

    /// Whether PCs with Secure Boot can be booted.
    pub fn has_secure_boot(&self) -> bool {
        DEBIAN_SIGNED.iter().all(|(name, _)| self.files.contains_key(*name))
    }
}

/// Where iPXE's loaders are looked for: the supervisor's own come first.
pub fn loader_folders(lab: &Lab) -> [PathBuf; 2] {
    [lab.root().join("ipxe"), Path::new(DEBIAN_IPXE).to_owned()]
}

/// Without the nodes' small Linux the rest still works: `bt-node fetch` and stock clients.
pub fn boot_files(lab: &Lab) -> Option<Finding> {
    let missing = lab.boot_files().into_iter().find(|file| !file.is_file())?;
    let what = format!(
        "{} is missing, so no PC can boot yet; build it with `{BUILD_BOOT_FILES}`",
        lab.name_of(&missing)
    );
    Some(Finding::advice(BOOT_FILES, what))
}

/// All regular files of the operator's folder; there need not be one.
fn read_folder(folder: &Path, files: &mut BTreeMap<String, Bytes>) -> Result<(), LoadersError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(LoadersError::Io { path: folder.to_owned(), source }),
    };
    for entry in entries.filter_map(Result::ok) {
        // A link may lead out of the lab folder, to a key perhaps: only files are loaders.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !is_plain(&name) {
            warn!(path = %entry.path().display(), "no firmware can ask for a file of this name");
            continue;
        }
        if files.len() >= MAX_OWN {
            return Err(LoadersError::TooMany(folder.to_owned()));
        }
        read_first(&name, [entry.path()].into_iter(), files)?;
    }
    Ok(())
}

/// Letters, digits and dots: what passes through DHCP, TFTP and a URL as it is.
fn is_plain(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    !name.starts_with('.') && name.bytes().all(is_fit)
}

/// Takes `name` from the first path that exists, unless it is there already.
fn read_first(
    name: &str,
    paths: impl Iterator<Item = PathBuf>,
    files: &mut BTreeMap<String, Bytes>,
) -> Result<(), LoadersError> {
    if files.contains_key(name) {
        return Ok(());
    }
    for path in paths {
        if let Some(bytes) = read_loader(&path)? {
            info!(path = %path.display(), bytes = bytes.len(), "boot loader");
            files.insert(name.to_owned(), bytes);
            return Ok(());
        }
    }
    Ok(())
}

fn read_loader(path: &Path) -> Result<Option<Bytes>, LoadersError> {
    let io_error = |source| LoadersError::Io { path: path.to_owned(), source };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    if size > MAX_LOADER {
        return Err(LoadersError::TooLong { path: path.to_owned(), size });
    }
    Ok(Some(std::fs::read(path).map_err(io_error)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_loader_comes_before_the_packages() {
        let own = tempfile::tempdir().expect("a temporary folder");
        let package = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(own.path().join("snponly.efi"), "own").expect("writes");
        std::fs::write(package.path().join("snponly.efi"), "package").expect("writes");
        std::fs::write(package.path().join("undionly.kpxe"), "package").expect("writes");
        std::fs::write(package.path().join("other.efi"), "package").expect("writes");
        let loaders = Loaders::read(&[own.path(), package.path()]).expect("reads");
        assert_eq!(loaders.find("snponly.efi").expect("is there").1, "own");
        assert_eq!(loaders.find("undionly.kpxe").expect("is there").1, "package");
        assert!(loaders.find("other.efi").is_none() && loaders.find("ipxe.pxe").is_none());
        let none = Loaders::read(&[Path::new("/nowhere")]).expect_err("none").to_string();
        assert!(none.contains("/nowhere") && none.contains("apt install ipxe"), "{none}");
    }

    #[test]
    fn an_operator_may_add_loaders_of_any_plain_name_but_no_links() {
        let own = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| own.path().join(name);
        std::fs::write(path("ipxe-shimx64.efi"), "shim").expect("writes");
        std::fs::write(path("ipxe.efi"), "signed").expect("writes");
        std::fs::write(path(".hidden"), "x").expect("writes");
        std::fs::write(path("no name.efi"), "x").expect("writes");
        std::fs::create_dir(path("folder")).expect("makes");
        std::os::unix::fs::symlink("/etc/passwd", path("link")).expect("links");
        let loaders = Loaders::read(&[own.path()]).expect("reads");
        assert_eq!(loaders.find("ipxe-shimx64.efi").expect("is there").1, "shim");
        for name in [".hidden", "no name.efi", "folder", "link"] {
            assert!(loaders.find(name).is_none(), "{name}");
        }
    }
}
