//! The one task of a connection: it reads, hands requests to handlers, writes, and keeps time.
//!
//! While a socket is open, the driver awaits nothing but its turns. A turn does all that is ready, in this order:
//!
//! 1. apply the commands of `Session`, `Call` and `RpcClient`
//! 2. read messages, and start the handlers of requests
//! 3. poll the handlers that were woken
//! 4. apply the commands of those handlers, and poll the ones that were woken meanwhile
//! 5. expire calls, and send pings
//! 6. write responses and calls, and flush
//! 7. close the connection if its close is due
//! 8. set the one timer
//!
//! The mailbox wakes the driver only between turns: `begin_turn` suppresses wake-ups, and `take` in step 4 enables them
//! again. A server calls [`serve`](Driver::serve), then [`finish`](Driver::finish). A client alternates
//! [`run_offline`](Driver::run_offline) and [`run`](Driver::run), and ends with [`run_closing`](Driver::run_closing) and
//! [`finish`](Driver::finish).

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use tokio::{
    task::unconstrained,
    time::{Sleep, sleep},
};

use crate::{
    close::{
        info::{CloseCause, CloseInfo},
        intent::{Close, CloseMode},
    },
    connection::{
        call_result::{CallResult, ResponseSender},
        exchange::{Exchange, receive::Received},
        handler_set::{Finished, HandlerSet, RunningHandler},
        keepalive::{KeepAlive, Ping},
        mailbox::{AfterDisconnect, Inbox},
        negotiated::Negotiated,
        outbound::Outbound,
        outliving::Outliving,
        request::IncomingRequest,
        shared::{Command, Dispatch, EarlyResponse, ORIGIN, Run, Shared},
        socket::{Disconnect, Incoming, Socket},
    },
    error::Error,
    event::kind::{CallOutcome, Direction, EventKind, Text},
    message::payload::MessageId,
    options::Options,
    random::{is_seeded, random},
    response::Response,
    websocket::reader::TextMessage,
};

/// Serves one connection of a server, or the connections of a client one after the other. The handlers of a client, its
/// queued calls and its responses outlive a connection.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    run: Arc<Run>,
    exchange: Exchange<ResponseSender>,
    dispatch: Arc<dyn Dispatch>,
    handlers: HandlerSet,
    outliving: Arc<Outliving>,
    /// The handlers of this driver among them.
    outlived: usize,
    /// The waker of the handlers. It wakes the driver; within a turn, the mailbox only records the wake-up.
    waker: Waker,
    commands: Vec<Command>,
    /// The calls that were taken out of the mailbox and not yet reported to it as written or ended.
    queued: usize,
    closing: Closing,
    /// The senders and events that are due when the written messages are flushed.
    unflushed: Vec<Unflushed>,
    /// The bytes that this turn may still read and write.
    budget: usize,
}

enum Closing {
    /// No handle has asked to close. The callback is called when one does.
    NotRequested(Option<Box<dyn FnOnce() + Send>>),
    /// A handle has asked to close, by this moment if it waits for calls.
    Requested(Option<Instant>),
}

enum Unflushed {
    Caller(ResponseSender),
    /// The event that the response to this request is written.
    Event(MessageId),
}

/// The most messages that are read in one turn, so that a busy peer cannot starve other tasks of the thread.
const READ_BATCH: usize = 32;

/// The bytes that a turn may read and write before other tasks of the thread come first; about as many again are
/// written at its end. They take a few milliseconds, because each byte of a message costs up to 30 ns.
const TURN_BYTES: usize = 256 << 10;

/// The bytes that a turn may write for handlers, whatever it has read.
const HANDLER_BYTES: usize = TURN_BYTES / 4;

/// The cost of a byte of a compressed payload that is read, in bytes of text. Payloads exist that have little text.
const INFLATE_COST: usize = 4;

/// The cost of a byte of text that is compressed.
const DEFLATE_COST: usize = 2;

/// The time after which a turn reads no other message, because the handlers take long.
const TURN_TIME: Duration = Duration::from_millis(5);

/// The commands for which an idle connection keeps memory, at most.
const MAX_KEPT_COMMANDS: usize = 64;

/// The timer before it is first set.
const NEVER: Duration = Duration::MAX;

impl Driver {
    /// Creates a driver. It is boxed, because every future that holds it would reserve space for all of it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        run: Arc<Run>,
        dispatch: Arc<dyn Dispatch>,
        options: Arc<Options>,
        outliving: Arc<Outliving>,
        keep_responses: bool,
    ) -> Box<Self> {
        let (negotiated, generation) = (run.negotiated(), shared.next_generation());
        let exchange = Exchange::new(negotiated, options, shared.call_ids(), generation, keep_responses);
        Box::new(Self {
            waker: shared.clone().into(),
            outliving,
            outlived: 0,
            shared,
            run,
            exchange,
            dispatch,
            handlers: HandlerSet::default(),
            commands: Vec::new(),
            queued: 0,
            closing: Closing::NotRequested(None),
            unflushed: Vec::new(),
            budget: 0,
        })
    }

    /// Calls `on_closing` as soon as a handle asks to close.
    pub(crate) fn on_closing(&mut self, on_closing: impl FnOnce() + Send + 'static) {
        self.closing = Closing::NotRequested(Some(Box::new(on_closing)));
    }

    /// Sets the outcome of a handshake. Queued calls that the protocol does not allow fail.
    pub(crate) fn negotiate(&mut self, negotiated: Negotiated) {
        for (sender, error) in self.exchange.negotiate(negotiated) {
            complete(sender, Err(error));
        }
        self.report_events();
        self.report_queue_len();
    }

    pub(crate) fn options(&self) -> &Options {
        self.exchange.options()
    }

    /// Sets the limits of the next connection, in bytes.
    pub(crate) fn set_limits(&mut self, max_message_size: usize, max_unsent: usize) {
        self.exchange.set_limits(max_message_size, max_unsent);
    }

    /// Serves a connection until its socket is closed.
    pub(crate) async fn serve(&mut self, mut socket: Box<Socket>) -> CloseInfo {
        let disconnect = self.run(&mut socket).await;
        self.on_disconnect(AfterDisconnect::End);
        let timeout = self.options().close_timeout;
        // Boxed, so that the future of the close does not enlarge that of an idle connection.
        self.run_closing(Box::pin(socket.close(disconnect, timeout))).await
    }

    /// Serves a connection until it ends.
    pub(crate) async fn run(&mut self, socket: &mut Socket) -> Disconnect {
        let now = tokio::time::Instant::now().into_std();
        // A simulation repeats itself only if no moment depends on the start of the process.
        let origin = if is_seeded() { now } else { ORIGIN.into_std() };
        let mut keepalive = KeepAlive::new(self.options(), random(), origin, now);
        let mut timer = pin!(sleep(NEVER));
        poll_fn(|cx| match self.turn(socket, &mut keepalive, timer.as_mut(), cx) {
            Ok(()) => Poll::Pending,
            Err(disconnect) => Poll::Ready(disconnect),
        })
        .await
    }

    /// Reports the end to all handles, and lets handlers finish.
    pub(crate) async fn finish(mut self: Box<Self>, closed: CloseInfo) {
        self.on_disconnect(AfterDisconnect::End);
        self.shared.finish(&self.run, closed);
        while let Some(finished) = poll_fn(|cx| self.handlers.poll_next(cx)).await {
            self.report_end(self.describe_end(&finished, None));
            self.count_outliving();
        }
    }

    /// Ends what cannot outlive the connection.
    pub(crate) fn on_disconnect(&mut self, after: AfterDisconnect) {
        self.shared.disconnected(&self.run, after);
        for unflushed in self.unflushed.drain(..) {
            if let Unflushed::Caller(sender) = unflushed {
                complete(sender, Err(Error::Disconnected { maybe_delivered: true }));
            }
        }
        for (sender, error) in self.exchange.disconnect(self.shared.next_generation(), after) {
            complete(sender, Err(error));
        }
        self.report_queue_len();
        self.count_outliving();
    }

    /// Counts the handlers that have outlived their connections.
    fn count_outliving(&mut self) {
        let count = self.handlers.len().saturating_sub(self.exchange.calls_in.running());
        if count != self.outlived {
            self.outliving.change(self.run.key(), self.outlived, count);
            self.outlived = count;
        }
    }

    /// Waits for `future` after the last connection: handlers continue, and every command fails.
    pub(crate) async fn run_closing<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll_offline_handlers(cx);
            self.shared.mailbox().take(&mut self.commands, cx);
            self.queued += self.commands.iter().filter(|command| matches!(command, Command::Call(_))).count();
            self.commands.drain(..).for_each(Command::fail);
            self.report_queue_len();
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Waits for `future` before the next connection: handlers continue, calls are queued and expire.
    ///
    /// Returns an error if a handle asks to close, and `None` if a handle asks for another connection.
    pub(crate) async fn run_offline<T>(&mut self, future: impl Future<Output = T>) -> Result<Option<T>, Close> {
        let mut future = pin!(future);
        let mut timer = pin!(sleep(NEVER));
        poll_fn(|cx| {
            self.poll_offline_handlers(cx);
            let now = tokio::time::Instant::now().into_std();
            let inbox = self.take_commands(cx);
            if let Some(close) = inbox.close {
                if close.mode() == CloseMode::Forced {
                    self.handlers.clear();
                    self.count_outliving();
                }
                return Poll::Ready(Err(close));
            }
            self.expire(now);
            self.report_queue_len();
            self.reset_timer(timer.as_mut(), None, cx);
            if inbox.reconnect {
                return Poll::Ready(Ok(None));
            }
            future.as_mut().poll(cx).map(|output| Ok(Some(output)))
        })
        .await
    }

    /// Polls handlers while no connection is served. Their responses are kept or dropped.
    fn poll_offline_handlers(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(finished)) = self.handlers.poll_next(cx) {
            let message = self.exchange.respond(&finished.request, &finished.response);
            let ended = self.describe_end(&finished, message.as_ref());
            if let Some(message) = message {
                self.queue_response(message);
            }
            self.count_outliving();
            self.report_events();
            self.report_end(ended);
        }
    }

    /// Does all that is ready. An error ends the connection.
    fn turn(
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
        self.exchange.set_outliving(self.outliving.of_station(self.run.key()));
        let pauses_reading = self.read(socket, keepalive, now, cx)?;
        // A peer that sends without a pause must not stop the handlers.
        self.budget = self.budget.max(HANDLER_BYTES);
        if !self.handlers.is_empty() && (begun.handlers_woken || self.shared.mailbox().take_handlers_woken()) {
            self.poll_handlers(socket)?;
        }
        // The commands of handlers are applied in the same turn.
        let inbox = self.take_commands(cx);
        self.abort_if_forced(&inbox)?;
        self.start_queued(socket)?;
        // Handlers are polled a second time and not a third, so that those that wake themselves starve nothing else. A
        // wake-up from now on causes another turn.
        if inbox.handlers_woken {
            self.poll_handlers(socket)?;
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
        if pauses_reading && !socket.is_half_full() {
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

    /// Takes the commands of handles and applies them. The next command wakes the driver.
    fn take_commands(&mut self, cx: &Context<'_>) -> Inbox {
        let inbox = self.shared.mailbox().take(&mut self.commands, cx);
        self.apply(&inbox);
        inbox
    }

    /// Applies the commands that were taken out of the mailbox.
    fn apply(&mut self, inbox: &Inbox) {
        if inbox.close.is_some()
            && let Closing::NotRequested(on_closing) = &mut self.closing
        {
            if let Some(on_closing) = on_closing.take() {
                on_closing();
            }
            self.closing = Closing::Requested(None);
            self.shared.report(EventKind::Closing);
        }
        if self.commands.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Call(call) => {
                    self.queued += 1;
                    if let Some((sender, error)) = self.exchange.submit(call) {
                        complete(sender, Err(error));
                    }
                }
                Command::Cancel(key) => self.exchange.calls_out.cancel(key),
                Command::Respond(early) => {
                    let EarlyResponse { request, response, sender } = *early;
                    if let Some((sender, outcome)) = self.exchange.respond_early(&request, &response, sender) {
                        complete(sender, outcome);
                    }
                }
                Command::SendResultError(result_error) => {
                    let (id, action, error) = *result_error;
                    if let Some(message) = self.exchange.call_result_error(&id, &action, &error) {
                        self.queue_response(message);
                    }
                }
                Command::SetDispatch(dispatch) => self.dispatch = dispatch,
                Command::SetOptions(options) => self.exchange.set_options(*options),
            }
        }
        if commands.capacity() <= MAX_KEPT_COMMANDS {
            self.commands = commands;
        }
        self.report_events();
    }

    fn queue_response(&mut self, message: Outbound) {
        if let Some(sender) = self.exchange.queue_response(message, None) {
            complete(sender, Err(Error::Disconnected { maybe_delivered: false }));
        }
    }

    /// Drops all handlers and ends the connection, if a handle asks for a forced close.
    fn abort_if_forced(&mut self, inbox: &Inbox) -> Result<(), Disconnect> {
        match &inbox.close {
            Some(close) if close.mode() == CloseMode::Forced => {
                self.handlers.clear();
                Err(Disconnect::forced(close))
            }
            _ => Ok(()),
        }
    }

    /// Reads messages. Returns whether it pauses, because the peer does not read what was written.
    fn read(
        &mut self,
        socket: &mut Socket,
        keepalive: &mut KeepAlive,
        now: tokio::time::Instant,
        cx: &mut Context<'_>,
    ) -> Result<bool, Disconnect> {
        let mut deadline = None;
        for nth in 0..READ_BATCH {
            if self.budget == 0 {
                break;
            }
            // Responses to calls in flight come the same way.
            if socket.is_half_full() && !self.exchange.calls_out.has_in_flight() {
                if socket.take_activity() {
                    // The peer has read something.
                    keepalive.activity(now.into_std());
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
            if nth > 0 {
                let now = tokio::time::Instant::now();
                if now > *deadline.get_or_insert(now + TURN_TIME) {
                    break;
                }
            }
        }
        // There may be more to read. Other tasks of the thread come first.
        cx.waker().wake_by_ref();
        Ok(false)
    }

    fn spend(&mut self, bytes: usize) {
        self.budget = self.budget.saturating_sub(bytes);
    }

    fn receive(&mut self, text: &ByteString, now: Instant, socket: &mut Socket) -> Result<(), Disconnect> {
        tracing::trace!(%text, "received");
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
        let timer = self.shared.telemetry.call();
        let mut handler = RunningHandler { request: head, awaits: None, timer, work };
        match Pin::new(&mut handler).poll(&mut Context::from_waker(&self.waker)) {
            // The early response is on its way through the mailbox.
            Poll::Ready(finished) if matches!(finished.response, Response::Given) => {
                self.exchange.expect_response(&finished.request, &payload);
                self.report_end(self.describe_end(&finished, None));
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
    fn poll_handlers(&mut self, socket: &mut Socket) -> Result<(), Disconnect> {
        loop {
            if self.budget == 0 {
                // The next turn goes on.
                self.shared.mailbox().wake_handlers();
                return Ok(());
            }
            let polled = self.handlers.poll_next(&mut Context::from_waker(&self.waker));
            let Poll::Ready(Some(finished)) = polled else { return Ok(()) };
            self.exchange.handler_finished(&finished.request);
            if !self.exchange.is_current(&finished.request) {
                self.count_outliving();
            }
            let message = self.exchange.respond(&finished.request, &finished.response);
            self.end(&finished, message, socket)?;
            self.start_queued(socket)?;
        }
    }

    /// Sends the response of a handler that has finished, if it has one, and reports the end of its call.
    fn end(&mut self, finished: &Finished, message: Option<Outbound>, socket: &mut Socket) -> Result<(), Disconnect> {
        let ended = self.describe_end(finished, message.as_ref());
        self.report_events();
        let sent = message.map_or(Ok(()), |message| self.send(message, socket));
        self.report_end(ended);
        sent
    }

    /// Returns the event that a call of the peer has ended, if an application reads events.
    fn describe_end(&self, finished: &Finished, message: Option<&Outbound>) -> Option<Box<EventKind>> {
        let duration = finished.duration.filter(|_| self.exchange.is_observed())?;
        let Finished { request, response, .. } = finished;
        let outcome = match (message.and_then(Outbound::outcome), response) {
            (Some(outcome), _) => outcome,
            (None, Response::Given) => CallOutcome::RespondedEarly,
            (None, Response::Error(error)) if !request.expects_response => CallOutcome::Rejected(error.code().clone()),
            (None, Response::Nothing) => CallOutcome::NoResponse,
            (None, _) if !request.expects_response => CallOutcome::NoResponse,
            (None, _) if self.exchange.is_current(request) => CallOutcome::RespondedEarly,
            (None, _) => CallOutcome::Failed(Error::Disconnected { maybe_delivered: false }),
        };
        let (direction, id, action) = (Direction::In, request.id.clone(), Text(request.action.clone()));
        Some(Box::new(EventKind::CallEnded { direction, id, action, outcome, duration }))
    }

    fn report_end(&self, ended: Option<Box<EventKind>>) {
        if let Some(ended) = ended {
            self.shared.report(*ended);
        }
    }

    /// Starts the handlers of queued requests, as many as may run.
    fn start_queued(&mut self, socket: &mut Socket) -> Result<(), Disconnect> {
        loop {
            if self.budget == 0 {
                // The next turn goes on.
                self.shared.mailbox().wake_handlers();
                return Ok(());
            }
            let Some(request) = self.exchange.next_request() else { break };
            self.start(request, socket)?;
        }
        while let Some(rejection) = self.exchange.next_rejected() {
            self.send(rejection, socket)?;
        }
        Ok(())
    }

    /// Queues a message for the next flush, and reports it as sent.
    fn send(&mut self, message: Outbound, socket: &mut Socket) -> Result<(), Disconnect> {
        tracing::trace!(text = message.text, "sent");
        if self.exchange.is_observed() {
            self.shared.report(EventKind::Sent(Text(message.text.clone().into())));
            self.unflushed.extend(message.described_response().map(Unflushed::Event));
            if let Some(event) = message.event {
                self.shared.report(*event);
            }
        }
        let text_len = message.text.len();
        let compressed_len = socket.queue(message.text)?;
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
            while socket.has_room()
                && self.budget > 0
                && let Some((message, sender)) = self.exchange.next_write(now)
            {
                self.send(message, socket)?;
                self.unflushed.extend(sender.map(Unflushed::Caller));
            }
            self.report_queue_len();
            let had_room = socket.has_room();
            let Poll::Ready(flushed) = socket.poll_flush(cx) else {
                let has_room = self.exchange.has_room_for_responses();
                return if has_room { Ok(false) } else { Err(Disconnect::abort(CloseCause::NotReading)) };
            };
            flushed?;
            for unflushed in self.unflushed.drain(..) {
                match unflushed {
                    Unflushed::Caller(sender) => complete(sender, Ok(CallResult::default())),
                    Unflushed::Event(id) => self.shared.report(EventKind::ResponseWritten(id)),
                }
            }
            if self.budget == 0 && self.exchange.has_writes() {
                // Other tasks of the thread come first.
                cx.waker().wake_by_ref();
                return Ok(false);
            }
            if had_room {
                return Ok(true);
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

    /// Ends the calls that have expired.
    fn expire(&mut self, now: Instant) {
        for (sender, error) in self.exchange.calls_out.expire(now) {
            if let Error::Timeout = error {
                self.shared.call_timed_out();
            }
            complete(sender, Err(error));
        }
    }

    /// Reports the facts that the exchange has found.
    fn report_events(&mut self) {
        if self.exchange.has_events() {
            for event in self.exchange.take_events() {
                self.shared.report(event);
            }
        }
    }

    /// Reports to the mailbox how many calls have left the queue.
    fn report_queue_len(&mut self) {
        let queued = self.exchange.calls_out.queued();
        if self.queued > queued {
            self.shared.mailbox().dequeued(self.queued - queued);
            self.queued = queued;
        }
    }

    /// Sets the one timer to the earliest deadline. If the timer is set earlier than needed, it stays and causes one
    /// needless turn, which costs less than to move it at every message.
    fn reset_timer(&self, mut timer: Pin<&mut Sleep>, next_ping: Option<Instant>, cx: &mut Context<'_>) {
        let close_by = if let Closing::Requested(close_by) = self.closing { close_by } else { None };
        let due = [next_ping, self.exchange.calls_out.next_deadline(), close_by].into_iter().flatten().min();
        let Some(due) = due.map(tokio::time::Instant::from_std) else { return };
        if timer.is_elapsed() || due < timer.deadline() {
            timer.as_mut().reset(due);
            // A turn may have used up its task's budget, and a timer that is polled without budget is not set. The
            // moment may also have passed since the turn began.
            if pin!(unconstrained(timer)).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

/// Ends all calls and waiting handles, even if the task is dropped. After [`Driver::finish`] it has no effect.
impl Drop for Driver {
    fn drop(&mut self) {
        self.on_disconnect(AfterDisconnect::End);
        self.shared.finish(&self.run, CloseInfo::abnormal(CloseCause::Local));
        self.handlers.clear();
        self.count_outliving();
    }
}

fn complete(sender: ResponseSender, outcome: Result<CallResult, Error>) {
    // A caller that dropped its call does not wait.
    let _ = sender.send(outcome);
}
