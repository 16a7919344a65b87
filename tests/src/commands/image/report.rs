//! Core: what all test systems have in common: the name of their medium, and how they report on it.

/// What each test system is called on its medium.
pub const LABEL: &str = "BT_TEST";
/// The script that a started system runs.
pub const REPORT: &str = include_str!("../../../files/image/report");
