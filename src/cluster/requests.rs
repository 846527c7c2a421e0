//! The requests of this node that wait for their responses, and the nodes that carry them out.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use crate::cluster::{epoch::NodeId, wire::Response};

/// The time between two probes of a node that carries out requests.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// The probes that are remembered until they are answered.
const MAX_PROBES: usize = 4096;

/// The time after which a probe that was not answered is forgotten if there are too many.
const PROBE_MEMORY: Duration = Duration::from_secs(5);

/// A request that waits for its response.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) sender: oneshot::Sender<Ending>,
    pub(crate) key: Arc<str>,
    /// The node that it was sent to, if it was sent to one by name.
    pub(crate) addressee: Option<NodeId>,
    /// The node that carries it out, if known.
    pub(crate) owner: Option<NodeId>,
}

#[derive(Debug)]
pub(crate) enum Ending {
    Response(Box<Response>),
    NotDelivered,
    NotPermitted,
    /// The node that carried out the request is gone, or its response is lost.
    Lost,
}

/// The nodes that carry out requests of this one.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// The time of the first probe that a node has not answered.
    pub(crate) unanswered: HashMap<NodeId, Option<Instant>>,
    /// The nodes by the numbers of the probes, with the time of the probe.
    pub(crate) probes: HashMap<u64, (NodeId, Instant)>,
    pub(crate) probe_due: Option<Instant>,
}

impl Owners {
    /// Records that a node carries out a request.
    pub(crate) fn add(&mut self, owner: NodeId) {
        self.unanswered.entry(owner).or_default();
        if self.probe_due.is_none() {
            self.probe_due = Some(Instant::now() + PROBE_INTERVAL);
        }
    }

    /// Records the number of a probe whose delivery tells that the node is there.
    pub(crate) fn watch(&mut self, number: u64, node: NodeId, now: Instant) {
        if self.probes.len() >= MAX_PROBES {
            self.probes.retain(|_, (_, at)| now - *at < PROBE_MEMORY);
        }
        if self.probes.len() < MAX_PROBES {
            self.probes.insert(number, (node, now));
        }
    }

    /// Records that a node has answered a probe.
    pub(crate) fn answered(&mut self, node: NodeId) {
        self.probes.retain(|_, (probed, _)| *probed != node);
        if let Some(unanswered) = self.unanswered.get_mut(&node) {
            *unanswered = None;
        }
    }

    /// Forgets a node.
    pub(crate) fn remove(&mut self, node: NodeId) {
        self.unanswered.remove(&node);
        self.probes.retain(|_, (probed, _)| *probed != node);
    }
}
