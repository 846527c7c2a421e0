//! The messages of this node to others.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use crate::cluster::{
    epoch::NodeId,
    member::{Member, SEND_TIMEOUT},
    metrics,
    outbox::{Posted, Target},
    transport::{Destination, SendError},
    wire::{self, Broadcast, Control},
};

impl Member {
    /// Sends the control messages that wait, unless the cluster is away.
    pub(super) async fn flush_outbox(&self) {
        // Those that are posted meanwhile come next, so that probes are not delayed.
        let waiting = self.state().outbox.len();
        for _ in 0..waiting {
            if !self.transport.is_connected() {
                return;
            }
            let Some(Posted { target, request, message }) = self.state().outbox.pop() else { return };
            if let Err(error) = self.send(target.destination(), request, message).await {
                tracing::debug!(%error, "a message to another node was not sent");
            }
        }
        if self.state().outbox.len() > 0 {
            self.outbox_changed.notify_one();
        }
    }

    /// Sends a message.
    pub(super) async fn send(
        &self,
        to: Destination<'_>,
        request: Option<u64>,
        message: Bytes,
    ) -> Result<(), SendError> {
        let sent = timeout(SEND_TIMEOUT, self.transport.send(to, request, message)).await;
        sent.unwrap_or(Err(SendError::Disconnected))
    }

    pub(super) async fn broadcast(&self, message: &Broadcast) {
        self.broadcast_about(None, message).await;
    }

    /// Sends a message about a station to all nodes.
    pub(super) async fn broadcast_about(&self, key: Option<&str>, message: &Broadcast) {
        if let Err(error) = self.send(Destination::All(key), None, wire::encode(message)).await {
            tracing::debug!(%error, "a message to all nodes was not sent");
        }
    }

    /// Sends a control message in the background.
    pub(super) fn post(&self, target: Target, request: Option<u64>, message: Bytes) {
        if self.state().outbox.push(Posted { target, request, message }) {
            self.outbox_changed.notify_one();
        } else {
            metrics::dropped();
            tracing::warn!("too many messages to other nodes wait: one is dropped");
        }
    }

    pub(super) fn control(&self, node: NodeId, message: &Control) {
        self.post(Target::Node(node, None), None, wire::encode(message));
    }

    /// Sends a control message about a station in the background.
    pub(super) fn control_about(&self, key: &Arc<str>, node: NodeId, message: &Control) {
        self.post(Target::Node(node, Some(key.clone())), None, wire::encode(message));
    }
}
