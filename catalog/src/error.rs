//! Core: why an entry or a catalog was refused, in the words a supervisor reads.

use jiff::Timestamp;

use crate::values::LabId;
use crate::version::VersionError;

/// Why one entry file was refused. `line` and `column` count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {cause}")]
pub struct EntryError {
    /// Line of the mistake, from 1.
    pub line: usize,
    /// Column of the mistake in characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub cause: String,
}

/// Why a signed document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// The signature file is not minisign's format.
    #[error("the signature of {document} is not in minisign format ({cause})")]
    UnreadableSignature {
        /// Name of the document, such as `catalog.toml`.
        document: &'static str,
        /// What the decoder said.
        cause: String,
    },
    /// The signature is sound in form but made by a key that this lab does not trust.
    #[error(
        "{document} is signed by a key that this lab does not trust; if the lab's keys were changed, \
         build the boot files again with `bt-initramfs build --lab DIR`"
    )]
    UntrustedKey {
        /// Name of the document.
        document: &'static str,
    },
    /// The document's bytes are not the ones that were signed.
    #[error("{document} does not match its signature: it was changed after signing")]
    Altered {
        /// Name of the document.
        document: &'static str,
    },
    /// The signature holds, but the text is not a valid document.
    #[error("{document} is signed but not valid: {cause}")]
    Invalid {
        /// Name of the document.
        document: &'static str,
        /// What is wrong in it.
        cause: String,
    },
    /// The document is of a version that this program does not read. The program to update is named
    /// for a node that reads it; see [`VersionError::read_by`] for others.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A document of another lab.
    #[error("{document} belongs to lab {found}, this PC to lab {expected}")]
    OtherLab {
        /// Name of the document.
        document: &'static str,
        /// The lab it names.
        found: LabId,
        /// The lab this node was built for.
        expected: LabId,
    },
    /// Older than the floor that the initramfs was built with.
    #[error("the catalog's version {found} is older than {floor}, the oldest this PC accepts")]
    TooOld {
        /// The catalog's version.
        found: u64,
        /// The lowest version accepted.
        floor: u64,
    },
    /// Past its time.
    #[error(
        "{document} expired at {expires}, and this PC's clock says {now}; check the PC's clock, or \
         whether `bt-server` still runs: it re-signs each day"
    )]
    Expired {
        /// Name of the document.
        document: &'static str,
        /// When it expired.
        expires: Timestamp,
        /// The time it was judged by.
        now: Timestamp,
    },
    /// A key file that cannot be used.
    #[error("{cause}")]
    BadKey {
        /// What is wrong with it.
        cause: String,
    },
}
