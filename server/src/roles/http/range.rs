//! Shell: the small Linux's two files, and how a file is sent, whole or in part (RFC 9110 §14).
//!
//! The files are kept in memory: 30 nodes that boot at once read the disk once, and a file that
//! is replaced meanwhile cannot be half old and half new.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tracing::{info, warn};

/// What there is below `/boot/`.
const NAMES: [&str; 2] = ["vmlinuz", "initrd.img"];
/// Both together are 30 MB; far more is no file of ours.
const MAX_FILE: u64 = 256 << 20;

/// Tells whether a file on disk is still the one in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(io::Error::other("not a kernel or initramfs"));
        }
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The kernel and the initramfs that nodes boot.
#[derive(Debug)]
pub struct BootFiles {
    folder: PathBuf,
    /// One lock for both files: the second of two nodes waits for the first one's read.
    kept: Mutex<HashMap<&'static str, (Stamp, Bytes)>>,
}

impl BootFiles {
    /// Reads nothing yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, kept: Mutex::default() }
    }

    /// The file as it is now.
    pub async fn find(&self, name: &str) -> Option<Bytes> {
        let name = NAMES.into_iter().find(|known| *known == name)?;
        let path = self.folder.join(name);
        let mut kept = self.kept.lock().await;
        let known = kept.get(name).cloned();
        let shown = path.display().to_string();
        let work = tokio::task::spawn_blocking(move || read(&path, known));
        match work.await.expect("reading a file does not panic") {
            Ok((stamp, bytes)) => {
                kept.insert(name, (stamp, bytes.clone()));
                Some(bytes)
            }
            Err(error) => {
                // That a file is missing, the supervisor was told at start; here anybody could
                // fill the log with it.
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(path = shown, %error, "a boot file cannot be read");
                }
                kept.remove(name);
                None
            }
        }
    }
}

fn read(path: &Path, known: Option<(Stamp, Bytes)>) -> io::Result<(Stamp, Bytes)> {
    let stamp = Stamp::of(path)?;
    if let Some(known) = known.filter(|(of, _)| *of == stamp) {
        return Ok(known);
    }
    let bytes = Bytes::from(std::fs::read(path)?);
    info!(path = %path.display(), bytes = bytes.len(), "boot file read");
    Ok((stamp, bytes))
}

/// The answer to a GET or HEAD of `bytes`, and the length of its body.
pub(super) fn response(
    bytes: Bytes,
    content_type: &'static str,
    range: Option<&str>,
) -> (Response, u64) {
    let total = bytes.len();
    let headers = [(header::CONTENT_TYPE, content_type), (header::ACCEPT_RANGES, "bytes")];
    match wanted(range, total) {
        Wanted::Whole => ((headers, bytes).into_response(), total as u64),
        Wanted::Part(part) => {
            let content_range = format!("bytes {}-{}/{total}", part.start, part.end - 1);
            let length = part.len() as u64;
            let headers = (headers, [(header::CONTENT_RANGE, content_range)]);
            let body = bytes.slice(part);
            ((StatusCode::PARTIAL_CONTENT, headers.0, headers.1, body).into_response(), length)
        }
        Wanted::Beyond => {
            let content_range = [(header::CONTENT_RANGE, format!("bytes */{total}"))];
            ((StatusCode::RANGE_NOT_SATISFIABLE, content_range).into_response(), 0)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<usize>),
    Beyond,
}

/// Reads a `Range` header. Several ranges, or anything else that is odd, get the whole file, as
/// RFC 9110 §14.2 allows.
fn wanted(range: Option<&str>, total: usize) -> Wanted {
    let Some(spec) = range.and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if last < first => Wanted::Whole,
        (Ok(first), _) if first >= total && (last.is_empty() || is_number(last)) => Wanted::Beyond,
        (Ok(first), Ok(last)) => Wanted::Part(first..last.saturating_add(1).min(total)),
        (Ok(first), Err(_)) if last.is_empty() => Wanted::Part(first..total),
        (Err(_), Ok(0)) if first.is_empty() => Wanted::Beyond,
        (Err(_), Ok(_)) if first.is_empty() && total == 0 => Wanted::Beyond,
        (Err(_), Ok(count)) if first.is_empty() => Wanted::Part(total.saturating_sub(count)..total),
        _ => Wanted::Whole,
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<usize>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let check =
            |range: &str, expected| assert_eq!(wanted(Some(range), 100), expected, "{range}");
        check("bytes=0-9", Wanted::Part(0..10));
        check("bytes=90-", Wanted::Part(90..100));
        check("bytes=-5", Wanted::Part(95..100));
        check("bytes=-500", Wanted::Part(0..100));
        check("bytes=50-500", Wanted::Part(50..100));
        check("bytes=99-99", Wanted::Part(99..100));
        check("bytes=100-", Wanted::Beyond);
        check("bytes=100-200", Wanted::Beyond);
        check("bytes=-0", Wanted::Beyond);
        for odd in ["bytes=9-1", "bytes=0-1,5-6", "bytes=", "bytes=-", "bytes=a-b", "lines=0-1"] {
            check(odd, Wanted::Whole);
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Beyond);
    }

    #[tokio::test]
    async fn a_replaced_file_is_served_anew_and_no_other_name_is_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = BootFiles::new(folder.path().to_owned());
        assert_eq!(files.find("vmlinuz").await, None);
        std::fs::write(folder.path().join("vmlinuz"), "old").expect("writes");
        std::fs::write(folder.path().join("secret"), "secret").expect("writes");
        assert_eq!(files.find("vmlinuz").await.as_deref(), Some(&b"old"[..]));
        assert_eq!(files.find("vmlinuz").await.as_deref(), Some(&b"old"[..]));
        std::fs::write(folder.path().join("vmlinuz"), "newer").expect("writes");
        assert_eq!(files.find("vmlinuz").await.as_deref(), Some(&b"newer"[..]));
        for name in ["secret", "", ".", "../vmlinuz", "vmlinuz/", "VMLINUZ"] {
            assert_eq!(files.find(name).await, None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_range_is_within_the_file(range in "(bytes=)?[0-9]{0,22}-?[0-9]{0,22}.?", total in 0..500_usize) {
            if let Wanted::Part(part) = wanted(Some(&range), total) {
                prop_assert!(part.start < part.end && part.end <= total);
            }
            response(Bytes::from(vec![0; total]), "text/plain", Some(&range));
        }
    }
}
