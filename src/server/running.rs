//! The tasks of sessions, so that those can be dropped that take too long.
//!
//! A token that all of them wait for would do as well, but each message would pay for it, and on many cores wait for
//! the token's lock.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::task::{AbortHandle, Id, try_id};
use tokio_util::task::TaskTracker;

/// The tasks that have not ended.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<Id, AbortHandle>>);

impl Running {
    /// Spawns a task, which is to [leave](Self::leave) at its end, if it is ever polled.
    pub(super) fn spawn(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        // Under the lock, so that it cannot leave before it is here.
        let mut running = self.lock();
        let task = tasks.spawn(task).abort_handle();
        running.insert(task.id(), task);
    }

    /// The task that calls this is at its end.
    pub(super) fn leave(&self) {
        if let Some(id) = try_id() {
            self.lock().remove(&id);
        }
    }

    /// Drops all of them, handlers included, and says how many there were.
    pub(super) fn abort(&self) -> usize {
        // Those that are dropped at once come back for the lock.
        let running = std::mem::take(&mut *self.lock());
        running.values().for_each(AbortHandle::abort);
        running.len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, AbortHandle>> {
        // Nothing that runs under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    struct Leaving(Arc<Running>);

    impl Drop for Leaving {
        fn drop(&mut self) {
            self.0.leave();
        }
    }

    fn running() -> (Runtime, TaskTracker, Arc<Running>) {
        (Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"), TaskTracker::new(), Arc::default())
    }

    async fn task(running: Arc<Running>, work: impl Future<Output = ()>) {
        let _leaving = Leaving(running);
        work.await;
    }

    #[test]
    fn tasks_that_end_leave_nothing_and_the_others_are_dropped() {
        let (runtime, tasks, running) = running();
        runtime.block_on(async {
            for _ in 0..1000 {
                running.spawn(&tasks, task(running.clone(), async {}));
            }
            tasks.close();
            tasks.wait().await;
            assert_eq!(running.lock().len(), 0);
            running.spawn(&tasks, task(running.clone(), pending()));
            assert_eq!(running.abort(), 1);
            tasks.wait().await;
            assert_eq!(Arc::strong_count(&running), 1, "a task is still there");
        });
    }

    #[test]
    fn a_runtime_that_is_gone_blocks_nobody() {
        let (runtime, tasks, running) = running();
        let inside = runtime.handle().clone();
        drop(runtime);
        let _inside = inside.enter();
        running.spawn(&tasks, task(running.clone(), async {}));
        running.abort();
        assert!(tasks.is_empty());
    }
}
