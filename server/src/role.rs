//! Core: what one process of a server does for the PCs.

use std::fmt;
use std::str::FromStr;

/// One thing that the server does for the PCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerRole {
    /// Addresses and boot files' names.
    Dhcp,
    /// Boot loaders.
    Tftp,
    /// Boot files, catalog, tracker, page. It publishes, so it needs the signing key.
    Http,
    /// The systems' files.
    Seed,
}

impl ServerRole {
    /// All of them, in the order of a boot.
    pub const ALL: [Self; 4] = [Self::Dhcp, Self::Tftp, Self::Http, Self::Seed];

    /// As the supervisor writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Tftp => "tftp",
            Self::Http => "http",
            Self::Seed => "seed",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The roles of one process: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleSet(u8);

impl RoleSet {
    /// Every role.
    pub const ALL: Self = Self(0b1111);

    /// These roles; `None` for no role.
    pub fn of(roles: &[ServerRole]) -> Option<Self> {
        let bits = roles.iter().fold(0, |bits, role| bits | role.bit());
        (bits != 0).then_some(Self(bits))
    }

    /// Whether `role` is among them.
    pub fn contains(self, role: ServerRole) -> bool {
        self.0 & role.bit() != 0
    }

    /// The roles, in the order of a boot.
    pub fn iter(self) -> impl Iterator<Item = ServerRole> {
        ServerRole::ALL.into_iter().filter(move |role| self.contains(*role))
    }

    /// Every set there can be: the whole one first, then by their first roles in the order of a
    /// boot.
    pub fn every() -> impl Iterator<Item = Self> {
        let of = |first: ServerRole| {
            (1..=Self::ALL.0).rev().filter(move |bits| bits.trailing_zeros() == first as u32)
        };
        ServerRole::ALL.into_iter().flat_map(of).map(Self)
    }

    /// Their names with `separator` in between.
    pub fn joined(self, separator: &str) -> String {
        self.iter().map(ServerRole::name).collect::<Vec<_>>().join(separator)
    }
}

impl fmt::Display for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined(","))
    }
}

/// A list of roles that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role `{0}`; expected a comma-separated list of dhcp, tftp, http, seed")]
pub struct UnknownRole(String);

impl FromStr for RoleSet {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        text.split(',').map(str::trim).try_fold(Self(0), |set, word| {
            let role = ServerRole::ALL.into_iter().find(|role| role.name() == word);
            role.map(|role| Self(set.0 | role.bit())).ok_or_else(|| UnknownRole(word.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_roles_is_read_in_any_order() {
        let set: RoleSet = "seed, dhcp".parse().expect("roles");
        assert_eq!(set.to_string(), "dhcp,seed");
        assert!(set.contains(ServerRole::Seed) && !set.contains(ServerRole::Http));
        assert_eq!("seed,http,tftp,dhcp".parse(), Ok(RoleSet::ALL));
    }

    #[test]
    fn sets_come_in_the_order_of_a_boot() {
        let all: Vec<String> = RoleSet::every().map(|set| set.to_string()).collect();
        assert_eq!((all[0].as_str(), all.len()), ("dhcp,tftp,http,seed", 15));
        let single: Vec<&String> = all.iter().filter(|it| !it.contains(',')).collect();
        assert_eq!(single, ["dhcp", "tftp", "http", "seed"]);
    }

    #[test]
    fn an_unknown_or_missing_role_is_named() {
        for (text, word) in [("dhcp,dns", "dns"), ("", ""), ("dhcp,", ""), ("DHCP", "DHCP")] {
            assert_eq!(text.parse::<RoleSet>(), Err(UnknownRole(word.to_owned())), "{text}");
        }
    }
}
