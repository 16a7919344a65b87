//! Shell: finds a Debian kernel and reads its modules: installed, unpacked, or still a `.deb`.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::modules::{Available, ModuleInfo, name_of};

/// Larger than any module; guards against a compressed file that unpacks without end.
const MAX_MODULE_BYTES: u64 = 64 << 20;

/// A kernel and its modules on this machine.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// Its release, as in `6.1.0-56-amd64`.
    pub version: String,
    /// The compressed kernel image.
    pub vmlinuz: PathBuf,
    /// Its `lib/modules/VERSION`.
    pub modules: PathBuf,
    /// Where a `.deb` was unpacked; it is removed with the last copy of this.
    _unpacked: Option<Arc<TempDir>>,
}

/// Finds the kernel in `from`: a folder with `boot/vmlinuz-VERSION` and `lib/modules/VERSION`
/// (`/` on an installed Debian), or a `linux-image` package file.
///
/// Of several the newest counts, unless `version` names one. A cloud kernel, which lacks the
/// drivers of real PCs, is taken only where there is no other.
///
/// # Errors
/// No kernel, or none of that version, or one without its modules; each says what to do.
pub fn find(from: &Path, version: Option<&str>) -> Result<KernelFiles> {
    let unpacked = if from.is_file() { Some(Arc::new(unpack(from)?)) } else { None };
    let root = unpacked.as_ref().map_or(from, |folder| folder.path());
    let boot = root.join("boot");
    let mut found = versions(&boot);
    if let Some(wanted) = version {
        ensure!(
            found.iter().any(|v| v == wanted),
            "no kernel {wanted} in {}: there is {}",
            boot.display(),
            if found.is_empty() { "none".to_owned() } else { found.join(", ") }
        );
        found.retain(|v| v == wanted);
    }
    found.sort_by(|a, b| is_cloud(b).cmp(&is_cloud(a)).then_with(|| compare(a, b)));
    let Some(version) = found.pop() else {
        bail!(
            "no Debian kernel in {}: `apt install linux-image-amd64`, or --kernel with a folder of an \
             unpacked linux-image package, or with the package file itself",
            boot.display()
        );
    };
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|folder| root.join(folder).join(&version))
        .into_iter()
        .find(|folder| folder.join("kernel").is_dir());
    let Some(modules) = modules else {
        bail!(
            "kernel {version} is in {}, but its modules are not in {}: install or unpack the complete \
             package linux-image-{version}",
            boot.display(),
            root.join("lib/modules").join(&version).display()
        );
    };
    let vmlinuz = boot.join(format!("vmlinuz-{version}"));
    Ok(KernelFiles { version, vmlinuz, modules, _unpacked: unpacked })
}

/// Finds the modules of kernel `release` alone: in a package, in a root folder, or in a folder `lib/modules/RELEASE` itself.
///
/// # Errors
/// There are none of that release; says what to do.
pub fn find_modules(from: &Path, release: &str) -> Result<KernelFiles> {
    let unpacked = if from.is_file() { Some(Arc::new(unpack(from)?)) } else { None };
    let root = unpacked.as_ref().map_or(from, |folder| folder.path());
    let places = [
        root.join("usr/lib/modules"),
        root.join("lib/modules"),
        root.join("modules"),
        root.to_owned(),
    ];
    let folders = places.iter().map(|place| place.join(release)).chain([root.to_owned()]);
    let modules = folders.into_iter().find(|folder| {
        folder.join("kernel").is_dir() && (folder != root || root.ends_with(release))
    });
    let Some(modules) = modules else {
        bail!(
            "there are no modules of kernel {release} in {}: give the package of exactly this kernel, or a folder with \
             lib/modules/{release}",
            from.display()
        );
    };
    let vmlinuz = root.join("boot").join(format!("vmlinuz-{release}"));
    Ok(KernelFiles { version: release.to_owned(), vmlinuz, modules, _unpacked: unpacked })
}

impl KernelFiles {
    /// Lists its modules.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn available(&self) -> Result<Available> {
        let mut available = Available::default();
        for entry in WalkDir::new(self.modules.join("kernel")) {
            let entry = entry.context("cannot list the kernel's modules")?;
            let path = entry.path().strip_prefix(&self.modules).context("below its own folder")?;
            let Some(path) = path.to_str() else { continue };
            if let Some(name) = name_of(path).filter(|_| entry.file_type().is_file()) {
                available.files.insert(name, path.to_owned());
            }
        }
        available.builtin = self.builtin()?.lines().filter_map(name_of).collect();
        Ok(available)
    }

    /// Its `modules.builtin`: what needs no file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn builtin(&self) -> Result<String> {
        let path = self.modules.join("modules.builtin");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// One module: what it says about itself, and its bytes, unpacked.
    ///
    /// # Errors
    /// A file that cannot be read or unpacked, or is no module.
    pub fn module_with_info(&self, file: &str) -> Result<(ModuleInfo, Vec<u8>)> {
        let path = self.modules.join(file);
        let bytes =
            read_unpacked(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let Some(info) = ModuleInfo::read(&bytes) else {
            bail!("{} is not a kernel module", path.display());
        };
        Ok((info, bytes))
    }
}

/// A file's bytes, unpacked where its name ends in `.xz` or `.zst`.
///
/// # Errors
/// What reading or unpacking reports.
pub fn read_unpacked(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => run("xz", &["-dc"], path, "xz-utils"),
        Some("gz") => run("gzip", &["-dc"], path, "gzip"),
        Some("zst") => {
            let mut bytes = Vec::new();
            let unpacked = zstd::Decoder::new(fs::File::open(path)?)?;
            unpacked.take(MAX_MODULE_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        _ => Ok(fs::read(path)?),
    }
}

fn run(program: &str, arguments: &[&str], file: &Path, package: &str) -> Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}: `apt install {package}`"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", words.trim());
    Ok(output.stdout)
}

fn unpack(package: &Path) -> Result<TempDir> {
    let folder = TempDir::new().context("cannot make a temporary folder")?;
    let status = Command::new("dpkg-deb")
        .arg("-x")
        .args([package, folder.path()])
        .status()
        .context("cannot run dpkg-deb, which unpacks Debian packages")?;
    let name = package.display();
    ensure!(
        status.success(),
        "{name} is not a Debian package: give a folder, or linux-image-VERSION_amd64.deb"
    );
    Ok(folder)
}

/// The kernels in a folder.
fn versions(boot: &Path) -> Vec<String> {
    let entries = fs::read_dir(boot).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let versions: BTreeSet<_> =
        names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).collect();
    versions.into_iter().collect()
}

fn is_cloud(version: &str) -> bool {
    version.contains("-cloud-")
}

/// Compares two versions: runs of digits as numbers, all else as text.
fn compare(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

/// A version as (text, number) pairs: `6.1.0-56` is ("", 6), (".", 1), (".", 0), ("-", 56).
fn parts(version: &str) -> Vec<(&str, u64)> {
    let mut parts = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let (text, tail) =
            rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(end);
        parts.push((text, digits.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these kernels, each with an empty module tree.
    fn folder(versions: &[&str]) -> TempDir {
        let folder = TempDir::new().expect("a temporary folder");
        for version in versions {
            let modules = folder.path().join("lib/modules").join(version).join("kernel");
            fs::create_dir_all(modules).expect("a new folder");
            fs::create_dir_all(folder.path().join("boot")).expect("a new folder");
            fs::write(folder.path().join(format!("boot/vmlinuz-{version}")), "k").expect("a file");
        }
        folder
    }

    fn check(versions: &[&str], wanted: Option<&str>, expected: &str) {
        let folder = folder(versions);
        match find(folder.path(), wanted) {
            Ok(kernel) => assert_eq!(kernel.version, expected),
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
    }

    #[test]
    fn the_newest_kernel_counts_unless_one_is_named() {
        check(&["6.1.0-9-amd64", "6.1.0-56-amd64"], None, "6.1.0-56-amd64");
        check(&["6.1.0-9-amd64", "6.1.0-56-amd64"], Some("6.1.0-9-amd64"), "6.1.0-9-amd64");
        check(&["6.12.1-amd64", "6.2-amd64"], None, "6.12.1-amd64");
        check(&["6.12.1-cloud-amd64", "6.1.0-9-amd64"], None, "6.1.0-9-amd64");
        check(&["6.12.1-cloud-amd64"], None, "6.12.1-cloud-amd64");
    }

    #[test]
    fn a_missing_kernel_names_the_remedy() {
        check(&[], None, "apt install linux-image-amd64");
        check(&["6.1.0-9-amd64"], Some("6.9"), "there is 6.1.0-9-amd64");
        let folder = folder(&["6.1.0-9-amd64"]);
        fs::remove_dir_all(folder.path().join("lib")).expect("it was just made");
        let error = find(folder.path(), None).expect_err("no modules").to_string();
        assert!(error.contains("complete package linux-image-6.1.0-9-amd64"), "{error}");
    }

    #[test]
    fn modules_are_found_without_their_kernel() {
        let folder = folder(&["6.1.0-9-amd64"]);
        fs::remove_dir_all(folder.path().join("boot")).expect("it was just made");
        let modules = folder.path().join("lib/modules/6.1.0-9-amd64");
        for from in [folder.path(), &folder.path().join("lib/modules"), &modules] {
            assert_eq!(find_modules(from, "6.1.0-9-amd64").expect("modules").modules, modules);
        }
        let error = find_modules(&modules, "6.1.0-56-amd64").expect_err("another").to_string();
        assert!(error.contains("exactly this kernel"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_package_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let error = find(file.path(), None).expect_err("an empty file").to_string();
        assert!(error.contains("not a Debian package"), "{error}");
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("a.ko.zst");
        fs::write(&path, zstd::encode_all(b"module".as_slice(), 3).expect("memory"))
            .expect("a file");
        assert_eq!(read_unpacked(&path).expect("zstd"), b"module");
        let plain = folder.path().join("b.ko");
        fs::write(&plain, "module").expect("a file");
        assert!(Command::new("xz").arg(&plain).status().expect("xz is on every Debian").success());
        assert_eq!(read_unpacked(&folder.path().join("b.ko.xz")).expect("xz"), b"module");
    }
}
