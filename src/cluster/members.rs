//! The nodes of a cluster, as far as this node has heard from them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::cluster::epoch::NodeId;

/// The time between two signs of life of a node.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// A node that is silent for longer is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The nodes that are remembered at once. More are not listed when they do not answer.
const MAX_NODES: usize = 4096;

/// The longest name of a node, in bytes.
const MAX_NAME: usize = 255;

/// The other nodes of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Members {
    nodes: HashMap<NodeId, Known>,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    heard_at: Instant,
    /// The number of the latest announcement of sessions that arrived.
    opens: u64,
}

/// The meaning of a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The node was not known.
    First,
    /// An announcement of sessions is missing.
    Incomplete,
    Complete,
}

impl Members {
    /// Records a sign of life of a node that has announced sessions in `opens` messages.
    pub(crate) fn heard(&mut self, node: NodeId, name: &str, opens: u64, now: Instant) -> Heard {
        self.nodes.retain(|_, known| now.duration_since(known.heard_at) < FORGOTTEN);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.heard_at = now;
            let latest = known.opens;
            known.opens = opens.max(latest);
            return if latest < opens { Heard::Incomplete } else { Heard::Complete };
        }
        if self.nodes.len() < MAX_NODES && name.len() <= MAX_NAME {
            self.nodes.insert(node, Known { name: name.into(), heard_at: now, opens });
        }
        Heard::First
    }

    /// Records an announcement. Returns `true` if one before it is missing.
    pub(crate) fn opened(&mut self, node: NodeId, opens: u64) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else { return false };
        let latest = known.opens;
        known.opens = opens.max(latest);
        latest + 1 < opens
    }

    /// Forgets a node that has left, or that the broker does not know.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Returns the nodes with their names.
    pub(crate) fn all(&self, now: Instant) -> impl Iterator<Item = (NodeId, Arc<str>)> {
        let is_known = move |known: &Known| now.duration_since(known.heard_at) < FORGOTTEN;
        self.nodes.iter().filter(move |(_, known)| is_known(known)).map(|(node, known)| (*node, known.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_node_is_forgotten_after_a_minute() {
        let (a, b, start) = (NodeId::random(), NodeId::random(), Instant::now());
        let mut members = Members::default();
        assert_eq!(members.heard(a, "a", 0, start), Heard::First);
        assert_eq!(members.heard(a, "a", 0, start + BEAT), Heard::Complete);
        assert_eq!(members.heard(b, "b", 0, start + Duration::from_secs(64)), Heard::First);
        assert_eq!(members.all(start + Duration::from_secs(64)).count(), 2);
        let left: Vec<_> = members.all(start + Duration::from_secs(65)).collect();
        assert_eq!(left, [(b, "b".into())]);
        members.forget(b);
        assert_eq!(members.all(start).count(), 1);
    }

    #[test]
    fn nodes_are_bounded() {
        let (start, mut members) = (Instant::now(), Members::default());
        for _ in 0..2 * MAX_NODES {
            members.heard(NodeId::random(), "x", 0, start);
        }
        members.heard(NodeId::random(), &"x".repeat(MAX_NAME + 1), 0, start);
        assert_eq!(members.all(start).count(), MAX_NODES);
    }

    #[test]
    fn missing_announcement_is_noticed() {
        let (a, start, mut members) = (NodeId::random(), Instant::now(), Members::default());
        members.heard(a, "a", 3, start);
        assert!(!members.opened(a, 4));
        assert!(!members.opened(a, 4), "the same one again");
        assert!(members.opened(a, 6));
        assert_eq!(members.heard(a, "a", 6, start), Heard::Complete);
        assert_eq!(members.heard(a, "a", 7, start), Heard::Incomplete);
        assert!(!members.opened(a, 5), "an earlier one that was asked for already");
    }
}
