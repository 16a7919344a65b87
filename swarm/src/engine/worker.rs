//! Shell: the one thread on which an engine's connections live.
//!
//! Each message is some microseconds of work between two waits. On a pool of threads, waking
//! another one for it costs more than the work does (measured: half of the server's CPU), so all
//! connections of an engine share a thread. What is long, hashing and a disk, goes to threads that
//! may wait.

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
    /// If there is no thread or descriptor to be had.
    pub(crate) fn start(stop: &CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = Self { runtime: runtime.handle().clone(), tasks: TaskTracker::new() };
        let (stop, tasks) = (stop.clone(), worker.tasks.clone());
        let life = move || {
            runtime.block_on(async {
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

    /// What is made while the guard lives, sockets above all, belongs to this thread.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Waits until every task has ended; to be called after the stop.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
