//! Shell: a small system to boot when there is no image yet: a Debian kernel and BusyBox.
//!
//! It says on its screen that it runs, prints its kernel command line on every console for
//! scripts to read, and gives a shell. It is made on the spot, so that nothing has to be downloaded.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::{BUSYBOX_REMEDY, Contents, read_static, replace};
use crate::cpio::{Entry, Writer};
use crate::kernel::KernelFiles;
use crate::manifest::{Manifest, NODE, Source};

/// What the sample's initrd holds.
const MANIFEST: &str = include_str!("../files/sample/manifest.toml");

/// Files in this package's folder `files`, by the name the manifest uses.
const KEPT: [(&str, &str); 4] = [
    ("init", include_str!("../files/sample/init")),
    ("inittab", include_str!("../files/sample/inittab")),
    ("profile", include_str!("../files/sample/profile")),
    ("screen", include_str!("../files/sample/screen")),
];

/// The node's module groups that the sample takes too: without them, no USB keyboard.
const MODULE_GROUPS: [&str; 2] = ["usb", "input"];

/// The two files of the sample system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleFiles {
    /// The kernel, copied.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
}

/// Makes the sample system in `out_dir`: `vmlinuz` and `initrd.img`. Same inputs, same bytes.
///
/// `pad_bytes` of noise, which no compression makes smaller, are added to the initrd, so that a
/// download takes long enough to be watched.
///
/// # Errors
/// An input that is missing or of the wrong kind, with what to do about it.
pub fn build(
    kernel: &KernelFiles,
    busybox: &Path,
    out_dir: &Path,
    pad_bytes: u64,
) -> Result<SampleFiles> {
    let manifest = Manifest::parse(MANIFEST).context("the sample's own manifest.toml")?;
    let node = Manifest::parse(NODE).context("this package's own manifest.toml")?;
    let groups = node.modules.iter().filter(|g| MODULE_GROUPS.contains(&g.group.as_str()));
    let groups: Vec<_> = groups.collect();
    let mut contents = Contents::new(&manifest);
    for file in &manifest.files {
        let bytes = read(&file.source, busybox)?;
        contents.put(&file.group, Entry::file(&file.path, file.mode, bytes));
    }
    contents.put_modules(kernel, &groups, &node.never)?;
    let image = contents.pack()?;

    fs::create_dir_all(out_dir)
        .with_context(|| format!("cannot make the folder {}", out_dir.display()))?;
    let files = SampleFiles { kernel: out_dir.join("vmlinuz"), initrd: out_dir.join("initrd.img") };
    let kernel_bytes = fs::read(&kernel.vmlinuz)
        .with_context(|| format!("cannot read {}", kernel.vmlinuz.display()))?;
    replace(&files.kernel, &kernel_bytes)?;
    write_initrd(&files.initrd, &image.bytes, pad_bytes)
        .with_context(|| format!("cannot write {}", files.initrd.display()))?;
    Ok(files)
}

fn read(source: &Source, busybox: &Path) -> Result<Vec<u8>> {
    match source {
        Source::Text(text) => Ok(text.clone().into_bytes()),
        Source::Input(input) if input == "busybox" => read_static(busybox, BUSYBOX_REMEDY),
        Source::Kept(name) if let Some((_, text)) = KEPT.iter().find(|(kept, _)| kept == name) => {
            Ok(text.as_bytes().to_vec())
        }
        other => bail!("the sample's manifest names {other:?}, which there is not"),
    }
}

/// The noise stands first, in an archive of its own and not compressed: the kernel unpacks one
/// archive after the other, and a padded plain one may stand before any other.
fn write_initrd(path: &Path, image: &[u8], pad_bytes: u64) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut out = BufWriter::new(fs::File::create(&new)?);
    if pad_bytes > 0 {
        let mut writer = Writer::new(&mut out);
        writer.add_stream("/noise", 0o644, pad_bytes, |out| write_noise(out, pad_bytes))?;
        writer.finish()?;
    }
    out.write_all(image)?;
    out.into_inner()?.sync_all()?;
    fs::rename(new, path)
}

/// Writes `size` bytes of SplitMix64 from 0: always the same, and nothing that compression could use.
///
/// # Errors
/// What `out` reports.
pub fn write_noise(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let mut state = 0u64;
    let mut left = size;
    let mut block = [0u8; 64 * 1024];
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        let size = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        out.write_all(&block[..size])?;
        left -= size as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_manifest_is_good_and_all_its_files_are_kept() {
        let manifest = Manifest::parse(MANIFEST).expect("the sample's manifest");
        for file in manifest.files.iter().filter(|f| matches!(f.source, Source::Kept(_))) {
            assert!(read(&file.source, Path::new("")).is_ok(), "{}", file.path);
        }
        let node = Manifest::parse(NODE).expect("the manifest of this package");
        assert!(MODULE_GROUPS.iter().all(|name| node.module_group(name).is_some()));
    }

    #[test]
    fn every_script_is_one_for_the_shell_that_runs_it() {
        let udhcpc = include_str!("../files/udhcpc.script");
        let scripts = KEPT.into_iter().filter(|(name, _)| *name != "inittab");
        for (name, text) in scripts.chain([("udhcpc.script", udhcpc)]) {
            let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
            file.write_all(text.as_bytes()).expect("it was just made");
            let mut shell = std::process::Command::new("busybox");
            let said = shell.args(["sh", "-n"]).arg(file.path()).output();
            let said = said.expect("busybox-static is installed");
            assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stderr));
        }
    }

    #[test]
    fn noise_is_always_the_same_and_does_not_compress() {
        let noise = |size| {
            let mut bytes = Vec::new();
            write_noise(&mut bytes, size).expect("a vector takes everything");
            bytes
        };
        assert_eq!(noise(100_001).len(), 100_001);
        assert_eq!(noise(70_000), noise(100_001)[..70_000]);
        let packed = zstd::encode_all(noise(100_000).as_slice(), 19).expect("memory");
        assert!(packed.len() > 99_000, "{}", packed.len());
    }

    #[test]
    fn the_noise_stands_before_the_image_and_ends_on_a_block() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("initrd.img");
        write_initrd(&path, b"image", 1000).expect("a new file");
        let bytes = fs::read(&path).expect("just written");
        assert!(bytes.starts_with(b"070701") && bytes.ends_with(b"image"));
        assert_eq!((bytes.len() - b"image".len()) % 512, 0);
        write_initrd(&path, b"image", 0).expect("a known file");
        assert_eq!(fs::read(&path).expect("just written"), b"image");
    }
}
