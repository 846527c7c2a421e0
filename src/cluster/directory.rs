//! The stations of this node: the subscriptions to requests for them, and the announcements of their sessions.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::cluster::{epoch::Epoch, wire::Announced};

/// Sessions that open within this time are announced in one message.
const BATCH: Duration = Duration::from_millis(5);

/// The announcements that may wait while the broker is away. The other nodes notice that further ones are missing, and ask
/// for them.
const MAX_OPENS: usize = 65_536;

/// The stations of this node.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    stations: HashMap<Arc<str>, Interest>,
    /// The stations whose subscription may have to change.
    dirty: HashSet<Arc<str>>,
    opens: Vec<Opened>,
    opens_due: Option<Instant>,
    /// The number of messages that announced sessions.
    sent_opens: u64,
}

/// The interest of this node in the requests to a station.
#[derive(Debug, Default)]
struct Interest {
    sessions: SmallVec<[u64; 1]>,
    is_subscribed: bool,
}

/// A session to announce.
#[derive(Debug)]
struct Opened {
    key: Arc<str>,
    session: u64,
    epoch: Epoch,
}

/// A change of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Subscribe,
    Unsubscribe,
}

impl Directory {
    /// Adds a session.
    pub(crate) fn opened(&mut self, key: &Arc<str>, session: u64, epoch: Epoch, now: Instant) {
        let interest = self.stations.entry(key.clone()).or_default();
        interest.sessions.push(session);
        self.dirty.insert(key.clone());
        if self.opens.len() < MAX_OPENS {
            self.opens.push(Opened { key: key.clone(), session, epoch });
        } else {
            self.sent_opens += 1;
        }
        self.opens_due.get_or_insert(now + BATCH);
    }

    /// Removes a session. Returns `false` if it was not there.
    pub(crate) fn closed(&mut self, key: &Arc<str>, session: u64) -> bool {
        let Some(interest) = self.stations.get_mut(key) else { return false };
        let before = interest.sessions.len();
        interest.sessions.retain(|open| *open != session);
        self.dirty.insert(key.clone());
        interest.sessions.len() < before
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    /// Returns the moment at which sessions must be announced.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.opens_due
    }

    /// Returns the number of the latest announcement.
    pub(crate) fn sent_opens(&self) -> u64 {
        self.sent_opens
    }

    /// Returns the number of the next announcement.
    pub(crate) fn next_open(&mut self) -> u64 {
        self.sent_opens += 1;
        self.sent_opens
    }

    /// Returns the stations whose subscription may have to change.
    pub(crate) fn take_dirty(&mut self) -> HashSet<Arc<str>> {
        mem::take(&mut self.dirty)
    }

    /// Returns how the subscription of a station must change.
    pub(crate) fn next_change(&mut self, key: &Arc<str>) -> Option<Change> {
        let interest = self.stations.get(key)?;
        match (interest.sessions.is_empty(), interest.is_subscribed) {
            (false, false) => Some(Change::Subscribe),
            (true, true) => Some(Change::Unsubscribe),
            (false, true) => None,
            (true, false) => {
                self.stations.remove(key);
                None
            }
        }
    }

    /// Records that a subscription has changed.
    pub(crate) fn changed(&mut self, key: &Arc<str>, change: Change) {
        if let Some(interest) = self.stations.get_mut(key) {
            interest.is_subscribed = change == Change::Subscribe;
        }
    }

    /// Records that a subscription could not be changed.
    pub(crate) fn not_changed(&mut self, key: Arc<str>) {
        self.dirty.insert(key);
    }

    /// Returns the sessions that must be announced now, without those that have closed meanwhile.
    pub(crate) fn take_opens(&mut self, now: Instant) -> Vec<Announced> {
        if self.opens_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.opens_due = None;
        let stations = &self.stations;
        let is_open = |open: &Opened| stations.get(&open.key).is_some_and(|own| own.sessions.contains(&open.session));
        let open = self.opens.drain(..).filter(is_open);
        open.map(|open| Announced { key: (&*open.key).into(), epoch: open.epoch }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cluster::epoch::{HybridClock, NodeId};

    fn epoch() -> Epoch {
        HybridClock::new(NodeId::random()).next(SystemTime::now())
    }

    #[test]
    fn subscription_lasts_as_long_as_there_is_a_session() {
        let (mut directory, key, now) = (Directory::default(), Arc::from("CP-1"), Instant::now());
        directory.opened(&key, 1, epoch(), now);
        assert_eq!(directory.take_dirty().len(), 1);
        assert_eq!(directory.next_change(&key), Some(Change::Subscribe));
        // A failure leaves the change to be done.
        directory.not_changed(key.clone());
        assert_eq!((directory.take_dirty().len(), directory.next_change(&key)), (1, Some(Change::Subscribe)));
        directory.changed(&key, Change::Subscribe);
        directory.opened(&key, 2, epoch(), now);
        assert!(directory.closed(&key, 1));
        assert!(!directory.closed(&key, 1));
        assert_eq!(directory.next_change(&key), None);
        assert!(directory.closed(&key, 2));
        assert_eq!(directory.next_change(&key), Some(Change::Unsubscribe));
        // The station returns while the subscription is ended.
        directory.opened(&key, 3, epoch(), now);
        directory.changed(&key, Change::Unsubscribe);
        assert_eq!(directory.next_change(&key), Some(Change::Subscribe));
        directory.closed(&key, 3);
        assert_eq!(directory.next_change(&key), None);
        assert!(directory.is_empty());
    }

    #[test]
    fn session_that_has_closed_is_not_announced() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let keys = ["CP-1", "CP-2"].map(Arc::from);
        for (session, key) in (0..).zip(&keys) {
            directory.opened(key, session, epoch(), now);
        }
        directory.closed(&keys[0], 0);
        assert_eq!(directory.take_opens(now), []);
        let announced = directory.take_opens(now + BATCH);
        assert_eq!(announced.iter().map(|open| &*open.key).collect::<Vec<_>>(), ["CP-2"]);
    }

    #[test]
    fn announcements_are_bounded_and_their_lack_is_noticed() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        for session in 0..MAX_OPENS as u64 + 1 {
            directory.opened(&Arc::from(format!("CP-{session}")), session, epoch(), now);
        }
        assert_eq!((directory.take_opens(now + BATCH).len(), directory.sent_opens()), (MAX_OPENS, 1));
    }
}
