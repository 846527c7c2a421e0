//! The registry of a server's sessions by identity, and their limits.
//!
//! The server reserves a session before it responds to the client, so that the response can report an exceeded limit.
//! The reservation ends with the session. Each reservation has a generation. When an old session ends late, it removes
//! only its own generation, and not its successor.

use std::{
    collections::{HashMap, hash_map},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::StatusCode;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use crate::{
    close::{info::CloseCause, intent::Close},
    server::handshake::auth::Reject,
    session::Session,
};

/// The action when a station connects while its identity has a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DuplicateIdentity {
    /// Replaces the old session.
    ///
    /// The server closes it with 1008 and the cause [`Replaced`](crate::close::CloseCause::Replaced) when the new
    /// connection is upgraded. A station that lost its connection can reconnect immediately.
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
}

#[derive(Debug, Default)]
struct State {
    /// Ordered by the time of the upgrade. The lists are never empty.
    entries: HashMap<Arc<str>, SmallVec<[Entry; 1]>>,
    /// The number of reservations, including those of connections without a common protocol.
    reserved: usize,
    /// The number of reservations per address, if that is limited.
    per_address: HashMap<IpAddr, usize>,
    generation: u64,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    /// `None` before the upgrade, and after the session was replaced.
    session: Option<Session>,
}

/// A close of all sessions, which also applies to sessions that open later.
#[derive(Debug)]
struct Closing {
    close: Close,
    deadline: Instant,
}

/// The reservation of a session in the registry, until dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    registry: Arc<Registry>,
    /// `None` has no entry in the registry.
    identity: Option<Arc<str>>,
    address: Option<IpAddr>,
    generation: u64,
}

impl Registry {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Returns the newest session of an identity.
    pub(crate) fn get(&self, identity: &str) -> Option<Session> {
        self.state().entries.get(identity)?.iter().rev().find_map(|entry| entry.session.clone())
    }

    /// Returns all sessions.
    pub(crate) fn all(&self) -> Vec<Session> {
        self.state().sessions().cloned().collect()
    }

    /// Reserves a session that is about to open. Without an identity, reserves a connection that will be closed.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        identity: Option<Arc<str>>,
        remote_address: Option<SocketAddr>,
    ) -> Result<Reservation, Reject> {
        let Limits { duplicate_identity, max_sessions, max_sessions_per_address } = self.limits;
        let address =
            remote_address.filter(|_| max_sessions_per_address.is_some()).map(|address| address_prefix(address.ip()));
        let mut state = self.state();
        let entries =
            identity.as_ref().and_then(|identity| state.entries.get(identity)).map_or(&[][..], SmallVec::as_slice);
        if duplicate_identity == DuplicateIdentity::RejectNew && !entries.is_empty() {
            return Err(Reject::new(StatusCode::CONFLICT).body("the identity is already connected"));
        }
        // A session that will be replaced does not count, but only once: a replaced session may take long to end.
        let replaced = match (duplicate_identity, entries) {
            (DuplicateIdentity::ReplaceOld, [only]) => only.session.as_ref(),
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
        state.generation += 1;
        let generation = state.generation;
        let entry = Entry { generation, session: None };
        match identity.clone().map(|identity| state.entries.entry(identity)) {
            Some(hash_map::Entry::Occupied(entries)) => entries.into_mut().push(entry),
            // Inline, because most identities have one session.
            Some(hash_map::Entry::Vacant(none)) => drop(none.insert(smallvec![entry])),
            None => {}
        }
        Ok(Reservation { registry: self.clone(), identity, address, generation })
    }

    /// Closes every session, and returns the deadline. The first close and its deadline take precedence.
    pub(crate) fn close_all(&self, close: &Close, deadline: Instant) -> Instant {
        let mut state = self.state();
        if let Some(closing) = &state.closing {
            return closing.deadline;
        }
        state.closing = Some(Closing { close: close.clone(), deadline });
        let sessions: Vec<_> = state.sessions().cloned().collect();
        drop(state);
        for session in sessions {
            session.shared().close(close.clone());
        }
        deadline
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.entries.values().flatten().filter_map(|entry| entry.session.as_ref())
    }

    /// Removes an entry if it still exists.
    fn remove(&mut self, identity: &Arc<str>, generation: u64) {
        let hash_map::Entry::Occupied(mut entries) = self.entries.entry(identity.clone()) else { return };
        entries.get_mut().retain(|entry| entry.generation != generation);
        if entries.get().is_empty() {
            entries.remove();
        }
    }
}

impl Reservation {
    /// Registers the session as the newest of its identity, and closes the sessions that it replaces.
    pub(crate) fn activate(&self, session: Session) {
        let mut state = self.registry.state();
        if let Some(closing) = &state.closing {
            // The connection was upgraded after `close_all`.
            session.shared().close(closing.close.clone());
        }
        let mut older = Vec::new();
        if let Some(entries) = self.identity.as_ref().and_then(|identity| state.entries.get_mut(identity)) {
            entries.retain(|entry| entry.generation != self.generation);
            if self.registry.limits.duplicate_identity == DuplicateIdentity::ReplaceOld {
                older.extend(entries.iter_mut().filter_map(|entry| entry.session.take()));
            }
            entries.push(Entry { generation: self.generation, session: Some(session) });
        }
        drop(state);
        for older in older {
            older
                .shared()
                .close(Close::new(1008).reason("replaced by a newer connection").with_cause(CloseCause::Replaced));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        if let Some(identity) = &self.identity {
            state.remove(identity, self.generation);
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

/// Returns the part of an address that is limited: for IPv6 the first 64 bits, which is the network of one customer.
fn address_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}
