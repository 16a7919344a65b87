//! Shell: huge pages, taken first thing after power-on, before memory is fragmented.
//!
//! They come from the kernel's own allocator, so they never include memory that kernel or firmware keep, and each has a
//! fixed physical address: what is written into them is there for the next kernel, for as long as they are mapped.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use super::placement::{PAGE, Range, address_of, runs_of};

/// How many huge pages the kernel keeps.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
/// How many of them are not mapped.
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
/// What the picker needs in addition: drivers, fonts, the network. And a fraction of all memory, since large PCs have
/// large screens and more devices.
const PICKER: u64 = 88 << 20;
const PART: u64 = 64;
/// The most that is taken: cleaning pages takes a second for each 5 to 10 GiB, and images are smaller.
const MOST: u64 = 16 << 30;

/// What the kernel keeps for itself (`sysctl vm.min_free_kbytes`), in KiB. For transparent huge pages, which are of no use
/// here, it would keep 44 MiB that the image could use.
const MIN_FREE: (&str, u64) = ("/proc/sys/vm/min_free_kbytes", 8 << 10);

/// Asks the kernel to set huge pages aside: all that is free but what the picker needs. To be called before anything else.
///
/// Returns how many bytes there are.
pub fn reserve() -> u64 {
    if let Err(error) = fs::write(MIN_FREE.0, MIN_FREE.1.to_string()) {
        tracing::warn!(%error, "cannot lower the kernel's memory reserve");
    }
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(free) = field(&meminfo, "MemFree:") else { return 0 };
    let kept = PICKER + field(&meminfo, "MemTotal:").unwrap_or(0) / PART;
    let held = count(POOL);
    let more = free.saturating_sub(kept) / PAGE;
    let wanted = (held + more).min(MOST / PAGE);
    if wanted > held {
        set_pool(wanted);
    }
    count(POOL) * PAGE
}

/// A field of `/proc/meminfo` in bytes.
#[must_use]
pub fn field(meminfo: &str, name: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// A number in sysfs; 0 where there is none.
fn count(file: &str) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The kernel allocates or frees as many as it can.
fn set_pool(pages: u64) {
    if let Err(error) = fs::write(POOL, pages.to_string()) {
        tracing::warn!(%error, "cannot change the number of huge pages");
    }
}

/// Huge pages that are mapped and clean, by physical address.
#[derive(Debug)]
pub struct Pages {
    /// Sorted by physical address.
    pages: Vec<(u64, NonNull<u8>)>,
}

// SAFETY: the pages are plain memory that this value alone owns; the accessors say who may touch which bytes.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// No pages at all.
    #[must_use]
    pub fn none() -> Self {
        Self { pages: Vec::new() }
    }

    /// Maps every page that [`reserve`] set aside and is not mapped yet; they are filled with zeros.
    ///
    /// # Errors
    /// When the kernel does not map them, or hides their addresses.
    pub fn map() -> io::Result<Self> {
        let count = usize::try_from(count(FREE)).unwrap_or(0);
        let size = PAGE as usize;
        if count == 0 {
            return Ok(Self::none());
        }
        let flags =
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_POPULATE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), count * size, protection, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut mapped = Self { pages: Vec::with_capacity(count) };
        // SAFETY: every page lies within the mapping just made. From here on the value owns them.
        mapped.pages.extend((0..count).map(|n| (0, unsafe { base.add(n * size) })));
        mapped.learn_addresses()?;
        Ok(mapped)
    }

    fn learn_addresses(&mut self) -> io::Result<()> {
        let pagemap = File::open("/proc/self/pagemap")?;
        for (physical, page) in &mut self.pages {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, page.as_ptr() as u64 / 4096 * 8)?;
            *physical = address_of(u64::from_ne_bytes(entry)).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the kernel hides physical addresses",
                )
            })?;
        }
        self.pages.sort_unstable();
        Ok(())
    }

    /// The physically contiguous runs.
    #[must_use]
    pub fn runs(&self) -> Vec<Range> {
        let addresses: Vec<u64> = self.pages.iter().map(|(physical, _)| *physical).collect();
        runs_of(&addresses)
    }

    /// Returns every page outside these ranges to the kernel.
    pub fn keep_only(&mut self, ranges: &[Range]) {
        self.pages.retain(|(physical, page)| {
            let page_range = Range { start: *physical, size: PAGE };
            let is_kept = ranges.iter().any(|range| range.overlaps(page_range));
            if !is_kept {
                unmap(*page);
            }
            is_kept
        });
        set_pool(self.pages.len() as u64);
    }

    /// Copies bytes to a physical address.
    ///
    /// # Errors
    /// When not all of them are in these pages.
    pub fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.each_part(at, data.len(), |page, range| {
            let data = &data[range];
            // SAFETY: `each_part` yields addresses within one mapped page; source and page cannot overlap. Two threads may
            // write at once, to different bytes: the swarm stores each block once.
            unsafe { page.copy_from_nonoverlapping(NonNull::from(data).cast(), data.len()) };
        })
    }

    /// Copies bytes from a physical address.
    ///
    /// # Errors
    /// When not all of them are in these pages.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.each_part(at, buffer.len(), |page, range| {
            let buffer = &mut buffer[range];
            // SAFETY: as in `write`. What is read was written before: the swarm reads only pieces that are complete.
            unsafe {
                page.copy_to_nonoverlapping(NonNull::from(&mut *buffer).cast(), buffer.len())
            };
        })
    }

    /// Calls `part` for each page that the range touches, with the place in it and which bytes go there.
    fn each_part(
        &self,
        at: u64,
        length: usize,
        mut part: impl FnMut(NonNull<u8>, std::ops::Range<usize>),
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let address = at + done as u64;
            let (page, offset) = (address / PAGE * PAGE, (address % PAGE) as usize);
            let found = self.pages.binary_search_by_key(&page, |(physical, _)| *physical);
            let number = found.map_err(|_| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
            let take = (length - done).min(PAGE as usize - offset);
            // SAFETY: `offset` is below the size of a page, and the page is mapped for as long as it is listed.
            part(unsafe { self.pages[number].1.add(offset) }, done..done + take);
            done += take;
        }
        Ok(())
    }
}

impl Drop for Pages {
    /// The pages stay in the kernel's pool, so that memory is not fragmented before the next choice.
    fn drop(&mut self) {
        self.pages.iter().for_each(|(_, page)| unmap(*page));
    }
}

fn unmap(page: NonNull<u8>) {
    // SAFETY: one complete page of a mapping of this process, which nothing uses any more.
    if unsafe { libc::munmap(page.as_ptr().cast(), PAGE as usize) } != 0 {
        tracing::warn!(error = %io::Error::last_os_error(), "cannot unmap a huge page");
    }
}

/// Returns the entire pool to the kernel, for boot methods that need ordinary memory.
pub fn release_all() {
    set_pool(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:        2014208 kB\nMemFree:  100 kB\nMemAvailable:    1500000 kB\n";
        assert_eq!(field(text, "MemFree:"), Some(100 << 10));
        assert_eq!(field(text, "MemAvailable:"), Some(1_500_000 << 10));
        assert_eq!(field(text, "Shmem:"), None);
    }

    #[test]
    fn bytes_cross_the_border_of_two_pages_and_come_back() {
        let size = PAGE as usize;
        // Plain memory with made-up addresses: two pages that are neighbours, and one apart.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), 3 * size, protection, flags, -1, 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = NonNull::new(base.cast::<u8>()).expect("mapped");
        // SAFETY: within the mapping.
        let page = |n: usize| unsafe { base.add(n * size) };
        let pages =
            Pages { pages: vec![(8 * PAGE, page(2)), (9 * PAGE, page(0)), (20 * PAGE, page(1))] };
        assert_eq!(pages.runs().len(), 2);
        pages.write(9 * PAGE - 3, b"border").expect("inside");
        let mut back = [0; 6];
        pages.read(9 * PAGE - 3, &mut back).expect("inside");
        assert_eq!(&back, b"border");
        assert!(pages.write(10 * PAGE - 1, b"xx").is_err());
        assert!(pages.read(0, &mut back).is_err());
    }
}
