//! The rules of calling and responding, without a clock or a socket: what a message means, what may be written next,
//! and which facts to report.
//!
//! An exchange outlives connections: a client keeps its exchange while it reconnects. `T` is the
//! sender that gives a call's outcome to its caller. Every submitted call ends exactly once: either it is
//! [cancelled](CallsOut::cancel), or a method returns its sender.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytestring::ByteString;

use crate::{
    connection::{
        call_ids::CallIds,
        call_result::CallResult,
        calls_in::CallsIn,
        calls_out::{CallsOut, Kind, Outgoing},
        mailbox::AfterDisconnect,
        negotiated::Negotiated,
        outbound::{Outbound, Unhandled},
        rare_list::RareList,
        request::{IncomingRequest, RequestHead},
        responses::Responses,
    },
    error::{CallError, Error, ErrorCode, Violation},
    event::kind::{CallOutcome, Direction, EventKind, Text},
    message::{
        dialect::Dialect,
        payload::{EncodeError, MessageId, Payload},
        tolerance::Deviation,
        write,
    },
    options::Options,
    response::Response,
    validate::validator::{PayloadContext, PayloadKind, Valid},
};

#[derive(Debug)]
pub(crate) struct Exchange<T> {
    negotiated: Option<Negotiated>,
    options: Arc<Options>,
    pub(crate) calls_out: CallsOut<T>,
    pub(crate) calls_in: CallsIn,
    responses: Responses<T>,
    bad_messages: u32,
    /// The call errors in either direction and the bad messages that are not reported yet, of one turn at most.
    errors: u16,
    events: RareList<EventKind>,
    /// Set while an application reads events: messages are described then.
    is_observed: bool,
}

impl<T> Exchange<T> {
    /// Creates an exchange for the connection with the number `generation`. With `keep_responses`, responses outlive
    /// the connection of their request.
    pub(crate) fn new(
        negotiated: Option<Negotiated>,
        options: Arc<Options>,
        ids: CallIds,
        generation: u32,
        keep_responses: bool,
    ) -> Self {
        Self {
            negotiated,
            options,
            calls_out: CallsOut::new(ids),
            calls_in: CallsIn::default(),
            responses: Responses::new(generation, keep_responses),
            bad_messages: 0,
            errors: 0,
            events: RareList::new(),
            is_observed: false,
        }
    }

    /// Sets the outcome of a handshake. Returns the queued calls that the protocol does not allow.
    pub(crate) fn negotiate(&mut self, negotiated: Negotiated) -> Vec<(T, Error)> {
        if self.negotiated.as_ref() == Some(&negotiated) {
            return Vec::new();
        }
        self.negotiated = Some(negotiated);
        // Queued calls were checked for an earlier protocol, or not at all.
        let queued = self.calls_out.take_queued();
        queued
            .into_iter()
            .filter_map(|call| match call.kind {
                Kind::Send if !self.dialect().has_send() => Some((call.sender, Error::SendNotSupported)),
                _ => self.submit(call),
            })
            .collect()
    }

    /// Returns the subprotocol of the connection.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.negotiated.as_ref()?.protocol.as_deref()
    }

    fn dialect(&self) -> Dialect {
        self.negotiated.as_ref().map_or(Dialect::for_protocol(None), |negotiated| negotiated.dialect)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Replaces the options but for those that a connection reads when it opens, which stay as they are.
    pub(crate) fn set_options(&mut self, mut options: Options) {
        options.max_message_size = self.options.max_message_size;
        options.max_unsent = self.options.max_unsent;
        options.call_queue = self.options.call_queue;
        options.tolerance = self.options.tolerance;
        options.validation = self.options.validation.clone();
        options.compression = self.options.compression;
        self.options = Arc::new(options);
    }

    /// Sets the limits of the next connection, in bytes.
    pub(crate) fn set_limits(&mut self, max_message_size: usize, max_unsent: usize) {
        if (self.options.max_message_size, self.options.max_unsent) != (max_message_size, max_unsent) {
            self.options = Arc::new(Options { max_message_size, max_unsent, ..(*self.options).clone() });
        }
    }

    /// Sets whether messages are described by events.
    pub(crate) fn set_observed(&mut self, is_observed: bool) {
        self.is_observed = is_observed;
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Takes the facts to report.
    pub(crate) fn take_events(&mut self) -> Vec<EventKind> {
        self.events.take()
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Takes the number of call errors and bad messages since the last call.
    pub(crate) fn take_errors(&mut self) -> u16 {
        std::mem::take(&mut self.errors)
    }

    #[cold]
    fn count_error(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    /// Returns whether no call is pending in either direction, and no more than `awaiting_close` handlers are at work.
    pub(crate) fn is_settled(&self, awaiting_close: usize) -> bool {
        self.calls_out.is_settled() && self.calls_in.is_settled(awaiting_close) && self.responses.queued() == 0
    }

    /// Returns whether a request came in on the current connection.
    pub(crate) fn is_current(&self, request: &RequestHead) -> bool {
        self.responses.is_current(request.key)
    }

    /// Returns whether responses outlive the connection of their request.
    pub(crate) fn keeps_responses(&self) -> bool {
        self.responses.are_kept()
    }

    /// Queues a call. If its id or its payload is not allowed, returns its sender and the error instead.
    pub(crate) fn submit(&mut self, call: Box<Outgoing<T>>) -> Option<(T, Error)> {
        if call.has_own_id && self.calls_out.is_pending(&call.id) {
            return Some((call.sender, Error::InvalidMessageId { reason: "another pending call has it" }));
        }
        if call.kind == Kind::Raw {
            self.calls_out.submit(call);
            return None;
        }
        match self.check(Direction::Out, PayloadKind::Request, &call.action, &call.id, &call.params) {
            Ok(_) => {
                self.calls_out.submit(call);
                None
            }
            Err(violation) => Some((call.sender, violation.into())),
        }
    }

    /// Returns the next message to write. A sender comes with it if the caller waits for the message to be written.
    pub(crate) fn next_write(&mut self, now: Instant) -> Option<(Outbound, Option<T>)> {
        let response = self.responses.pop();
        response.or_else(|| self.calls_out.next_write(now, &self.options, self.is_observed))
    }

    /// Returns whether [`next_write`](Self::next_write) returns a message.
    pub(crate) fn has_write(&self) -> bool {
        self.responses.queued() > 0 || self.calls_out.may_write(&self.options)
    }

    /// Returns the bytes of early responses that wait for the peer to read.
    pub(crate) fn unsent(&self) -> usize {
        self.responses.unsent()
    }

    /// Returns the bytes of early responses that were queued before the latest one. Returns `None` if there are none.
    pub(crate) fn unsent_before_latest(&self) -> Option<usize> {
        self.responses.unsent_before_latest()
    }

    /// Returns whether the next message must wait in the socket for the handler of raw messages.
    pub(crate) fn must_wait(&self) -> bool {
        self.calls_in.must_wait(self.calls_out.has_in_flight(), &self.options)
    }

    /// Returns whether requests are queued.
    pub(crate) fn has_requests(&self) -> bool {
        !self.calls_in.is_queue_empty()
    }

    /// Returns the next queued request if a handler may start on it now.
    pub(crate) fn next_request(&mut self) -> Option<IncomingRequest> {
        let mut request = self.calls_in.next(&self.options)?;
        request.head.key = self.responses.next_key();
        Some(request)
    }

    /// Sets how many handlers of this station have outlived their connections, or `None` if no handler may start.
    pub(crate) fn set_outliving(&mut self, outliving: Option<usize>) {
        self.calls_in.set_outliving(outliving);
    }

    /// Returns a queued request on which no handler will start, and the error to [reject](Self::reject) it with.
    pub(crate) fn next_stuck(&mut self) -> Option<(IncomingRequest, CallError)> {
        self.calls_in.next_stuck(&self.options)
    }

    /// Rejects a request on which no handler starts. Returns the call error, if the request expects a response, and the
    /// event that its call has ended.
    pub(crate) fn reject(&mut self, head: RequestHead, error: &CallError) -> Unhandled {
        let response = head.expects_response.then(|| self.call_error(Some(&head.id), Some(&head.action), error));
        if response.is_none() {
            self.events.push(EventKind::UnhandledSend { id: head.id.clone(), action: Text(head.action.clone()) });
        }
        let outcome = response.as_ref().and_then(Outbound::outcome);
        let outcome = outcome.unwrap_or_else(|| CallOutcome::Rejected(error.code().clone()));
        Unhandled { response, ended: self.describe_unhandled(head, outcome).map(Box::new) }
    }

    /// Returns the event that a call has ended on which no handler started.
    fn describe_unhandled(&self, head: RequestHead, outcome: CallOutcome) -> Option<EventKind> {
        self.is_observed.then(|| {
            let (direction, RequestHead { id, action, .. }, duration) = (Direction::In, head, Duration::ZERO);
            EventKind::CallEnded { direction, id, action: Text(action), outcome, duration }
        })
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.is_observed
    }

    /// Counts a handler that did not finish at once, and expects its response.
    pub(crate) fn handler_started(&mut self, request: &RequestHead, payload: &Payload) {
        self.calls_in.handler_started();
        self.expect_response(request, payload);
    }

    /// Expects the response to a request, from its handler or early.
    pub(crate) fn expect_response(&mut self, request: &RequestHead, payload: &Payload) {
        if request.expects_response {
            self.responses.expect(request.key);
            self.calls_in.reserve_id(request, payload);
        }
    }

    /// Counts a handler that did not finish at once as finished. Handlers of earlier connections do not count.
    pub(crate) fn handler_finished(&mut self, request: &RequestHead) {
        if self.responses.is_current(request.key) {
            self.calls_in.handler_finished();
        }
    }

    /// Returns the response to an [expected](Self::expect_response) request, if it is the first one and can be
    /// delivered.
    pub(crate) fn respond(&mut self, request: &RequestHead, response: &Response) -> Option<Outbound> {
        if !self.claim(request) || !self.responses.is_deliverable(request.key) {
            return None;
        }
        self.response(request, response).map(|(message, _)| message)
    }

    /// Queues a response that a handler gives before it finishes. If the response is not queued, returns its sender and the
    /// outcome.
    pub(crate) fn respond_early(
        &mut self,
        request: &RequestHead,
        response: &Response,
        sender: T,
    ) -> Option<(T, Result<CallResult, Error>)> {
        if !self.claim(request) || !self.responses.is_deliverable(request.key) {
            return Some((sender, Err(Error::Disconnected { maybe_delivered: false })));
        }
        request.log_failure(response);
        match self.response(request, response) {
            Some((message, Ok(()))) => self.queue_early(request, message, Some(sender)).map(dropped),
            Some((message, Err(error))) => {
                self.queue_early(request, message, None);
                Some((sender, Err(error)))
            }
            None => Some((sender, Ok(CallResult::default()))),
        }
    }

    /// Queues an early response. Those of the current connection count as [unsent](Self::unsent).
    fn queue_early(&mut self, request: &RequestHead, response: Outbound, sender: Option<T>) -> Option<T> {
        if self.responses.is_current(request.key) {
            self.responses.push(response, sender);
            return None;
        }
        self.queue_response(response, sender)
    }

    /// Queues a response for the next connection. Returns the sender of the oldest one if there are too many.
    pub(crate) fn queue_response(&mut self, response: Outbound, sender: Option<T>) -> Option<T> {
        // There are at most as many as requests of one connection.
        let max = self.options.handler_queue.saturating_add(self.options.handler_concurrency);
        self.responses.push_kept(response, sender, max)
    }

    /// Gives up the response to a request whose handler is dropped. Returns how the request ended.
    pub(crate) fn abandon(&mut self, request: &RequestHead) -> CallOutcome {
        if request.expects_response && !self.claim(request) {
            CallOutcome::RespondedEarly
        } else {
            CallOutcome::Failed(Error::Disconnected { maybe_delivered: false })
        }
    }

    /// Claims the only response to a request and releases its id. Returns whether this is the first claim.
    fn claim(&mut self, request: &RequestHead) -> bool {
        let is_first = self.responses.claim(request.key);
        if is_first && self.responses.is_current(request.key) {
            self.calls_in.release_id(&request.id);
        }
        is_first
    }

    /// Ends what cannot outlive the connection. Returns the calls that end with it.
    pub(crate) fn disconnect(&mut self, generation: u32, after: AfterDisconnect) -> Vec<(T, Error)> {
        for request in self.calls_in.disconnect() {
            let outcome = CallOutcome::Failed(Error::Disconnected { maybe_delivered: false });
            if let Some(ended) = self.describe_unhandled(request.head, outcome) {
                self.events.push(ended);
            }
        }
        self.bad_messages = 0;
        let mut failed: Vec<_> = self.calls_out.fail_in_flight().collect();
        if after == AfterDisconnect::End {
            failed.extend(self.calls_out.fail_queued());
        }
        let unwritten = self.responses.disconnect(generation, after);
        failed.extend(unwritten.map(|sender| (sender, Error::Disconnected { maybe_delivered: false })));
        failed
    }

    /// Returns the message of a response, if it has one. The error says why a result became a CALLERROR.
    pub(crate) fn response(
        &mut self,
        request: &RequestHead,
        response: &Response,
    ) -> Option<(Outbound, Result<(), Error>)> {
        if !request.expects_response {
            return None;
        }
        match response {
            Response::Result(payload) => Some(self.result(request, payload)),
            Response::Error(error) => Some((self.call_error(Some(&request.id), Some(&request.action), error), Ok(()))),
            Response::Nothing | Response::Given => None,
        }
    }

    /// Returns a CALLRESULT. A result that is not allowed becomes a CALLERROR.
    fn result(&mut self, request: &RequestHead, payload: &Payload) -> (Outbound, Result<(), Error>) {
        let RequestHead { id, action, .. } = request;
        let error = match self.check(Direction::Out, PayloadKind::Response, action, id, payload) {
            Ok(_) if payload.is_object() => {
                let text = write::call_result(id, payload);
                let event = self.is_observed.then(|| {
                    let (direction, id, action) = (Direction::Out, id.clone(), Some(Text(action.clone())));
                    Box::new(EventKind::CallResult { direction, id, action, result: payload.clone() })
                });
                return (Outbound { text, event }, Ok(()));
            }
            Ok(_) => Error::from(EncodeError::NotAnObject),
            Err(violation) => violation.into(),
        };
        (self.call_error(Some(id), Some(action), &CallError::from(error.clone())), Err(error))
    }

    /// Returns a CALLERROR.
    #[cold]
    fn call_error(&mut self, id: Option<&MessageId>, action: Option<&ByteString>, error: &CallError) -> Outbound {
        self.count_error();
        let code = self.dialect().code_name(error.code());
        let description = error.sent_description(self.options.detailed_errors);
        let text = write::call_error(id, code, &description, error.details());
        let event = self.is_observed.then(|| {
            let (direction, error) = (Direction::Out, error.as_sent(code, &description));
            let (id, action) = (id.cloned().unwrap_or(MessageId::UNKNOWN), action.cloned().map(Text));
            Box::new(EventKind::CallError { direction, id, action, error })
        });
        Outbound { text, event }
    }

    /// Returns a CALLRESULTERROR for a result that cannot be used, if the dialect has such messages (OCPP 2.1).
    pub(crate) fn call_result_error(
        &mut self,
        id: &MessageId,
        action: &ByteString,
        error: &CallError,
    ) -> Option<Outbound> {
        let dialect = self.dialect();
        if !dialect.has_call_result_error() {
            return None;
        }
        self.count_error();
        let (code, description) = (dialect.code_name(error.code()), error.description());
        let text = write::call_result_error(id, code, description, error.details());
        let event = self.is_observed.then(|| {
            let (direction, error) = (Direction::Out, error.as_sent(code, description));
            let (id, action) = (id.clone(), Some(Text(action.clone())));
            Box::new(EventKind::CallResultError { direction, id, action, error })
        });
        Some(Outbound { text, event })
    }

    /// Reports a deviation that is tolerated.
    #[cold]
    pub(crate) fn tolerate(&mut self, deviation: Deviation, text: &ByteString) {
        self.events.push(EventKind::Deviation { deviation, text: Some(Text(text.clone())) });
    }

    /// Validates a payload, if the options ask for it.
    #[inline]
    fn check(
        &mut self,
        direction: Direction,
        kind: PayloadKind,
        action: &ByteString,
        id: &MessageId,
        payload: &Payload,
    ) -> Result<Valid, Violation> {
        // Most options have none.
        if self.options.validation.is_none() {
            Ok(Valid::default())
        } else {
            self.validate(direction, kind, action, id, payload)
        }
    }

    fn validate(
        &mut self,
        direction: Direction,
        kind: PayloadKind,
        action: &ByteString,
        id: &MessageId,
        payload: &Payload,
    ) -> Result<Valid, Violation> {
        let protocol = self.negotiated.as_ref().and_then(|negotiated| negotiated.protocol.as_deref());
        let (Some(validation), Some(protocol)) = (&self.options.validation, protocol) else {
            return Ok(Valid::default());
        };
        let context = PayloadContext::new(protocol, action, kind, payload);
        // The validator and the map of codes are code of the application.
        let validate = || {
            if !validation.applies_to(protocol) {
                return Ok(Valid::default());
            }
            validation.validator.validate(&context).map_err(|violation| validation.recode(violation))
        };
        let panicked = |_| Err(Violation::new(ErrorCode::INTERNAL_ERROR, "", "the validator panicked"));
        catch_unwind(AssertUnwindSafe(validate)).unwrap_or_else(panicked).or_else(|violation| {
            let enforced = !validation.report_only;
            let (action, id, reported) = (Text(action.clone()), id.clone(), violation.clone());
            let payload = payload.clone();
            self.events.push(EventKind::ValidationFailed {
                direction,
                kind,
                action,
                id,
                payload,
                violation: reported,
                enforced,
            });
            if enforced { Err(violation) } else { Ok(Valid::default()) }
        })
    }
}

/// The outcome of a response that was dropped before it was written.
fn dropped<T>(sender: T) -> (T, Result<CallResult, Error>) {
    (sender, Err(Error::Disconnected { maybe_delivered: false }))
}

pub(crate) mod receive;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
