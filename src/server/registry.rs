//! The sessions of a server, by identity.
//!
//! A new session of an identity takes the place of the old one, which is closed. Each entry has a generation, so
//! that an old session that leaves late does not take its successor with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::Session;
use crate::close::{Cause, Close};

#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<Arc<str>, (u64, Session)>,
    generation: u64,
    closing: Option<Closing>,
}

/// A close of all sessions, those that are still to come included.
#[derive(Debug)]
struct Closing {
    close: Close,
    deadline: Instant,
}

/// A session's place in the registry, until it is dropped.
pub(super) struct Entry<'a> {
    registry: &'a Registry,
    identity: Arc<str>,
    generation: u64,
}

impl Registry {
    pub(super) fn get(&self, identity: &str) -> Option<Session> {
        self.state().sessions.get(identity).map(|(_, session)| session.clone())
    }

    pub(super) fn all(&self) -> Vec<Session> {
        self.state().sessions.values().map(|(_, session)| session.clone()).collect()
    }

    /// Registers a session; an older one of the same identity is closed.
    pub(super) fn enter(&self, session: Session) -> Entry<'_> {
        let identity = session.link().about.identity.clone();
        let mut state = self.state();
        state.generation += 1;
        let generation = state.generation;
        if let Some(closing) = &state.closing {
            // It came in while the others were being closed already.
            session.link().close(closing.close.clone());
        }
        let older = state.sessions.insert(identity.clone(), (generation, session));
        drop(state);
        if let Some((_, older)) = older {
            older.link().close(Close::new(1008).reason("replaced by a newer connection").because(Cause::Replaced));
        }
        Entry { registry: self, identity, generation }
    }

    /// Asks every session to close. The first close decides, also on the deadline, which is given back.
    pub(super) fn close_all(&self, close: &Close, deadline: Instant) -> Instant {
        let mut state = self.state();
        if let Some(closing) = &state.closing {
            return closing.deadline;
        }
        state.closing = Some(Closing { close: close.clone(), deadline });
        let sessions: Vec<_> = state.sessions.values().map(|(_, session)| session.clone()).collect();
        drop(state);
        for session in sessions {
            session.link().close(close.clone());
        }
        deadline
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        if state.sessions.get(&self.identity).is_some_and(|(generation, _)| *generation == self.generation) {
            state.sessions.remove(&self.identity);
        }
    }
}
