//! Shell: how many files and sockets this process may have open (getrlimit(2)).

use std::io;

use tracing::debug;

/// Where the system does not tell: what most start with.
const USUAL: u64 = 1024;

/// How many may be open now (`RLIMIT_NOFILE`, its soft limit).
pub fn allowed() -> u64 {
    limit().map_or(USUAL, |limit| limit.rlim_cur)
}

/// Raises the number from the shell's usual 1024 to `most`, or as near as the machine allows; where
/// that fails it stays as it is.
pub fn raise_to(most: u64) {
    let Ok(mut limit) = limit() else { return };
    limit.rlim_cur = limit.rlim_max.min(most).max(limit.rlim_cur);
    // SAFETY: setrlimit(2) only reads the structure.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    debug!(files = limit.rlim_cur, raised, "open files that are allowed");
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) fills in the one structure that it is given.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_never_lowers() {
        let before = allowed();
        raise_to(1);
        assert_eq!(allowed(), before);
        raise_to(before);
        assert_eq!(allowed(), before);
    }
}
