//! The nodes of a cluster, as far as this node has heard from them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::cluster::epoch::NodeId;

/// The time between two signs of life of a node.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// A node that is silent for longer is not listed any more.
const SILENT: Duration = Duration::from_secs(60);

/// A node that is silent for longer is forgotten. If it returns, its sessions are asked for again.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// The nodes that are remembered at once. The longest silent one is forgotten for a new one. If all are listed, more are
/// not listed when they do not answer.
const MAX_NODES: usize = 4096;

/// The longest name of a node, in bytes.
const MAX_NAME: usize = 255;

/// The nodes that are asked for their sessions at the same time. Each sends one part of its list after the other.
const MAX_ASKED: usize = 8;

/// A node that does not send a part of its list for this long may be asked again.
const PART_TIMEOUT: Duration = Duration::from_secs(2);

/// The other nodes of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Members {
    nodes: HashMap<NodeId, Known>,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    heard_at: Instant,
    presence: Presence,
    /// How much the clock of the node is ahead of this one's, in milliseconds.
    skew: i64,
    /// The number up to which the node has announced sessions.
    announced: u64,
    /// The number up to which its announcements have arrived.
    arrived: u64,
    /// The moment at which the node was asked for the sessions behind that number.
    asked_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    /// The broker does not know it. It may return.
    Lost,
    /// It does not return. Messages that it sent before may still arrive.
    Left,
}

impl Known {
    fn is_listed(&self, now: Instant) -> bool {
        self.presence == Presence::Here && now.duration_since(self.heard_at) < SILENT
    }

    fn is_asked(&self, now: Instant) -> bool {
        self.asked_at.is_some_and(|at| now.duration_since(at) < PART_TIMEOUT)
    }
}

impl Members {
    /// Records a sign of life of a node that has announced sessions up to this number. Returns `true` if the node was
    /// not listed.
    pub(crate) fn heard(&mut self, node: NodeId, name: &str, skew: i64, announced: u64, now: Instant) -> bool {
        self.nodes.retain(|_, known| now.duration_since(known.heard_at) < FORGOTTEN);
        if let Some(known) = self.nodes.get_mut(&node) {
            if known.presence == Presence::Left {
                return false;
            }
            let is_new = !known.is_listed(now);
            (known.heard_at, known.skew, known.presence) = (now, skew, Presence::Here);
            known.announced = known.announced.max(announced);
            return is_new;
        }
        name.len() <= MAX_NAME && self.insert(node, name, skew, announced, Presence::Here, now)
    }

    /// Adds a node. Returns `false` if there are too many.
    fn insert(
        &mut self,
        node: NodeId,
        name: &str,
        skew: i64,
        announced: u64,
        presence: Presence,
        now: Instant,
    ) -> bool {
        if self.nodes.len() >= MAX_NODES {
            let silent = self.nodes.iter().filter(|(_, known)| !known.is_listed(now));
            let Some(oldest) = silent.min_by_key(|(_, known)| known.heard_at).map(|(node, _)| *node) else {
                return false;
            };
            self.nodes.remove(&oldest);
        }
        let known = Known { name: name.into(), heard_at: now, presence, skew, announced, arrived: 0, asked_at: None };
        self.nodes.insert(node, known);
        true
    }

    /// Records an announcement of the sessions with the numbers behind `after` up to `until`. Returns `true` if sessions
    /// before it are missing.
    pub(crate) fn arrived(&mut self, node: NodeId, after: u64, until: u64) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else { return false };
        known.announced = known.announced.max(until);
        if after <= known.arrived {
            known.arrived = known.arrived.max(until);
        }
        known.arrived < known.announced
    }

    /// Records a part of the list that the node was asked for.
    ///
    /// The next one is asked for at once. After a part with nothing new, the node must wait: if an announcement names a
    /// number that the node has never reached, each of its parts is like that.
    pub(crate) fn part(&mut self, node: NodeId, after: u64, until: u64) {
        let before = self.nodes.get(&node).map(|known| known.arrived);
        self.arrived(node, after, until);
        if let Some(known) = self.nodes.get_mut(&node).filter(|known| Some(known.arrived) != before) {
            known.asked_at = None;
        }
    }

    /// Records that this node needs none of the sessions that a node has announced so far.
    pub(crate) fn needs_none(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.arrived = known.announced;
        }
    }

    /// Returns the nodes that must be asked for sessions, and the number behind which those are missing.
    pub(crate) fn ask(&mut self, now: Instant) -> Vec<(NodeId, u64)> {
        let asked = self.nodes.values().filter(|known| known.is_asked(now)).count();
        let missing = |known: &Known| known.arrived < known.announced && known.is_listed(now) && !known.is_asked(now);
        let nodes = self.nodes.iter_mut().filter(|(_, known)| missing(known));
        let nodes = nodes.take(MAX_ASKED.saturating_sub(asked)).map(|(node, known)| {
            known.asked_at = Some(now);
            (*node, known.arrived)
        });
        let mut nodes: Vec<_> = nodes.collect();
        // So that a test that repeats itself sends the same messages in the same order.
        nodes.sort_unstable();
        nodes
    }

    /// Records that the answers of the nodes that were asked may be lost.
    pub(crate) fn ask_again(&mut self) {
        self.nodes.values_mut().for_each(|known| known.asked_at = None);
    }

    /// Returns how much the clock of a node is ahead of this one's, in milliseconds.
    pub(crate) fn skew(&self, node: NodeId) -> i64 {
        self.nodes.get(&node).map_or(0, |known| known.skew)
    }

    /// Records that the broker does not know a node.
    pub(crate) fn lost(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node).filter(|known| known.presence == Presence::Here) {
            (known.presence, known.asked_at) = (Presence::Lost, None);
        }
    }

    /// Records that a node has left. A sign of life that arrives later does not bring it back.
    pub(crate) fn left(&mut self, node: NodeId, now: Instant) {
        match self.nodes.get_mut(&node) {
            Some(known) => known.presence = Presence::Left,
            None => _ = self.insert(node, "", 0, 0, Presence::Left, now),
        }
    }

    /// Returns the nodes with their names.
    pub(crate) fn all(&self, now: Instant) -> impl Iterator<Item = (NodeId, Arc<str>)> {
        let listed = self.nodes.iter().filter(move |(_, known)| known.is_listed(now));
        listed.map(|(node, known)| (*node, known.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_node_is_not_listed_after_a_minute() {
        let (a, b, start) = (NodeId::random(), NodeId::random(), Instant::now());
        let mut members = Members::default();
        assert!(members.heard(a, "a", -5, 0, start));
        assert!(!members.heard(a, "a", 7, 0, start + BEAT));
        assert_eq!((members.skew(a), members.skew(b)), (7, 0));
        assert!(members.heard(b, "b", 0, 0, start + Duration::from_secs(64)));
        assert_eq!(members.all(start + Duration::from_secs(64)).count(), 2);
        let left: Vec<_> = members.all(start + Duration::from_secs(65)).collect();
        assert_eq!(left, [(b, "b".into())]);
        members.lost(b);
        assert_eq!(members.all(start + Duration::from_secs(65)).count(), 0);
        assert!(members.heard(b, "b", 0, 0, start + Duration::from_secs(65)), "it is back");
    }

    #[test]
    fn node_that_has_left_does_not_return() {
        let (a, b, start, mut members) = (NodeId::random(), NodeId::random(), Instant::now(), Members::default());
        members.heard(a, "a", 0, 0, start);
        for node in [a, b] {
            members.left(node, start);
            assert!(!members.heard(node, "x", 0, 9, start), "sent before it has left");
        }
        assert_eq!((members.all(start).count(), members.ask(start)), (0, vec![]));
    }

    #[test]
    fn nodes_are_bounded_and_silent_ones_give_way() {
        let (start, mut members) = (Instant::now(), Members::default());
        let silent = NodeId::random();
        members.heard(silent, "silent", 0, 0, start);
        let now = start + SILENT;
        for _ in 0..2 * MAX_NODES {
            members.heard(NodeId::random(), "x", 0, 0, now);
        }
        members.heard(NodeId::random(), &"x".repeat(MAX_NAME + 1), 0, 0, now);
        assert_eq!((members.all(now).count(), members.nodes.len()), (MAX_NODES, MAX_NODES));
        assert!(!members.nodes.contains_key(&silent));
        members.heard(silent, "silent", 0, 0, now + FORGOTTEN);
        assert_eq!(members.nodes.len(), 1);
    }

    #[test]
    fn sessions_are_missing_until_their_numbers_have_arrived() {
        let (a, start, mut members) = (NodeId::random(), Instant::now(), Members::default());
        members.heard(a, "a", 0, 0, start);
        assert!(!members.arrived(a, 0, 1));
        assert!(!members.arrived(a, 0, 1), "the same one again");
        assert!(members.arrived(a, 3, 7));
        assert_eq!(members.ask(start), [(a, 1)]);
        assert_eq!(members.ask(start), [], "one part at a time");
        members.part(a, 1, 5);
        assert_eq!(members.ask(start), [(a, 5)]);
        // A part that arrives twice, and the last one.
        members.part(a, 1, 5);
        members.part(a, 5, 7);
        assert_eq!(members.ask(start), []);
        // A sign of life shows that the latest one is missing.
        members.heard(a, "a", 0, 8, start);
        assert_eq!(members.ask(start), [(a, 7)]);
        assert_eq!(members.ask(start + PART_TIMEOUT), [(a, 7)], "the answer is lost");
        members.ask_again();
        assert_eq!(members.ask(start + PART_TIMEOUT), [(a, 7)]);
        members.needs_none(a);
        members.ask_again();
        assert_eq!(members.ask(start), []);
    }

    #[test]
    fn node_that_sends_nothing_new_is_not_asked_again_at_once() {
        let (a, start, mut members) = (NodeId::random(), Instant::now(), Members::default());
        members.heard(a, "a", 0, 5, start);
        // One broken message.
        assert!(members.arrived(a, u64::MAX - 1, u64::MAX));
        assert_eq!(members.ask(start), [(a, 0)]);
        members.part(a, 0, 5);
        assert_eq!(members.ask(start), [(a, 5)]);
        members.part(a, 5, 5);
        assert_eq!(members.ask(start), []);
        assert_eq!(members.ask(start + PART_TIMEOUT), [(a, 5)]);
    }

    #[test]
    fn node_that_returns_is_asked_for_what_is_new() {
        let (a, start, mut members) = (NodeId::random(), Instant::now(), Members::default());
        assert!(members.heard(a, "a", 0, 4, start));
        assert_eq!(members.ask(start), [(a, 0)], "it has announced sessions before it was known");
        members.part(a, 0, 4);
        members.lost(a);
        members.arrived(a, 4, 5);
        assert!(members.heard(a, "a", 0, 6, start + 10 * SILENT));
        assert_eq!(members.ask(start + 10 * SILENT), [(a, 5)]);
    }

    #[test]
    fn nodes_are_asked_a_few_at_a_time() {
        let (start, mut members) = (Instant::now(), Members::default());
        for _ in 0..3 * MAX_ASKED {
            members.heard(NodeId::random(), "x", 0, 1, start);
        }
        let mut asked = members.ask(start);
        assert_eq!((asked.len(), members.ask(start)), (MAX_ASKED, vec![]));
        let (first, _) = asked.pop().expect("one");
        members.part(first, 0, 1);
        assert_eq!(members.ask(start).len(), 1, "the next one");
        members.lost(asked[0].0);
        assert_eq!(members.ask(start).len(), 1, "a node that is lost does not delay others");
    }
}
