//! Shell: the one place that knows where the huge pages are: on their way, here, or with a payload.

use std::io;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::machine;
use super::pages::{self, Pages};
use super::placement::Range;

/// Keeps the huge pages between two choices.
#[derive(Debug)]
pub struct Keeper(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Being mapped, which cleans them, while drivers load.
    Coming(JoinHandle<io::Result<Pages>>),
    Here(Pages),
    /// With a payload, or given back.
    Gone,
}

impl Keeper {
    /// Sets the pages aside now and maps them in the background. Under lockdown they would be of no use.
    #[must_use]
    pub fn start() -> Self {
        if machine::is_locked_down() {
            return Self(Mutex::new(State::Gone));
        }
        pages::reserve();
        Self(Mutex::new(State::Coming(std::thread::spawn(Pages::map))))
    }

    /// The contiguous runs there are now. Where a payload has let go of its pages they are gathered again. May block for
    /// as long as cleaning them takes.
    pub fn runs(&self) -> Vec<Range> {
        let mut state = self.0.lock();
        let pages = gather(&mut state);
        let runs = pages.runs();
        *state = State::Here(pages);
        runs
    }

    /// Hands all pages out, for a payload.
    pub fn take(&self) -> Pages {
        gather(&mut self.0.lock())
    }

    /// Gives all pages back to the kernel, for ways that want plain memory.
    pub fn release(&self) {
        let mut state = self.0.lock();
        drop(gather(&mut state));
        pages::release_all();
    }
}

/// Takes the pages out of the state, and sets aside what can be had where there are none.
fn gather(state: &mut State) -> Pages {
    let mapped = match std::mem::replace(state, State::Gone) {
        State::Here(pages) => return pages,
        State::Coming(thread) => {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("mapping huge pages failed")))
        }
        State::Gone if machine::is_locked_down() => Ok(Pages::none()),
        State::Gone => {
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
