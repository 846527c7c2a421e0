//! The requests of other nodes that this node carries out.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use bytestring::ByteString;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    cluster::{
        epoch::NodeId,
        recent::{Recent, RequestId},
    },
    connection::shared::Shared,
    message::payload::MessageId,
};

/// The requests that this node carries out.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    pub(crate) running: HashMap<RequestId, Carried>,
    /// The latest sign that a node still waits for its requests.
    pub(crate) callers: HashMap<NodeId, Instant>,
    /// The moment at which the callers are checked.
    pub(crate) check_due: Option<Instant>,
    pub(crate) ended: Recent,
    /// The latest results that the caller may reject.
    pub(crate) results: VecDeque<KeptResult>,
}

/// A request that is carried out.
#[derive(Debug)]
pub(crate) struct Carried {
    /// Cancels the request when dropped.
    _cancel: oneshot::Sender<()>,
    key: Arc<str>,
    started_at: Instant,
}

/// A node that carries out a request is probed by its caller. Without a probe for this long, the caller is gone, or does
/// not wait any more.
const CALLER_TIMEOUT: Duration = Duration::from_secs(3);

/// The time between two checks of the callers.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A result that the caller may reject, without its payload.
#[derive(Debug)]
pub(crate) struct KeptResult {
    pub(crate) request: RequestId,
    pub(crate) at: Instant,
    pub(crate) shared: Weak<Shared>,
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
}

impl Serving {
    /// Returns `true` if a request has arrived, or a cancellation of it.
    pub(crate) fn has_arrived(&self, request: RequestId) -> bool {
        self.running.contains_key(&request) || self.ended.contains(request)
    }

    /// Adds a request.
    pub(crate) fn insert(&mut self, request: RequestId, key: Arc<str>, cancel: oneshot::Sender<()>, now: Instant) {
        self.running.insert(request, Carried { _cancel: cancel, key, started_at: now });
        self.check_due.get_or_insert(now + CHECK_INTERVAL);
    }

    /// Cancels a request of a station. The caller must drop the returned one. A request that has not arrived yet will not
    /// be carried out.
    pub(crate) fn cancel(&mut self, request: RequestId, key: Option<&str>, now: Instant) -> Option<Carried> {
        if self.running.get(&request).is_some_and(|carried| key.is_some_and(|key| *carried.key != *key)) {
            return None;
        }
        self.ended.insert(request, now.into_std());
        self.running.remove(&request)
    }

    /// Cancels the requests of a node that is gone. The caller must drop the returned ones.
    pub(crate) fn cancel_all_of(&mut self, node: NodeId) -> Vec<Carried> {
        self.callers.remove(&node);
        in_order(self.running.extract_if(|(from, _), _| *from == node))
    }

    /// Cancels the requests that no caller has probed for long. The caller must drop the returned ones.
    pub(crate) fn check_callers(&mut self, now: Instant) -> Vec<Carried> {
        if self.check_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.callers.retain(|_, probed_at| now - *probed_at < CALLER_TIMEOUT);
        let callers = &self.callers;
        let is_lost = |from: &NodeId, carried: &Carried| {
            now - carried.started_at >= CALLER_TIMEOUT && !callers.contains_key(from)
        };
        let lost = self.running.extract_if(|(from, _), carried| is_lost(from, carried));
        let lost = in_order(lost);
        self.check_due = (!self.running.is_empty()).then(|| now + CHECK_INTERVAL);
        lost
    }
}

/// Returns requests in an order that a test that repeats itself has again.
fn in_order(requests: impl Iterator<Item = (RequestId, Carried)>) -> Vec<Carried> {
    let mut requests: Vec<_> = requests.collect();
    requests.sort_unstable_by_key(|(request, _)| *request);
    requests.into_iter().map(|(_, carried)| carried).collect()
}
