//! The readers of events of all nodes.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use serde::{Serialize, Serializer, ser::Error as _};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    cluster::{directory::Change, epoch::NodeId, filter::EventFilter},
    message::payload::Payload,
};

/// An event of a node of a cluster.
///
/// It serializes to a JSON object: the fields of the [`Event`](crate::event::Event) and `node`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeEvent {
    /// The name of the node.
    pub node: Arc<str>,
    /// The key of the station. `None` if the event belongs to none.
    pub key: Option<Arc<str>>,
    /// The kind of event, the `type` of its JSON. `lagged` if this reader was too slow.
    pub kind: Arc<str>,
    /// The JSON of the [`Event`](crate::event::Event).
    pub event: Payload,
}

/// The leases that a node grants at once.
const MAX_LEASES: usize = 1024;

/// The leases of one watcher.
const MAX_LEASES_OF_WATCHER: usize = 64;

/// The leases for stations whose keys begin with the same part, up to the first `/`. A process that is permitted to call
/// the stations of one tenant only can pretend to be many watchers, but not choose other stations.
const MAX_LEASES_OF_TENANT: usize = 256;

/// The memory that the filter of a lease may take, in bytes.
const MAX_FILTER: usize = 4096;

/// The readers of this node, and the leases of those of other nodes.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    pub(crate) readers: HashMap<u64, Reader>,
    pub(crate) leases: HashMap<(NodeId, u64), Lease>,
    /// Set while a task publishes events.
    pub(crate) is_publishing: bool,
    pub(crate) renewal_due: Option<Instant>,
    /// The subscriptions to events, with the number of their readers.
    pub(crate) topics: HashMap<Option<Box<str>>, Watched>,
}

#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) readers: usize,
    pub(crate) is_subscribed: bool,
}

#[derive(Debug)]
pub(crate) struct Reader {
    /// The number of its lease, which readers with the same filter share.
    pub(crate) watch: u64,
    pub(crate) filter: EventFilter,
    pub(crate) sender: mpsc::Sender<NodeEvent>,
    pub(crate) lost: u64,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) filter: EventFilter,
    pub(crate) until: Instant,
}

impl Watching {
    /// Returns the number of the lease of a reader with the same filter.
    pub(crate) fn watch_of(&self, filter: &EventFilter) -> Option<u64> {
        self.readers.values().find(|reader| reader.filter == *filter).map(|reader| reader.watch)
    }

    /// Returns the filters of the readers by the numbers of their leases.
    pub(crate) fn watches(&self) -> HashMap<u64, EventFilter> {
        self.readers.values().map(|reader| (reader.watch, reader.filter.clone())).collect()
    }

    /// Grants or renews the lease of a watcher. Returns `false` if there are too many, or if the filter is too long.
    pub(crate) fn grant(&mut self, watcher: NodeId, watch: u64, lease: Lease) -> bool {
        if lease.filter.size() > MAX_FILTER {
            return false;
        }
        if let Some(granted) = self.leases.get_mut(&(watcher, watch)) {
            if tenant(&granted.filter) != tenant(&lease.filter) {
                return false;
            }
            *granted = lease;
            return true;
        }
        let count = |counts: &dyn Fn(NodeId, &Lease) -> bool| {
            self.leases.iter().filter(|((watcher, _), lease)| counts(*watcher, lease)).count()
        };
        let tenant_of_lease = tenant(&lease.filter);
        let is_of_tenant = |lease: &Lease| tenant_of_lease.is_some() && tenant(&lease.filter) == tenant_of_lease;
        if count(&|other, _| other == watcher) >= MAX_LEASES_OF_WATCHER
            || count(&|_, lease| is_of_tenant(lease)) >= MAX_LEASES_OF_TENANT
        {
            return false;
        }
        if self.leases.len() >= MAX_LEASES {
            // Only a process that may call all stations reads the events of all.
            let of_one = self.leases.iter().filter(|(_, lease)| tenant(&lease.filter).is_some());
            let replaced = of_one.min_by_key(|(_, lease)| lease.until).map(|(lease, _)| *lease);
            match replaced.filter(|_| tenant_of_lease.is_none()) {
                Some(replaced) => self.leases.remove(&replaced),
                None => return false,
            };
        }
        self.leases.insert((watcher, watch), lease);
        true
    }

    /// Asks for events again soon.
    pub(crate) fn renew(&mut self) {
        if !self.readers.is_empty() {
            self.renewal_due = Some(Instant::now());
        }
    }

    /// Records that a topic has a reader less.
    pub(crate) fn unread(&mut self, key: Option<Box<str>>) {
        if let hash_map::Entry::Occupied(mut watched) = self.topics.entry(key) {
            watched.get_mut().readers -= 1;
            if watched.get().readers == 0 && !watched.get().is_subscribed {
                watched.remove();
            }
        }
        self.renewal_due = Some(Instant::now());
    }

    /// Returns how the subscriptions must change, and if each must begin. A reader of all events makes the others needless.
    pub(crate) fn changes(&self) -> Vec<(Option<Box<str>>, Change)> {
        let reads_all = self.topics.get(&None).is_some_and(|watched| watched.readers > 0);
        let changes = self.topics.iter().filter_map(|(key, watched)| {
            let wanted = watched.readers > 0 && (key.is_none() || !reads_all);
            let change = if wanted { Change::Subscribe } else { Change::Unsubscribe };
            (wanted != watched.is_subscribed).then(|| (key.clone(), change))
        });
        // Subscriptions first, so that no event is lost in between.
        let (mut changes, last): (Vec<_>, Vec<_>) = changes.partition(|(_, change)| *change == Change::Subscribe);
        changes.extend(last);
        changes
    }

    /// Records that a subscription has changed.
    pub(crate) fn changed(&mut self, key: &Option<Box<str>>, change: Change) {
        if let Some(watched) = self.topics.get_mut(key) {
            watched.is_subscribed = change == Change::Subscribe;
            if watched.readers == 0 && !watched.is_subscribed {
                self.topics.remove(key);
            }
        }
    }

    /// Forgets the readers of a node that is gone.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.leases.retain(|(watcher, _), _| *watcher != node);
    }

    /// Ends the readers of this node. The caller must drop them.
    pub(crate) fn end(&mut self) -> Vec<Reader> {
        self.leases.clear();
        self.readers.drain().map(|(_, reader)| reader).collect()
    }
}

/// Returns the first part of the only key that a filter chooses.
fn tenant(filter: &EventFilter) -> Option<&str> {
    filter.only_key()?.split('/').next()
}

impl Reader {
    /// Gives an event to the reader, unless it is too slow.
    pub(crate) fn give(&mut self, event: NodeEvent, node: &Arc<str>) {
        // Two places, because the number of lost events takes one.
        if self.sender.capacity() < 2 {
            self.lost += 1;
            return;
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let json = format!("{{\"type\":\"lagged\",\"events\":{lost}}}");
            let lagged =
                NodeEvent { node: node.clone(), key: None, kind: "lagged".into(), event: Payload(json.into()) };
            let _ = self.sender.try_send(lagged);
        }
        let _ = self.sender.try_send(event);
    }
}

impl Serialize for NodeEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            node: &'a str,
            #[serde(flatten)]
            event: HashMap<Box<str>, Payload>,
        }

        let event = self.event.decode().map_err(S::Error::custom)?;
        Flat { node: &self.node, event }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lease(filter: EventFilter) -> Lease {
        Lease { filter, until: Instant::now() + Duration::from_secs(10) }
    }

    fn of(tenant: usize, station: usize) -> Lease {
        lease(EventFilter::all().key(&format!("tenant-{tenant}/CP-{station}")))
    }

    #[test]
    fn leases_are_bounded_for_each_watcher() {
        let (watcher, mut watching) = (NodeId::random(), Watching::default());
        let all = || lease(EventFilter::all());
        assert!((0..MAX_LEASES_OF_WATCHER as u64).all(|watch| watching.grant(watcher, watch, all())));
        assert!(!watching.grant(watcher, 9999, all()));
        assert!(watching.grant(watcher, 0, all()), "a lease is renewed");
        assert!(watching.grant(NodeId::random(), 9999, all()), "others are not affected");
        watching.forget(watcher);
        assert!(watching.grant(watcher, 9999, all()));
    }

    #[test]
    fn tenant_cannot_take_the_leases_of_others() {
        let mut watching = Watching::default();
        // Each from a watcher of its own, as far as the sender says.
        for tenant in 0..5 {
            let granted = (0..1000).filter(|station| watching.grant(NodeId::random(), 1, of(tenant, *station))).count();
            assert_eq!(granted, if tenant < 4 { MAX_LEASES_OF_TENANT } else { 0 });
        }
        assert_eq!(watching.leases.len(), MAX_LEASES);
        assert!(!watching.grant(NodeId::random(), 1, of(9, 1)), "all are taken");
        assert!(watching.grant(NodeId::random(), 1, lease(EventFilter::all())), "a node may read all events");
        assert_eq!(watching.leases.len(), MAX_LEASES);
    }

    #[test]
    fn lease_cannot_be_given_to_another_tenant() {
        let (watcher, mut watching) = (NodeId::random(), Watching::default());
        assert!(watching.grant(watcher, 1, lease(EventFilter::all())));
        assert!(!watching.grant(watcher, 1, of(1, 1)));
    }

    #[test]
    fn filters_of_leases_are_bounded() {
        let (watcher, mut watching) = (NodeId::random(), Watching::default());
        let kinds = |length: usize| lease(EventFilter::all().key("1").kinds(["x".repeat(length)]));
        let overhead = kinds(0).filter.size();
        assert!(watching.grant(watcher, 1, kinds(MAX_FILTER - overhead)));
        assert!(!watching.grant(watcher, 1, kinds(MAX_FILTER - overhead + 1)));
        let many = EventFilter::all().kinds((0..MAX_FILTER).map(|_| "12"));
        assert!(!watching.grant(watcher, 2, lease(many)));
    }
}
