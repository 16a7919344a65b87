//! Shell: notices that the supervisor changed something in the lab.
//!
//! inotify tells at once where it works; a look every `POLL` finds the rest (network file
//! systems, folders behind symbolic links, a full table of watches).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::lab::Lab;

/// An editor saves in several steps; the lab is read when it has been quiet this long.
const QUIET: Duration = Duration::from_millis(300);
/// A copy that goes on for minutes must not hold back all other edits.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often the lab is looked at without any notice.
const POLL: Duration = Duration::from_secs(10);

/// A watch on a lab's files.
pub struct Watch {
    changed: Arc<Notify>,
    /// Kept: dropping it ends the watch.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch. The second value says why notices do not work, where they do not.
    pub fn start(lab: &Lab) -> (Self, Option<notify::Error>) {
        let changed = Arc::new(Notify::new());
        let (sender, root) = (Arc::clone(&changed), lab.root().to_owned());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error is a queue that ran over: then something did change.
            if event.is_ok_and(|event| !is_of_interest(&root, &event)) {
                return;
            }
            sender.notify_one();
        });
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(lab.root(), RecursiveMode::NonRecursive)?;
            watcher.watch(&lab.catalog(), RecursiveMode::Recursive)?;
            // Entries may name files elsewhere in the lab; those are found by looking.
            if lab.images().is_dir() {
                watcher.watch(&lab.images(), RecursiveMode::Recursive)?;
            }
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => (Self { changed, _watcher: Some(watcher) }, None),
            Err(error) => (Self { changed, _watcher: None }, Some(error)),
        }
    }

    /// Waits until something may have changed and it has become quiet, at most until the next
    /// regular look or for `most`.
    pub async fn changed(&self, most: Option<Duration>) {
        let patience = most.map_or(POLL, |most| most.min(POLL));
        if timeout(patience, self.changed.notified()).await.is_err() {
            return;
        }
        let quiet = async { while timeout(QUIET, self.changed.notified()).await.is_ok() {} };
        tokio::select! {
            () = quiet => {}
            () = sleep(LONGEST_WAIT) => {}
        }
    }
}

/// Reading the images ourselves is no change, nor is what the server writes beside them.
fn is_of_interest(root: &Path, event: &Event) -> bool {
    let is_reading = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let is_lab_file = |path: &std::path::PathBuf| {
        path.parent() != Some(root) || path.file_name().is_some_and(|name| name == "server.toml")
    };
    !is_reading && event.paths.iter().any(is_lab_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    #[test]
    fn reading_is_no_change_and_the_state_folder_is_none_of_ours() {
        let root = Path::new("/lab");
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(!is_of_interest(root, &event(open, "/lab/images/a/live.iso")));
        assert!(is_of_interest(root, &event(close, "/lab/images/a/live.iso")));
        assert!(is_of_interest(root, &event(close, "/lab/server.toml")));
        assert!(!is_of_interest(root, &event(EventKind::Any, "/lab/state")));
    }
}
