//! The tasks of sessions, which a close can abort.
//!
//! A cancellation token would also work, but each poll of a session would then take the token's lock.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::task::{AbortHandle, Id, try_id};
use tokio_util::task::TaskTracker;

/// The tasks of sessions that have not ended.
#[derive(Default)]
pub(crate) struct SessionTasks(Mutex<State>);

#[derive(Default)]
struct State {
    tasks: HashMap<Id, Task>,
    /// Set after all tasks were aborted. New tasks are aborted at once.
    is_aborted: bool,
}

struct Task {
    handle: AbortHandle,
    is_session: bool,
}

impl SessionTasks {
    /// Spawns a task. If the task is ever polled, it must [remove](Self::remove) itself when it ends.
    pub(crate) fn spawn(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        // Under the lock, so that the task cannot remove itself before it is inserted.
        let mut state = self.lock();
        let handle = tasks.spawn(task).abort_handle();
        if state.is_aborted {
            handle.abort();
        } else if !handle.is_finished() {
            state.tasks.insert(handle.id(), Task { handle, is_session: false });
        }
    }

    /// Marks the current task as an open session.
    pub(crate) fn mark_session(&self) {
        if let Some(id) = try_id() {
            self.lock().tasks.entry(id).and_modify(|task| task.is_session = true);
        }
    }

    /// Removes the current task.
    pub(crate) fn remove(&self) {
        if let Some(id) = try_id() {
            self.lock().tasks.remove(&id);
        }
    }

    /// Aborts all tasks with their handlers. Before, calls `report` with the number of open sessions.
    pub(crate) fn abort(&self, report: impl FnOnce(usize)) {
        let mut state = self.lock();
        state.is_aborted = true;
        let tasks = std::mem::take(&mut state.tasks);
        report(tasks.values().filter(|task| task.is_session).count());
        // A task that is dropped within `abort` takes the lock to remove itself.
        drop(state);
        tasks.values().for_each(|task| task.handle.abort());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use futures_util::FutureExt;
    use tokio::{
        runtime::{Builder, Runtime},
        task::yield_now,
    };

    use super::*;

    struct RemoveOnDrop(Arc<SessionTasks>);

    impl Drop for RemoveOnDrop {
        fn drop(&mut self) {
            self.0.remove();
        }
    }

    fn setup() -> (Runtime, TaskTracker, Arc<SessionTasks>) {
        (Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"), TaskTracker::new(), Arc::default())
    }

    fn sessions(session_tasks: &SessionTasks) -> usize {
        session_tasks.lock().tasks.values().filter(|task| task.is_session).count()
    }

    async fn task(session_tasks: Arc<SessionTasks>, work: impl Future<Output = ()>) {
        let _guard = RemoveOnDrop(session_tasks);
        work.await;
    }

    #[test]
    fn ended_tasks_are_removed_and_others_are_aborted() {
        let (runtime, tasks, session_tasks) = setup();
        runtime.block_on(async {
            for _ in 0..1000 {
                session_tasks.spawn(&tasks, task(session_tasks.clone(), async {}));
            }
            tasks.close();
            tasks.wait().await;
            assert_eq!(session_tasks.lock().tasks.len(), 0);
            // One task is marked as a session, one is not, and one is spawned after the abort.
            let opened = session_tasks.clone();
            session_tasks
                .spawn(&tasks, task(session_tasks.clone(), async move { opened.mark_session() }.then(|()| pending())));
            session_tasks.spawn(&tasks, task(session_tasks.clone(), pending()));
            while sessions(&session_tasks) == 0 {
                yield_now().await;
            }
            session_tasks.abort(|dropped| assert_eq!(dropped, 1));
            session_tasks.spawn(&tasks, task(session_tasks.clone(), pending()));
            tasks.wait().await;
            assert_eq!(Arc::strong_count(&session_tasks), 1, "a task is still there");
        });
    }

    #[test]
    fn spawn_after_the_runtime_is_dropped_does_not_block() {
        let (runtime, tasks, session_tasks) = setup();
        let inside = runtime.handle().clone();
        drop(runtime);
        let _inside = inside.enter();
        session_tasks.spawn(&tasks, task(session_tasks.clone(), async {}));
        assert!(tasks.is_empty());
        assert_eq!(session_tasks.lock().tasks.len(), 0);
    }
}
