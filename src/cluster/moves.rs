//! The stations that recently opened a session at another node.
//!
//! A transport may deliver a call to an old session of a station for as long as that session has not ended. A caller
//! therefore addresses the node that announced the newest session.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::cluster::epoch::{Epoch, NodeId};

/// The time for which a move is remembered.
const MEMORY: Duration = Duration::from_secs(30);

/// The moves that are remembered at once. The oldest is forgotten for a new one.
const MAX_MOVES: usize = 65_536;

/// The recent moves of stations, by key.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    latest: HashMap<Arc<str>, Move>,
    /// The keys in the order of their moves. A key may be there several times.
    order: VecDeque<(Arc<str>, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Move {
    node: NodeId,
    epoch: Epoch,
    at: Instant,
}

impl Moves {
    /// Records that a node announced a session. An announcement of an older session changes nothing.
    pub(crate) fn record(&mut self, key: &Arc<str>, node: NodeId, epoch: Epoch, now: Instant) {
        while let Some((oldest, at)) = self.order.front()
            && (self.order.len() >= MAX_MOVES || is_over(*at, now))
        {
            if self.latest.get(oldest).is_some_and(|latest| latest.at == *at) {
                self.latest.remove(oldest);
            }
            self.order.pop_front();
        }
        if self.latest.get(key).is_none_or(|latest| latest.epoch < epoch) {
            self.latest.insert(key.clone(), Move { node, epoch, at: now });
            self.order.push_back((key.clone(), now));
        }
    }

    /// Forgets the move of a station, because it has a session here.
    pub(crate) fn forget(&mut self, key: &str) {
        self.latest.remove(key);
    }

    /// Does the same if the station moved to this node.
    pub(crate) fn forget_at(&mut self, key: &str, node: Option<NodeId>) {
        if self.latest.get(key).is_some_and(|latest| Some(latest.node) == node) {
            self.latest.remove(key);
        }
    }

    /// Returns the node that a station recently moved to.
    pub(crate) fn find(&self, key: &str, now: Instant) -> Option<NodeId> {
        self.latest.get(key).filter(|latest| !is_over(latest.at, now)).map(|latest| latest.node)
    }
}

fn is_over(at: Instant, now: Instant) -> bool {
    now.duration_since(at) >= MEMORY
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cluster::epoch::HybridClock;

    #[test]
    fn newest_announcement_counts_for_half_a_minute() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let mut clock = HybridClock::new(a);
        let epochs = [(); 2].map(|()| clock.next(SystemTime::now()));
        let (start, key) = (Instant::now(), Arc::from("CP-1"));
        let mut moves = Moves::default();
        moves.record(&key, a, epochs[1], start);
        moves.record(&key, b, epochs[0], start + Duration::from_secs(1));
        assert_eq!(moves.find("CP-1", start + Duration::from_secs(29)), Some(a));
        assert_eq!(moves.find("CP-1", start + Duration::from_secs(30)), None);
    }

    #[test]
    fn moves_are_bounded_and_the_newest_stay() {
        let node = NodeId::random();
        let mut clock = HybridClock::new(node);
        let (start, mut moves) = (Instant::now(), Moves::default());
        for number in 0..=MAX_MOVES {
            moves.record(&format!("CP-{number}").into(), node, clock.next(SystemTime::now()), start);
        }
        assert_eq!((moves.latest.len(), moves.order.len()), (MAX_MOVES, MAX_MOVES));
        assert_eq!(moves.find("CP-0", start), None);
        assert_eq!(moves.find(&format!("CP-{MAX_MOVES}"), start), Some(node));
        moves.record(&"CP".into(), node, clock.next(SystemTime::now()), start + MEMORY);
        assert_eq!((moves.latest.len(), moves.order.len()), (1, 1));
    }
}
