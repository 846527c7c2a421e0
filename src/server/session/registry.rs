//! The registry of a server's sessions by key, and their limits. The key is the identity, unless the application sets
//! another.
//!
//! The server reserves a session before it responds to the client, so that the response can report an exceeded limit.
//! The reservation ends with the session. Each reservation has the id of its session, which the server takes when the
//! request arrives. So the order of ids is the order of arrival, however long an authenticator or a client takes. When an
//! old session ends late, it removes only its own entry, and not its successor.

use std::{
    collections::{HashMap, hash_map},
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode, header};
use smallvec::{SmallVec, smallvec};
use tokio::sync::Notify;

use crate::{
    close::{info::CloseCause, intent::Close},
    server::{handshake::auth::Reject, http::address::address_prefix, session::replacements::Replacements},
    session::Session,
};

/// The action when a station connects while its identity, or the key that the application gave it, has a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DuplicateIdentity {
    /// Replaces the old session.
    ///
    /// The server closes it with 1008 and the cause [`Replaced`](crate::close::CloseCause::Replaced) when the new
    /// connection is upgraded. A station that lost its connection can reconnect immediately.
    ///
    /// The session whose request arrived first is the old one. If its handshake finishes after that of the newer one,
    /// the server closes it when it opens.
    #[default]
    ReplaceOld,
    /// Refuses the new connection with 409 until the old session has ended.
    ///
    /// A station that lost its connection can reconnect when its old session has missed its pings.
    RejectNew,
    /// Keeps both sessions.
    ///
    /// [`RpcServer::session`](crate::RpcServer::session) returns the newest,
    /// [`RpcServer::sessions`](crate::RpcServer::sessions) returns all.
    AllowBoth,
}

/// The sessions of a server, by identity.
#[derive(Debug)]
pub(crate) struct Registry {
    limits: Limits,
    state: Mutex<State>,
}

/// The limits of reservations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) duplicate_identity: DuplicateIdentity,
    pub(crate) max_sessions: Option<usize>,
    pub(crate) max_sessions_per_address: Option<usize>,
    pub(crate) replacement_delay: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    /// By key, each list in the order of arrival. The lists are never empty.
    entries: HashMap<Arc<str>, SmallVec<[Entry; 1]>>,
    /// The number of reservations, including those of connections without a common protocol.
    reserved: usize,
    /// The number of reservations per address, if that is limited.
    per_address: HashMap<IpAddr, usize>,
    replacements: Replacements,
    /// A close of all sessions, which also applies to sessions that open later.
    closing: Option<Close>,
    /// The keys whose next session is awaited.
    awaited: HashMap<Arc<str>, Awaited>,
}

/// The tasks that wait for the next session of a key.
#[derive(Debug, Default)]
struct Awaited {
    tasks: usize,
    opened: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// `None` before the upgrade, and after the session was replaced.
    session: Option<Session>,
}

/// The reservation of a session in the registry, until dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    registry: Arc<Registry>,
    /// `None` has no entry in the registry.
    key: Option<Arc<str>>,
    address: Option<IpAddr>,
    id: u64,
}

impl Registry {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State { replacements: Replacements::new(limits.replacement_delay), ..State::default() };
        Self { limits, state: Mutex::new(state) }
    }

    /// Returns the newest session of a key.
    pub(crate) fn get(&self, key: &str) -> Option<Session> {
        self.state().entries.get(key)?.iter().rev().find_map(|entry| entry.session.clone())
    }

    /// Returns the newest session of a key that accepts calls, or the newest one if none does.
    pub(crate) fn find(&self, key: &str) -> Option<Session> {
        let state = self.state();
        let newest_first =
            || state.entries.get(key).into_iter().flatten().rev().filter_map(|entry| entry.session.as_ref());
        newest_first().find(|session| session.is_open()).or_else(|| newest_first().next()).cloned()
    }

    /// Waits for a session of a key that accepts calls.
    pub(crate) async fn opened(&self, key: &Arc<str>) -> Session {
        let waiting = Waiting::new(self, key);
        loop {
            let mut opened = pin!(waiting.opened.notified());
            // Before the look-up, so that no session is missed.
            opened.as_mut().enable();
            if let Some(session) = self.find(key).filter(Session::is_open) {
                return session;
            }
            opened.await;
        }
    }

    /// Returns all sessions.
    pub(crate) fn all(&self) -> Vec<Session> {
        self.state().sessions().cloned().collect()
    }

    /// Reserves a session that is about to open. Without a key, reserves a connection that will be closed.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        key: Option<Arc<str>>,
        remote_address: Option<SocketAddr>,
        id: u64,
        now: Instant,
    ) -> Result<Reservation, Reject> {
        let Limits { duplicate_identity, max_sessions, max_sessions_per_address, .. } = self.limits;
        let address =
            remote_address.filter(|_| max_sessions_per_address.is_some()).map(|address| address_prefix(address.ip()));
        let mut state = self.state();
        let entries = key.as_ref().and_then(|key| state.entries.get(key)).map_or(&[][..], SmallVec::as_slice);
        if duplicate_identity == DuplicateIdentity::RejectNew && !entries.is_empty() {
            return Err(Reject::new(StatusCode::CONFLICT).body("the identity is already connected"));
        }
        if duplicate_identity == DuplicateIdentity::ReplaceOld
            && entries.iter().any(|entry| entry.session.is_some())
            && let Some(key) = &key
            && let Some(delay) = state.replacements.delay(key, now)
        {
            let seconds = delay.as_secs_f64().ceil() as u64;
            return Err(Reject::new(StatusCode::TOO_MANY_REQUESTS)
                .header(header::RETRY_AFTER, HeaderValue::from(seconds))
                .body("the sessions of this identity replace each other repeatedly"));
        }
        // A session that will be replaced does not count, but only once: a replaced session may take long to end.
        let replaced = match (duplicate_identity, entries) {
            (DuplicateIdentity::ReplaceOld, [only]) if only.id < id => only.session.as_ref(),
            _ => None,
        };
        if replaced.is_none() && max_sessions.is_some_and(|limit| state.reserved >= limit) {
            return Err(Reject::retry_later(StatusCode::SERVICE_UNAVAILABLE, "too many sessions"));
        }
        if let (Some(address), Some(limit)) = (address, max_sessions_per_address) {
            let frees_one =
                replaced.and_then(Session::remote_address).is_some_and(|old| address_prefix(old.ip()) == address);
            if !frees_one && state.per_address.get(&address).is_some_and(|reserved| *reserved >= limit) {
                return Err(Reject::retry_later(StatusCode::TOO_MANY_REQUESTS, "too many sessions from this address"));
            }
            *state.per_address.entry(address).or_default() += 1;
        }
        state.reserved += 1;
        let entry = Entry { id, session: None };
        match key.clone().map(|key| state.entries.entry(key)) {
            Some(hash_map::Entry::Occupied(entries)) => {
                let entries = entries.into_mut();
                let place = entries.partition_point(|other| other.id < id);
                entries.insert(place, entry);
            }
            // Inline, because most identities have one session.
            Some(hash_map::Entry::Vacant(none)) => drop(none.insert(smallvec![entry])),
            None => {}
        }
        Ok(Reservation { registry: self.clone(), key, address, id })
    }

    /// Begins the close of all sessions: those that open from now on are closed at once. The caller must close the
    /// returned ones, which are in random order. Returns `None` if a close has begun before.
    pub(crate) fn begin_close(&self, close: &Close) -> Option<Vec<Session>> {
        let mut state = self.state();
        if state.closing.is_some() {
            return None;
        }
        state.closing = Some(close.clone());
        let mut sessions: Vec<_> = state.sessions().cloned().collect();
        // The oldest first, because the order of the map differs in each run of a program.
        sessions.sort_unstable_by_key(|session| session.shared().id);
        Some(sessions)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that waits for the next session of a key.
struct Waiting<'a> {
    registry: &'a Registry,
    key: &'a Arc<str>,
    opened: Arc<Notify>,
}

impl<'a> Waiting<'a> {
    fn new(registry: &'a Registry, key: &'a Arc<str>) -> Self {
        let mut state = registry.state();
        let awaited = state.awaited.entry(key.clone()).or_default();
        awaited.tasks += 1;
        Self { registry, key, opened: awaited.opened.clone() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        if let hash_map::Entry::Occupied(mut awaited) = state.awaited.entry(self.key.clone()) {
            awaited.get_mut().tasks -= 1;
            if awaited.get().tasks == 0 {
                awaited.remove();
            }
        }
    }
}

impl State {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.entries.values().flatten().filter_map(|entry| entry.session.as_ref())
    }

    /// Removes an entry if it still exists.
    fn remove(&mut self, key: &Arc<str>, id: u64) {
        let hash_map::Entry::Occupied(mut entries) = self.entries.entry(key.clone()) else { return };
        entries.get_mut().retain(|entry| entry.id != id);
        if entries.get().is_empty() {
            entries.remove();
        }
    }
}

impl Reservation {
    /// Returns the key of the session.
    pub(crate) fn key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    /// Returns the id of the session.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Registers the session, and closes all sessions of its key but the newest. Returns `true` if that happens
    /// repeatedly and must be reported.
    pub(crate) fn activate(&self, session: Session, now: Instant) -> bool {
        let mut guard = self.registry.state();
        let state = &mut *guard;
        if let Some(closing) = &state.closing {
            // The connection was upgraded after `begin_close`.
            session.shared().close(closing.clone());
        }
        let mut older = Vec::new();
        if let Some(entries) = self.key.as_ref().and_then(|key| state.entries.get_mut(key)) {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.id == self.id) {
                entry.session = Some(session);
            }
            if self.registry.limits.duplicate_identity == DuplicateIdentity::ReplaceOld {
                let mut open = entries.iter_mut().rev().filter(|entry| entry.session.is_some());
                open.next();
                older.extend(open.filter_map(|entry| entry.session.take()));
            }
        }
        let is_reported = self.key.as_ref().is_some_and(|key| !older.is_empty() && state.replacements.record(key, now));
        let opened = self.key.as_ref().and_then(|key| state.awaited.get(key)).map(|awaited| awaited.opened.clone());
        drop(guard);
        if let Some(opened) = opened {
            opened.notify_waiters();
        }
        for older in older {
            older
                .shared()
                .close(Close::new(1008).reason("replaced by a newer connection").with_cause(CloseCause::Replaced));
        }
        is_reported
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        if let Some(key) = &self.key {
            state.remove(key, self.id);
        }
        state.reserved -= 1;
        if let Some(address) = self.address
            && let hash_map::Entry::Occupied(mut reserved) = state.per_address.entry(address)
        {
            *reserved.get_mut() -= 1;
            if *reserved.get() == 0 {
                reserved.remove();
            }
        }
    }
}
