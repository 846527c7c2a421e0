//! A node's way to its cluster, which a test looks into.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ocpp_rpc::cluster::{Cluster, ClusterFuture, Destination, JoinError, Node, NodeId, SendError, Topic};
use tokio::time::sleep;

/// Passes everything on to another cluster, but for the messages that the test keeps back.
pub(crate) struct Tapped<C> {
    cluster: Arc<C>,
    node: Arc<OnceLock<Node>>,
    clock: Box<Clock>,
    on_now: Box<OnNow>,
    on_send: Box<OnSend>,
}

type Clock = dyn Fn(SystemTime) -> SystemTime + Send + Sync;
type OnNow = dyn Fn(&OnceLock<Node>) + Send + Sync;
type OnSend = dyn Fn(&Node, Destination<'_>, &Bytes) -> Fate + Send + Sync;

/// The fate of a message.
#[allow(dead_code, reason = "another test uses it")]
pub(crate) enum Fate {
    Sent,
    /// The message is sent later. Only for requests to stations.
    Late(Duration),
    Lost,
    Failed(SendError),
}

impl<C: Cluster> Tapped<C> {
    pub(crate) fn new(cluster: C) -> Self {
        Self {
            cluster: Arc::new(cluster),
            node: Arc::default(),
            clock: Box::new(|now| now),
            on_now: Box::new(|_| {}),
            on_send: Box::new(|_, _, _| Fate::Sent),
        }
    }

    /// Changes the time of the node's clock.
    #[allow(dead_code, reason = "another test uses it")]
    pub(crate) fn clock(self, clock: impl Fn(SystemTime) -> SystemTime + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// Runs a function whenever the node reads its clock, for what other tasks do in this moment.
    #[allow(dead_code, reason = "another test uses it")]
    pub(crate) fn on_now(self, on_now: impl Fn(&OnceLock<Node>) + Send + Sync + 'static) -> Self {
        Self { on_now: Box::new(on_now), ..self }
    }

    /// Decides on the messages that the node sends.
    #[allow(dead_code, reason = "another test uses it")]
    pub(crate) fn on_send(
        self,
        on_send: impl Fn(&Node, Destination<'_>, &Bytes) -> Fate + Send + Sync + 'static,
    ) -> Self {
        Self { on_send: Box::new(on_send), ..self }
    }

    /// Returns the node, which is set when it joins.
    #[allow(dead_code, reason = "another test uses it")]
    pub(crate) fn node(&self) -> Arc<OnceLock<Node>> {
        self.node.clone()
    }
}

impl<C: Cluster> Cluster for Tapped<C> {
    fn join(&self, node: Node) -> Result<(), JoinError> {
        self.node.set(node.clone()).map_err(|_| JoinError)?;
        self.cluster.join(node)
    }

    fn name(&self) -> Option<Arc<str>> {
        self.cluster.name()
    }

    fn is_connected(&self) -> bool {
        self.cluster.is_connected()
    }

    fn max_message_size(&self) -> usize {
        self.cluster.max_message_size()
    }

    fn now(&self) -> SystemTime {
        (self.on_now)(&self.node);
        (self.clock)(self.cluster.now())
    }

    fn subscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        self.cluster.subscribe(topic)
    }

    fn unsubscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        self.cluster.unsubscribe(topic)
    }

    fn send<'a>(
        &'a self,
        to: Destination<'a>,
        request: Option<u64>,
        message: Bytes,
    ) -> ClusterFuture<'a, Result<(), SendError>> {
        match (self.on_send)(self.node.get().expect("joined"), to, &message) {
            Fate::Sent => self.cluster.send(to, request, message),
            Fate::Late(time) => {
                let (cluster, (node, key)) = (self.cluster.clone(), station(to));
                tokio::spawn(async move {
                    sleep(time).await;
                    let to = node.map_or(Destination::Station(&key), |node| Destination::StationAt { node, key: &key });
                    let _ = cluster.send(to, request, message).await;
                });
                Box::pin(async { Ok(()) })
            }
            Fate::Lost => Box::pin(async { Ok(()) }),
            Fate::Failed(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn leave(&self) -> ClusterFuture<'_, ()> {
        self.cluster.leave()
    }
}

/// Returns the station of a request, and the node if the request names one.
fn station(to: Destination<'_>) -> (Option<NodeId>, String) {
    match to {
        Destination::Station(key) => (None, key.to_owned()),
        Destination::StationAt { node, key } => (Some(node), key.to_owned()),
        _ => panic!("no request to a station"),
    }
}
