//! The tasks that wait for a station to connect.

use std::{
    collections::{HashMap, hash_map},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, futures::Notified};

/// The tasks that wait for the next session of a key.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    awaited: Mutex<HashMap<Arc<str>, Awaited>>,
}

#[derive(Debug, Default)]
struct Awaited {
    tasks: usize,
    opened: Arc<Notify>,
}

impl Openings {
    /// Wakes the tasks that wait for a session of this key.
    pub(crate) fn notify(&self, key: &str) {
        let opened = self.lock().get(key).map(|awaited| awaited.opened.clone());
        if let Some(opened) = opened {
            opened.notify_waiters();
        }
    }

    /// Returns a waiter for sessions of this key.
    pub(crate) fn wait<'a>(&'a self, key: &'a Arc<str>) -> Waiting<'a> {
        let mut awaited = self.lock();
        let awaited = awaited.entry(key.clone()).or_default();
        awaited.tasks += 1;
        Waiting { openings: self, key, opened: awaited.opened.clone() }
    }

    /// Waits until `find` returns a value. It is called at once, and whenever a session of this key opens.
    pub(crate) async fn wait_until<T>(&self, key: &Arc<str>, find: impl Fn() -> Option<T>) -> T {
        let waiting = self.wait(key);
        loop {
            // Before the look-up, so that no session is missed.
            let opened = waiting.opened();
            if let Some(found) = find() {
                return found;
            }
            opened.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Awaited>> {
        // A panic under the lock cannot leave the map inconsistent.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that waits for the next session of a key.
pub(crate) struct Waiting<'a> {
    openings: &'a Openings,
    key: &'a Arc<str>,
    opened: Arc<Notify>,
}

impl Waiting<'_> {
    /// Returns a future that resolves when a session opens after this call.
    pub(crate) fn opened(&self) -> Pin<Box<Notified<'_>>> {
        let mut opened = Box::pin(self.opened.notified());
        opened.as_mut().enable();
        opened
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let hash_map::Entry::Occupied(mut awaited) = self.openings.lock().entry(self.key.clone()) {
            awaited.get_mut().tasks -= 1;
            if awaited.get().tasks == 0 {
                awaited.remove();
            }
        }
    }
}
