//! Core: what can go wrong on a node, as its screen shows it.
//!
//! Three short lines (what, why, next step) for the student and one line of detail for the supervisor.

/// What kind of failure it is; the buttons depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// No network interface, no link, or no address.
    NoNetwork,
    /// The server does not answer, or answers with an error.
    NoServer,
    /// The catalog is not signed by this lab.
    BadSignature,
    /// The catalog is properly signed but cannot be used.
    BadCatalog,
    /// The catalog or its key is too old.
    Expired,
    /// The system does not fit into this PC's memory.
    NoMemory,
    /// The system asks for another kind of PC: processor, firmware, Secure Boot.
    DoesNotFit,
    /// The download got no data for a long time.
    Stalled,
    /// A downloaded file is not the one that the catalog names.
    HashWrong,
    /// The kernel refused to load or to start the system.
    KexecRefused,
    /// A failure of this program or of this PC.
    Internal,
}

impl ProblemKind {
    /// The word of this kind in step records and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoNetwork => "no-network",
            Self::NoServer => "no-server",
            Self::BadSignature => "bad-signature",
            Self::BadCatalog => "bad-catalog",
            Self::Expired => "expired",
            Self::NoMemory => "no-memory",
            Self::DoesNotFit => "does-not-fit",
            Self::Stalled => "stalled",
            Self::HashWrong => "hash-wrong",
            Self::KexecRefused => "kexec-refused",
            Self::Internal => "internal",
        }
    }
}

/// A failure as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind of failure it is.
    pub kind: ProblemKind,
    /// What happened, one short line.
    pub what: String,
    /// Why, one short line.
    pub why: String,
    /// What to do next, one short line.
    pub next_step: String,
    /// One technical line in small print, for the supervisor.
    pub detail: String,
}

impl Problem {
    /// A problem of this kind with these texts.
    pub fn new(
        kind: ProblemKind,
        what: impl Into<String>,
        why: impl Into<String>,
        next_step: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            what: what.into(),
            why: why.into(),
            next_step: next_step.into(),
            detail: detail.into(),
        }
    }

    /// A failure of this program or of this PC that has no text of its own.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(
            ProblemKind::Internal,
            "Something went wrong on this PC",
            "The boot program hit an unexpected error.",
            "Try again, or restart the PC. If this keeps happening, tell your supervisor.",
            detail,
        )
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.what, self.why, self.detail)
    }
}
