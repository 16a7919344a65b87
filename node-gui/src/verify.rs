//! Shell: hashes a downloaded payload against the signed catalog; alone makes a [`VerifiedSystem`].
//!
//! SHA-256 of every file, whole. The SHA-1 of BitTorrent's pieces is never the proof. The files stay open: what was
//! hashed through a descriptor is what kexec loads through the same one, whatever happens to the names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bt_catalog::{Digest, Role, System, SystemFile, SystemId};
use sha2::{Digest as _, Sha256};

use crate::problem::{Problem, ProblemKind};

/// Bytes read at a time: large enough that the system call does not matter, small enough to cancel quickly.
const CHUNK: usize = 1 << 20;

/// A system whose every file is here and is the one that the catalog names.
///
/// Only [`verify`] makes one.
#[derive(Debug)]
pub struct VerifiedSystem {
    id: SystemId,
    cmdline: String,
    files: Vec<(Role, File)>,
}

impl VerifiedSystem {
    /// Which system.
    #[must_use]
    pub fn id(&self) -> &SystemId {
        &self.id
    }

    /// Its kernel command line, exactly as signed.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        &self.cmdline
    }

    /// The open file of this role, if the system has one.
    #[must_use]
    pub fn file(&self, role: Role) -> Option<&File> {
        self.files.iter().find(|(r, _)| *r == role).map(|(_, file)| file)
    }
}

/// Why there is no [`VerifiedSystem`].
#[derive(Debug)]
pub enum Refused {
    /// The caller asked to stop.
    Cancelled,
    /// A file is missing, unreadable or wrong.
    Problem(Problem),
}

/// Hashes every file of the system in this folder. Blocks for seconds; for a thread of its own.
///
/// `progress` gets the bytes hashed so far, in all files, and says whether to go on.
///
/// # Errors
/// [`Refused`], with the name of the file.
pub fn verify(
    system: &System,
    folder: &Path,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<VerifiedSystem, Refused> {
    let mut done = 0;
    let mut files = Vec::new();
    for expected in &system.files {
        let path = folder.join(expected.role.name());
        let unreadable = |error| Refused::Problem(unreadable(system, expected, &error));
        let file = File::open(&path).map_err(unreadable)?;
        let (length, digest) = hash(&file, &mut done, progress).map_err(unreadable)??;
        if length != expected.length || digest != expected.sha256 {
            return Err(Refused::Problem(wrong_hash(system, expected, length, digest)));
        }
        files.push((expected.role, file));
    }
    Ok(VerifiedSystem { id: system.id.clone(), cmdline: system.cmdline.clone(), files })
}

/// Length and SHA-256 of a file; the inner error is the caller's wish to stop.
fn hash(
    mut file: &File,
    done: &mut u64,
    progress: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Result<(u64, Digest), Refused>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read == 0 {
            return Ok(Ok((length, Digest(hasher.finalize().into()))));
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
        *done += read as u64;
        if !progress(*done) {
            return Ok(Err(Refused::Cancelled));
        }
    }
}

fn wrong_hash(system: &System, expected: &SystemFile, length: u64, digest: Digest) -> Problem {
    let name = expected.role.name();
    Problem::new(
        ProblemKind::HashWrong,
        format!("{} did not arrive unharmed", system.name),
        format!("Its file “{name}” is not the one that your lab signed, so it was not started."),
        "Try again. If it stays, tell your supervisor: the file was changed after signing.",
        format!(
            "{}/{name}: {length} bytes, sha256 {digest}; the catalog says {} bytes, sha256 {}",
            system.id, expected.length, expected.sha256
        ),
    )
}

fn unreadable(system: &System, expected: &SystemFile, error: &io::Error) -> Problem {
    Problem::internal(format!("cannot read {}/{}: {error}", system.id, expected.role.name()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use bt_catalog::{ByteSize, Family, Icon, Infohash};
    use tempfile::TempDir;

    use super::*;

    /// A system of two small files, and a folder that holds them.
    pub(crate) fn sample(id: &str) -> (System, TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |role: Role, bytes: &[u8]| {
            fs::write(folder.path().join(role.name()), bytes).expect("a file");
            let sha256 = Digest(Sha256::digest(bytes).into());
            SystemFile { role, length: bytes.len() as u64, sha256 }
        };
        let files = vec![file(Role::Initrd, b"an initrd"), file(Role::Kernel, &[7; CHUNK + 1])];
        let system = System {
            id: id.parse().expect("an id"),
            name: "Sample".into(),
            note: String::new(),
            icon: Icon::Named("linux".into()),
            rooms: Vec::new(),
            cmdline: "quiet".into(),
            min_ram: ByteSize(0),
            family: Family::Plain,
            way: None,
            kernel_memory: ByteSize(0),
            kernel_signed: false,
            cpu: Vec::new(),
            firmware: None,
            magnet: String::new(),
            infohash: Infohash([0; 20]),
            torrent_sha256: Digest([0; 32]),
            files,
        };
        (system, folder)
    }

    /// A real proof for tests of what follows verification.
    pub(crate) fn proof(id: &str) -> VerifiedSystem {
        let (system, folder) = sample(id);
        verify(&system, folder.path(), &mut |_| true).expect("the sample is as its digests say")
    }

    fn refusal(system: &System, folder: &Path) -> Problem {
        match verify(system, folder, &mut |_| true) {
            Err(Refused::Problem(problem)) => problem,
            other => panic!("must be refused: {other:?}"),
        }
    }

    #[test]
    fn the_right_files_become_a_verified_system_with_progress() {
        let (system, folder) = sample("a");
        let mut seen = Vec::new();
        let mut progress = |done| {
            seen.push(done);
            true
        };
        let verified = verify(&system, folder.path(), &mut progress).expect("as signed");
        assert_eq!(verified.id().as_str(), "a");
        assert!(verified.file(Role::Kernel).is_some() && verified.file(Role::Image).is_none());
        assert_eq!(seen.last(), Some(&system.total()));
    }

    #[test]
    fn one_flipped_bit_is_refused_and_the_file_named() {
        let (system, folder) = sample("a");
        fs::write(folder.path().join("initrd"), b"an inidrd").expect("a file");
        let problem = refusal(&system, folder.path());
        assert_eq!(problem.kind, ProblemKind::HashWrong);
        assert!(problem.why.contains("initrd"), "{problem}");
    }

    #[test]
    fn a_longer_or_missing_file_is_refused() {
        let (system, folder) = sample("a");
        fs::write(folder.path().join("kernel"), vec![7; CHUNK + 2]).expect("a file");
        assert_eq!(refusal(&system, folder.path()).kind, ProblemKind::HashWrong);
        fs::remove_file(folder.path().join("kernel")).expect("was there");
        assert_eq!(refusal(&system, folder.path()).kind, ProblemKind::Internal);
    }

    #[test]
    fn the_caller_can_stop_it() {
        let (system, folder) = sample("a");
        let stopped = verify(&system, folder.path(), &mut |_| false);
        assert!(matches!(stopped, Err(Refused::Cancelled)));
    }
}
