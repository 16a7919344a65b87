//! Core: the systems to choose from.

use bt_catalog::SystemId;

use super::problem::Problem;

/// What the picker shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// The lab's name, for the header.
    pub lab_name: String,
    /// This PC's room, when known.
    pub room: Option<String>,
    /// This PC's name, when known.
    pub node_name: Option<String>,
    /// This PC's network address.
    pub address: Option<String>,
    /// The systems, in the supervisor's order.
    pub systems: Vec<MenuItem>,
    /// Which one is highlighted first.
    pub default: Option<SystemId>,
}

impl Menu {
    /// The item of this system.
    #[must_use]
    pub fn item(&self, id: &SystemId) -> Option<&MenuItem> {
        self.systems.iter().find(|item| item.id == *id)
    }
}

/// One system in the picker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuItem {
    /// Its name in the catalog.
    pub id: SystemId,
    /// Its name for people.
    pub name: String,
    /// One line about it; may be empty.
    pub note: String,
    /// Its picture.
    pub icon: IconRef,
    /// Bytes to download.
    pub size: u64,
    /// Why it cannot start on this PC, as far as that is known before anything is fetched.
    pub obstacle: Option<Problem>,
}

/// Where a system's picture comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IconRef {
    /// One of the pictures in this program, by name; unknown names get the plain one.
    Builtin(String),
    /// A PNG or SVG file from the server, checked against the catalog.
    File(Vec<u8>),
}
