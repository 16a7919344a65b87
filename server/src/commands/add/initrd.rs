//! Shell: the names of the files in an initrd, whatever it is packed with, and what they say about the family.
//!
//! An initrd is one newc archive after the other, each plain or compressed (`Documentation/driver-api/early-userspace/
//! buffer-format.rst`): usually a plain one with microcode first. All but zstd are unpacked by Debian's programs.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use bt_catalog::Family;

/// Larger initrds are not looked into.
const MOST: u64 = 1 << 30;
/// Compressors by the first bytes of what they write.
const PACKED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"BZh", "bzip2"),
];
/// What a family's initrd holds, as the end of a path.
const MARKS: [(Family, &str); 5] = [
    (Family::DebianLive, "scripts/live"),
    (Family::Casper, "scripts/casper"),
    (Family::Kiwi, "kiwi-live-root"),
    (Family::Dracut, "dmsquash-live-root"),
    (Family::Archiso, "hooks/archiso"),
];

/// The paths in an initrd.
///
/// # Errors
/// A compressor that is not known or not installed, or a damaged initrd.
pub fn names(initrd: &Path) -> Result<Vec<String>> {
    ensure!(fs::metadata(initrd)?.len() <= MOST, "it is larger than 1 GiB");
    let bytes = fs::read(initrd)?;
    let mut names = Vec::new();
    let rest = plain_archives(&bytes, &mut names);
    if !rest.is_empty() {
        let unpacked = unpack(rest)?;
        plain_archives(&unpacked, &mut names);
    }
    ensure!(!names.is_empty(), "it contains no archive");
    Ok(names)
}

/// The family whose programs are in an initrd of these files.
pub fn family(names: &[String]) -> Option<Family> {
    let has = |mark: &str| names.iter().any(|name| name.ends_with(mark));
    MARKS.iter().find(|(_, mark)| has(mark)).map(|(family, _)| *family)
}

/// Reads the plain archives at the start, and returns what follows them.
fn plain_archives<'a>(bytes: &'a [u8], names: &mut Vec<String>) -> &'a [u8] {
    let mut at = 0;
    loop {
        // Archives are padded with zeros, as far as their writers like.
        while bytes.get(at) == Some(&0) {
            at += 1;
        }
        let Some((name, next)) = entry(bytes, at) else {
            return bytes.get(at..).unwrap_or_default();
        };
        if name != "TRAILER!!!" {
            names.push(name);
        }
        at = next;
    }
}

/// The entry of a newc archive at `at`: its name, and where the next one begins.
fn entry(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let header = bytes.get(at..at.checked_add(110)?)?;
    let is_newc = header.starts_with(b"070701") || header.starts_with(b"070702");
    let field = |index: usize| {
        let digits = std::str::from_utf8(header.get(6 + 8 * index..14 + 8 * index)?).ok()?;
        usize::from_str_radix(digits, 16).ok()
    };
    let (size, name_size) = (field(6)?, field(11)?);
    let name = bytes.get(at + 110..(at + 110).checked_add(name_size)?)?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0")?).into_owned();
    // Offsets count from the start of this archive, which is itself at a multiple of four.
    let content = (110 + name_size).next_multiple_of(4);
    let next = at.checked_add(content)?.checked_add(size.checked_next_multiple_of(4)?)?;
    is_newc.then_some((name, next))
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let Some((_, program)) = PACKED.iter().find(|(magic, _)| packed.starts_with(magic)) else {
        bail!("it is compressed in an unknown format")
    };
    if *program == "zstd" {
        let mut bytes = Vec::new();
        // What stands behind it is no error: what came before counts.
        let _end = zstd::Decoder::new(packed)?.read_to_end(&mut bytes);
        return Ok(bytes);
    }
    let mut command = Command::new(program);
    command.args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}: `apt install {program}`"))?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    let output = thread::scope(|scope| {
        // What stands behind the packed archive makes the program end early; what it wrote counts.
        scope.spawn(move || input.write_all(packed));
        child.wait_with_output()
    });
    Ok(output?.stdout)
}

#[cfg(test)]
mod tests {
    use bt_initramfs::cpio;
    use proptest::prelude::*;

    use super::*;

    fn archive(paths: &[&str]) -> Vec<u8> {
        let mut writer = cpio::Writer::new(Vec::new());
        for path in paths {
            writer.add(&cpio::Entry::file(*path, 0o644, "content")).expect("memory");
        }
        writer.finish().expect("memory")
    }

    fn check(initrd: &[u8], expected: &[&str]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), initrd).expect("written");
        assert_eq!(names(file.path()).expect("an initrd"), expected);
    }

    #[test]
    fn plain_and_packed_archives_follow_each_other() {
        let microcode = archive(&["kernel/x86/microcode/GenuineIntel.bin"]);
        let main = archive(&["init", "scripts/live"]);
        check(&main, &["init", "scripts/live"]);
        let packed = zstd::encode_all(main.as_slice(), 3).expect("memory");
        let padded = [microcode, vec![0; 1024], packed].concat();
        check(&padded, &["kernel/x86/microcode/GenuineIntel.bin", "init", "scripts/live"]);
    }

    #[test]
    fn an_initrd_says_its_family() {
        let of = |path: &str| family(&["init".to_owned(), path.to_owned()]);
        assert_eq!(of("scripts/live"), Some(Family::DebianLive));
        assert_eq!(of("sbin/dmsquash-live-root"), Some(Family::Dracut));
        assert_eq!(of("usr/sbin/kiwi-live-root"), Some(Family::Kiwi));
        assert_eq!(of("hooks/archiso"), Some(Family::Archiso));
        assert_eq!(of("bin/sh"), None);
    }

    #[test]
    fn what_is_no_initrd_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(names(file.path()).is_err());
        fs::write(file.path(), "text").expect("written");
        assert!(names(file.path()).expect_err("no initrd").to_string().contains("unknown format"));
    }

    proptest! {
        #[test]
        fn damaged_archives_end_without_a_panic(at in 0_usize..400, junk in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = archive(&["init", "scripts/live"]);
            let end = (at + junk.len()).min(bytes.len());
            bytes.splice(at..end, junk);
            let _rest = plain_archives(&bytes, &mut Vec::new());
        }
    }
}
