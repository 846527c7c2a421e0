//! The handle with which a transport passes messages on.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use crate::cluster::epoch::NodeId;

/// The way in which a message arrived. The keys are those of its [`Destination`](crate::cluster::Destination).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Received<'a> {
    /// To [`Destination::Station`](crate::cluster::Destination::Station) or
    /// [`Destination::StationAt`](crate::cluster::Destination::StationAt).
    Request {
        /// The node that sent the request.
        node: NodeId,
        /// The number of the request.
        request: u64,
        /// The key of the station.
        key: &'a str,
    },
    /// To [`Destination::Node`](crate::cluster::Destination::Node).
    Control(Option<&'a str>),
    /// To [`Destination::Response`](crate::cluster::Destination::Response), for this request.
    Response(u64),
    /// To [`Destination::All`](crate::cluster::Destination::All).
    Broadcast(Option<&'a str>),
    /// To [`Destination::Event`](crate::cluster::Destination::Event).
    Event,
}

/// Receives the messages and the changes of a transport.
pub(crate) trait Receive: Send + Sync + 'static {
    fn received(self: Arc<Self>, received: Received<'_>, message: Bytes);
    fn not_delivered(self: Arc<Self>, request: u64);
    fn not_permitted(self: Arc<Self>, key: &str);
    fn disconnected(self: Arc<Self>);
    fn reconnected(self: Arc<Self>);
    fn messages_lost(self: Arc<Self>);
}

/// A node of a cluster, which a [`Cluster`](crate::cluster::Cluster) passes its messages to.
///
/// None of its functions blocks. They do nothing after the server was dropped.
#[derive(Clone)]
pub struct Node {
    id: NodeId,
    receiver: Weak<dyn Receive>,
}

impl Node {
    pub(crate) fn new(id: NodeId, receiver: Weak<dyn Receive>) -> Self {
        Self { id, receiver }
    }

    /// Returns the id of the node, which no other node has.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Passes a message on. A message that cannot be read is logged and dropped.
    pub fn received(&self, received: Received<'_>, message: Bytes) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.received(received, message);
        }
    }

    /// Reports that no node was there to receive this request, and that none will.
    pub fn not_delivered(&self, request: u64) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.not_delivered(request);
        }
    }

    /// Reports that the broker does not permit requests to the station with this key. Pending ones fail.
    pub fn not_permitted(&self, key: &str) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.not_permitted(key);
        }
    }

    /// Reports that the broker is away. Pending calls to other nodes fail.
    pub fn disconnected(&self) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.disconnected();
        }
    }

    /// Reports that the broker is there again, with all subscriptions. The node then looks for announcements that it missed.
    pub fn reconnected(&self) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.reconnected();
        }
    }

    /// Reports that messages to this node were lost, because it was too slow. The node then looks for announcements
    /// that it missed.
    pub fn messages_lost(&self) {
        if let Some(receiver) = self.receiver.upgrade() {
            receiver.messages_lost();
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}
