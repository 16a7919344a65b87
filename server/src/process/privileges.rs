//! Shell: gives up the rights that were only needed to open the sockets.
//!
//! Started as root, the process becomes the owner of the lab folder; where that is root itself, it
//! stays root in name and keeps none of root's capabilities (capabilities(7)). Started with
//! capabilities of its own, as systemd gives them, it drops those. In any case no program it could
//! run gets more rights than it has (`PR_SET_NO_NEW_PRIVS`).
//!
//! Capabilities belong to threads, so this must happen while the process has only one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::prctl;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{
    AccessFlags, Gid, Uid, User, access, fchownat, geteuid, setgid, setgroups, setuid,
};

use crate::lab::instance::Instance;
use crate::os::capability::Capability;
use crate::role::ServerRole;

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// All that any role keeps, as the bits of proc(5)'s `CapEff`.
pub const NEEDED: u64 = 1 << Capability::NetBindService as u64;

/// Why the rights could not be reduced.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The system refused.
    #[error("cannot {what}; start bt-server as root, or as the owner of the lab folder")]
    System {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Something in the lab is closed to the user that the server becomes.
    #[error(
        "the server runs as {user}, who cannot {verb} {}; make {user} the owner of everything in the \
         lab: `chown -R {user} {}`", path.display(), lab.display()
    )]
    Closed {
        /// Its name.
        user: String,
        /// `read` or `write`.
        verb: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The lab folder.
        lab: PathBuf,
    },
}

/// Drops what `instance` does not need once its sockets are open, except `keep`. Returns what is
/// left, in words.
///
/// # Errors
/// When that fails, or when the lab would not be usable afterwards; nothing must be served then.
pub fn reduce(instance: &Instance, keep: &[Capability]) -> Result<String, RightsError> {
    let system = |what| move |source: Errno| RightsError::System { what, source: source.into() };
    let root = instance.lab.root();
    let owner = fs::metadata(root)
        .map_err(|source| RightsError::System { what: "access the lab folder", source })?;
    prctl::set_no_new_privs().map_err(system("drop the ability to gain privileges"))?;
    if geteuid().is_root() && owner.uid() != 0 {
        let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        // What was made a moment ago as root: locks, log, a first lease log.
        hand_over(AT_FDCWD, &instance.lab.state(), uid, gid)
            .map_err(system("hand the folder state/ to the lab's owner"))?;
        prctl::set_keepcaps(!keep.is_empty())
            .map_err(system("keep the capabilities for the network"))?;
        setgroups(&[gid]).map_err(system("drop root's groups"))?;
        setgid(gid).map_err(system("join the group of the lab's owner"))?;
        setuid(uid).map_err(system("become the owner of the lab folder"))?;
    }
    keep_only(keep).map_err(system("give up capabilities"))?;
    check_access(instance)?;
    let kept = if keep.is_empty() { "no capability".to_owned() } else { format!("{keep:?}") };
    Ok(format!("runs as {} with {kept}", user_name(geteuid().as_raw())))
}

/// Sets the permitted and effective capabilities of this thread to `keep`, as far as it has them.
fn keep_only(keep: &[Capability]) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// The first holds capabilities 0 to 31, the second the others.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: capget(2) writes two `Data` for this version; both pointers are valid for that.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(got)?;
    let wanted = keep.iter().fold(0, |bits, capability| bits | 1_u32 << *capability as u32);
    let left = data[0].permitted & wanted;
    data = [Data { effective: left, permitted: left, inheritable: 0 }, Data::default()];
    // SAFETY: capset(2) only reads through both pointers, which are valid.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(set).map(drop)
}

/// Gives `name` in `folder`, and all in it that is root's, to the lab's owner. Nothing is followed
/// and nothing with a second name is given away: the owner may have put links here.
fn hand_over(folder: BorrowedFd<'_>, name: &Path, uid: Uid, gid: Gid) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let item: OwnedFd = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        opened => opened?,
    };
    let status = fstat(&item)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    let is_folder = kind == SFlag::S_IFDIR;
    let is_single = is_folder || status.st_nlink == 1 && kind != SFlag::S_IFLNK;
    if status.st_uid == 0 && is_single {
        fchownat(&item, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    if is_folder {
        let listed = fs::read_dir(format!("/proc/self/fd/{}", item.as_raw_fd()));
        for entry in listed.map_err(errno)?.map_while(Result::ok) {
            hand_over(item.as_fd(), Path::new(&entry.file_name()), uid, gid)?;
        }
    }
    Ok(())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Whether all that the roles need can still be used.
fn check_access(instance: &Instance) -> Result<(), RightsError> {
    let Instance { lab, roles } = instance;
    let mut needed = vec![("read", lab.config_file()), ("write", lab.run())];
    if roles.contains(ServerRole::Http) || roles.contains(ServerRole::Seed) {
        needed.push(("read", lab.catalog()));
        needed.push(("read", lab.images()));
    }
    if roles.contains(ServerRole::Http) {
        needed.push(("read", lab.keys().join("signing.key")));
        needed.push(("write", lab.state()));
    }
    for (verb, path) in needed {
        let wish = if verb == "read" { AccessFlags::R_OK } else { AccessFlags::W_OK };
        if let Err(Errno::EACCES) = access(&path, wish) {
            let (user, lab) = (user_name(geteuid().as_raw()), lab.root().to_owned());
            return Err(RightsError::Closed { user, verb, path, lab });
        }
    }
    Ok(())
}

/// The name of a user, or the number where there is none.
pub fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// This thread's effective capabilities, as proc(5) shows them.
    fn effective() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        u64::from_str_radix(line.expect("Linux tells it").trim(), 16).expect("hex")
    }

    #[test]
    fn a_thread_keeps_what_it_asks_for_and_nothing_else() {
        // Capabilities are each thread's own, so the other tests keep theirs.
        let left = thread::spawn(|| {
            let had = effective();
            keep_only(&[Capability::NetBindService]).expect("rights can always be given up");
            let kept = effective();
            keep_only(&[]).expect("rights can always be given up");
            (had, kept, effective())
        });
        let (had, kept, nothing) = left.join().expect("no panic");
        assert_eq!(kept, had & NEEDED);
        assert_eq!(nothing, 0);
    }

    #[test]
    fn links_in_the_state_folder_are_not_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (state, outside) = (folder.path().join("state"), folder.path().join("outside"));
        fs::create_dir(&state).expect("made");
        fs::write(&outside, "").expect("written");
        std::os::unix::fs::symlink(&outside, state.join("soft")).expect("linked");
        fs::hard_link(&outside, state.join("hard")).expect("linked");
        let me = nix::unistd::getuid();
        // Only root can give files away; for anybody else there is nothing of root's to give.
        let other = if me.is_root() { Uid::from_raw(65_534) } else { me };
        hand_over(AT_FDCWD, &state, other, Gid::from_raw(other.as_raw())).expect("handed over");
        let owner = |path: &Path| fs::metadata(path).expect("is there").uid();
        assert_eq!(owner(&outside), me.as_raw());
        assert_eq!(owner(&state), other.as_raw());
    }
}
