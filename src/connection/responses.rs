//! The responses to the peer: the first one to a request counts, and some have to wait until they can be written.

use std::collections::VecDeque;

use crate::connection::{mailbox::AfterDisconnect, outbound::Outbound, request::RequestKey};

/// The requests that wait for their response, and the responses that wait for the socket.
#[derive(Debug)]
pub(super) struct Responses<T> {
    /// The number of the connection. A response goes out on the connection of its request, or is kept.
    generation: u32,
    seq: u64,
    /// The requests with a handler at work. There are at most as many as handlers may run.
    open: Vec<u64>,
    queued: VecDeque<(Outbound, Option<T>)>,
    /// Set if responses outlive the connection of their request.
    keep: bool,
}

impl<T> Responses<T> {
    pub(super) fn new(generation: u32, keep: bool) -> Self {
        // The numbers of two connections never overlap, so a late response cannot meet a request of the next one.
        Self { generation, seq: u64::from(generation) << 32, open: Vec::new(), queued: VecDeque::new(), keep }
    }

    /// Returns the key of the next request.
    pub(super) fn next_key(&mut self) -> RequestKey {
        self.seq += 1;
        RequestKey { generation: self.generation, seq: self.seq }
    }

    /// Expects a response that does not come at once.
    pub(super) fn expect(&mut self, key: RequestKey) {
        self.open.push(key.seq);
    }

    /// Returns whether this is the first response to its request. From then on there is no other.
    pub(super) fn claim(&mut self, key: RequestKey) -> bool {
        let found = self.open.iter().position(|seq| *seq == key.seq);
        found.map(|at| self.open.swap_remove(at)).is_some()
    }

    /// Returns whether the request came in on the current connection.
    pub(super) fn is_current(&self, key: RequestKey) -> bool {
        key.generation == self.generation
    }

    /// Returns whether a response can still reach the peer.
    pub(super) fn is_deliverable(&self, key: RequestKey) -> bool {
        self.keep || self.is_current(key)
    }

    /// Returns whether responses outlive the connection of their request.
    pub(super) fn are_kept(&self) -> bool {
        self.keep
    }

    /// Queues a response. The sender gives its outcome to the handler.
    pub(super) fn push(&mut self, response: Outbound, sender: Option<T>) {
        self.queued.push_back((response, sender));
    }

    /// Returns the next response to write.
    pub(super) fn pop(&mut self) -> Option<(Outbound, Option<T>)> {
        self.queued.pop_front()
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Begins the next connection. Returns the senders of responses that are dropped.
    pub(super) fn disconnect(&mut self, generation: u32, after: AfterDisconnect) -> impl Iterator<Item = T> + use<T> {
        self.generation = generation;
        let dropped = if after == AfterDisconnect::End || !self.keep {
            std::mem::take(&mut self.queued)
        } else {
            VecDeque::new()
        };
        dropped.into_iter().filter_map(|(_, sender)| sender)
    }
}
