//! A cluster within one process.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{
        epoch::NodeId,
        node::{Node, Received},
        transport::{Cluster, ClusterFuture, Destination, JoinError, SendError, Topic},
    },
    random::{is_seeded, random},
};

/// A cluster within one process, for tests of applications.
///
/// Messages can be delayed, lost and duplicated, nodes disconnected, and the cluster divided. With tokio's paused clock,
/// such a test takes no time.
///
/// ```
/// use ocpp_rpc::{Error, RpcRouter, RpcServer, cluster::Local};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Local::new();
/// let [a, b] = ["a", "b"].map(|name| {
///     RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(cluster.node(name)).build()
/// });
/// let (a, _b) = (a?, b?);
/// // The station is on neither node.
/// let called = a.station("CP-1").call::<serde_json::Value>("Reset", &()).await;
/// assert!(matches!(called, Err(Error::NotConnected)));
/// cluster.disconnect("a");
/// let called = a.station("CP-1").call::<serde_json::Value>("Reset", &()).await;
/// assert!(matches!(called, Err(Error::Unreachable)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Local {
    hub: Arc<Mutex<Hub>>,
}

/// One node of a [`Local`] cluster, for [`RpcServerBuilder::cluster`](crate::server::RpcServerBuilder::cluster).
///
/// ```
/// use ocpp_rpc::{RpcRouter, RpcServer, cluster::{Local, LocalNode}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Local::new();
/// let node: LocalNode = cluster.node("a");
/// let server = RpcServer::builder(RpcRouter::new()).cluster(node).build()?;
/// # Ok(())
/// # }
/// ```
pub struct LocalNode {
    name: Arc<str>,
    hub: Arc<Mutex<Hub>>,
    /// Set when the node has joined.
    id: OnceLock<NodeId>,
    clock: Clock,
}

/// The clock of a node. It advances with the clock of tokio, which may be paused.
struct Clock {
    start: SystemTime,
    started_at: Instant,
}

#[derive(Default)]
struct Hub {
    nodes: HashMap<Arc<str>, Joined>,
    links: HashMap<Link, mpsc::UnboundedSender<Carried>>,
    delay: Option<RangeInclusive<Duration>>,
    loss: f64,
    duplication: f64,
    max_message_size: Option<usize>,
    disconnected: HashSet<Arc<str>>,
    /// The group of each node, if the cluster is divided. Nodes without one form another group.
    groups: HashMap<Arc<str>, usize>,
}

struct Joined {
    node: Node,
    topics: HashSet<OwnedTopic>,
}

#[derive(PartialEq, Eq, Hash)]
enum OwnedTopic {
    Station(Box<str>),
    Events(Option<Box<str>>),
}

/// The way from one node to another, on which messages stay in order. Requests may overtake other messages.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Link {
    from: Arc<str>,
    to: Arc<str>,
    is_request: bool,
}

/// A message on its way.
struct Carried {
    due: Instant,
    node: Node,
    message: Message,
}

#[derive(Clone)]
enum Message {
    Received(OwnedReceived, Bytes),
    NotDelivered(u64),
}

#[derive(Clone)]
enum OwnedReceived {
    Request(NodeId, u64, Box<str>),
    Control(Option<Box<str>>),
    Response(u64),
    Broadcast(Option<Box<str>>),
    Event,
}

const MAX_MESSAGE_SIZE: usize = 1 << 20;

impl Local {
    /// Creates a cluster without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the node of this name. Each name can join once.
    pub fn node(&self, name: &str) -> LocalNode {
        // All nodes of a test that repeats itself have the same time.
        let start = if is_seeded() { SystemTime::UNIX_EPOCH } else { SystemTime::now() };
        let clock = Clock { start, started_at: Instant::now() };
        LocalNode { name: name.into(), hub: self.hub.clone(), id: OnceLock::new(), clock }
    }

    /// Sets how long messages take: a random time of this range. Default zero.
    pub fn set_delay(&self, delay: RangeInclusive<Duration>) {
        lock(&self.hub).delay = Some(delay);
    }

    /// Sets the probability with which a message is lost, 0 to 1. Default 0.
    ///
    /// A broker reports such losses. This cluster does not, so that tests find what happens then.
    pub fn set_loss(&self, probability: f64) {
        lock(&self.hub).loss = probability;
    }

    /// Sets the probability with which a message arrives twice, 0 to 1. Default 0. The second one has a delay of its own.
    pub fn set_duplication(&self, probability: f64) {
        lock(&self.hub).duplication = probability;
    }

    /// Sets the maximum size of a message, in bytes. Default 1 MiB.
    pub fn set_max_message_size(&self, bytes: usize) {
        lock(&self.hub).max_message_size = Some(bytes);
    }

    /// Disconnects a node from the broker.
    pub fn disconnect(&self, name: &str) {
        let mut hub = lock(&self.hub);
        hub.disconnected.insert(name.into());
        let node = hub.nodes.get(name).map(|joined| joined.node.clone());
        drop(hub);
        if let Some(node) = node {
            node.disconnected();
        }
    }

    /// Connects a node to the broker again.
    pub fn reconnect(&self, name: &str) {
        let mut hub = lock(&self.hub);
        let was_away = hub.disconnected.remove(name);
        let node = hub.nodes.get(name).map(|joined| joined.node.clone()).filter(|_| was_away);
        drop(hub);
        if let Some(node) = node {
            node.reconnected();
        }
    }

    /// Divides the cluster into groups of nodes. Messages between groups are lost, and no node is informed. The nodes
    /// that are in none of these groups form another one.
    pub fn divide(&self, groups: &[&[&str]]) {
        let numbered = groups.iter().enumerate();
        lock(&self.hub).groups =
            numbered.flat_map(|(number, names)| names.iter().map(move |name| (Arc::from(*name), number + 1))).collect();
    }

    /// Unites the groups of [`divide`](Self::divide).
    pub fn unite(&self) {
        lock(&self.hub).groups.clear();
    }

    /// Removes a node at once, as if its process was killed. Its name may join again.
    pub fn kill(&self, name: &str) {
        lock(&self.hub).remove(name);
    }
}

impl LocalNode {
    /// Sets the clock of the node ahead by this time. Default zero.
    #[must_use]
    pub fn clock_ahead(mut self, time: Duration) -> Self {
        self.clock.start += time;
        self
    }

    /// Returns the hub if this node is part of the cluster.
    fn hub(&self) -> Result<MutexGuard<'_, Hub>, SendError> {
        let hub = lock(&self.hub);
        match (hub.nodes.get(&self.name), self.id.get()) {
            (Some(joined), Some(id)) if joined.node.id() == *id => Ok(hub),
            _ => Err(SendError::Disconnected),
        }
    }
}

fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    // A panic under the lock cannot leave the state inconsistent.
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Topic<'_>> for OwnedTopic {
    fn from(topic: Topic<'_>) -> Self {
        match topic {
            Topic::Station(key) => Self::Station(key.into()),
            Topic::Events(key) => Self::Events(key.map(Into::into)),
        }
    }
}

impl OwnedReceived {
    fn borrow(&self) -> Received<'_> {
        match self {
            Self::Request(node, request, key) => Received::Request { node: *node, request: *request, key },
            Self::Control(key) => Received::Control(key.as_deref()),
            Self::Response(number) => Received::Response(*number),
            Self::Broadcast(key) => Received::Broadcast(key.as_deref()),
            Self::Event => Received::Event,
        }
    }
}

impl Hub {
    /// Removes a node with its links.
    fn remove(&mut self, name: &str) {
        self.nodes.remove(name);
        self.links.retain(|link, _| *link.from != *name && *link.to != *name);
    }

    /// Returns the nodes that this one can reach, in the order of their names.
    fn reachable<'a>(&'a self, from: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Joined)> {
        let group = self.groups.get(from);
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_unstable_by_key(|(name, _)| *name);
        nodes
            .into_iter()
            .filter(move |(name, _)| self.groups.get(*name) == group && !self.disconnected.contains(&***name))
    }

    /// Sends a message on its way.
    fn carry(&mut self, from: &Arc<str>, to: Arc<str>, node: &Node, message: &Message) {
        let is_request = matches!(message, Message::Received(OwnedReceived::Request(..), _));
        let is_lost = |probability: f64| probability > 0.0 && random::<f64>() < probability;
        if is_lost(self.loss) {
            return;
        }
        let copies = if is_lost(self.duplication) { 2 } else { 1 };
        let link = Link { from: from.clone(), to, is_request };
        let sender = self.links.entry(link).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(deliver(receiver));
            sender
        });
        for _ in 0..copies {
            let delay = self.delay.as_ref().map_or(Duration::ZERO, |range| {
                let span = range.end().saturating_sub(*range.start());
                *range.start() + span.mul_f64(random::<f64>())
            });
            let carried = Carried { due: Instant::now() + delay, node: node.clone(), message: message.clone() };
            let _ = sender.send(carried);
        }
    }

    fn send(
        &mut self,
        from: &Arc<str>,
        to: Destination<'_>,
        request: Option<u64>,
        body: &Bytes,
    ) -> Result<(), SendError> {
        let Some(own) = self.nodes.get(from).map(|joined| joined.node.clone()) else {
            return Err(SendError::Disconnected);
        };
        if self.disconnected.contains(from) {
            return Err(SendError::Disconnected);
        }
        if body.len() > self.max_message_size.unwrap_or(MAX_MESSAGE_SIZE) {
            return Err(SendError::TooLarge);
        }
        let number = request.unwrap_or_default();
        let find = |id: NodeId| self.reachable(from).filter(|(_, joined)| joined.node.id() == id).collect::<Vec<_>>();
        let (receivers, received) = match to {
            Destination::Station(key) => {
                let topic = OwnedTopic::Station(key.into());
                let subscribed: Vec<_> =
                    self.reachable(from).filter(|(_, joined)| joined.topics.contains(&topic)).collect();
                let chosen = (random::<u64>() % subscribed.len().max(1) as u64) as usize;
                let received = OwnedReceived::Request(own.id(), number, key.into());
                (subscribed.into_iter().skip(chosen).take(1).collect(), received)
            }
            Destination::StationAt { node, key } => (find(node), OwnedReceived::Request(own.id(), number, key.into())),
            Destination::Node { node, key } => (find(node), OwnedReceived::Control(key.map(Into::into))),
            Destination::Response { node, request, .. } => (find(node), OwnedReceived::Response(request)),
            Destination::All(key) => (self.reachable(from).collect(), OwnedReceived::Broadcast(key.map(Into::into))),
            Destination::Event { key, .. } => {
                let topics = [OwnedTopic::Events(None), OwnedTopic::Events(key.map(Into::into))];
                let reads = |joined: &Joined| topics.iter().any(|topic| joined.topics.contains(topic));
                (self.reachable(from).filter(|(_, joined)| reads(joined)).collect(), OwnedReceived::Event)
            }
        };
        let receivers: Vec<_> =
            receivers.into_iter().map(|(name, joined)| (name.clone(), joined.node.clone())).collect();
        if receivers.is_empty()
            && let Some(request) = request
        {
            self.carry(&from.clone(), from.clone(), &own, &Message::NotDelivered(request));
        }
        for (name, node) in receivers {
            self.carry(from, name, &node, &Message::Received(received.clone(), body.clone()));
        }
        Ok(())
    }
}

/// Delivers the messages of one link.
async fn deliver(mut messages: mpsc::UnboundedReceiver<Carried>) {
    while let Some(Carried { due, node, message }) = messages.recv().await {
        sleep_until(due).await;
        match message {
            Message::Received(received, body) => node.received(received.borrow(), body),
            Message::NotDelivered(request) => node.not_delivered(request),
        }
    }
}

impl Cluster for LocalNode {
    fn join(&self, node: Node) -> Result<(), JoinError> {
        let mut hub = lock(&self.hub);
        if hub.nodes.contains_key(&self.name) {
            return Err(JoinError);
        }
        self.id.set(node.id()).map_err(|_| JoinError)?;
        hub.nodes.insert(self.name.clone(), Joined { node, topics: HashSet::new() });
        Ok(())
    }

    fn name(&self) -> Option<Arc<str>> {
        Some(self.name.clone())
    }

    fn is_connected(&self) -> bool {
        self.hub().is_ok_and(|hub| !hub.disconnected.contains(&self.name))
    }

    fn now(&self) -> SystemTime {
        self.clock.start + self.clock.started_at.elapsed()
    }

    fn max_message_size(&self) -> usize {
        lock(&self.hub).max_message_size.unwrap_or(MAX_MESSAGE_SIZE)
    }

    fn subscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            let mut hub = self.hub()?;
            let joined = hub.nodes.get_mut(&self.name).ok_or(SendError::Disconnected)?;
            joined.topics.insert(topic.into());
            Ok(())
        })
    }

    fn unsubscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            let mut hub = self.hub()?;
            let joined = hub.nodes.get_mut(&self.name).ok_or(SendError::Disconnected)?;
            joined.topics.remove(&topic.into());
            Ok(())
        })
    }

    fn send<'a>(
        &'a self,
        to: Destination<'a>,
        request: Option<u64>,
        message: Bytes,
    ) -> ClusterFuture<'a, Result<(), SendError>> {
        Box::pin(async move { self.hub()?.send(&self.name, to, request, &message) })
    }

    fn leave(&self) -> ClusterFuture<'_, ()> {
        Box::pin(async move {
            if let Ok(mut hub) = self.hub() {
                hub.remove(&self.name);
            }
        })
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl fmt::Debug for LocalNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalNode").field("name", &self.name).finish_non_exhaustive()
    }
}
