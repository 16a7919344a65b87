//! Shell: the lab's one clock, and waiting with a limit.
//!
//! Every wait in the lab goes through [`wait_for`]: it has a limit, and it ends early when
//! somebody presses Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How often a wait looks again: short compared with the seconds that are measured.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Set by the signal handler, read by every wait.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What time it is.
#[expect(clippy::disallowed_methods, reason = "the lab is a shell, and this is its one clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Makes Ctrl-C, TERM and HUP end the current wait, so that everything is cleaned up on exit.
pub fn catch_interrupts() -> Result<()> {
    extern "C" fn note(_: i32) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Fails once somebody asked the lab to end.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, but not past Ctrl-C.
pub fn pause(length: Duration) -> Result<()> {
    let end = now() + length;
    while now() < end {
        check_interrupted()?;
        std::thread::sleep(LOOK_EVERY.min(end.saturating_duration_since(now())));
    }
    check_interrupted()
}

/// Looks again and again until `look` finds something, and fails after `limit`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if now() >= end {
            bail!("timed out after {} s waiting for {what}", limit.as_secs());
        }
        pause(LOOK_EVERY)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_its_limit_and_says_for_what() {
        let outcome: Result<()> = wait_for("a pigeon", Duration::ZERO, || Ok(None));
        let text = outcome.expect_err("nothing ever comes").to_string();
        assert_eq!(text, "timed out after 0 s waiting for a pigeon");
    }

    #[test]
    fn a_wait_ends_when_something_is_found() {
        let mut left = 3;
        let found = wait_for("the third look", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some(left))
        });
        assert_eq!(found.expect("found on the third look"), 0);
    }
}
