//! The requests of the peer: how many handlers run, how many requests wait, and how fast they may come.

use std::{collections::VecDeque, time::Instant};

use crate::{
    connection::request::{self, IncomingRequest, RequestHead},
    error::{CallError, ErrorCode},
    message::payload::{MessageId, Payload},
    options::Options,
};

#[derive(Debug, Default)]
pub(crate) struct CallsIn {
    /// The requests that wait for a handler.
    queue: VecDeque<IncomingRequest>,
    /// The bytes of their messages.
    queue_bytes: usize,
    /// The requests that wait for a handler or for their response, by their ids, with the fingerprints of their content.
    /// There are as many as the options allow, and most often none: a vector takes less memory and time than a map.
    active: Vec<(MessageId, u64)>,
    running: usize,
    /// The theoretical arrival time of the next request at the highest allowed rate.
    theoretical_arrival: Option<Instant>,
}

/// The bytes of messages that may wait for a handler, as a multiple of `max_message_size`.
const QUEUE_BYTES_FACTOR: usize = 4;

impl CallsIn {
    /// Returns the fingerprint of the request with this id that waits for a handler or for its response.
    pub(super) fn active(&self, id: &MessageId) -> Option<u64> {
        self.active.iter().find(|(active, _)| active == id).map(|(_, fingerprint)| *fingerprint)
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
            let arrival = self.theoretical_arrival.map_or(now, |arrival| arrival.max(now)) + time / calls;
            if arrival > now + time {
                return Err(rejected(format!("more than {calls} calls in {time:?}")));
            }
            self.theoretical_arrival = Some(arrival);
        }
        if self.has_free_handler(options) {
            return Ok(());
        }
        let max_bytes = options.max_message_size.saturating_mul(QUEUE_BYTES_FACTOR);
        let fits = self.queue_bytes + request.message_len <= max_bytes;
        if fits && self.queue.len() < options.handler_queue {
            Ok(())
        } else {
            Err(rejected("too many calls are waiting to be handled".to_owned()))
        }
    }

    fn has_free_handler(&self, options: &Options) -> bool {
        self.running < options.handler_concurrency && self.queue.is_empty()
    }

    /// Returns a request that a handler may start on now, or queues it.
    pub(super) fn start_or_queue(&mut self, request: IncomingRequest, options: &Options) -> Option<IncomingRequest> {
        if self.has_free_handler(options) {
            return Some(request);
        }
        self.queue_bytes += request.message_len;
        if request.head.expects_response {
            self.reserve_id(&request.head, &request.payload);
        }
        self.queue.push_back(request);
        None
    }

    /// Counts a handler that did not finish at once.
    pub(crate) fn handler_started(&mut self) {
        self.running += 1;
    }

    /// Counts a [started](Self::handler_started) handler as finished.
    pub(crate) fn handler_finished(&mut self) {
        self.running -= 1;
    }

    /// Reserves the id of a request until its [response](Self::release_id).
    pub(crate) fn reserve_id(&mut self, head: &RequestHead, payload: &Payload) {
        self.active.push((head.id.clone(), request::fingerprint(&head.action, payload)));
    }

    /// Releases the id of a request, which has its response or will have none.
    pub(crate) fn release_id(&mut self, id: &MessageId) {
        if let Some(at) = self.active.iter().position(|(active, _)| active == id) {
            self.active.swap_remove(at);
        }
    }

    /// Returns the next queued request if a handler may start on it now.
    pub(super) fn next(&mut self, options: &Options) -> Option<IncomingRequest> {
        if self.running >= options.handler_concurrency {
            return None;
        }
        let request = self.queue.pop_front()?;
        self.queue_bytes -= request.message_len;
        if request.head.expects_response {
            self.release_id(&request.head.id);
        }
        Some(request)
    }

    /// Drops the requests of a connection that is lost.
    pub(super) fn disconnect(&mut self) {
        self.queue.clear();
        self.queue_bytes = 0;
        self.active.clear();
        self.running = 0;
    }

    /// Returns whether no request waits for a handler or a response, except those of `awaiting_close` handlers.
    pub(super) fn is_settled(&self, awaiting_close: usize) -> bool {
        self.running <= awaiting_close && self.queue.is_empty() && self.active.len() <= awaiting_close
    }
}
