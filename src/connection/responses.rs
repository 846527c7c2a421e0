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
    queued: VecDeque<Queued<T>>,
    /// The bytes of queued responses to requests of the current connection.
    unsent: usize,
    /// Set if responses outlive the connection of their request.
    keep: bool,
}

/// A response that waits for the socket.
#[derive(Debug)]
struct Queued<T> {
    response: Outbound,
    sender: Option<T>,
    /// Set if the request came in on the current connection.
    is_current: bool,
}

impl<T> Queued<T> {
    /// Returns the bytes that count as unsent. A response takes memory beside its text.
    fn unsent(&self) -> usize {
        if self.is_current { size_of::<Self>() + self.response.text.len() } else { 0 }
    }
}

impl<T> Responses<T> {
    pub(super) fn new(generation: u32, keep: bool) -> Self {
        // The numbers of two connections never overlap, so a late response cannot meet a request of the next one.
        let seq = u64::from(generation) << 32;
        Self { generation, seq, open: Vec::new(), queued: VecDeque::new(), unsent: 0, keep }
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

    /// Queues a response to a request of the current connection. The sender gives its outcome to the handler.
    pub(super) fn push(&mut self, response: Outbound, sender: Option<T>) {
        let queued = Queued { response, sender, is_current: true };
        self.unsent += queued.unsent();
        self.queued.push_back(queued);
    }

    /// Queues a response to a request of an earlier connection. If there are more than `max`, drops the oldest one and
    /// returns its sender.
    pub(super) fn push_kept(&mut self, response: Outbound, sender: Option<T>, max: usize) -> Option<T> {
        self.queued.push_back(Queued { response, sender, is_current: false });
        let mut kept = self.queued.iter().enumerate().filter(|(_, queued)| !queued.is_current);
        let oldest = kept.next().filter(|_| kept.count() >= max)?.0;
        self.queued.remove(oldest)?.sender
    }

    /// Returns the next response to write.
    pub(super) fn pop(&mut self) -> Option<(Outbound, Option<T>)> {
        let queued = self.queued.pop_front()?;
        self.unsent -= queued.unsent();
        Some((queued.response, queued.sender))
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Returns the bytes of queued responses to requests of the current connection.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Returns the bytes of those that were queued before the latest one, if there are any.
    pub(super) fn unsent_before_latest(&self) -> Option<usize> {
        let latest = self.queued.back().filter(|latest| latest.is_current)?;
        Some(self.unsent - latest.unsent())
    }

    /// Begins the next connection. Returns the senders of responses that are dropped.
    pub(super) fn disconnect(&mut self, generation: u32, after: AfterDisconnect) -> impl Iterator<Item = T> + use<T> {
        self.generation = generation;
        self.unsent = 0;
        self.keep &= after == AfterDisconnect::Reconnect;
        let dropped = if !self.keep {
            std::mem::take(&mut self.queued)
        } else {
            self.queued.iter_mut().for_each(|queued| queued.is_current = false);
            VecDeque::new()
        };
        dropped.into_iter().filter_map(|queued| queued.sender)
    }
}
