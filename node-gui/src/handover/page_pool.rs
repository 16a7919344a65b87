//! Shell: the state of the huge pages: being mapped, ready, or lent to a payload.

use std::io;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::machine;
use super::pages::{self, Pages};
use super::placement::Range;

/// Holds the huge pages between two choices.
#[derive(Debug)]
pub struct PagePool(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Being mapped, which clears them, while drivers load.
    Mapping(JoinHandle<io::Result<Pages>>),
    Ready(Pages),
    /// Lent to a payload, or returned to the kernel.
    Lent,
}

impl PagePool {
    /// Reserves the pages now and maps them in the background. Under lockdown they would be of no use.
    #[must_use]
    pub fn start() -> Self {
        if machine::is_locked_down() {
            return Self(Mutex::new(State::Lent));
        }
        pages::reserve();
        Self(Mutex::new(State::Mapping(std::thread::spawn(Pages::map))))
    }

    /// The contiguous runs there are now. Pages that a payload has returned are mapped again. May block for as long as
    /// clearing them takes.
    pub fn runs(&self) -> Vec<Range> {
        let mut state = self.0.lock();
        let pages = gather(&mut state);
        let runs = pages.runs();
        *state = State::Ready(pages);
        runs
    }

    /// Lends all pages to a payload.
    pub fn take(&self) -> Pages {
        gather(&mut self.0.lock())
    }

    /// Returns all pages to the kernel, for boot methods that need ordinary memory.
    pub fn release(&self) {
        let mut state = self.0.lock();
        drop(gather(&mut state));
        pages::release_all();
    }
}

/// Takes the pages out of the state; where there are none, reserves what is available.
fn gather(state: &mut State) -> Pages {
    let mapped = match std::mem::replace(state, State::Lent) {
        State::Ready(pages) => return pages,
        State::Mapping(thread) => {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("mapping huge pages failed")))
        }
        State::Lent if machine::is_locked_down() => Ok(Pages::none()),
        State::Lent => {
            pages::reserve();
            Pages::map()
        }
    };
    mapped.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot map huge pages");
        pages::release_all();
        Pages::none()
    })
}
