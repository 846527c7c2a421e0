//! The requests of the peer: how many handlers run, how many requests wait, and how fast they may come.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::{
    connection::request::{self, IncomingRequest, RequestHead},
    error::{CallError, ErrorCode},
    message::payload::{MessageId, Payload},
    options::Options,
};

#[derive(Debug, Default)]
pub(crate) struct CallsIn {
    /// The requests that wait for a handler. Created for the first one, and few connections have any.
    queue: Option<Box<Queue>>,
    /// The requests that wait for a handler or for their response, by their ids, with the fingerprints of their content.
    active: ActiveIds,
    /// Four bytes, because idle connections keep them.
    running: u32,
    /// Set if one handler takes all messages, one after the other.
    is_raw: bool,
    /// The handlers of this station that have outlived their connections. `usize::MAX` if no handler may start.
    outliving: usize,
    /// The theoretical arrival time of the next request at the highest allowed rate. Boxed, because few options set one.
    theoretical_arrival: Option<Box<Instant>>,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<IncomingRequest>,
    /// The bytes of their messages.
    bytes: usize,
}

/// The requests for which an empty queue keeps memory, at most.
const MAX_KEPT: usize = 16;

/// The bytes of messages that may wait for a handler, as a multiple of `max_message_size`.
const QUEUE_BYTES_FACTOR: usize = 4;

impl CallsIn {
    /// Returns the fingerprint of the request with this id that waits for a handler or for its response.
    pub(super) fn active(&self, id: &MessageId) -> Option<u64> {
        self.active.get(id)
    }

    /// Counts a request and returns an error if there is no room for it.
    pub(super) fn admit(
        &mut self,
        request: &IncomingRequest,
        now: Instant,
        options: &Options,
    ) -> Result<(), CallError> {
        let rejected = |why: String| CallError::new(ErrorCode::GENERIC_ERROR, why);
        if let Some((calls, time)) = options.call_rate {
            // The generic cell rate algorithm: each request takes its share of the time.
            let arrival = self.theoretical_arrival.as_ref().map_or(now, |arrival| now.max(**arrival)) + time / calls;
            if arrival > now + time {
                return Err(rejected(format!("more than {calls} calls in {time:?}")));
            }
            **self.theoretical_arrival.get_or_insert_with(|| Box::new(now)) = arrival;
        }
        if self.has_free_handler(options) {
            return Ok(());
        }
        if self.is_stuck(options) {
            return Err(too_many_outlive());
        }
        if self.has_room(request.message_len, options) {
            Ok(())
        } else {
            Err(rejected("too many calls are waiting to be handled".to_owned()))
        }
    }

    /// Returns whether a message of this length may be queued.
    fn has_room(&self, message_len: usize, options: &Options) -> bool {
        let max_bytes = options.max_message_size.saturating_mul(QUEUE_BYTES_FACTOR);
        let (queued, bytes) = self.queue.as_ref().map_or((0, 0), |queue| (queue.requests.len(), queue.bytes));
        bytes + message_len <= max_bytes && queued < options.handler_queue
    }

    pub(crate) fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Sets whether one handler takes all messages, one after the other.
    pub(crate) fn set_raw(&mut self, is_raw: bool) {
        self.is_raw = is_raw;
    }

    /// Returns whether the next message must wait in the socket for the handler of raw messages. While responses to
    /// calls are `awaited`, messages are queued instead, because the handler may wait for such a response.
    pub(super) fn must_wait(&self, awaited: bool, options: &Options) -> bool {
        let is_busy = self.running > 0 || !self.is_queue_empty();
        self.is_raw && is_busy && !(awaited && self.has_room(options.max_message_size, options))
    }

    /// Returns whether a handler may start on a new request now. Queued requests come first.
    pub(super) fn has_free_handler(&self, options: &Options) -> bool {
        self.running() < self.max_running(options) && self.is_queue_empty()
    }

    pub(super) fn is_queue_empty(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.requests.is_empty())
    }

    /// Sets how many handlers of this station have outlived their connections, or `None` if no handler may start.
    pub(super) fn set_outliving(&mut self, outliving: Option<usize>) {
        self.outliving = outliving.unwrap_or(usize::MAX);
    }

    /// Returns how many handlers of this connection may run: with those that have outlived their connections, twice as
    /// many as for one connection.
    fn max_running(&self, options: &Options) -> usize {
        let of_station = options.handler_concurrency.saturating_mul(2).saturating_sub(self.outliving);
        let of_connection = if self.is_raw { 1 } else { options.handler_concurrency };
        of_connection.min(of_station)
    }

    /// Returns whether no handler may run, and none of this connection runs whose end could change that.
    fn is_stuck(&self, options: &Options) -> bool {
        self.running == 0 && self.max_running(options) == 0
    }

    /// Returns a queued request that must be rejected, because no handler will start on it.
    pub(super) fn next_stuck(&mut self, options: &Options) -> Option<(IncomingRequest, CallError)> {
        if self.is_queue_empty() || !self.is_stuck(options) {
            return None;
        }
        self.pop().map(|request| (request, too_many_outlive()))
    }

    /// Queues a request for [`next`](Self::next).
    pub(super) fn queue(&mut self, request: IncomingRequest) {
        if request.head.expects_response {
            self.reserve_id(&request.head, &request.payload);
        }
        let queue = self.queue.get_or_insert_default();
        queue.bytes += request.message_len;
        queue.requests.push_back(request);
    }

    /// Counts a handler that did not finish at once.
    pub(crate) fn handler_started(&mut self) {
        self.running += 1;
    }

    /// Returns the number of handlers of this connection that have not finished.
    pub(crate) fn running(&self) -> usize {
        self.running as usize
    }

    /// Counts a [started](Self::handler_started) handler as finished.
    pub(crate) fn handler_finished(&mut self) {
        self.running -= 1;
    }

    /// Reserves the id of a request until its [response](Self::release_id).
    pub(crate) fn reserve_id(&mut self, head: &RequestHead, payload: &Payload) {
        self.active.insert(head.id.clone(), request::fingerprint(&head.action, payload));
    }

    /// Releases the id of a request, which has its response or will have none.
    pub(crate) fn release_id(&mut self, id: &MessageId) {
        self.active.remove(id);
    }

    /// Returns the next queued request if a handler may start on it now.
    pub(super) fn next(&mut self, options: &Options) -> Option<IncomingRequest> {
        if self.running() >= self.max_running(options) {
            return None;
        }
        self.pop()
    }

    fn pop(&mut self) -> Option<IncomingRequest> {
        let queue = self.queue.as_mut()?;
        let request = queue.requests.pop_front()?;
        queue.bytes -= request.message_len;
        if queue.requests.is_empty() && queue.requests.capacity() > MAX_KEPT {
            self.queue = None;
        }
        if request.head.expects_response {
            self.release_id(&request.head.id);
        }
        Some(request)
    }

    /// Forgets the requests of a connection that is lost. Returns those that were queued.
    pub(super) fn disconnect(&mut self) -> impl Iterator<Item = IncomingRequest> + use<> {
        self.active = ActiveIds::default();
        self.running = 0;
        // The memory as well: handlers may continue for long.
        self.queue.take().into_iter().flat_map(|queue| queue.requests)
    }

    /// Returns whether no request waits for a handler or a response, except those of `awaiting_close` handlers.
    pub(super) fn is_settled(&self, awaiting_close: usize) -> bool {
        self.running() <= awaiting_close && self.is_queue_empty() && self.active.len() <= awaiting_close
    }
}

/// The ids of requests, with the fingerprints of their content.
#[derive(Debug, Default)]
struct ActiveIds {
    /// Most often there are few: a vector takes less memory and time than a map.
    few: Vec<(MessageId, u64)>,
    /// The ids that found no place in `few`.
    more: Option<Box<MoreIds>>,
}

/// A map that an idle connection has no room for.
#[derive(Debug, Default)]
struct MoreIds(HashMap<MessageId, u64>);

/// The number of ids that are searched one after the other.
const FEW: usize = 8;

impl ActiveIds {
    fn len(&self) -> usize {
        self.few.len() + self.more.as_ref().map_or(0, |more| more.0.len())
    }

    fn get(&self, id: &MessageId) -> Option<u64> {
        let few = self.few.iter().find(|(active, _)| active == id).map(|(_, fingerprint)| *fingerprint);
        few.or_else(|| self.more.as_ref()?.0.get(id).copied())
    }

    fn insert(&mut self, id: MessageId, fingerprint: u64) {
        if self.few.len() < FEW {
            self.few.push((id, fingerprint));
        } else {
            self.more.get_or_insert_default().0.insert(id, fingerprint);
        }
    }

    fn remove(&mut self, id: &MessageId) {
        if let Some(at) = self.few.iter().position(|(active, _)| active == id) {
            self.few.swap_remove(at);
        } else if let Some(more) = &mut self.more {
            more.0.remove(id);
            self.more.take_if(|more| more.0.is_empty());
        }
    }
}

fn too_many_outlive() -> CallError {
    CallError::new(ErrorCode::GENERIC_ERROR, "too many calls of earlier connections are being handled")
}
