//! Core: what keeps a PC from going on.

/// Why a PC does not get further, and what helps.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) remedy: String,
}
