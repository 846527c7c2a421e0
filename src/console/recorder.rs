//! The task that records what events report.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    cluster::{filter::EventFilter, member::watching::ClusterEvents, watching::NodeEvent},
    console::{
        handshakes::Handshakes,
        record::{Content, name},
        statistics::{Recorded, Statistics},
        store::{Limits, Store},
    },
    event::{
        activity::Activity,
        bus::Events,
        kind::{Event, EventKind},
    },
    mask::Mask,
    message::payload::Payload,
    server::{
        history::History,
        rpc_server::{RpcServer, ServerState},
    },
    unix_time,
};

/// The events that are recorded under one lock.
const BATCH: usize = 128;

/// The kinds of events of other nodes that are counted. There are few of them.
const RARE: [&str; 6] = ["activity", "closed", "handshake_refused", "deviation", "validation_failed", "bad_message"];

/// Everything that was recorded, and the readers that wait for more.
#[derive(Debug)]
pub(crate) struct Recording {
    facts: Mutex<Facts>,
    /// Changes when live readers have something to read.
    changed: watch::Sender<()>,
    max_bytes: usize,
    /// The name of this node.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) mask: Mask,
}

/// The recorded facts.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) store: Store,
    pub(crate) statistics: Statistics,
    pub(crate) handshakes: Handshakes,
    /// The stations that live readers look at, with the number of these readers.
    watched: HashMap<Arc<str>, usize>,
    /// The connected stations of this node.
    stations: usize,
    /// The other nodes of the cluster, in the order of their names.
    others: BTreeMap<Arc<str>, OtherNode>,
    /// The latest point with the figures of its moment, as JSON, and its number.
    pub(crate) point: (u64, Arc<str>),
}

/// Another node of the cluster.
#[derive(Debug, Default)]
struct OtherNode {
    /// The number of its stations, and the time at which it said so. `None` if it has no console.
    stations: Option<(usize, Instant)>,
}

/// The time after which a node is missing that reports its activity once a second.
const SILENCE: Duration = Duration::from_secs(3);

impl OtherNode {
    fn is_missing(&self, now: Instant) -> bool {
        self.stations.is_some_and(|(_, heard_at)| now.duration_since(heard_at) > SILENCE)
    }
}

impl Recording {
    /// Begins to record the events of a server. Returns the recording, and the task that must run.
    pub(crate) fn begin(server: &RpcServer, limits: Limits) -> (Arc<Self>, impl Future<Output = ()> + Send + use<>) {
        let state = &server.state;
        let facts = Facts {
            store: Store::new(limits, state.telemetry.mask().clone()),
            statistics: Statistics::default(),
            handshakes: Handshakes::default(),
            watched: HashMap::new(),
            stations: state.registry.count(),
            others: BTreeMap::new(),
            point: (0, "".into()),
        };
        let recording = Arc::new(Self {
            facts: Mutex::new(facts),
            changed: watch::Sender::new(()),
            max_bytes: limits.max_bytes,
            node: state.cluster.as_ref().map(|cluster| cluster.name().clone()),
            mask: state.telemetry.mask().clone(),
        });
        let history: Weak<dyn History> = Arc::<Self>::downgrade(&recording);
        server.add_history(history);
        let everywhere = server.events_everywhere(EventFilter::all().kinds(RARE));
        let task = recording.clone().run(Arc::downgrade(state), server.events(), everywhere);
        (recording, task)
    }

    /// Records events until the server has closed.
    async fn run(
        self: Arc<Self>,
        server: Weak<ServerState>,
        mut events: Events,
        mut everywhere: Option<ClusterEvents>,
    ) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut ticked_at = Instant::now();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                event = events.next() => {
                    batch.extend(event);
                    if batch.is_empty() {
                        return;
                    }
                    while batch.len() < BATCH && let Some(Some(event)) = events.next().now_or_never() {
                        batch.push(event);
                    }
                    self.record(&batch);
                    batch.clear();
                }
                Some(event) = next(&mut everywhere) => self.record_remote(&event),
                _ = ticks.tick() => {
                    let Some(state) = server.upgrade() else { return };
                    let now = Instant::now();
                    self.end_second(&RpcServer { state }, now - std::mem::replace(&mut ticked_at, now));
                }
            }
        }
    }

    fn record(&self, events: &[Event]) {
        let mut facts = self.facts();
        let mut is_read = false;
        for event in events {
            is_read |= facts.record(event, self.node.as_deref());
        }
        drop(facts);
        if is_read {
            self.changed.send_replace(());
        }
    }

    /// Records a rare fact of another node.
    fn record_remote(&self, event: &NodeEvent) {
        if self.node.as_deref() != Some(&*event.node) || &*event.kind == "lagged" {
            let is_read = self.facts().record_remote(event);
            if is_read {
                self.changed.send_replace(());
            }
        }
    }

    /// Ends a second, and reports what happened in it at this node.
    fn end_second(self: &Arc<Self>, server: &RpcServer, length: Duration) {
        let stations = server.state.registry.count();
        let others = server.state.cluster.as_ref().map(|cluster| cluster.other_nodes()).unwrap_or_default();
        let mut guard = self.facts();
        let facts = &mut *guard;
        facts.stations = stations;
        facts.others.retain(|name, _| others.contains(name));
        for name in others {
            facts.others.entry(name).or_default();
        }
        let at = unix_time::millis(SystemTime::now());
        let (point, activity) = facts.statistics.tick(at, facts.stations_everywhere(), length);
        let (nodes, missing_nodes) = self.nodes(facts);
        let totals = self.totals(facts);
        let json = json!({"point": point, "totals": totals, "nodes": nodes, "missing_nodes": missing_nodes});
        facts.point = (facts.point.0 + 1, json.to_string().into());
        drop(guard);
        self.changed.send_replace(());
        // Another console of this server would report the same.
        let this: Weak<dyn History> = Arc::<Self>::downgrade(self);
        if server.state.histories.is_latest(&this) {
            server.report_activity(Activity { sessions: stations, ..activity });
        }
    }

    /// Returns the figures since recording began.
    pub(crate) fn totals(&self, facts: &Facts) -> Value {
        let (stations, bytes) = facts.store.usage();
        let recorded = Recorded { stations, bytes, max_bytes: self.max_bytes };
        serde_json::to_value(facts.statistics.totals(facts.stations_everywhere(), recorded)).unwrap_or_default()
    }

    /// Returns the nodes with their stations, and the names of those that are silent.
    pub(crate) fn nodes(&self, facts: &Facts) -> (Value, Value) {
        let now = Instant::now();
        let mut nodes = vec![json!({"name": self.node, "is_this": true, "stations": facts.stations})];
        let mut missing = Vec::new();
        for (name, node) in &facts.others {
            if node.is_missing(now) {
                missing.push(name);
            } else {
                let stations = node.stations.map(|(stations, _)| stations);
                nodes.push(json!({"name": name, "is_this": false, "stations": stations}));
            }
        }
        (nodes.into(), json!(missing))
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        // A panic under the lock cannot leave the facts unusable.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a receiver that changes when there may be something new for live readers.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Wakes live readers also for the messages of this station, until the returned guard is dropped.
    pub(crate) fn watch(self: &Arc<Self>, key: &Arc<str>) -> Watch {
        *self.facts().watched.entry(key.clone()).or_default() += 1;
        Watch { recording: self.clone(), key: key.clone() }
    }
}

/// A live reader that looks at a station.
#[derive(Debug)]
pub(crate) struct Watch {
    recording: Arc<Recording>,
    key: Arc<str>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let hash_map::Entry::Occupied(mut readers) = self.recording.facts().watched.entry(self.key.clone()) {
            *readers.get_mut() -= 1;
            if *readers.get() == 0 {
                readers.remove();
            }
        }
    }
}

impl Facts {
    /// Returns the number of stations that are connected to nodes that are not missing.
    fn stations_everywhere(&self) -> usize {
        let now = Instant::now();
        let heard = self.others.values().filter(|node| !node.is_missing(now));
        let others = heard.filter_map(|node| Some(node.stations?.0));
        others.fold(self.stations, usize::saturating_add)
    }

    /// Records an event. Returns true if live readers look at it.
    fn record(&mut self, event: &Event, node: Option<&str>) -> bool {
        let statistics = &mut self.statistics;
        let mut is_read = false;
        match &event.kind {
            EventKind::CallEnded { direction, outcome, duration, .. } => {
                statistics.call(*direction, outcome, *duration);
            }
            EventKind::Closed(info) => statistics.closes.add(name(&info.cause).into()),
            EventKind::HandshakeRefused { status, reason, request } => {
                statistics.refusals.add(*status);
                self.handshakes.push(handshake(&HandshakeInfo {
                    at: unix_time::millis(event.at),
                    node,
                    identity: event.identity.as_deref(),
                    remote_address: event.remote_address.map(|address| address.to_string()).as_deref(),
                    status: *status,
                    reason,
                    request: request.as_deref(),
                }));
                is_read = true;
            }
            EventKind::Deviation { deviation, .. } => statistics.deviations.add(name(deviation).into()),
            EventKind::ValidationFailed { .. } => statistics.violations += 1,
            EventKind::BadMessage { .. } => statistics.bad_messages += 1,
            EventKind::Lagged(events) => {
                statistics.lost_events += events;
                self.store.lose();
            }
            _ => {}
        }
        if let Some(key) = &event.key
            && let Some(content) = Content::of(&event.kind)
        {
            self.store.push(key, content, unix_time::micros(event.at));
            is_read |= self.watched.contains_key(key);
        }
        is_read
    }

    fn record_remote(&mut self, event: &NodeEvent) -> bool {
        /// The fields of the kinds that are counted.
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            at: u64,
            identity: Option<Box<str>>,
            remote_address: Option<Box<str>>,
            cause: Option<Box<str>>,
            status: Option<u16>,
            reason: Option<Box<str>>,
            request: Option<Payload>,
            deviation: Option<Box<str>>,
            events: Option<u64>,
        }

        if &*event.kind == "activity" {
            if let Ok(activity) = event.event.decode::<Activity>() {
                self.statistics.others(&activity);
                let node = self.others.entry(event.node.clone()).or_default();
                node.stations = Some((activity.sessions, Instant::now()));
            }
            return false;
        }
        let Ok(fields) = event.event.decode::<Fields>() else { return false };
        let statistics = &mut self.statistics;
        match &*event.kind {
            "closed" => statistics.closes.add(fields.cause.unwrap_or_default()),
            "handshake_refused" => {
                statistics.refusals.add(fields.status);
                self.handshakes.push(handshake(&HandshakeInfo {
                    at: fields.at,
                    node: Some(&event.node),
                    identity: fields.identity.as_deref(),
                    remote_address: fields.remote_address.as_deref(),
                    status: fields.status,
                    reason: fields.reason.as_deref().unwrap_or_default(),
                    request: fields.request.as_ref(),
                }));
                return true;
            }
            "deviation" => statistics.deviations.add(fields.deviation.unwrap_or_default()),
            "validation_failed" => statistics.violations += 1,
            "bad_message" => statistics.bad_messages += 1,
            "lagged" => {
                statistics.lost_events = statistics.lost_events.saturating_add(fields.events.unwrap_or_default())
            }
            _ => {}
        }
        false
    }
}

#[derive(Serialize)]
struct HandshakeInfo<'a, R> {
    at: u64,
    node: Option<&'a str>,
    identity: Option<&'a str>,
    remote_address: Option<&'a str>,
    status: Option<u16>,
    reason: &'a str,
    request: Option<&'a R>,
}

fn handshake(info: &HandshakeInfo<'_, impl Serialize>) -> String {
    serde_json::to_string(info).unwrap_or_default()
}

/// Waits for the next event of all nodes. Never completes without a cluster, or when its events have ended.
async fn next(events: &mut Option<ClusterEvents>) -> Option<NodeEvent> {
    let event = match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    };
    if event.is_none() {
        *events = None;
    }
    event
}
