//! Core: the newc archive that a kernel unpacks as its initramfs; same entries, same bytes.
//!
//! No clock, user or inode of the building machine gets in: times are 0, everything belongs to
//! root, inodes count up from 1. Format: `Documentation/driver-api/early-userspace/
//! buffer-format.rst` of the Linux source. Left out: hard links and the checksum variant.

use std::io::{self, Write};

/// Archives end on a multiple of this many bytes, as GNU cpio ends them.
const BLOCK: u64 = 512;

/// The name that marks the end of an archive.
const TRAILER: &str = "TRAILER!!!";

/// What stands at a path of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A file with these bytes.
    File(Vec<u8>),
    /// A symbolic link to this path.
    Link(String),
    /// A character device.
    Device {
        /// Which driver.
        major: u32,
        /// Which of the driver's devices.
        minor: u32,
    },
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path with one leading slash, which the archive leaves out.
    pub path: String,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// What stands there.
    pub node: Node,
}

impl Entry {
    /// A folder that everyone may read.
    pub fn folder(path: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o755, node: Node::Folder }
    }

    /// A file.
    pub fn file(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, node: Node::File(content.into()) }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, to: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o777, node: Node::Link(to.into()) }
    }

    /// A character device.
    pub fn device(path: impl Into<String>, mode: u32, major: u32, minor: u32) -> Self {
        Self { path: path.into(), mode, node: Node::Device { major, minor } }
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.node, Node::File(_))
    }

    /// How many bytes of content the archive carries for this entry.
    pub fn size(&self) -> u64 {
        match &self.node {
            Node::File(content) => content.len() as u64,
            Node::Link(to) => to.len() as u64,
            Node::Folder | Node::Device { .. } => 0,
        }
    }
}

/// Writes entries in the order they are given; a folder has to come before what is in it.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// Starts an empty archive.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, inode: 0 }
    }

    /// Adds one entry.
    ///
    /// # Errors
    /// What `out` reports; a file of 4 GiB or more, which newc cannot state.
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let (kind, device) = match entry.node {
            Node::Folder => (0o040_000, (0, 0)),
            Node::File(_) => (0o100_000, (0, 0)),
            Node::Link(_) => (0o120_000, (0, 0)),
            Node::Device { major, minor } => (0o020_000, (major, minor)),
        };
        self.header(&entry.path, kind | entry.mode, entry.size(), device)?;
        match &entry.node {
            Node::File(content) => self.put(content)?,
            Node::Link(to) => self.put(to.as_bytes())?,
            Node::Folder | Node::Device { .. } => {}
        }
        self.pad(4)
    }

    /// Adds a file of `size` bytes that `content` writes, for what should not be held in memory.
    ///
    /// # Errors
    /// As [`Self::add`], and where `content` writes another number of bytes.
    pub fn add_stream(
        &mut self,
        path: &str,
        mode: u32,
        size: u64,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.header(path, 0o100_000 | mode, size, (0, 0))?;
        let mut counted = Counted { out: &mut self.out, count: 0 };
        content(&mut counted)?;
        let count = counted.count;
        if count != size {
            return Err(io::Error::other(format!("{path} has {count} bytes, not {size}")));
        }
        self.written += count;
        self.pad(4)
    }

    /// Hands what was written so far to whatever stands behind, such as a compressor.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The place the archive goes to.
    pub fn out(&self) -> &W {
        &self.out
    }

    /// Ends the archive and pads it to a full block.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = u32::MAX; // The next is 0, as every other writer gives its trailer.
        self.header(TRAILER, 0, 0, (0, 0))?;
        self.pad(BLOCK)?;
        Ok(self.out)
    }

    fn header(&mut self, path: &str, mode: u32, size: u64, rdev: (u32, u32)) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| {
            io::Error::other(format!("{path} is too large: a newc archive ends at 4 GiB per file"))
        })?;
        let name = path.strip_prefix('/').unwrap_or(path);
        self.inode = self.inode.wrapping_add(1);
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let fields = [
            self.inode, mode, 0, /* uid */
            0, /* gid */
            links, 0, /* mtime */
            size, 0, 0, /* device */
            rdev.0, rdev.1, name_size, 0, /* check */
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.put(header.as_bytes())?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(to) - self.written;
        io::copy(&mut io::Read::take(io::repeat(0), missing), &mut self.out)?;
        self.written += missing;
        Ok(())
    }
}

struct Counted<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads an archive back; only what [`Writer`] writes. Stops at the trailer.
    pub(crate) fn read(archive: &[u8]) -> Vec<Entry> {
        let field = |at: usize, index: usize| {
            let from = at + 6 + 8 * index;
            let text = std::str::from_utf8(&archive[from..from + 8]).expect("ASCII");
            u32::from_str_radix(text, 16).expect("hexadecimal")
        };
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701", "no header at {at}");
            let (mode, size) = (field(at, 1), field(at, 6) as usize);
            let name_size = field(at, 11) as usize;
            let name = &archive[at + 110..at + 110 + name_size - 1];
            let name = String::from_utf8(name.to_vec()).expect("UTF-8");
            let start = (at + 110 + name_size).next_multiple_of(4);
            let content = archive[start..start + size].to_vec();
            if name == TRAILER {
                return entries;
            }
            let node = match mode & 0o170_000 {
                0o040_000 => Node::Folder,
                0o100_000 => Node::File(content),
                0o120_000 => Node::Link(String::from_utf8(content).expect("UTF-8")),
                0o020_000 => Node::Device { major: field(at, 9), minor: field(at, 10) },
                other => panic!("kind {other:o}"),
            };
            entries.push(Entry { path: format!("/{name}"), mode: mode & 0o7777, node });
            at = (start + size).next_multiple_of(4);
        }
    }

    fn write(entries: &[Entry]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for entry in entries {
            writer.add(entry).expect("a vector takes everything");
        }
        writer.finish().expect("a vector takes everything")
    }

    #[test]
    fn a_file_has_exactly_these_bytes() {
        let archive = write(&[Entry::file("/init", 0o755, *b"hello")]);
        // Magic, then: inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), name size,
        // check; the name ends with a zero and is padded to four bytes, as is the content.
        let golden = concat!(
            "070701",
            "00000001",
            "000081ED",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000005",
            "00000000",
            "init\0\0",
            "hello\0\0\0",
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000B",
            "00000000",
            "TRAILER!!!\0",
        );
        assert_eq!(String::from_utf8_lossy(&archive[..golden.len()]), golden);
        assert_eq!(archive.len(), 512);
        assert!(archive[golden.len()..].iter().all(|b| *b == 0));
    }

    #[test]
    fn stock_cpio_lists_what_was_written() {
        let entries = [
            Entry::folder("/dev"),
            Entry::device("/dev/console", 0o600, 5, 1),
            Entry::file("/init", 0o755, *b"x"),
            Entry::link("/sh", "busybox"),
        ];
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), write(&entries)).expect("it was just made");
        let input = std::fs::File::open(file.path()).expect("it was just made");
        let list =
            std::process::Command::new("busybox").args(["cpio", "-tv"]).stdin(input).output();
        let list = String::from_utf8(list.expect("busybox-static is installed").stdout);
        let list = list.expect("ASCII");
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines.len(), 4, "{list}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("dev"), "{list}");
        assert!(lines[1].starts_with("crw-------") && lines[1].ends_with("dev/console"), "{list}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].ends_with("init"), "{list}");
        assert!(lines[3].ends_with("sh -> busybox"), "{list}");
    }

    #[test]
    fn the_kernels_own_device_nodes_come_back() {
        let entries = [
            Entry::folder("/dev"),
            Entry::device("/dev/console", 0o600, 5, 1),
            Entry::link("/a", "b"),
        ];
        assert_eq!(read(&write(&entries)), entries);
    }

    #[test]
    fn a_stream_of_another_length_is_refused() {
        let mut writer = Writer::new(Vec::new());
        let error = writer.add_stream("/pad", 0o644, 5, |out| out.write_all(b"four"));
        assert_eq!(error.expect_err("four is not five").to_string(), "/pad has 4 bytes, not 5");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            files in prop::collection::vec(("/[a-z]{1,12}", 0u32..0o10000, prop::collection::vec(any::<u8>(), 0..40)), 0..8)
        ) {
            let entries: Vec<_> =
                files.into_iter().map(|(path, mode, content)| Entry::file(path, mode, content)).collect();
            let archive = write(&entries);
            prop_assert_eq!(archive.len() % 512, 0);
            prop_assert_eq!(read(&archive), entries);
        }
    }
}
