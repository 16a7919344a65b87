use std::io::Read;

use bt_catalog::Role;

use super::iso::Iso;
use super::*;

const RELEASE: &str = "6.1.0-56-amd64";

/// The smallest file that counts as a kernel, distinguished by its last byte.
fn kernel(mark: u8) -> Vec<u8> {
    let mut bytes = vec![0; 0x800];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x20e, &0x400_u16.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &[1, 0]);
    put(0x600, RELEASE.as_bytes());
    put(0x7ff, &[mark]);
    bytes
}

struct Bench {
    folder: tempfile::TempDir,
    lab: Lab,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["lab/images", "lab/catalog"] {
            fs::create_dir_all(folder.path().join(name)).expect("made");
        }
        let bench = folder.path().join("lab");
        fs::write(bench.join("server.toml"), "interface = \"lo\"\n[dhcp]\nmode = \"off\"\n")
            .expect("written");
        let lab = Lab::open(&bench).expect("a lab");
        Self { folder, lab }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn add(&self, source: &str, id: &str) -> Result<Vec<String>> {
        let id = Some(id.parse().expect("an id"));
        add(
            &self.lab,
            &Options { source: self.folder.path().join(source), id, name: None, modules: None },
        )
    }

    fn refused(&self, source: &str, part: &str) {
        let error = format!("{:#}", self.add(source, "x").expect_err("must be refused"));
        assert!(error.contains(part), "{error}");
        let left: Vec<_> = fs::read_dir(self.lab.images()).expect("listed").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn entry(&self, id: &str) -> Entry {
        self.lab.system(&id.parse().expect("an id")).expect("a good system").entry
    }
}

/// A root file system with what `add` looks for in one.
fn debian_root(bench: &Bench) {
    bench.file(&format!("root/boot/vmlinuz-{RELEASE}"), kernel(1));
    bench.file(&format!("root/boot/initrd.img-{RELEASE}"), "initrd");
    bench.file("root/usr/lib/live/boot/9990-main.sh", "#!/bin/sh");
    bench.file("root/usr/lib/os-release", "PRETTY_NAME=\"Test \\ OS\"\nID=debian\n");
    bench.file("root/etc/hostname", "x");
    let modules = format!("root/usr/lib/modules/{RELEASE}");
    bench.file(&format!("{modules}/kernel/other.ko"), "not looked at");
    let builtin = "kernel/drivers/nvdimm/nd_pmem.ko\nkernel/drivers/nvdimm/nd_e820.ko\nkernel/drivers/block/loop.ko\nkernel/drivers/md/dm-mod.ko\n";
    bench.file(&format!("{modules}/modules.builtin"), builtin);
}

#[test]
fn a_folder_of_kernel_and_initrd_becomes_a_plain_system() {
    let bench = Bench::new();
    bench.file("netboot/debian-installer/amd64/linux", kernel(1));
    bench.file("netboot/debian-installer/amd64/initrd.gz", "initrd");
    let lines = bench.add("netboot", "installer").expect("added");
    assert!(
        lines[0].contains("the Debian installer") && lines[1].contains("not signed"),
        "{lines:?}"
    );
    let entry = bench.entry("installer");
    assert_eq!((entry.family, entry.name.as_str()), (Family::Plain, "Debian installer"));
    assert_eq!(entry.files().len(), 2);
}

#[test]
fn adding_again_replaces_the_files_and_keeps_the_entry_and_what_is_open() {
    let bench = Bench::new();
    bench.file("plain/vmlinuz", kernel(1));
    bench.file("plain/initrd.img", "one");
    bench.add("plain", "x").expect("added");
    let (entry, image) =
        (bench.lab.catalog().join("x.toml"), bench.lab.images().join("x/initrd.img"));
    let edited = fs::read_to_string(&entry).expect("written") + "rooms = [\"A1\"]\n";
    fs::write(&entry, &edited).expect("edited");
    let mut open = fs::File::open(&image).expect("there");
    bench.file("plain/initrd.img", "two");
    bench.add("plain", "x").expect("added again");
    assert_eq!(fs::read_to_string(&image).expect("there"), "two");
    assert_eq!(fs::read_to_string(&entry).expect("there"), edited);
    let mut old = String::new();
    open.read_to_string(&mut old).expect("still readable");
    assert_eq!(old, "one");
    let folders: Vec<_> = fs::read_dir(bench.lab.images())
        .expect("listed")
        .flatten()
        .map(|f| f.file_name())
        .collect();
    assert_eq!(folders, ["x"]);
}

#[test]
fn what_an_interrupted_add_left_goes_with_the_next_and_what_another_is_making_stays() {
    let bench = Bench::new();
    bench.file("lab/images/.adding-x-dead/live.iso", "half of it");
    bench.file("lab/images/.adding-x-alive/live.iso", "half of it");
    let alive = fs::File::open(bench.lab.images().join(".adding-x-alive")).expect("there");
    alive.lock().expect("locked");
    bench.file("plain/vmlinuz", kernel(1));
    bench.file("plain/initrd.img", "one");
    let lines = bench.add("plain", "x").expect("added");
    assert!(lines[1].contains("(vmlinuz)"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("could not be inspected")), "{lines:?}");
    assert!(lines.last().expect("some").contains("`min_ram` is a guess"), "{lines:?}");
    let exists = |name: &str| bench.lab.images().join(name).exists();
    assert!(exists("x") && exists(".adding-x-alive") && !exists(".adding-x-dead"));
}

#[test]
fn an_entry_of_another_system_is_not_overwritten() {
    let bench = Bench::new();
    bench.file("plain/vmlinuz", kernel(1));
    bench.file("plain/initrd.img", "one");
    bench.file("lab/catalog/x.toml", "name = \"Mine\"\nkernel = \"images/mine/vmlinuz\"\n");
    bench.refused("plain", "choose another --id");
}

#[test]
fn a_bare_squashfs_becomes_a_medium_with_that_squashfs_on_it() {
    let bench = Bench::new();
    debian_root(&bench);
    let squashfs = bench.folder.path().join("filesystem.squashfs");
    let mut mksquashfs = Command::new("mksquashfs");
    mksquashfs
        .arg(bench.folder.path().join("root"))
        .arg(&squashfs)
        .args(["-quiet", "-no-progress"]);
    assert!(
        mksquashfs.stdout(Stdio::null()).status().expect("squashfs-tools is installed").success()
    );
    let lines = bench.add("filesystem.squashfs", "debian").expect("added");
    assert!(lines[2].contains("all built in"), "{lines:?}");
    check_medium(&bench, &fs::read(&squashfs).expect("there"));
}

#[test]
fn a_root_folder_becomes_a_medium_too() {
    let bench = Bench::new();
    debian_root(&bench);
    bench.add("root", "debian").expect("added");
    let medium = fs::File::open(bench.lab.images().join("debian/live.iso")).expect("there");
    let mut medium = Iso::open(medium).expect("a medium");
    check_medium(&bench, &medium.read("live/filesystem.squashfs", 1 << 24).expect("on it"));
}

#[test]
fn dracut_gets_its_overlay_where_the_squashfs_is_the_root_itself() {
    let bench = Bench::new();
    debian_root(&bench);
    fs::remove_dir_all(bench.folder.path().join("root/usr/lib/live")).expect("made before");
    let script = "root/usr/lib/dracut/modules.d/90dmsquash-live/dmsquash-live-root.sh";
    bench.file(script, "#!/bin/sh");
    bench.add("root", "fedora").expect("added");
    let entry = bench.entry("fedora");
    assert_eq!(entry.family, Family::Dracut);
    assert_eq!(entry.cmdline, "quiet rd.live.overlay.overlayfs=1");
}

/// The medium of system `debian` holds exactly this squashfs, and its entry fits.
fn check_medium(bench: &Bench, squashfs: &[u8]) {
    let place = bench.lab.images().join("debian");
    let mut medium =
        Iso::open(fs::File::open(place.join(IMAGE)).expect("there")).expect("a medium");
    assert_eq!(medium.bytes, fs::metadata(place.join(IMAGE)).expect("there").len());
    assert!(squashfs.starts_with(squashfs::MAGIC));
    assert!(medium.read("live/filesystem.squashfs", 1 << 24).expect("on it") == squashfs);
    let part = fs::read(place.join(HANDOVER)).expect("there");
    assert!(part.starts_with(b"070701") && part.len().is_multiple_of(512));
    let entry = bench.entry("debian");
    assert_eq!(
        (entry.family, entry.method, entry.cmdline.as_str()),
        (Family::DebianLive, None, "quiet")
    );
    assert_eq!(entry.files().iter().map(|(role, _)| *role).collect::<Vec<_>>(), Role::ALL);
    assert_eq!(entry.name, "Test \\ OS");
}

#[test]
fn what_cannot_be_added_is_refused_in_words_and_leaves_nothing() {
    let bench = Bench::new();
    bench.refused("nowhere.iso", "cannot open");
    bench.file("text.iso", "no medium");
    bench.refused("text.iso", "neither an ISO nor a squashfs");
    bench.file("nothing.iso", "");
    bench.refused("nothing.iso", "is empty");
    bench.file("half/vmlinuz", kernel(1));
    bench.file("half/initrd.img", "");
    bench.refused("half", "initrd initrd.img is empty");
    bench.file("vmlinuz", kernel(1));
    bench.refused("vmlinuz", "with its initrd");
    bench.file("empty/notes.txt", "");
    bench.refused("empty", "neither a live system");
    bench.file("false/vmlinuz", "no kernel");
    bench.file("false/initrd", "x");
    bench.refused("false", "not a Linux kernel");
    let head = wrap::header("L", "live/filesystem.squashfs", 5000).expect("valid");
    bench.file("cut.iso", &head[..60_000]);
    bench.refused("cut.iso", "the copy is incomplete");
    bench.file("bare.iso", [head.as_slice(), &[0; 6144]].concat());
    bench.refused("bare.iso", "it contains no kernel");
}

#[test]
fn a_live_system_without_its_modules_says_where_they_could_be() {
    let bench = Bench::new();
    debian_root(&bench);
    fs::remove_dir_all(bench.folder.path().join("root/usr/lib/modules")).expect("it was there");
    // A release that no machine runs.
    let mut odd = kernel(1);
    odd[0x600..0x609].copy_from_slice(b"0.0.0-odd");
    odd[0x609..0x610].fill(0);
    fs::write(bench.folder.path().join(format!("root/boot/vmlinuz-{RELEASE}")), odd)
        .expect("written");
    bench.refused("root", "--modules");
    bench.refused("root", "it is Debian with live-boot");
}

#[test]
fn a_tool_that_fails_is_quoted_with_its_reason() {
    let words = "xorriso 1.5.4\n\nxorriso : FAILURE : no space\nlibisofs: cancelled\n";
    assert_eq!(last_words(words), "xorriso : FAILURE : no space; libisofs: cancelled");
    assert_eq!(last_words(""), "");
}
