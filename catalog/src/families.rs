//! Core: how each family of live systems finds its image, one row each.
//!
//! The image is one file: an ISO 9660 medium. The handover gives it to the system as a block device, whatever the way:
//! ```text
//! zero-copy       the image lies in memory that `memmap=` keeps free            /dev/pmem0
//!                 it lies in several ranges, which become one disk               /dev/dm-0
//! initrd          the image is a file of the initramfs, attached by loop         /dev/loop0
//! ```
//! In both the handover part's program runs first (`rdinit=`), loads the modules this takes, and then starts the system's
//! own `/init`, which only needs the device's name. That word is all that differs between the families. Where each row was
//! found, and which were booted as the real thing, is in `docs/supervisor/systems.md`.

use std::fmt::Write as _;
use std::str::FromStr;

/// Where the handover part's program is in the initramfs, for the kernel's `rdinit=`.
pub const HANDOVER_INIT: &str = "/.bt-handover/init";
/// Where that program looks for the image by the boot method `initrd`.
pub const HANDOVER_IMAGE: &str = "/.bt-handover/image";
/// The most memory ranges an image may be spread over.
pub const MAX_RANGES: usize = 4;
/// What a system's own command line leaves free of the kernel's 2048 bytes, where an image is handed over: the words of its
/// family, and those of the ranges.
pub(crate) const RESERVED: usize = 400;

/// How a system finds its image once it runs (each is described in `docs/supervisor/systems.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Kernel and initrd only.
    Plain,
    /// Debian live-boot.
    DebianLive,
    /// Ubuntu casper.
    Casper,
    /// Fedora, RHEL and others with dracut's dmsquash-live.
    Dracut,
    /// Arch Linux's archiso.
    Archiso,
    /// Alpine's diskless mode.
    Alpine,
    /// openSUSE's kiwi live images.
    Kiwi,
}

/// How the image gets into the system's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootMethod {
    /// It stays where it was downloaded to, and the system sees it as `/dev/pmem0`: the zero-copy method.
    Pmem,
    /// It is a file of the initramfs: the method `initrd`, which needs three times its size for a moment.
    Initrd,
}

/// Where the image of a system is when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium<'a> {
    /// There is none.
    None,
    /// In these ranges of physical memory, each (start, size) in bytes and 2 MiB aligned, rising.
    Pmem(&'a [(u64, u64)]),
    /// In the initramfs, at [`HANDOVER_IMAGE`].
    Initrd,
}

/// What one family needs on its command line.
struct Row {
    family: Family,
    /// Its name in TOML.
    name: &'static str,
    /// The words that it gets; `@` stands for the device's name below `/dev`.
    words: &'static str,
    /// Keys that the supervisor may not give: they are given here, or they would copy the image once more or fetch another.
    forbidden: &'static [&'static str],
    /// What the supervisor has to give.
    required: Option<&'static str>,
}

/// Keys that the handover gives to every system with an image; and `--`, after which the kernel reads no more, while the
/// handover's words come last.
const FORBIDDEN: [&str; 4] = ["memmap", "rdinit", "rootfstype", "--"];

const ROWS: [Row; 7] = [
    Row { family: Family::Plain, name: "plain", words: "", forbidden: &[], required: None },
    Row {
        family: Family::DebianLive,
        name: "debian-live",
        words: "boot=live live-media=/dev/@",
        forbidden: &[
            "boot",
            "live-media",
            "toram",
            "todisk",
            "fromiso",
            "isofrom",
            "findiso",
            "fetch",
            "httpfs",
            "ftpfs",
            "netboot",
            "plainroot",
            "root",
        ],
        required: None,
    },
    Row {
        family: Family::Casper,
        name: "casper",
        words: "boot=casper live-media=/dev/@ ignore_uuid",
        forbidden: &[
            "boot",
            "live-media",
            "toram",
            "todisk",
            "url",
            "netboot",
            "iso-scan/filename",
            "root",
        ],
        required: None,
    },
    Row {
        family: Family::Dracut,
        name: "dracut",
        words: "rd.live.image root=live:/dev/@",
        forbidden: &[
            "root",
            "rd.live.ram",
            "rd.live.check",
            "rd.writable.fsimg",
            "iso-scan/filename",
        ],
        required: None,
    },
    Row {
        family: Family::Archiso,
        name: "archiso",
        words: "archisodevice=/dev/@ copytoram=n",
        forbidden: &[
            "archisodevice",
            "archisolabel",
            "archisosearchuuid",
            "archisosearchfilename",
            "copytoram",
            "archiso_http_srv",
            "archiso_nfs_srv",
            "archiso_nbd_srv",
            "img_dev",
            "img_loop",
        ],
        required: None,
    },
    Row {
        family: Family::Alpine,
        name: "alpine",
        words: "alpine_dev=@:iso9660",
        forbidden: &["alpine_dev", "root"],
        required: None,
    },
    Row {
        family: Family::Kiwi,
        name: "kiwi",
        // Its dracut module identifies a medium by its label only.
        words: "rd.live.image",
        forbidden: &["rd.live.ram", "rd.kiwi.live.pxe", "mediacheck"],
        required: Some("root=live:CDLABEL="),
    },
];

impl Family {
    /// All families, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.family)
    }

    fn row(self) -> &'static Row {
        let found = ROWS.iter().find(|row| row.family == self);
        found.expect("a test sees to it that every family has its row")
    }

    /// The name in TOML.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What a supervisor's command line may not say, or has to, for this family; says why.
    ///
    /// # Errors
    /// The first word that is wrong, in words.
    pub fn check(self, cmdline: &str) -> Result<(), String> {
        let row = self.row();
        if self == Self::Plain {
            return Ok(());
        }
        if let Some(word) = cmdline.split_whitespace().find(|word| self.forbids(word)) {
            return Err(format!(
                "`{word}` cannot stand in the command line of family `{}`: the node gives what finds the image, and it \
                 is in memory already; take the word out",
                row.name
            ));
        }
        match row.required {
            Some(start) if !cmdline.split_whitespace().any(|word| word.starts_with(start)) => {
                Err(format!(
                    "family `{}` finds its image by a word that begins with `{start}`; add it to the command line, with \
                 the label of the ISO",
                    row.name
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether a word of a command line stands against the handover of the image.
    pub fn forbids(self, word: &str) -> bool {
        let key = word.split('=').next().unwrap_or(word);
        self != Self::Plain && (FORBIDDEN.contains(&key) || self.row().forbidden.contains(&key))
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ROWS.iter().find(|row| row.name == text).map(|row| row.family).ok_or_else(|| {
            let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            format!("family `{text}` is not known; one of: {}", known.join(", "))
        })
    }
}

impl BootMethod {
    /// The name in TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pmem => "pmem",
            Self::Initrd => "initrd",
        }
    }
}

impl FromStr for BootMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Pmem, Self::Initrd].into_iter().find(|method| method.name() == text).ok_or_else(
            || {
                format!(
                    "unknown boot method `{text}`; expected \"pmem\" or \"initrd\", or leave it out"
                )
            },
        )
    }
}

impl Medium<'_> {
    /// The name of its block device below `/dev`.
    pub fn device(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Pmem([_]) => Some("pmem0"),
            Self::Pmem(_) => Some("dm-0"),
            Self::Initrd => Some("loop0"),
        }
    }
}

/// The kernel command line that a system is started with: its own, the words of its family, and those of the handover.
pub fn command_line(cmdline: &str, family: Family, medium: Medium<'_>) -> String {
    let Some(device) = medium.device() else { return cmdline.to_owned() };
    let mut line = cmdline.to_owned();
    let mut add = |word: &str| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    };
    add(&family.row().words.replace('@', device));
    // An initramfs is a tmpfs of half the memory otherwise, and unpacking a larger one fails halfway without an error.
    let mut handover = format!("rdinit={HANDOVER_INIT} rootfstype=ramfs");
    if let Medium::Pmem(ranges) = medium {
        if ranges.len() > 1 {
            write!(handover, " bt_ranges={}", ranges.len()).expect("a string takes everything");
        }
        for (start, size) in ranges {
            write!(handover, " memmap={size:#x}!{start:#x}").expect("a string takes everything");
        }
    }
    add(&handover);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Medium<'static> = Medium::Pmem(&[(0x2440_0000, 0x1000_0000)]);

    /// The row of a family as the system sees it, by both methods.
    fn check(family: Family, pmem: &str, initrd: &str) {
        let tail = "rdinit=/.bt-handover/init rootfstype=ramfs";
        let line = command_line("quiet", family, RANGE);
        assert_eq!(line, format!("quiet {pmem} {tail} memmap=0x10000000!0x24400000"));
        let line = command_line("", family, Medium::Initrd);
        assert_eq!(line, format!("{initrd} {tail}"));
    }

    #[test]
    fn debian_live_is_told_its_medium() {
        let words = ["boot=live live-media=/dev/pmem0", "boot=live live-media=/dev/loop0"];
        check(Family::DebianLive, words[0], words[1]);
    }

    #[test]
    fn casper_is_told_its_medium_and_to_accept_it() {
        let words = |device: &str| format!("boot=casper live-media=/dev/{device} ignore_uuid");
        check(Family::Casper, &words("pmem0"), &words("loop0"));
    }

    #[test]
    fn dracut_mounts_the_device_as_its_live_medium() {
        let words = |device: &str| format!("rd.live.image root=live:/dev/{device}");
        check(Family::Dracut, &words("pmem0"), &words("loop0"));
    }

    #[test]
    fn archiso_does_not_copy_what_is_in_memory() {
        let words = |device: &str| format!("archisodevice=/dev/{device} copytoram=n");
        check(Family::Archiso, &words("pmem0"), &words("loop0"));
    }

    #[test]
    fn alpine_is_told_device_and_file_system() {
        check(Family::Alpine, "alpine_dev=pmem0:iso9660", "alpine_dev=loop0:iso9660");
    }

    #[test]
    fn kiwi_finds_its_medium_by_the_label_in_the_entry() {
        check(Family::Kiwi, "rd.live.image", "rd.live.image");
        assert!(Family::Kiwi.check("quiet root=live:CDLABEL=OPENSUSE").is_ok());
        let refused = Family::Kiwi.check("quiet").expect_err("no label");
        assert!(refused.contains("root=live:CDLABEL="), "{refused}");
    }

    #[test]
    fn a_plain_system_gets_its_own_line_and_nothing_else() {
        assert_eq!(
            command_line("quiet root=/dev/sda1", Family::Plain, Medium::None),
            "quiet root=/dev/sda1"
        );
        assert!(Family::Plain.check("memmap=1G!4G root=/dev/sda1").is_ok());
        assert!(Family::DebianLive.check("quiet -- single").is_err(), "ours would come after it");
    }

    #[test]
    fn several_ranges_are_one_device_each_with_its_words() {
        let ranges = [(0x1000_0000, 0x20_0000), (0x4000_0000, 0x40_0000)];
        let line = command_line("", Family::Dracut, Medium::Pmem(&ranges));
        assert!(line.starts_with("rd.live.image root=live:/dev/dm-0 "), "{line}");
        assert!(line.contains(" bt_ranges=2 memmap="), "{line}");
        assert!(line.ends_with(" memmap=0x200000!0x10000000 memmap=0x400000!0x40000000"), "{line}");
    }

    #[test]
    fn what_copies_the_image_again_or_looks_elsewhere_is_refused() {
        let refused = |family: Family, line: &str| {
            let why = family.check(line).expect_err("must be refused");
            assert!(why.contains("take the word out"), "{why}");
        };
        refused(Family::DebianLive, "quiet toram");
        refused(Family::DebianLive, "quiet fetch=http://10.0.0.1/live.iso");
        refused(Family::Casper, "url=http://10.0.0.1/x.iso");
        refused(Family::Dracut, "rd.live.ram");
        refused(Family::Dracut, "root=live:CDLABEL=Fedora");
        refused(Family::Archiso, "copytoram=y");
        refused(Family::Archiso, "archisolabel=ARCH_202601");
        refused(Family::Alpine, "alpine_dev=sda");
        refused(Family::Kiwi, "root=live:CDLABEL=X rd.live.ram=1");
        refused(Family::Dracut, "rdinit=/bin/sh");
        for family in Family::all().filter(|f| ![Family::Plain, Family::Kiwi].contains(f)) {
            assert!(
                family.check("quiet splash console=ttyS0 rd.live.dir=x layerfs-path=y").is_ok()
            );
        }
    }

    #[test]
    fn every_family_and_way_has_one_name_that_is_read_back() {
        for family in Family::all() {
            assert_eq!(family.name().parse(), Ok(family));
        }
        // One row for each variant: `as usize` counts them.
        assert_eq!(ROWS.map(|row| row.family as usize), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(
            ["pmem".parse(), "initrd".parse()],
            [Ok(BootMethod::Pmem), Ok(BootMethod::Initrd)]
        );
        assert!("kexec".parse::<BootMethod>().is_err());
    }

    #[test]
    fn the_longest_line_fits_into_what_is_left_free_for_it() {
        let ranges = [(u64::MAX >> 20, u64::MAX >> 20); 4];
        for family in Family::all() {
            let line = command_line("", family, Medium::Pmem(&ranges));
            assert!(line.len() < RESERVED, "{} of {}", line.len(), family.name());
        }
    }
}
