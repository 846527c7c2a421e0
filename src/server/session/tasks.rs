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
pub(crate) struct SessionTasks(Mutex<State>);

#[derive(Default)]
struct State {
    tasks: HashMap<Id, Task>,
    /// Whether all were to be dropped, and those that come are, too.
    is_aborted: bool,
}

struct Task {
    handle: AbortHandle,
    is_session: bool,
}

impl SessionTasks {
    /// Spawns a task, which is to [leave](Self::leave) at its end, if it is ever polled.
    pub(crate) fn spawn(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        // Under the lock, so that it cannot leave before it is here.
        let mut state = self.lock();
        let handle = tasks.spawn(task).abort_handle();
        if state.is_aborted {
            handle.abort();
        } else if !handle.is_finished() {
            state.tasks.insert(handle.id(), Task { handle, is_session: false });
        }
    }

    /// The task that calls this has become a session.
    pub(crate) fn mark_session(&self) {
        if let Some(id) = try_id() {
            self.lock().tasks.entry(id).and_modify(|task| task.is_session = true);
        }
    }

    /// The task that calls this is at its end.
    pub(crate) fn remove(&self) {
        if let Some(id) = try_id() {
            self.lock().tasks.remove(&id);
        }
    }

    /// Drops all of them, handlers included; before, `dropped` hears how many of them are sessions.
    pub(crate) fn abort(&self, dropped: impl FnOnce(usize)) {
        let mut state = self.lock();
        state.is_aborted = true;
        let tasks = std::mem::take(&mut state.tasks);
        dropped(tasks.values().filter(|task| task.is_session).count());
        // Those that are dropped at once come back for the lock.
        drop(state);
        tasks.values().for_each(|task| task.handle.abort());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave it half done.
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
    fn tasks_that_end_leave_nothing_and_the_others_are_dropped() {
        let (runtime, tasks, session_tasks) = setup();
        runtime.block_on(async {
            for _ in 0..1000 {
                session_tasks.spawn(&tasks, task(session_tasks.clone(), async {}));
            }
            tasks.close();
            tasks.wait().await;
            assert_eq!(session_tasks.lock().tasks.len(), 0);
            // One is a session by the time, one is not, and one comes too late.
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
    fn a_runtime_that_is_gone_blocks_nobody() {
        let (runtime, tasks, session_tasks) = setup();
        let inside = runtime.handle().clone();
        drop(runtime);
        let _inside = inside.enter();
        session_tasks.spawn(&tasks, task(session_tasks.clone(), async {}));
        assert!(tasks.is_empty());
        assert_eq!(session_tasks.lock().tasks.len(), 0);
    }
}
