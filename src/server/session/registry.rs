//! The sessions of a server, by identity, and how many there may be.
//!
//! A place is taken before the client is answered, so that a limit can still be told in HTTP, and given back when the
//! session has ended. Each place has a generation, so that an old session that leaves late does not take its
//! successor with it.

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

/// What becomes of a station that connects while there is a session of its identity already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DuplicateIdentity {
    /// The newcomer takes the place of the old session, which is closed with 1008 and
    /// [*replaced*](crate::close::CloseCause::Replaced) once the newcomer's socket is there. A station whose connection
    /// broke without a word comes back at once.
    #[default]
    ReplaceOld,
    /// The newcomer is answered with 409 until the old session has ended. A station whose connection broke without a
    /// word comes back when its old session has missed its pings.
    RejectNew,
    /// Both are sessions. [`RpcServer::session`](super::RpcServer::session) gives the newest,
    /// [`RpcServer::sessions`](super::RpcServer::sessions) all of them.
    AllowBoth,
}

#[derive(Debug)]
pub(crate) struct Registry {
    limits: Limits,
    state: Mutex<State>,
}

/// Who gets a place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) duplicate_identity: DuplicateIdentity,
    pub(crate) max_sessions: Option<usize>,
    pub(crate) max_sessions_per_address: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which their sockets came; never an empty list.
    entries: HashMap<Arc<str>, SmallVec<[Entry; 1]>>,
    /// How many places are taken, those of sockets that are only told to go included.
    reserved: usize,
    /// The same for each address, where that is limited.
    per_address: HashMap<IpAddr, usize>,
    generation: u64,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    /// None until the client's socket is there, and once another session has taken its place.
    session: Option<Session>,
}

/// A close of all sessions, those that are still to come included.
#[derive(Debug)]
struct Closing {
    close: Close,
    deadline: Instant,
}

/// A session's place in the registry, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    registry: Arc<Registry>,
    /// None has no seat.
    identity: Option<Arc<str>>,
    address: Option<IpAddr>,
    generation: u64,
}

impl Registry {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    pub(crate) fn get(&self, identity: &str) -> Option<Session> {
        self.state().entries.get(identity)?.iter().rev().find_map(|entry| entry.session.clone())
    }

    pub(crate) fn all(&self) -> Vec<Session> {
        self.state().sessions().cloned().collect()
    }

    /// Takes a place for a session that is about to open; without an identity, for a socket that is to become none.
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
            return Err(Reject::new(StatusCode::CONFLICT).body("the identity is connected already"));
        }
        // Who is going to be replaced makes room, but only once: those who were replaced may take their time to leave.
        let replaced = match (duplicate_identity, entries) {
            (DuplicateIdentity::ReplaceOld, [only]) => only.session.as_ref(),
            _ => None,
        };
        if replaced.is_none() && max_sessions.is_some_and(|limit| state.reserved >= limit) {
            return Err(Reject::retry_later(StatusCode::SERVICE_UNAVAILABLE, "too many sessions"));
        }
        if let (Some(address), Some(limit)) = (address, max_sessions_per_address) {
            let makes_room =
                replaced.and_then(Session::remote_address).is_some_and(|old| address_prefix(old.ip()) == address);
            if !makes_room && state.per_address.get(&address).is_some_and(|reserved| *reserved >= limit) {
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
            // As large as one needs: most identities have one session.
            Some(hash_map::Entry::Vacant(none)) => drop(none.insert(smallvec![entry])),
            None => {}
        }
        Ok(Reservation { registry: self.clone(), identity, address, generation })
    }

    /// Asks every session to close. The first close decides, also on the deadline, which is given back.
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
        // Nothing that runs under the lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.entries.values().flatten().filter_map(|entry| entry.session.as_ref())
    }

    /// Takes a seat out, if it is still there.
    fn remove(&mut self, identity: &Arc<str>, generation: u64) {
        let hash_map::Entry::Occupied(mut entries) = self.entries.entry(identity.clone()) else { return };
        entries.get_mut().retain(|entry| entry.generation != generation);
        if entries.get().is_empty() {
            entries.remove();
        }
    }
}

impl Reservation {
    /// Registers the session, as the newest of its identity; an older one may have to go.
    pub(crate) fn activate(&self, session: Session) {
        let mut state = self.registry.state();
        if let Some(closing) = &state.closing {
            // It came in while the others were being closed already.
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

/// What counts as one address: of version 6 the first 64 bits, because that is what one customer has.
fn address_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}
