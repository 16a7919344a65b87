//! Shell: the proof that a system's files are the signed ones, together with the files. Only this module and
//! [`verify`](super::verify) make a [`VerifiedSystem`].

use std::sync::Arc;

use bt_catalog::{System, SystemId};

use crate::handover::payload::Payload;
use crate::journey::Proof;

/// A system whose every piece arrived with the SHA-256 that the signed .torrent states. Only a complete download makes
/// one.
#[derive(Debug)]
pub struct Proven {
    system: System,
    payload: Arc<Payload>,
}

impl Proven {
    /// Only for a download whose every piece was taken with its SHA-256.
    pub(super) fn new(system: System, payload: Arc<Payload>) -> Self {
        Self { system, payload }
    }
}

/// A system whose every file is here and is the one that the catalog names.
///
/// Only [`accept`] and [`verify`](super::verify::verify) make one.
#[derive(Debug)]
pub struct VerifiedSystem {
    system: System,
    payload: Arc<Payload>,
}

impl VerifiedSystem {
    /// Only for files whose every byte was hashed and is as the catalog says.
    pub(super) fn hashed(system: System, payload: Arc<Payload>) -> Self {
        Self { system, payload }
    }

    /// Which system.
    #[must_use]
    pub fn id(&self) -> &SystemId {
        &self.system.id
    }

    /// Its kernel command line, exactly as signed.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        &self.system.cmdline
    }

    /// What the catalog says about it.
    #[must_use]
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Its files.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Takes its files; `None` while something else holds them too.
    #[must_use]
    pub fn into_payload(self) -> Option<Payload> {
        Arc::into_inner(self.payload)
    }
}

impl Proof for VerifiedSystem {
    fn id(&self) -> &SystemId {
        &self.system.id
    }
}

/// A system whose every piece was proven while it arrived.
#[must_use]
pub fn accept(proven: Proven) -> VerifiedSystem {
    let Proven { system, payload } = proven;
    VerifiedSystem { system, payload }
}
