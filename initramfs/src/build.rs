//! Shell: manifest, kernel and inputs -> `vmlinuz` and `initrd.img` for the nodes of one lab.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bt_catalog::{LabId, PublicKey};

use crate::cpio::Entry;
use crate::elf::{Program, program};
use crate::image::{Image, mega, pack};
use crate::kernel::{self, KernelFiles, read_unpacked};
use crate::manifest::{Manifest, ModuleGroup, NODE, Source};
use crate::modules::ModuleSet;

/// Where the Debian package fonts-inter has its files.
pub const DEBIAN_FONTS: &str = "/usr/share/fonts/opentype/inter";

/// Where Debian's firmware packages have their files.
pub const DEBIAN_FIRMWARE: &str = "/lib/firmware";

/// A larger initramfs is refused: every PC of a room fetches it from the server before it can help
/// its neighbours, so 20 MB for each of 30 PCs are five seconds of a full gigabit link.
pub const MAX_INITRAMFS_BYTES: u64 = 20_000_000;

/// The group of folders, links and devices.
const BASE: &str = "base";

/// The group of the tables that `modprobe` reads.
const TABLES: &str = "tables";

/// Files in this package's folder `files`, by the name the manifest uses.
const KEPT: [(&str, &str); 1] = [("udhcpc.script", include_str!("../files/udhcpc.script"))];

/// What to build from, and where to.
#[derive(Debug, Clone)]
pub struct Options {
    /// The static `bt-node`.
    pub node: PathBuf,
    /// The static `busybox`.
    pub busybox: PathBuf,
    /// A folder or package with a kernel; see [`kernel::find`].
    pub kernel: PathBuf,
    /// Which kernel, if there are several.
    pub kernel_version: Option<String>,
    /// The lab's root key, a minisign public key file.
    pub root_key: PathBuf,
    /// The lab's id.
    pub lab_id: LabId,
    /// The lowest catalog version that the nodes accept.
    pub version_floor: u64,
    /// The folder with Inter's font files.
    pub font: PathBuf,
    /// The folder with firmware for network adapters; what is not there is left out.
    pub firmware: PathBuf,
    /// The folder that gets the two files.
    pub out: PathBuf,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The kernel's release.
    pub kernel_version: String,
    /// The kernel, copied.
    pub vmlinuz: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The initramfs and what it is made of.
    pub image: Image,
    /// Modules that the manifest names and this kernel does not have.
    pub absent: Vec<String>,
    /// Firmware files taken along.
    pub firmware: Vec<String>,
}

/// Builds the two boot files. Same inputs, same bytes.
///
/// # Errors
/// An input that is missing or of the wrong kind, with what to do about it.
pub fn build(options: &Options) -> Result<Built> {
    let manifest = Manifest::parse(NODE).context("this package's own manifest.toml")?;
    let kernel = kernel::find(&options.kernel, options.kernel_version.as_deref())?;
    let groups: Vec<_> = manifest.modules.iter().collect();
    let mut contents = Contents::new(&manifest);
    for file in &manifest.files {
        let bytes = options.read(&file.source)?;
        contents.put(&file.group, Entry::file(&file.path, file.mode, bytes));
    }
    let modules = contents.put_modules(&kernel, &groups, &manifest.never)?;
    let firmware = contents.put_firmware(&modules, &groups, &options.firmware)?;
    let image = contents.pack()?;
    ensure!(
        image.bytes.len() as u64 <= MAX_INITRAMFS_BYTES,
        "the initramfs is larger than {}; the groups take\n{}",
        mega(MAX_INITRAMFS_BYTES),
        image.table()
    );

    fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make the folder {}", options.out.display()))?;
    let vmlinuz = options.out.join("vmlinuz");
    let initrd = options.out.join("initrd.img");
    let kernel_bytes = fs::read(&kernel.vmlinuz)
        .with_context(|| format!("cannot read {}", kernel.vmlinuz.display()))?;
    replace(&vmlinuz, &kernel_bytes)?;
    replace(&initrd, &image.bytes)?;
    let kernel_version = kernel.version;
    Ok(Built { kernel_version, vmlinuz, initrd, image, absent: modules.absent, firmware })
}

impl Options {
    fn read(&self, source: &Source) -> Result<Vec<u8>> {
        match source {
            Source::Text(text) => Ok(self.fill(text).into_bytes()),
            Source::Kept(name) => match KEPT.iter().find(|(kept, _)| kept == name) {
                Some((_, text)) => Ok(text.as_bytes().to_vec()),
                None => bail!("manifest: there is no kept file `{name}`"),
            },
            Source::Input(input) => match input.as_str() {
                "node" => read_static(&self.node, NODE_REMEDY),
                "busybox" => read_static(&self.busybox, BUSYBOX_REMEDY),
                "root_key" => read_key(&self.root_key),
                other => bail!("manifest: there is no input {{{other}}}"),
            },
            Source::InFolder(input, name) if input == "font" => {
                let path = self.font.join(name);
                fs::read(&path).with_context(|| {
                    format!(
                        "cannot read the font {}: `apt install fonts-inter`, or --font FOLDER",
                        path.display()
                    )
                })
            }
            Source::InFolder(input, _) => bail!("manifest: there is no folder {{{input}}}"),
        }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{lab_id}", &self.lab_id.to_string())
            .replace("{version_floor}", &self.version_floor.to_string())
    }
}

const NODE_REMEDY: &str = "build it with `RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build \
     --package bt-node --profile node --target x86_64-unknown-linux-gnu`";

/// What to do about a busybox that is missing or needs libraries.
pub(crate) const BUSYBOX_REMEDY: &str = "`apt install busybox-static`, or --busybox FILE";

/// Reads a program that has to run with nothing but a kernel.
pub(crate) fn read_static(path: &Path, remedy: &str) -> Result<Vec<u8>> {
    let bytes =
        fs::read(path).with_context(|| format!("cannot read {}: {remedy}", path.display()))?;
    let wrong = match program(&bytes) {
        Program::Static => return Ok(bytes),
        Program::Dynamic => "needs libraries, which the initramfs does not have",
        Program::Foreign => "is not a program for an x86-64 PC",
    };
    bail!("{} {wrong}: {remedy}", path.display());
}

fn read_key(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path).with_context(|| {
        format!("cannot read the lab's root key {}: `bt-server init` makes one", path.display())
    })?;
    PublicKey::parse(&text).with_context(|| format!("{}", path.display()))?;
    Ok(text.into_bytes())
}

/// What goes into one image, group by group.
#[derive(Debug)]
pub(crate) struct Contents {
    groups: Vec<(String, Vec<Entry>)>,
    folders: BTreeSet<String>,
}

impl Contents {
    /// Starts with a manifest's folders, devices and links.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let mut contents = Self { groups: Vec::new(), folders: BTreeSet::new() };
        for folder in &manifest.folders {
            contents.put_folder(folder);
        }
        for device in &manifest.devices {
            let node = Entry::device(&device.path, device.mode, device.major, device.minor);
            contents.put(BASE, node);
        }
        for (path, to) in &manifest.links {
            contents.put(BASE, Entry::link(path, to));
        }
        contents
    }

    /// Adds an entry and the folders above it.
    pub(crate) fn put(&mut self, group: &str, entry: Entry) {
        if let Some((folder, _)) = entry.path.rsplit_once('/') {
            self.put_folder(folder);
        }
        match self.groups.iter_mut().find(|(name, _)| name == group) {
            Some((_, entries)) => entries.push(entry),
            None => self.groups.push((group.to_owned(), vec![entry])),
        }
    }

    fn put_folder(&mut self, path: &str) {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        if path == "/root" {
            self.put(BASE, Entry { mode: 0o700, ..Entry::folder(path) });
        } else if path == "/tmp" {
            self.put(BASE, Entry { mode: 0o1777, ..Entry::folder(path) });
        } else {
            self.put(BASE, Entry::folder(path));
        }
    }

    /// Adds the modules that these groups want, and the tables for `modprobe`.
    pub(crate) fn put_modules(
        &mut self,
        kernel: &KernelFiles,
        groups: &[&ModuleGroup],
        never: &[String],
    ) -> Result<ModuleSet> {
        let available = kernel.available()?;
        // Each file is read once, though it is asked for its statement first and its bytes later.
        let mut read = BTreeMap::new();
        let set = ModuleSet::close(&available, groups, |file| {
            let (info, bytes) = kernel.module_with_info(file)?;
            read.insert(file.to_owned(), bytes);
            Ok(info)
        })?;
        if let Some(name) = set.forbidden(never) {
            bail!("the manifest forbids module {name}, but another module needs it");
        }
        let folder = format!("/lib/modules/{}", kernel.version);
        for group in groups {
            for module in set.modules.values().filter(|module| module.group == group.group) {
                let bytes = read.remove(&module.file).context("read with its statement")?;
                let path = format!("{folder}/{}", module.path());
                self.put(&module.group, Entry::file(path, 0o644, bytes));
            }
        }
        let tables = [
            (format!("{folder}/modules.dep"), set.modules_dep()),
            (format!("{folder}/modules.alias"), set.modules_alias()),
            (format!("{folder}/modules.builtin"), kernel.builtin()?),
        ];
        for (path, text) in tables {
            self.put(TABLES, Entry::file(path, 0o644, text));
        }
        Ok(set)
    }

    /// Adds the firmware that these groups' modules may ask for, as far as `folder` has it.
    fn put_firmware(
        &mut self,
        set: &ModuleSet,
        groups: &[&ModuleGroup],
        folder: &Path,
    ) -> Result<Vec<String>> {
        let takes = |group: &str| groups.iter().any(|g| g.group == group && g.firmware);
        let modules = set.modules.values().filter(|module| takes(&module.group));
        let names: BTreeSet<_> = modules.flat_map(|module| &module.info.firmware).collect();
        let mut taken = Vec::new();
        for name in names {
            let packed = ["", ".xz", ".zst"].map(|suffix| folder.join(format!("{name}{suffix}")));
            let Some(path) = packed.into_iter().find(|path| path.is_file()) else { continue };
            let bytes = read_unpacked(&path)
                .with_context(|| format!("cannot read the firmware {}", path.display()))?;
            self.put("firmware", Entry::file(format!("/lib/firmware/{name}"), 0o644, bytes));
            taken.push(name.clone());
        }
        Ok(taken)
    }

    /// Packs everything.
    pub(crate) fn pack(&self) -> Result<Image> {
        let groups = self.groups.iter().map(|(name, entries)| (name.as_str(), entries.as_slice()));
        pack(groups).context("cannot pack the initramfs")
    }
}

/// Writes a file so that a reader sees the old one or the new one, never half of one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::cpio::{Node, tests::read};
    use crate::elf::tests::{executable, module};

    const KEY: &str = "untrusted comment: minisign public key D050BAF5CE9F7641\n\
        RWRBdp/O9bpQ0JuN6arUwFgw7yekbulltXRFcxry2Vtj2t8k89dC4HN5\n";

    /// A small kernel, programs, fonts and firmware, all in one folder.
    fn inputs() -> (TempDir, Options) {
        let folder = TempDir::new().expect("a temporary folder");
        let root = folder.path();
        let modules = "lib/modules/6.1.0-1-amd64";
        let evdev = module(b"depends=\0alias=input:b*\0");
        let r8169 = module(b"depends=libphy\0softdep=pre: realtek\0firmware=rtl_nic/a.fw\0");
        let realtek = zstd::encode_all(module(b"depends=libphy\0").as_slice(), 3).expect("memory");
        let files: [(&str, &[u8]); 13] = [
            ("boot/vmlinuz-6.1.0-1-amd64", b"kernel"),
            (&format!("{modules}/modules.builtin"), b"kernel/net/libphy.ko\n"),
            (&format!("{modules}/kernel/input/evdev.ko"), &evdev),
            (&format!("{modules}/kernel/net/r8169.ko"), &r8169),
            (&format!("{modules}/kernel/net/realtek.ko.zst"), &realtek),
            ("rtl_nic/a.fw", b"firmware"),
            ("node", &executable(Program::Static)),
            ("dynamic", &executable(Program::Dynamic)),
            ("root.pub", KEY.as_bytes()),
            ("Inter-Regular.otf", b"font"),
            ("Inter-Medium.otf", b"font"),
            ("Inter-SemiBold.otf", b"font"),
            ("Inter-Bold.otf", b"font"),
        ];
        for (path, bytes) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("in the folder")).expect("a new folder");
            fs::write(path, bytes).expect("a new file");
        }
        let options = Options {
            node: root.join("node"),
            busybox: root.join("node"),
            kernel: root.to_owned(),
            kernel_version: None,
            root_key: root.join("root.pub"),
            lab_id: "00112233445566778899aabbccddeeff".parse().expect("a lab id"),
            version_floor: 7,
            font: root.to_owned(),
            firmware: root.to_owned(),
            out: root.join("out"),
        };
        (folder, options)
    }

    fn refused(change: impl FnOnce(&mut Options, &Path), part: &str) {
        let (folder, mut options) = inputs();
        change(&mut options, folder.path());
        let error = format!("{:#}", build(&options).expect_err("must be refused"));
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn the_image_holds_what_a_node_needs() {
        let (_folder, options) = inputs();
        let built = build(&options).expect("complete inputs");
        let archive = zstd::decode_all(built.image.bytes.as_slice()).expect("zstd");
        let entries = read(&archive);
        let text = |path: &str| {
            let entry = entries.iter().find(|entry| entry.path == path);
            match entry.map(|entry| &entry.node) {
                Some(Node::File(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                other => panic!("{path} is {other:?}"),
            }
        };
        let lab = text("/etc/boottorrent/lab.toml");
        assert_eq!(
            lab,
            "lab_id = \"00112233445566778899aabbccddeeff\"\nversion_floor = 7\nbuilt = 0\n"
        );
        assert_eq!(text("/etc/boottorrent/root.pub"), KEY);
        assert_eq!(text("/lib/firmware/rtl_nic/a.fw"), "firmware");
        assert_eq!(built.firmware, ["rtl_nic/a.fw"]);
        let modules = "/lib/modules/6.1.0-1-amd64";
        assert_eq!(
            text(&format!("{modules}/modules.dep")),
            "kernel/input/evdev.ko:\nkernel/net/r8169.ko: kernel/net/realtek.ko\n\
             kernel/net/realtek.ko:\n"
        );
        assert_eq!(text(&format!("{modules}/modules.alias")), "alias input:b* evdev\n");
        assert!(text(&format!("{modules}/kernel/net/realtek.ko")).starts_with("\x7fELF"));
        assert!(built.absent.contains(&"tg3".to_owned()));
        assert_eq!(fs::read(&built.initrd).expect("just written"), built.image.bytes);
        assert_eq!(fs::read(&built.vmlinuz).expect("just written"), b"kernel");
    }

    #[test]
    fn every_folder_comes_before_what_is_in_it() {
        let (_folder, options) = inputs();
        let built = build(&options).expect("complete inputs");
        let archive = zstd::decode_all(built.image.bytes.as_slice()).expect("zstd");
        let mut folders = BTreeSet::from([String::new()]);
        for entry in read(&archive) {
            let (folder, _) = entry.path.rsplit_once('/').expect("absolute");
            assert!(folders.contains(folder), "{}", entry.path);
            if entry.node == Node::Folder {
                folders.insert(entry.path);
            }
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let (one, two) = (inputs(), inputs());
        let build = |options| build(options).expect("complete inputs").image;
        assert_eq!(build(&one.1), build(&two.1));
    }

    #[test]
    fn each_wrong_input_is_refused_with_a_remedy() {
        refused(|o, folder| o.node = folder.join("dynamic"), "needs libraries");
        refused(|o, folder| o.node = folder.join("gone"), "crt-static");
        refused(|o, folder| o.busybox = folder.join("root.pub"), "busybox-static");
        refused(|o, folder| o.root_key = folder.join("node"), "node");
        refused(|o, folder| o.root_key = folder.join("gone"), "bt-server init");
        refused(|o, folder| o.font = folder.join("gone"), "fonts-inter");
        refused(|o, folder| o.kernel = folder.join("gone"), "apt install linux-image-amd64");
    }
}
