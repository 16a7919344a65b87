//! Shell: the one thread that runs all connections of an engine (docs/decisions/0007).
//!
//! Each message is a few microseconds of work between two waits. With a pool of threads, waking
//! another thread for it costs more than the work itself (measured: half of the server's CPU). Work
//! that takes long, hashing and reading from a disk, goes to other threads.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one engine, from any thread.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    runtime: Handle,
    tasks: TaskTracker,
}

impl Worker {
    /// Starts the thread. It ends when `stop` is cancelled and its last task has ended.
    ///
    /// # Errors
    /// If no thread or file descriptor is available.
    pub(crate) fn start(stop: &CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = Self { runtime: runtime.handle().clone(), tasks: TaskTracker::new() };
        let (stop, tasks) = (stop.clone(), worker.tasks.clone());
        // The thread is not joined: `ended` waits for the tasks without blocking the caller's
        // runtime.
        let life = move || {
            runtime.block_on(async {
                // An engine without connections has no tasks, and must not end for that.
                stop.cancelled().await;
                tasks.close();
                tasks.wait().await;
            });
        };
        thread::Builder::new().name("swarm".to_owned()).spawn(life)?;
        Ok(worker)
    }

    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        drop(self.tasks.spawn_on(task, &self.runtime));
    }

    /// Sockets that are created while the guard lives belong to this thread's runtime. A socket of
    /// the caller's runtime would be polled there, and each of its events would cross threads.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Waits until every task has ended. The caller has cancelled them before.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
