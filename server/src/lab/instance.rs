//! Shell: which roles one process plays, and what its files in `state/` are called.
//!
//! One process that plays every role is the usual way. [`RoleSet`] names fewer, so that each can be
//! a process or a container of its own with no more rights than it needs:
//! ```text
//! every role    state/pid           state/control.sock   state/log
//! some          state/run/tftp.pid  state/run/tftp.sock  state/run/tftp.log
//! each role     state/run/tftp.lock held by whoever plays it, so that nobody plays it twice
//! ```

use std::path::PathBuf;

use crate::lab::Lab;
use crate::role::RoleSet;

/// One server process of a lab, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The lab.
    pub lab: Lab,
    /// What this process does for it.
    pub roles: RoleSet,
}

impl Instance {
    /// The process that plays these roles.
    pub fn new(lab: &Lab, roles: RoleSet) -> Self {
        Self { lab: lab.clone(), roles }
    }

    /// Every process that a lab can have, the one with every role first.
    pub fn every(lab: &Lab) -> impl Iterator<Item = Self> {
        RoleSet::every().map(|roles| Self::new(lab, roles))
    }

    /// Locked while it runs; holds its process id.
    pub fn pid_file(&self) -> PathBuf {
        self.file("pid", "pid")
    }

    /// Where it takes commands.
    pub fn control_socket(&self) -> PathBuf {
        self.file("control.sock", "sock")
    }

    /// Its log, when it runs in the background.
    pub fn log(&self) -> PathBuf {
        self.file("log", "log")
    }

    /// One per role: locked by whoever plays it.
    pub fn role_locks(&self) -> impl Iterator<Item = PathBuf> {
        let folder = self.lab.run();
        self.roles.iter().map(move |role| folder.join(format!("{}.lock", role.name())))
    }

    fn file(&self, whole: &str, extension: &str) -> PathBuf {
        if self.roles == RoleSet::ALL {
            self.lab.state().join(whole)
        } else {
            self.lab.run().join(format!("{}.{extension}", self.roles.joined("-")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_file_names_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("server.toml"), "").expect("written");
        let lab = Lab::open(folder.path()).expect("a lab");
        let mut files: Vec<PathBuf> = Instance::every(&lab)
            .flat_map(|it| [it.pid_file(), it.control_socket(), it.log()])
            .collect();
        assert_eq!(files[0], lab.state().join("pid"));
        assert!(files.contains(&lab.state().join("run/dhcp-tftp.sock")));
        let all = files.len();
        files.sort();
        files.dedup();
        assert_eq!((all, files.len()), (45, 45));
    }
}
