//! The requests of other nodes that have ended.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use crate::cluster::epoch::NodeId;

/// A request of a node.
pub(crate) type RequestId = (NodeId, u64);

/// The time for which a request is remembered. Later it has expired.
const MEMORY: Duration = Duration::from_secs(15);

/// The requests that are remembered at once. The oldest is forgotten for a new one.
const MAX_REQUESTS: usize = 65_536;

/// The requests that must not be carried out any more: they were carried out, or a cancellation arrived before them.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    requests: HashSet<RequestId>,
    order: VecDeque<(RequestId, Instant)>,
}

impl Recent {
    pub(crate) fn insert(&mut self, request: RequestId, now: Instant) {
        while let Some((oldest, at)) = self.order.front()
            && (self.order.len() >= MAX_REQUESTS || now.duration_since(*at) >= MEMORY)
        {
            self.requests.remove(oldest);
            self.order.pop_front();
        }
        if self.requests.insert(request) {
            self.order.push_back((request, now));
        }
    }

    pub(crate) fn contains(&self, request: RequestId) -> bool {
        self.requests.contains(&request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_remembered_for_a_while_and_bounded() {
        let (node, start, mut recent) = (NodeId::random(), Instant::now(), Recent::default());
        for request in 0..=MAX_REQUESTS as u64 {
            recent.insert((node, request), start);
        }
        assert!(!recent.contains((node, 0)) && recent.contains((node, 1)));
        recent.insert((node, 0), start + MEMORY);
        assert!(recent.contains((node, 0)) && !recent.contains((node, 1)));
        assert_eq!((recent.requests.len(), recent.order.len()), (1, 1));
    }
}
