//! One turn of a driver with an open socket: reading, handlers, writing, and the close.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytestring::ByteString;
use tokio::time::Sleep;

use crate::{
    close::{
        info::CloseCause,
        intent::{Close, CloseMode},
    },
    connection::{
        call_result::CallResult,
        driver::{Closing, Driver, TURN_TIME, Unflushed, complete, is_past},
        exchange::receive::Received,
        handler_set::{Finished, RunningHandler},
        keepalive::{KeepAlive, Ping},
        mailbox::Inbox,
        outbound::{Outbound, Unhandled},
        request::IncomingRequest,
        socket::{Disconnect, Incoming, Socket},
    },
    error::Error,
    event::kind::{CallOutcome, Direction, EventKind, Text},
    websocket::reader::TextMessage,
};

/// The most messages that are read in one turn, so that a busy peer cannot starve other tasks of the thread.
const READ_BATCH: usize = 32;

/// The bytes that a turn may read and write before other tasks of the thread come first; about as many again are
/// written at its end. They take a few milliseconds, because each byte of a message costs up to 30 ns.
const TURN_BYTES: u32 = 256 << 10;

/// The bytes that a turn may write for handlers, whatever it has read.
const HANDLER_BYTES: u32 = TURN_BYTES / 4;

/// The cost of a byte of a compressed payload that is read, in bytes of text. Payloads exist that have little text.
const INFLATE_COST: usize = 4;

/// The cost of a byte of text that is compressed.
const DEFLATE_COST: usize = 2;

impl Driver {
    /// Does all that is ready. An error ends the connection.
    pub(super) fn turn(
        &mut self,
        socket: &mut Socket,
        keepalive: &mut KeepAlive,
        timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Result<(), Disconnect> {
        let now = tokio::time::Instant::now();
        self.budget = TURN_BYTES;
        self.exchange.set_observed(self.shared.telemetry.is_observed());
        // Commands come first: options and handlers that are set now apply to every message read in this turn.
        let begun = self.shared.mailbox().begin_turn(&mut self.commands);
        self.apply(&begun);
        self.abort_if_forced(&begun)?;
        self.exchange.set_outliving(self.outliving.of_station(|| self.run.key()));
        let pauses_reading = self.read(socket, keepalive, now, cx)?;
        // A peer that sends without a pause must not stop the handlers, which may take as much time again.
        self.budget = self.budget.max(HANDLER_BYTES);
        let deadline = now + 2 * TURN_TIME;
        if !self.handlers.is_empty() && (begun.handlers_woken || self.shared.mailbox().take_handlers_woken()) {
            self.poll_handlers(socket, deadline)?;
        }
        // The commands of handlers are applied in the same turn.
        let inbox = self.take_commands(cx);
        self.abort_if_forced(&inbox)?;
        self.start_queued(socket, deadline)?;
        // Handlers are polled a second time and not a third, so that those that wake themselves starve nothing else. A
        // wake-up from now on causes another turn.
        if inbox.handlers_woken {
            self.poll_handlers(socket, deadline)?;
        }
        // Handlers may have taken their time.
        let now = tokio::time::Instant::now().into_std();
        self.expire(now);
        keepalive.set(self.options(), now);
        let next_ping = loop {
            match keepalive.due(now) {
                Ping::Wait(until) => break until,
                Ping::Send(payload) => socket.ping(payload)?,
                Ping::GiveUp if pauses_reading => return Err(Disconnect::abort(CloseCause::NotReading)),
                Ping::GiveUp => return Err(Disconnect::abort(CloseCause::PingTimeout)),
            }
        };
        let is_flushed = self.write(socket, now, cx)?;
        if pauses_reading && !self.must_pause(socket) {
            cx.waker().wake_by_ref();
        }
        if let Some(close) = &inbox.close {
            self.poll_close(close, is_flushed, now)?;
        } else if inbox.reconnect {
            return Err(Disconnect::close(&Close::normal().reason("reconnecting")));
        }
        self.reset_timer(timer, next_ping, cx);
        Ok(())
    }

    /// Drops all handlers and ends the connection, if a handle asks for a forced close.
    fn abort_if_forced(&mut self, inbox: &Inbox) -> Result<(), Disconnect> {
        match &inbox.close {
            Some(close) if close.mode() == CloseMode::Forced => {
                self.drop_handlers();
                Err(Disconnect::forced(close))
            }
            _ => Ok(()),
        }
    }

    /// Reads messages. Returns whether it pauses, because the peer does not read what was written, or because the handler
    /// of raw messages is at work.
    fn read(
        &mut self,
        socket: &mut Socket,
        keepalive: &mut KeepAlive,
        now: tokio::time::Instant,
        cx: &mut Context<'_>,
    ) -> Result<bool, Disconnect> {
        if socket.take_progress() {
            keepalive.peer_reads(now.into_std());
        }
        for nth in 0..READ_BATCH {
            if self.budget == 0 {
                break;
            }
            if self.must_pause(socket) {
                if self.exchange.must_wait() {
                    // Bytes that are not read may be a sign of life.
                    keepalive.peer_reads(now.into_std());
                }
                return Ok(true);
            }
            let polled = socket.poll_read(cx);
            // A part of a message is a sign of life as well.
            if socket.take_activity() {
                self.shared.seen(now);
                keepalive.activity(now.into_std());
            }
            let Poll::Ready(incoming) = polled else { return Ok(false) };
            match incoming {
                Incoming::Text(TextMessage { text, deviations, compressed_len }) => {
                    self.spend(text.len() + INFLATE_COST * compressed_len.unwrap_or_default());
                    self.count(Direction::In, text.len(), compressed_len);
                    for deviation in deviations.iter() {
                        self.exchange.tolerate(deviation, &text);
                    }
                    self.receive(&text, now.into_std(), socket)?;
                }
                Incoming::Ping => {}
                Incoming::Pong(payload) => {
                    if let Some(time) = keepalive.pong(&payload, now.into_std()) {
                        self.shared.set_ping(time);
                        self.shared.report(EventKind::Pong(time));
                    }
                }
                Incoming::Binary => {
                    let close = Close::new(1003).reason("OCPP-J is text").with_cause(CloseCause::ProtocolError);
                    return Err(Disconnect::close(&close));
                }
                Incoming::End(disconnect) => return Err(disconnect),
            }
            // Most turns read one message, and need no clock.
            if nth > 0 && is_past(now + TURN_TIME) {
                break;
            }
        }
        // There may be more to read. Other tasks of the thread come first.
        cx.waker().wake_by_ref();
        Ok(false)
    }

    fn spend(&mut self, bytes: usize) {
        self.budget = self.budget.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Returns whether so much waits for the peer that no more should be caused.
    fn is_congested(&self, socket: &Socket) -> bool {
        socket.is_half_full(self.exchange.unsent())
    }

    /// Returns whether no more may be read now. Responses to calls in flight come the same way.
    fn must_pause(&self, socket: &Socket) -> bool {
        let is_congested = self.is_congested(socket) && !self.exchange.calls_out.has_in_flight();
        is_congested || self.exchange.must_wait()
    }

    fn receive(&mut self, text: &ByteString, now: Instant, socket: &mut Socket) -> Result<(), Disconnect> {
        tracing::trace!(text = &*self.shared.telemetry.mask().apply(text), "received");
        if self.exchange.is_observed() {
            self.shared.report(EventKind::Received(Text(text.clone())));
        }
        let received = self.exchange.receive(text, now);
        self.report_events();
        match received {
            Received::Request(request) => self.start(request, socket),
            Received::Response(sender, outcome, to_peer) => {
                self.shared.call_ended();
                complete(sender, outcome);
                to_peer.map_or(Ok(()), |message| self.send(message, socket))
            }
            Received::Unhandled(unhandled) => self.reject(unhandled, socket),
            Received::Rejected(response) => self.send(response, socket),
            Received::TooManyBadMessages(response) => {
                response.map_or(Ok(()), |response| self.send(response, socket))?;
                let close = Close::new(1002).reason("too many bad messages").with_cause(CloseCause::ProtocolError);
                Err(Disconnect::close(&close))
            }
            Received::Nothing => Ok(()),
        }
    }

    /// Starts the handler of a request. It may respond at once.
    fn start(&mut self, request: IncomingRequest, socket: &mut Socket) -> Result<(), Disconnect> {
        let (head, payload) = (request.head.clone(), request.payload.clone());
        let work = self.dispatch.dispatch(request, self.exchange.protocol(), &self.shared);
        let mut timer = self.shared.telemetry.call();
        if head.is_raw() {
            timer.disarm();
        }
        let mut handler = RunningHandler { request: head, awaits: None, timer, work };
        match Pin::new(&mut handler).poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(finished) if self.shared.has_early_response() => {
                self.exchange.expect_response(&finished.request, &payload);
                self.apply_early_responses();
                let message = self.exchange.respond(&finished.request, &finished.response);
                return self.end(&finished, message, socket);
            }
            Poll::Ready(finished) => {
                let message = self.exchange.response(&finished.request, &finished.response).map(|(message, _)| message);
                return self.end(&finished, message, socket);
            }
            Poll::Pending => {
                self.exchange.handler_started(&handler.request, &payload);
                self.handlers.push(handler);
            }
        }
        Ok(())
    }

    /// Polls the handlers that can make progress, and sends the responses of those that have finished.
    fn poll_handlers(&mut self, socket: &mut Socket, deadline: tokio::time::Instant) -> Result<(), Disconnect> {
        for nth in 0.. {
            // Most often one handler has finished, and no clock is needed.
            if self.budget == 0 || (nth > 0 && !self.handlers.is_empty() && is_past(deadline)) {
                // The next turn goes on.
                self.shared.mailbox().wake_handlers();
                return Ok(());
            }
            let polled = self.handlers.poll_next(&mut Context::from_waker(&self.waker));
            let Poll::Ready(Some(finished)) = polled else { break };
            self.apply_early_responses();
            self.exchange.handler_finished(&finished.request);
            if !self.exchange.is_current(&finished.request) {
                self.count_outliving();
            }
            let message = self.exchange.respond(&finished.request, &finished.response);
            self.end(&finished, message, socket)?;
            self.start_queued(socket, deadline)?;
        }
        Ok(())
    }

    /// Sends the response of a handler that has finished, if it has one, and reports the end of its call.
    fn end(&mut self, finished: &Finished, message: Option<Outbound>, socket: &mut Socket) -> Result<(), Disconnect> {
        let ended = self.describe_end(finished, message.as_ref());
        self.send_response(message, ended, socket)
    }

    /// Rejects a request on which no handler starts.
    fn reject(&mut self, unhandled: Unhandled, socket: &mut Socket) -> Result<(), Disconnect> {
        let Unhandled { response, ended } = unhandled;
        self.shared.telemetry.unhandled();
        self.send_response(response, ended, socket)
    }

    /// Sends the response to a request, if it has one, and then reports the end of its call.
    fn send_response(
        &mut self,
        message: Option<Outbound>,
        mut ended: Option<Box<EventKind>>,
        socket: &mut Socket,
    ) -> Result<(), Disconnect> {
        self.report_events();
        let sent = message.map_or(Ok(()), |message| self.send(message, socket));
        if let (Err(_), Some(EventKind::CallEnded { outcome, .. })) = (&sent, ended.as_deref_mut()) {
            *outcome = CallOutcome::Failed(Error::Disconnected { maybe_delivered: false });
        }
        self.report_end(ended);
        sent
    }

    /// Starts the handlers of queued requests, as many as may run, and rejects the requests that none will handle.
    fn start_queued(&mut self, socket: &mut Socket, deadline: tokio::time::Instant) -> Result<(), Disconnect> {
        let mut is_first = true;
        while self.exchange.has_requests() {
            if self.budget == 0 || (!is_first && is_past(deadline)) {
                // The next turn goes on.
                self.shared.mailbox().wake_handlers();
                return Ok(());
            }
            is_first = false;
            if let Some(request) = self.exchange.next_request() {
                self.spend(request.message_len);
                self.start(request, socket)?;
            } else if let Some((request, error)) = self.exchange.next_stuck() {
                self.spend(request.message_len);
                if request.head.is_raw() {
                    let close = Close::new(1008).reason("too many messages of earlier connections are being handled");
                    return Err(Disconnect::close(&close));
                }
                let unhandled = self.exchange.reject(request.head, &error);
                self.reject(unhandled, socket)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Queues a message for the next flush, and reports it as sent.
    fn send(&mut self, message: Outbound, socket: &mut Socket) -> Result<(), Disconnect> {
        // One that is refused is not reported.
        socket.check_limit(0)?;
        tracing::trace!(text = &*self.shared.telemetry.mask().apply(&message.text), "sent");
        if self.exchange.is_observed() {
            self.shared.report(EventKind::Sent(Text(message.text.clone().into())));
            if let Some(id) = message.described_response() {
                self.unflushed.push(Unflushed::Event(id));
            }
            if let Some(event) = message.event {
                self.shared.report(*event);
            }
        }
        let text_len = message.text.len();
        let compressed_len = socket.queue(message.text);
        self.spend(if compressed_len.is_some() { DEFLATE_COST * text_len } else { text_len });
        self.count(Direction::Out, text_len, compressed_len);
        Ok(())
    }

    /// Counts a message. `compressed_len` is the length of its payload, if that is compressed.
    fn count(&self, direction: Direction, text_len: usize, compressed_len: Option<usize>) {
        self.shared.telemetry.message(direction, text_len, compressed_len);
        if let Some(compressed_len) = compressed_len {
            self.run.count_compressed(direction, text_len, compressed_len);
        }
    }

    /// Writes queued responses and calls, in batches that the socket has room for. Returns whether everything is
    /// flushed.
    fn write(&mut self, socket: &mut Socket, now: Instant, cx: &mut Context<'_>) -> Result<bool, Disconnect> {
        self.budget = TURN_BYTES;
        loop {
            while socket.has_room() && self.budget > 0 && self.exchange.has_write() {
                // Before the message is taken, because one that is refused was never sent.
                socket.check_limit(0)?;
                let Some((message, sender)) = self.exchange.next_write(now) else { break };
                self.send(message, socket)?;
                if let Some(sender) = sender {
                    self.unflushed.push(Unflushed::Caller(sender));
                }
            }
            self.report_counts();
            let had_room = socket.has_room();
            let Poll::Ready(flushed) = socket.poll_flush(self.exchange.unsent(), cx) else {
                // An early response is refused like any other one, but it was queued without the socket.
                if let Some(before) = self.exchange.unsent_before_latest() {
                    socket.check_limit(before)?;
                }
                return Ok(false);
            };
            flushed?;
            if !self.unflushed.is_empty() {
                self.on_flushed();
            }
            if self.budget == 0 && self.exchange.has_write() {
                // Other tasks of the thread come first.
                cx.waker().wake_by_ref();
                return Ok(false);
            }
            if had_room {
                return Ok(true);
            }
        }
    }

    /// Completes what was due when the written messages are flushed.
    fn on_flushed(&mut self) {
        for unflushed in self.unflushed.take() {
            match unflushed {
                Unflushed::Caller(sender) => complete(sender, Ok(CallResult::default())),
                Unflushed::Event(id) => self.shared.report(EventKind::ResponseWritten(id)),
            }
        }
    }

    /// Ends the connection if its close is due. The mailbox returns the close in every turn.
    fn poll_close(&mut self, close: &Close, is_flushed: bool, now: Instant) -> Result<(), Disconnect> {
        let CloseMode::Drain(timeout) = close.mode() else { return Err(Disconnect::close(close)) };
        let Closing::Requested(close_by) = &mut self.closing else { return Ok(()) };
        let close_by = *close_by.get_or_insert(now + timeout);
        // If responses are kept, the close also waits for handlers of earlier connections.
        if now >= close_by || (is_flushed && self.is_settled()) { Err(Disconnect::close(close)) } else { Ok(()) }
    }

    /// Returns whether no call is pending and no handler is at work, except handlers that await the close.
    fn is_settled(&self) -> bool {
        let (mut of_connection, mut all) = (0, 0);
        for request in self.handlers.awaiting_close(self.shared.id) {
            of_connection += usize::from(self.exchange.is_current(request));
            all += 1;
        }
        // If responses are kept, the close also waits for handlers of earlier connections.
        self.exchange.is_settled(of_connection) && (self.handlers.len() == all || !self.exchange.keeps_responses())
    }
}
