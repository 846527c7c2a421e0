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
    /// How much the clock of the node is ahead of this one's, in milliseconds.
    skew: i64,
    /// The number of the latest announcement of sessions that arrived.
    opens: u64,
    /// The number of the latest announcement that is missing.
    missing: Option<u64>,
    /// The parts of a list of all sessions that have arrived.
    parts: u64,
}

impl Members {
    /// Records a sign of life of a node that has announced sessions in `opens` messages. Returns `true` if the node was
    /// not known.
    pub(crate) fn heard(&mut self, node: NodeId, name: &str, skew: i64, opens: u64, now: Instant) -> bool {
        self.nodes.retain(|_, known| now.duration_since(known.heard_at) < FORGOTTEN);
        if let Some(known) = self.nodes.get_mut(&node) {
            (known.heard_at, known.skew) = (now, skew);
            if known.opens < opens {
                (known.opens, known.missing) = (opens, Some(opens));
            }
            return false;
        }
        if self.nodes.len() >= MAX_NODES || name.len() > MAX_NAME {
            return false;
        }
        let missing = (opens > 0).then_some(opens);
        self.nodes.insert(node, Known { name: name.into(), heard_at: now, skew, opens, missing, parts: 0 });
        true
    }

    /// Records an announcement. Returns `true` if one before it is missing.
    pub(crate) fn opened(&mut self, node: NodeId, opens: u64) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else { return false };
        let is_missing = known.opens.saturating_add(1) < opens;
        if is_missing {
            known.missing = Some(opens - 1);
        }
        known.opens = known.opens.max(opens);
        is_missing
    }

    /// Returns whether announcements of a node are missing.
    pub(crate) fn is_missing(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.missing.is_some())
    }

    /// Records a part of the list of all sessions of a node. The first one is 0.
    pub(crate) fn part(&mut self, node: NodeId, part: u64) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        if part == 0 {
            known.parts = 0;
        }
        known.parts += u64::from(known.parts == part);
    }

    /// Records the end of that list, which includes the announcement of this number.
    pub(crate) fn complete(&mut self, node: NodeId, parts: u64, opens: u64) {
        if let Some(known) = self.nodes.get_mut(&node)
            && known.parts == parts
        {
            known.missing = known.missing.filter(|missing| *missing > opens);
        }
    }

    /// Returns how much the clock of a node is ahead of this one's, in milliseconds.
    pub(crate) fn skew(&self, node: NodeId) -> i64 {
        self.nodes.get(&node).map_or(0, |known| known.skew)
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
        assert!(members.heard(a, "a", -5, 0, start));
        assert!(!members.heard(a, "a", 7, 0, start + BEAT));
        assert_eq!((members.skew(a), members.skew(b)), (7, 0));
        assert!(members.heard(b, "b", 0, 0, start + Duration::from_secs(64)));
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
            members.heard(NodeId::random(), "x", 0, 0, start);
        }
        members.heard(NodeId::random(), &"x".repeat(MAX_NAME + 1), 0, 0, start);
        assert_eq!(members.all(start).count(), MAX_NODES);
    }

    #[test]
    fn announcements_are_missing_until_a_whole_list_has_them() {
        let (a, start, mut members) = (NodeId::random(), Instant::now(), Members::default());
        members.heard(a, "a", 0, 0, start);
        assert!(!members.opened(a, 1));
        assert!(!members.opened(a, 1), "the same one again");
        assert!(members.opened(a, 3));
        assert!(members.is_missing(a));
        // A list that lacks a part, and one that is too old.
        members.part(a, 0);
        members.part(a, 2);
        members.complete(a, 3, 9);
        assert!(members.is_missing(a));
        (0..3).for_each(|part| members.part(a, part));
        members.complete(a, 3, 1);
        assert!(members.is_missing(a));
        members.complete(a, 3, 2);
        assert!(!members.is_missing(a));
        // A sign of life shows that the latest one is missing.
        members.heard(a, "a", 0, 4, start);
        assert!(members.is_missing(a));
        members.part(a, 0);
        members.complete(a, 1, 4);
        assert!(!members.is_missing(a));
        // A node that has announced sessions before it was known.
        let b = NodeId::random();
        members.heard(b, "b", 0, 1, start);
        assert!(members.is_missing(b));
    }
}
