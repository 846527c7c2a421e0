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
    /// Set when that node has answered a probe that it does not carry it out.
    pub(crate) is_unknown: bool,
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

    /// Records the number of a probe whose delivery tells that the node is there. Returns `false` if there are too many.
    pub(crate) fn watch(&mut self, number: u64, node: NodeId, now: Instant) -> bool {
        if self.probes.len() >= MAX_PROBES {
            self.probes.retain(|_, (_, at)| now - *at < PROBE_MEMORY);
        }
        let is_watched = self.probes.len() < MAX_PROBES;
        if is_watched {
            self.probes.insert(number, (node, now));
        }
        is_watched
    }

    /// Records that a node has answered a probe. Returns `false` if it has not been sent this one, or has answered it: the
    /// message may be from another process.
    pub(crate) fn answered(&mut self, node: NodeId, number: u64) -> bool {
        let Some((_, at)) = self.probes.get(&number).filter(|(probed, _)| *probed == node).copied() else {
            return false;
        };
        self.probes.remove(&number);
        // The answers to earlier ones are lost.
        self.probes.retain(|_, (probed, earlier)| *probed != node || *earlier >= at);
        if let Some(unanswered) = self.unanswered.get_mut(&node) {
            *unanswered = None;
        }
        true
    }

    /// Forgets a node.
    pub(crate) fn remove(&mut self, node: NodeId) {
        self.unanswered.remove(&node);
        self.probes.retain(|_, (probed, _)| *probed != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_node_that_was_probed_can_answer() {
        let (a, b, now, mut owners) = (NodeId::random(), NodeId::random(), Instant::now(), Owners::default());
        owners.add(a);
        assert!(owners.watch(1, a, now) && owners.watch(2, a, now));
        owners.unanswered.insert(a, Some(now));
        assert!(!owners.answered(b, 1) && !owners.answered(a, 3));
        assert_eq!(owners.unanswered[&a], Some(now));
        assert!(owners.answered(a, 1) && owners.answered(a, 2), "two probes of the same moment");
        assert_eq!(owners.unanswered[&a], None);
        assert!(!owners.answered(a, 1), "the same one again");
        assert!(owners.watch(4, a, now) && owners.watch(5, a, now + PROBE_INTERVAL));
        assert!(owners.answered(a, 5) && owners.probes.is_empty());
    }

    #[tokio::test]
    async fn probes_are_bounded_and_old_ones_forgotten() {
        let (node, now, mut owners) = (NodeId::random(), Instant::now(), Owners::default());
        assert!((0..MAX_PROBES as u64).all(|number| owners.watch(number, node, now)));
        assert!(!owners.watch(9999, node, now));
        assert!(owners.watch(9999, node, now + PROBE_MEMORY));
        assert_eq!(owners.probes.len(), 1);
    }
}
