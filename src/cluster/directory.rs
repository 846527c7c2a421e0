//! The stations of this node: the subscriptions to requests for them, and the announcements of their sessions.
//!
//! Each session has a number, and an announcement says which numbers it covers. Another node therefore knows up to which
//! number it has heard of all sessions, and asks for those behind it. A session that takes precedence over one of another
//! node gets a new number, so that it is announced once more, and a loss of that announcement is noticed like any other.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::cluster::{epoch::Epoch, wire::Announced};

/// Sessions that open within this time are announced in one message.
const BATCH: Duration = Duration::from_millis(5);

/// The sessions in one message.
const MAX_SESSIONS: usize = 1024;

/// The numbers that are announced at once after the broker was away. The other nodes ask for the sessions before them,
/// at their own pace.
const MAX_UNSENT: u64 = 4096;

/// The stations of this node.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    stations: HashMap<Arc<str>, Interest>,
    /// The stations whose subscription may have to change.
    dirty: HashSet<Arc<str>>,
    /// The open sessions by their numbers.
    sessions: BTreeMap<u64, OpenSession>,
    /// The latest number.
    latest: u64,
    /// The number up to which sessions were announced.
    announced: u64,
    announcement_due: Option<Instant>,
}

/// The interest of this node in the requests to a station.
#[derive(Debug, Default)]
struct Interest {
    sessions: SmallVec<[SessionNumber; 1]>,
    is_subscribed: bool,
}

/// An open session and its number.
#[derive(Debug)]
struct SessionNumber {
    id: u64,
    number: u64,
}

/// A session as it is announced.
#[derive(Debug)]
struct OpenSession {
    key: Arc<str>,
    epoch: Epoch,
    over: Option<Epoch>,
}

/// A change of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Subscribe,
    Unsubscribe,
}

/// The sessions with the numbers behind `after` up to `until`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) after: u64,
    pub(crate) until: u64,
    pub(crate) sessions: Vec<Announced>,
}

impl Directory {
    /// Adds a session.
    pub(crate) fn opened(&mut self, key: &Arc<str>, id: u64, epoch: Epoch, now: Instant) {
        let number = self.number(OpenSession { key: key.clone(), epoch, over: None }, now);
        self.stations.entry(key.clone()).or_default().sessions.push(SessionNumber { id, number });
        self.dirty.insert(key.clone());
    }

    /// Announces a session once more, because it takes precedence over one of another node. Returns `false` if it has
    /// closed.
    pub(crate) fn claim(&mut self, key: &str, epoch: Epoch, over: Epoch, now: Instant) -> bool {
        let numbers = self.stations.get(key).into_iter().flat_map(|own| own.sessions.iter().map(|open| open.number));
        let is_claimed = |number: &u64| self.sessions.get(number).is_some_and(|session| session.epoch == epoch);
        let Some(old) = numbers.into_iter().find(is_claimed) else { return false };
        let Some(session) = self.sessions.remove(&old) else { return false };
        let number = self.number(OpenSession { over: Some(over), ..session }, now);
        let opens = self.stations.get_mut(key).into_iter().flat_map(|own| &mut own.sessions);
        opens.filter(|open| open.number == old).for_each(|open| open.number = number);
        true
    }

    fn number(&mut self, session: OpenSession, now: Instant) -> u64 {
        self.latest += 1;
        self.sessions.insert(self.latest, session);
        self.announcement_due.get_or_insert(now + BATCH);
        self.latest
    }

    /// Removes a session. Returns `false` if it was not there.
    pub(crate) fn closed(&mut self, key: &Arc<str>, id: u64) -> bool {
        let Some(interest) = self.stations.get_mut(key) else { return false };
        self.dirty.insert(key.clone());
        let Some(place) = interest.sessions.iter().position(|open| open.id == id) else { return false };
        let open = interest.sessions.remove(place);
        self.sessions.remove(&open.number);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    /// Returns the moment at which sessions must be announced.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.announcement_due
    }

    /// Returns the number up to which sessions were announced.
    pub(crate) fn announced(&self) -> u64 {
        self.announced
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

    /// Begins an announcement if it is due. Returns the number up to which sessions must be announced.
    pub(crate) fn begin_announcement(&mut self, now: Instant) -> Option<u64> {
        self.announcement_due.take_if(|due| *due <= now)?;
        self.announced = self.announced.max(self.latest.saturating_sub(MAX_UNSENT));
        Some(self.latest)
    }

    /// Records that the sessions up to this number were announced.
    pub(crate) fn sent(&mut self, until: u64) {
        self.announced = self.announced.max(until);
    }

    /// Records that sessions could not be announced.
    pub(crate) fn not_sent(&mut self, retry_at: Instant) {
        self.announcement_due.get_or_insert(retry_at);
    }

    /// Returns the sessions behind a number, as many as one message takes. A session with a key of more than
    /// `max_bytes` is left out, because no node can call it.
    pub(crate) fn part(&self, after: u64, until: u64, max_bytes: usize) -> Part {
        let mut part = Part { after, until: after, sessions: Vec::new() };
        let (mut left, end) = (max_bytes, until.max(after));
        for (number, OpenSession { key, epoch, over }) in
            self.sessions.range((Bound::Excluded(after), Bound::Included(end)))
        {
            // A key takes up to six bytes per byte if all of them are escaped.
            let size = 6 * key.len() + 128;
            if size > max_bytes {
                continue;
            }
            if size > left || part.sessions.len() == MAX_SESSIONS {
                return part;
            }
            left -= size;
            part.sessions.push(Announced { key: (&**key).into(), epoch: *epoch, over: *over });
            part.until = *number;
        }
        part.until = end;
        part
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

    fn keys(part: &Part) -> Vec<&str> {
        part.sessions.iter().map(|session| &*session.key).collect()
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
        let opened = ["CP-1", "CP-2"].map(Arc::from);
        for (session, key) in (0..).zip(&opened) {
            directory.opened(key, session, epoch(), now);
        }
        directory.closed(&opened[0], 0);
        assert_eq!(directory.begin_announcement(now), None);
        assert_eq!(directory.begin_announcement(now + BATCH), Some(2));
        let part = directory.part(0, 2, 1 << 20);
        assert_eq!((part.until, keys(&part)), (2, vec!["CP-2"]));
        // Until it is sent, it counts as not announced.
        assert_eq!((directory.announced(), directory.begin_announcement(now + BATCH)), (0, None));
        directory.not_sent(now);
        assert_eq!(directory.begin_announcement(now), Some(2));
        directory.sent(2);
        assert_eq!((directory.announced(), directory.due()), (2, None));
    }

    #[test]
    fn claim_is_announced_behind_what_others_have_heard() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let (own, other) = (epoch(), epoch());
        directory.opened(&"CP-1".into(), 1, own, now);
        directory.opened(&"CP-2".into(), 2, epoch(), now);
        directory.sent(2);
        assert!(!directory.claim("CP-1", other, own, now) && !directory.claim("CP-3", own, other, now));
        assert!(directory.claim("CP-1", own, other, now));
        let part = directory.part(2, 3, 1 << 20);
        assert_eq!(part.sessions, [Announced { key: "CP-1".into(), epoch: own, over: Some(other) }]);
        assert_eq!(keys(&directory.part(0, 3, 1 << 20)), ["CP-2", "CP-1"]);
        assert!(directory.closed(&"CP-1".into(), 1));
        assert_eq!(keys(&directory.part(0, 3, 1 << 20)), ["CP-2"]);
    }

    #[test]
    fn parts_are_bounded_and_cover_all() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        for session in 0..2 * MAX_SESSIONS as u64 {
            directory.opened(&Arc::from(format!("CP-{session}")), session, epoch(), now);
        }
        let long: Arc<str> = "x".repeat(1000).into();
        directory.opened(&long, 9999, epoch(), now);
        let all = directory.begin_announcement(now + BATCH).expect("due");
        for (max_bytes, parts) in [(1 << 20, 3), (4096, 86)] {
            let (mut after, mut count, mut announced) = (0, 0, 0);
            while after < all {
                let part = directory.part(after, all, max_bytes);
                (after, count, announced) = (part.until, count + 1, announced + part.sessions.len());
            }
            // The key of the last one does not fit into 4096 bytes.
            let expected = 2 * MAX_SESSIONS + usize::from(max_bytes > 4096);
            assert_eq!((count, announced), (parts, expected), "{max_bytes}");
        }
        // A number of another node may be anything.
        assert_eq!(directory.part(u64::MAX, all, 4096), Part { after: u64::MAX, until: u64::MAX, sessions: vec![] });
    }

    #[test]
    fn announcements_after_an_outage_are_bounded() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        for session in 0..MAX_UNSENT + 9 {
            directory.opened(&Arc::from(format!("CP-{session}")), session, epoch(), now);
        }
        assert_eq!(directory.begin_announcement(now + BATCH), Some(MAX_UNSENT + 9));
        assert_eq!(directory.announced(), 9);
    }
}
