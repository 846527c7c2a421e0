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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use smallvec::{SmallVec, smallvec};

use tokio::time::timeout;

use crate::{
    close::{info::CloseCause, intent::Close},
    cluster::{epoch::Epoch, member::Member, metrics},
    connection::shared::Shared,
    event::kind::EventKind,
    openings::Openings,
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
    ///
    /// In a [cluster](crate::cluster), an old session at another node counts as well. With
    /// [`RpcServer::accept`](crate::RpcServer::accept), or if the nodes cannot reach each other, the newcomer is closed
    /// with 1008 as soon as its node learns of the old session.
    RejectNew,
    /// Keeps both sessions.
    ///
    /// [`RpcServer::session`](crate::RpcServer::session) returns the newest,
    /// [`RpcServer::sessions`](crate::RpcServer::sessions) returns all. If they are at different nodes of a
    /// [cluster](crate::cluster), a call from a third node goes to any of them.
    AllowBoth,
}

/// The sessions of a server, by identity.
#[derive(Debug)]
pub(crate) struct Registry {
    limits: Limits,
    state: Mutex<State>,
    openings: Arc<Openings>,
    /// The cluster that the sessions are announced to.
    cluster: Option<Arc<Member>>,
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
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// `None` before the upgrade, and after the session was replaced.
    session: Option<Session>,
    /// The order of the session among all nodes of a cluster. `None` before it is announced.
    epoch: Option<Epoch>,
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

/// Reports that the sessions of a key replace each other repeatedly.
pub(crate) fn report_conflict(shared: &Arc<Shared>) {
    // A session that another node replaces is closed outside of its span.
    tracing::warn!(
        key = &**shared.run().key(),
        "sessions replace each other repeatedly: two stations may share this identity"
    );
    shared.report(EventKind::IdentityConflict);
}

/// The time that the cluster has to tell if a session is at another node.
const ELSEWHERE_TIMEOUT: Duration = Duration::from_secs(1);

/// The refusal of a newcomer with [`DuplicateIdentity::RejectNew`].
pub(crate) fn already_connected() -> Reject {
    Reject::new(StatusCode::CONFLICT).body("the identity is already connected")
}

impl Registry {
    pub(crate) fn new(limits: Limits, openings: Arc<Openings>, cluster: Option<Arc<Member>>) -> Self {
        let state = State { replacements: Replacements::new(limits.replacement_delay), ..State::default() };
        Self { limits, state: Mutex::new(state), openings, cluster }
    }

    /// Returns the tasks that wait for sessions.
    pub(crate) fn openings(&self) -> &Openings {
        &self.openings
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

    /// Returns the number of connected stations.
    #[cfg(feature = "console")]
    pub(crate) fn count(&self) -> usize {
        let state = self.state();
        state.entries.values().filter(|entries| entries.iter().any(|entry| entry.session.is_some())).count()
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
            return Err(already_connected());
        }
        if duplicate_identity == DuplicateIdentity::ReplaceOld
            && (self.cluster.is_some() || entries.iter().any(|entry| entry.session.is_some()))
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
        let entry = Entry { id, session: None, epoch: None };
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

    /// Asks the cluster if a session at another node keeps newcomers of this key out. Returns `None` if no node can.
    ///
    /// If the cluster does not answer, newcomers may come, and the older session takes precedence later.
    pub(crate) fn ask_elsewhere<'a>(&'a self, key: &'a Arc<str>) -> Option<BoxFuture<'a, bool>> {
        if self.limits.duplicate_identity != DuplicateIdentity::RejectNew {
            return None;
        }
        let cluster = self.cluster.as_ref()?;
        Some(Box::pin(async move {
            let info = timeout(ELSEWHERE_TIMEOUT, cluster.info(key)).await;
            matches!(info, Ok(Ok(Some(info))) if info.node.as_deref() != Some(cluster.name()))
        }))
    }

    /// Compares the sessions of a key with one that another node announced, and closes those that must give way. Returns
    /// the epoch of the session here that takes precedence.
    pub(crate) fn announced(&self, key: &str, epoch: Epoch, now: Instant) -> Option<Epoch> {
        let mut guard = self.state();
        let state = &mut *guard;
        let entries = state.entries.get_mut(key)?;
        let gives_way = |own: Epoch| match self.limits.duplicate_identity {
            DuplicateIdentity::ReplaceOld => own < epoch,
            DuplicateIdentity::RejectNew => own > epoch,
            DuplicateIdentity::AllowBoth => false,
        };
        let older: Vec<_> = entries
            .iter_mut()
            .filter(|entry| entry.epoch.is_some_and(gives_way))
            .filter_map(|entry| entry.session.take())
            .collect();
        let claim = match self.limits.duplicate_identity {
            DuplicateIdentity::AllowBoth => None,
            _ => entries.iter().filter(|entry| entry.session.is_some()).filter_map(|entry| entry.epoch).max(),
        };
        let key = older.first().map(Session::key);
        let is_reported = key.is_some_and(|key| state.replacements.record(&key, now));
        drop(guard);
        for session in &older {
            metrics::replaced();
            if is_reported {
                report_conflict(session.shared());
            }
        }
        self.replace(older);
        claim.filter(|own| *own != epoch)
    }

    /// Returns the newest session of each key, in no particular order.
    pub(crate) fn newest_sessions(&self) -> Vec<Session> {
        self.state().entries.values().filter_map(|entries| newest(entries)).collect()
    }

    /// Returns the newest session of each key behind `after` that begins with `prefix`, at most `limit`, in the order of
    /// their keys.
    pub(crate) fn sessions_after(&self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Session> {
        let state = self.state();
        let is_behind = |key: &str| after.is_none_or(|after| key > after) && key.starts_with(prefix);
        let behind = state.entries.iter().filter(|(key, _)| is_behind(key));
        let open = behind.filter(|(_, entries)| entries.iter().any(|entry| entry.session.is_some()));
        let mut keys: Vec<_> = open.map(|(key, _)| key).collect();
        if keys.len() > limit {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        keys.sort_unstable();
        keys.into_iter().filter_map(|key| newest(state.entries.get(key)?)).collect()
    }

    /// Closes sessions that newer ones have replaced.
    fn replace(&self, older: Vec<Session>) {
        let reason = match self.limits.duplicate_identity {
            DuplicateIdentity::RejectNew => "the identity is already connected",
            _ => "replaced by a newer connection",
        };
        for session in older {
            if let Some(cluster) = &self.cluster {
                cluster.closed(&session.key(), session.shared().id);
            }
            session.shared().close(Close::new(1008).reason(reason).with_cause(CloseCause::Replaced));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the newest session of a key.
fn newest(entries: &[Entry]) -> Option<Session> {
    entries.iter().rev().find_map(|entry| entry.session.clone())
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
        if let (Some(cluster), Some(key)) = (&self.registry.cluster, &self.key)
            && let Some(entries) = state.entries.get_mut(key)
            && let Some(entry) = entries.iter_mut().find(|entry| entry.id == self.id && entry.session.is_some())
        {
            // Under the lock, so that the order of epochs is that of the sessions, and that none is replaced before it
            // is announced.
            let epoch = cluster.next_epoch();
            entry.epoch = Some(epoch);
            cluster.opened(key, self.id, epoch);
        }
        drop(guard);
        if let Some(key) = &self.key {
            self.registry.openings.notify(key);
        }
        self.registry.replace(older);
        is_reported
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let (Some(cluster), Some(key)) = (&self.registry.cluster, &self.key) {
            cluster.closed(key, self.id);
        }
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
