//! Core: the rule by which an older program and a newer one understand each other.
//!
//! Whatever one program writes and another reads says the version that a reader needs to *use it
//! right*: the lowest one, not the writer's own. So:
//!
//! - What a reader does not know, it passes over: an unknown key never refuses a document.
//! - A key that must not be passed over, since the rest would be used wrongly without it, raises
//!   the needed version, of the document or of one system in it.
//! - A reader that is too old refuses, and says which program to update.
//! - A program that rewrites what it read keeps only what it knows. So what must survive that raises
//!   the needed version too.
//!
//! The boot files of the first release refuse every key that they do not know; only what they know is
//! written while version 1 is needed.
//!
//! | format | says it in | reader that is too old |
//! |---|---|---|
//! | catalog | `format = "bt-catalog-v1"` | refuses the catalog |
//! | one system in it | `needs = 1` (left out: 1) | shows the system, and why it cannot start |
//! | keys list | `format = "bt-keys-v1"` | refuses it |
//! | node's report | `protocol` | the server reads what it knows |
//! | status snapshot | `format` | shows what it knows; refuses a higher number |
//! | lease log | `boottorrent-leases 1` | refuses it: leases are not lost |
//! | torrent cache | `format` | hashes again |

use std::fmt;

/// What the boot files and the server say to each other, beyond the signed documents: kernel words,
/// paths, reports. Grows when one of the two has to know that the other is newer.
pub const PROTOCOL: u32 = 1;

/// Who has to be updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `bt-server`.
    Server,
    /// Kernel and initramfs of the PCs, which `bt-initramfs` makes.
    BootFiles,
}

impl fmt::Display for Program {
    /// What to do, as a clause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "update bt-server and restart it",
            Self::BootFiles => {
                "rebuild the PCs' boot files with `bt-initramfs build --lab DIR`, then restart the PCs"
            }
        })
    }
}

/// The versions of one format that a program reads, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readable {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
    /// The program that reads.
    pub reader: Program,
    /// The program that writes.
    pub writer: Program,
}

impl Readable {
    /// Checks the version that `what` needs.
    ///
    /// # Errors
    /// Where it is none of these, with the program to update.
    pub fn check(self, what: &str, found: u32) -> Result<(), VersionError> {
        let (what, newest, oldest) = (what.to_owned(), self.newest, self.oldest);
        if found > newest {
            Err(VersionError::TooNew { what, found, newest, update: self.reader })
        } else if found < oldest {
            Err(VersionError::TooOld { what, found, oldest, update: self.writer })
        } else {
            Ok(())
        }
    }
}

/// Why something is not read, and who has to be updated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Written by a newer program.
    #[error(
        "{what} needs version {found} of the format, and this program reads up to {newest}: {update}"
    )]
    TooNew {
        /// What was read.
        what: String,
        /// The version it needs.
        found: u32,
        /// The newest that is read here.
        newest: u32,
        /// Who is too old.
        update: Program,
    },
    /// Written by a program that is too old by now.
    #[error(
        "{what} is of version {found} of the format, and this program reads {oldest} and later: {update}"
    )]
    TooOld {
        /// What was read.
        what: String,
        /// The version it has.
        found: u32,
        /// The oldest that is read here.
        oldest: u32,
        /// Who is too old.
        update: Program,
    },
}

impl VersionError {
    /// The same, where `reader` reads: the server reads what it writes for nodes, too.
    #[must_use]
    pub fn read_by(self, reader: Program) -> Self {
        match self {
            Self::TooNew { what, found, newest, .. } => {
                Self::TooNew { what, found, newest, update: reader }
            }
            too_old @ Self::TooOld { .. } => too_old,
        }
    }
}

/// The number of a format's word, such as 1 of `bt-catalog-v1` for the name `bt-catalog`.
pub fn of_word(word: &str, name: &str) -> Option<u32> {
    number(word.strip_prefix(name)?.strip_prefix("-v")?)
}

/// A version in digits, without sign or leading zero. One that is beyond all counting is only too new.
pub fn number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let is_plain = is_number && (digits == "0" || !digits.starts_with('0'));
    is_plain.then(|| digits.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Readable =
        Readable { oldest: 2, newest: 3, reader: Program::BootFiles, writer: Program::Server };

    #[test]
    fn what_is_too_new_names_the_reader_and_what_is_too_old_the_writer() {
        assert_eq!(NODE.check("the catalog", 2), Ok(()));
        assert_eq!(NODE.check("the catalog", 3), Ok(()));
        let too_new = NODE.check("the catalog", 4).expect_err("too new").to_string();
        assert!(too_new.contains("the catalog needs version 4"), "{too_new}");
        assert!(too_new.contains("bt-initramfs build"), "{too_new}");
        let too_old = NODE.check("the catalog", 1).expect_err("too old").to_string();
        assert!(too_old.contains("update bt-server"), "{too_old}");
    }

    #[test]
    fn a_formats_word_has_a_name_and_a_number() {
        assert_eq!(of_word("bt-catalog-v12", "bt-catalog"), Some(12));
        assert_eq!(of_word("bt-catalog-v99999999999", "bt-catalog"), Some(u32::MAX), "too new");
        for word in [
            "bt-keys-v1",
            "bt-catalog",
            "bt-catalog-v",
            "bt-catalog-v+1",
            "bt-catalog-v1.0",
            "bt-catalog-v01",
        ] {
            assert_eq!(of_word(word, "bt-catalog"), None, "{word}");
        }
    }
}
