//! Shell: messages from work, person, clock and screen to the event loop.

use tokio::sync::mpsc;

use crate::download::verified::VerifiedSystem;
use crate::journey;
use crate::screen::window::Handle;

/// What can happen to this node: a kernel starts only with a proof of real files.
pub(super) type Event = journey::Event<VerifiedSystem>;

/// One message to the event loop.
#[derive(Debug)]
pub(super) struct Note {
    /// The work it comes from; `None` from the person, the clock and the screen.
    pub(super) ticket: Option<u64>,
    pub(super) what: What,
}

/// What it says.
#[derive(Debug)]
pub(super) enum What {
    Event(Event),
    /// There is a screen now, or none (any more).
    Screen(Option<Handle>),
}

/// Sends a note; the event loop lives as long as the process, so none is lost.
pub(super) fn post(notes: &mpsc::UnboundedSender<Note>, ticket: Option<u64>, what: What) {
    if notes.send(Note { ticket, what }).is_err() {
        tracing::error!("the event loop has stopped");
    }
}

/// What one piece of work says to the event loop.
#[derive(Debug, Clone)]
pub(super) struct Say {
    pub(super) notes: mpsc::UnboundedSender<Note>,
    pub(super) ticket: u64,
}

impl Say {
    pub(super) fn event(&self, event: Event) {
        post(&self.notes, Some(self.ticket), What::Event(event));
    }
}
