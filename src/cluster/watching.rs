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
