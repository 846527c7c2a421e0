//! The tasks of sessions, which a close can abort.
//!
//! A cancellation token would also work, but each poll of a session would then take the token's lock.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, Id, try_id},
};
use tokio_util::task::TaskTracker;

/// The tasks of sessions that have not ended.
#[derive(Default)]
pub(crate) struct SessionTasks {
    state: Mutex<State>,
    /// Notified when a task ends or begins to await the close of the server.
    changed: Notify,
}

#[derive(Default)]
struct State {
    tasks: HashMap<Id, Task>,
    /// Set after all tasks were aborted. New tasks are aborted at once.
    is_aborted: bool,
}

struct Task {
    handle: AbortHandle,
    is_session: bool,
    /// The closes of the server that handlers of this task await.
    closes: u32,
}

/// The tasks that [`SessionTasks::abort`] aborts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    /// All tasks.
    All,
    /// The tasks that do not await the close of the server.
    NotClosing,
}

/// A mark on a task that awaits the close of the server, until dropped.
pub(crate) struct ClosingTask<'a> {
    tasks: &'a SessionTasks,
    id: Id,
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
            state.tasks.insert(handle.id(), Task { handle, is_session: false, closes: 0 });
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
            self.changed.notify_waiters();
        }
    }

    /// Marks the current task as one that awaits the close of the server. Returns `None` if it is no task of a session.
    pub(crate) fn await_close(&self) -> Option<ClosingTask<'_>> {
        let id = try_id()?;
        self.lock().tasks.get_mut(&id)?.closes += 1;
        self.changed.notify_waiters();
        Some(ClosingTask { tasks: self, id })
    }

    /// Waits until all tasks have ended but those that await the close of the server. Returns the number of those.
    pub(crate) async fn others_ended(&self) -> usize {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.tasks.values().all(|task| task.closes > 0) {
                    return state.tasks.len();
                }
            }
            changed.await;
        }
    }

    /// Aborts tasks with their handlers, and all tasks that are spawned later. Before, calls `report` with the number of
    /// open sessions among them.
    pub(crate) fn abort(&self, which: Abort, report: impl FnOnce(usize)) {
        let mut state = self.lock();
        state.is_aborted = true;
        let aborted = |task: &Task| which == Abort::All || task.closes == 0;
        let tasks: Vec<_> = state.tasks.extract_if(|_, task| aborted(task)).map(|(_, task)| task).collect();
        report(tasks.iter().filter(|task| task.is_session).count());
        // A task that is dropped within `abort` takes the lock to remove itself.
        drop(state);
        tasks.iter().for_each(|task| task.handle.abort());
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClosingTask<'_> {
    fn drop(&mut self) {
        self.tasks.lock().tasks.entry(self.id).and_modify(|task| task.closes -= 1);
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
            session_tasks.abort(Abort::All, |dropped| assert_eq!(dropped, 1));
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
