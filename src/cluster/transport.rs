//! The interface to a broker that carries messages between nodes.

use std::{pin::Pin, sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::cluster::{epoch::NodeId, node::Node};

/// The future of an operation of a [`Cluster`].
pub type ClusterFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries messages between the nodes of a cluster.
///
/// [`Local`](crate::cluster::Local) does so within one process, and the crate `ocpp-rpc-nats` over NATS. Everything else,
/// such as timeouts, cancellation and the replacement of sessions, is above this trait and the same for all.
///
/// An implementation must keep these rules:
///
/// - It delivers a message to [`Destination::Station`] to at most one node, of those that are subscribed to the station.
///   If no node is, or if the node of another destination is not there, it calls [`Node::not_delivered`].
/// - It delivers each message at most once, also if the subscriptions of a node overlap.
/// - Messages from one node to the same destination arrive in order. Those to different destinations may overtake each
///   other.
/// - After [`send`](Self::send) has failed, the message never arrives.
/// - It may lose messages only if it then calls [`Node::disconnected`] and [`Node::reconnected`], or
///   [`Node::messages_lost`].
/// - After a reconnect it restores all subscriptions before it calls [`Node::reconnected`]. It also calls that after its
///   first connect, if it was not connected when the node joined.
///
/// The futures are dropped if they take longer than 2 s. What they were to do may then be done or not.
pub trait Cluster: Send + Sync + 'static {
    /// Joins the cluster: from now on, messages to this node go to [`Node::received`].
    ///
    /// This includes messages to [`Destination::Node`], [`Destination::StationAt`] and [`Destination::Response`] with the
    /// [id](Node::id) of the node, and all messages to [`Destination::All`].
    ///
    /// # Errors
    ///
    /// Fails if another node has joined through the same value.
    fn join(&self, node: Node) -> Result<(), JoinError>;

    /// Returns the name of this node, which lists and events show, and which no other node may have. Default `None`: a
    /// random name.
    fn name(&self) -> Option<Arc<str>> {
        None
    }

    /// Returns `true` if messages can be sent.
    fn is_connected(&self) -> bool;

    /// Returns the maximum size of a message, in bytes.
    fn max_message_size(&self) -> usize;

    /// Returns the time of this node. Default: the time of the system.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Subscribes this node to a topic.
    ///
    /// When the future resolves, the node will receive the messages that others send in response to its next ones.
    fn subscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>>;

    /// Ends a subscription.
    fn unsubscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>>;

    /// Sends a message. The future resolves when the message is on its way.
    ///
    /// `request` is a number that responses to this message name.
    fn send<'a>(
        &'a self,
        to: Destination<'a>,
        request: Option<u64>,
        message: Bytes,
    ) -> ClusterFuture<'a, Result<(), SendError>>;

    /// Leaves the cluster when all messages were sent.
    fn leave(&self) -> ClusterFuture<'_, ()>;
}

/// A value could not join a cluster, because another node has joined through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another node has joined the cluster through this value")]
pub struct JoinError;

/// A message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The broker is away.
    #[error("the cluster is away")]
    Disconnected,
    /// The message is larger than the broker permits.
    #[error("the message is larger than the cluster permits")]
    TooLarge,
}

/// The messages that a node subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Topic<'a> {
    /// Requests to the station with this key. At most one of the subscribed nodes gets each.
    Station(&'a str),
    /// The events of the station with this key. `None` for all events. Each subscribed node gets each event.
    Events(Option<&'a str>),
}

/// The receivers of a message.
///
/// The key of a destination is that of the station that the message is about; `None` if it is about none or several. A
/// broker can thus permit a process to exchange messages about some stations only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination<'a> {
    /// One of the nodes that are subscribed to the station with this key.
    Station(&'a str),
    /// A node, with a request to one of its stations.
    StationAt {
        /// The node that the station is connected to.
        node: NodeId,
        /// The key of the station.
        key: &'a str,
    },
    /// One node.
    Node {
        /// The receiver.
        node: NodeId,
        /// The key of the station that the message is about.
        key: Option<&'a str>,
    },
    /// The node that sent a request, with a response to it.
    Response {
        /// The node that sent the request.
        node: NodeId,
        /// The number of the request.
        request: u64,
        /// The key of the station that the message is about.
        key: Option<&'a str>,
    },
    /// All nodes, this one included.
    All(Option<&'a str>),
    /// The nodes that are subscribed to the events of the station with this key. `None` for events without a station.
    Event {
        /// The key of the station.
        key: Option<&'a str>,
        /// The kind of event, in snake case.
        kind: &'a str,
    },
}
