//! The events of all nodes.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    cluster::{
        directory::Change,
        epoch::NodeId,
        filter::EventFilter,
        member::{Member, SEND_TIMEOUT, read},
        metrics,
        outbox::Target,
        transport::{Destination, Topic},
        watching::{Lease, NodeEvent, Reader},
        wire::{self, Broadcast},
    },
    event::{
        bus::Events,
        kind::{Event, EventKind},
    },
    message::payload::Payload,
};

/// The time for which a watcher asks for events.
const LEASE: Duration = Duration::from_secs(10);

/// The time after which a watcher asks again.
const RENEWAL: Duration = Duration::from_secs(4);

/// The events that a reader holds.
const CAPACITY: usize = 4096;

/// A reader of the events of all nodes, returned by
/// [`RpcServer::events_everywhere`](crate::RpcServer::events_everywhere).
///
/// It is a [`Stream`] of [`NodeEvent`]s. A reader holds 4096 events. One that reads too slowly loses events, and gets one
/// of the kind `lagged` with their number. Events are also lost while the cluster is away.
///
/// A node publishes events other than `opened` and `closed` for 10 s after a reader has asked for them, and readers ask
/// every 4 s. Without a reader, it publishes no others. It serves at most 64 different filters of one node, 256 for
/// stations whose keys begin with the same part (up to the first `/`), and 1024 in all. Further readers get `opened` and
/// `closed` only. So does a reader whose filter takes more than 4 KiB.
///
/// ```
/// use ocpp_rpc::{RpcServer, cluster::{ClusterEvents, EventFilter}};
///
/// /// Logs which stations connect, and where.
/// async fn log(server: &RpcServer) {
///     let Some(mut events): Option<ClusterEvents> = server.events_everywhere(EventFilter::all().kinds(["opened"])) else {
///         return;
///     };
///     while let Some(event) = events.next().await {
///         println!("{:?} is connected to {}", event.key, event.node);
///     }
/// }
/// ```
pub struct ClusterEvents {
    member: Weak<Member>,
    id: u64,
    receiver: mpsc::Receiver<NodeEvent>,
}

/// The parts of an event's JSON that choose its subject.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    key: Option<std::borrow::Cow<'a, str>>,
}

/// An event on its way to readers.
#[derive(Deserialize)]
struct Published {
    node: Box<str>,
    event: Payload,
}

impl Member {
    /// Returns a reader of the events of all nodes.
    pub(crate) fn events(self: &Arc<Self>, filter: EventFilter) -> ClusterEvents {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let mut state = self.state();
        let id = state.next_request();
        let watch = state.watching.watch_of(&filter).unwrap_or(id);
        state.watching.topics.entry(filter.only_key().map(Into::into)).or_default().readers += 1;
        state.watching.readers.insert(id, Reader { watch, filter, sender, lost: 0 });
        state.watching.renew();
        drop(state);
        self.outbox_changed.notify_one();
        ClusterEvents { member: Arc::downgrade(self), id, receiver }
    }

    /// Subscribes to events, and asks all nodes to publish them.
    pub(super) async fn renew_watches(&self, now: Instant) {
        let (changes, watches) = {
            let mut state = self.state();
            let watching = &mut state.watching;
            if watching.renewal_due.is_none_or(|due| due > now) {
                return;
            }
            watching.renewal_due = (!watching.readers.is_empty()).then(|| now + RENEWAL);
            (watching.changes(), watching.watches())
        };
        for (key, change) in changes {
            let topic = Topic::Events(key.as_deref());
            let changing = match change {
                Change::Subscribe => self.transport.subscribe(topic),
                Change::Unsubscribe => self.transport.unsubscribe(topic),
            };
            match timeout(SEND_TIMEOUT, changing).await {
                Ok(Ok(())) => self.state().watching.changed(&key, change),
                // Done when the events are next asked for.
                _ => tracing::debug!("cannot change a subscription to events"),
            }
        }
        for (watch, filter) in watches {
            let lease = wire::millis(LEASE);
            let key = filter.only_key().map(str::to_owned);
            self.broadcast_about(key.as_deref(), &Broadcast::Watch { from: self.id, watch, filter, lease }).await;
        }
    }

    /// Publishes events for a watcher. This node may be the watcher.
    pub(super) fn on_watch(self: &Arc<Self>, from: NodeId, watch: u64, filter: EventFilter, lease: u64) {
        let Some(home) = self.home() else { return };
        let until = Instant::now() + Duration::from_millis(lease).min(LEASE);
        let mut state = self.state();
        let watching = &mut state.watching;
        if !watching.grant(from, watch, Lease { filter, until }) {
            drop(state);
            metrics::dropped();
            tracing::warn!(node = %from, "too many readers of events in the cluster: one is not served");
            return;
        }
        if !std::mem::replace(&mut watching.is_publishing, true) {
            // Ends when this node leaves, and does not delay that.
            self.runtime.spawn(self.clone().publish_watched(home.events()));
        }
    }

    /// Publishes the events that watchers have asked for, until all leases have ended.
    async fn publish_watched(self: Arc<Self>, mut events: Events) {
        loop {
            let until = {
                let mut state = self.state();
                let watching = &mut state.watching;
                let now = Instant::now();
                watching.leases.retain(|_, lease| lease.until > now);
                let Some(until) = watching.leases.values().map(|lease| lease.until).max() else {
                    watching.is_publishing = false;
                    return;
                };
                until
            };
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep_until(until) => continue,
                event = events.next() => event,
            };
            match event {
                None => return,
                // Published in any case.
                Some(Event { kind: EventKind::Opened { .. } | EventKind::Closed(_), .. }) => {}
                Some(event) => self.publish_if_watched(&event).await,
            }
        }
    }

    async fn publish_if_watched(&self, event: &Event) {
        let (key, kind) = (event.key.as_deref(), event.kind.name());
        // Most events are those of messages, and cost much to encode.
        let is_watched = self.state().watching.leases.values().any(|lease| lease.filter.matches(key, kind));
        if is_watched && let Some(json) = encode_event(event) {
            let to = Destination::Event { key, kind };
            if let Err(error) = self.send(to, None, self.published(&json)).await {
                tracing::debug!(%error, "an event was not published");
            }
        }
    }

    /// Publishes the event that a session has opened or closed. Such events stay in order.
    pub(crate) fn publish(&self, event: &Event) {
        if self.transport.is_connected()
            && let Some(json) = encode_event(event)
        {
            let target = Target::Event { key: event.key.as_deref().map(Into::into), kind: event.kind.name().into() };
            self.post(target, None, self.published(&json));
        }
    }

    /// Returns the message with an event.
    fn published(&self, json: &str) -> Bytes {
        let node = serde_json::to_string(&*self.name).unwrap_or_default();
        format!("{{\"node\":{node},\"event\":{json}}}").into()
    }

    /// Passes an event on to the readers of this node.
    pub(super) fn on_event(&self, message: &[u8]) {
        let Some(Published { node, event }) = read::<Published>(message) else { return };
        let Ok(Head { kind, key }) = event.decode() else { return };
        let event = NodeEvent {
            node: node.into(),
            key: key.map(|key| (*key).into()),
            kind: (*kind).into(),
            event: event.clone(),
        };
        let mut state = self.state();
        for reader in state.watching.readers.values_mut() {
            if reader.filter.matches(event.key.as_deref(), &event.kind) {
                reader.give(event.clone(), &self.name);
            }
        }
    }
}

fn encode_event(event: &Event) -> Option<String> {
    serde_json::to_string(event).inspect_err(|error| tracing::debug!(%error, "an event was not published")).ok()
}

impl ClusterEvents {
    /// Waits for the next event; `None` if there will be no more, because the server is gone.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        self.receiver.recv().await
    }
}

impl Stream for ClusterEvents {
    type Item = NodeEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<NodeEvent>> {
        self.receiver.poll_recv(cx)
    }
}

impl Drop for ClusterEvents {
    fn drop(&mut self) {
        let Some(member) = self.member.upgrade() else { return };
        let mut state = member.state();
        let watching = &mut state.watching;
        if let Some(reader) = watching.readers.remove(&self.id) {
            watching.unread(reader.filter.only_key().map(Into::into));
        }
        drop(state);
        member.outbox_changed.notify_one();
    }
}

impl fmt::Debug for ClusterEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterEvents").finish_non_exhaustive()
    }
}
