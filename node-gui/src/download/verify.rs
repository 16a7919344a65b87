//! Shell: proves a downloaded payload against the signed catalog.
//!
//! The SHA-1 of BitTorrent's pieces is never the proof. The SHA-256 of every piece is: the .torrent states them, and the
//! catalog states the .torrent's own SHA-256. The engine verifies the pieces as they arrive, so that nothing is left to
//! do at the end ([`accept`](super::verified::accept)). A .torrent without them comes from an older server; then every
//! file is hashed completely ([`verify`]).

use std::io;
use std::sync::Arc;

use bt_catalog::{Digest, System, SystemFile};
use bt_swarm::Storage;
use sha2::{Digest as _, Sha256};

use super::verified::VerifiedSystem;
use crate::handover::payload::Payload;
use crate::journey::problem::{Problem, ProblemKind};

/// Bytes read at a time: large enough that the call does not matter, small enough to cancel quickly.
const CHUNK: usize = 1 << 20;

/// Why there is no [`VerifiedSystem`].
#[derive(Debug)]
pub enum Refused {
    /// The caller asked to stop.
    Cancelled,
    /// A file is unreadable or wrong.
    Problem(Problem),
}

/// Hashes every file of the system. Blocks for seconds, so call it on a thread of its own.
///
/// `progress` gets the bytes hashed so far, in all files, and says whether to go on.
///
/// # Errors
/// [`Refused`], with the name of the file.
pub fn verify(
    system: &System,
    payload: &Arc<Payload>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<VerifiedSystem, Refused> {
    let mut done = 0;
    for expected in &system.files {
        let hashed = hash(payload, &mut done, expected.length, progress);
        let digest =
            hashed.map_err(|error| Refused::Problem(unreadable(system, expected, &error)))??;
        if digest != expected.sha256 {
            return Err(Refused::Problem(wrong_hash(system, expected, digest)));
        }
    }
    Ok(VerifiedSystem::hashed(system.clone(), Arc::clone(payload)))
}

/// SHA-256 of the next bytes of the payload; the inner error is a cancellation by the caller.
fn hash(
    payload: &Payload,
    done: &mut u64,
    length: u64,
    progress: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Result<Digest, Refused>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let end = *done + length;
    while *done < end {
        let step = usize::try_from(end - *done).unwrap_or(CHUNK).min(CHUNK);
        payload.read_at(*done, &mut buffer[..step])?;
        hasher.update(&buffer[..step]);
        *done += step as u64;
        if !progress(*done) {
            return Ok(Err(Refused::Cancelled));
        }
    }
    Ok(Ok(Digest(hasher.finalize().into())))
}

fn wrong_hash(system: &System, expected: &SystemFile, digest: Digest) -> Problem {
    let name = expected.role.name();
    Problem::new(
        ProblemKind::HashWrong,
        format!("{} failed verification", system.name),
        format!("Its file “{name}” is not the one that your lab signed, so it was not started."),
        "Try again. If this keeps happening, tell your supervisor: the file was changed after signing.",
        format!("{}/{name}: sha256 {digest}; the catalog says {}", system.id, expected.sha256),
    )
}

fn unreadable(system: &System, expected: &SystemFile, error: &io::Error) -> Problem {
    Problem::internal(format!("cannot read {}/{}: {error}", system.id, expected.role.name()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::Path;

    use bt_catalog::{ByteSize, Family, Icon, Infohash, Role};
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
            method: None,
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
        let payload = arrived(&system, folder.path());
        verify(&system, &payload, &mut |_| true).expect("the sample is as its digests say")
    }

    /// The payload as if it had just been downloaded from this folder.
    fn arrived(system: &System, from: &Path) -> Arc<Payload> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let payload = Payload::in_folder(system, folder.path()).expect("room");
        let mut at = 0;
        for file in &system.files {
            let bytes = fs::read(from.join(file.role.name())).expect("the sample has it");
            payload.write_at(at, &bytes[..file.length as usize]).expect("inside");
            at += file.length;
        }
        Arc::new(payload)
    }

    fn refusal(system: &System, folder: &Path) -> Problem {
        match verify(system, &arrived(system, folder), &mut |_| true) {
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
        let verified =
            verify(&system, &arrived(&system, folder.path()), &mut progress).expect("as signed");
        assert_eq!(verified.id().as_str(), "a");
        assert_eq!(verified.cmdline(), "quiet");
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
    fn the_caller_can_stop_it() {
        let (system, folder) = sample("a");
        let stopped = verify(&system, &arrived(&system, folder.path()), &mut |_| false);
        assert!(matches!(stopped, Err(Refused::Cancelled)));
    }
}
