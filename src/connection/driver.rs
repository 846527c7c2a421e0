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
        exchange::Exchange,
        handler_set::{Finished, HandlerSet, RunningHandler},
        keepalive::KeepAlive,
        mailbox::{AfterDisconnect, Inbox},
        negotiated::Negotiated,
        outbound::Outbound,
        outliving::Outliving,
        rare_list::RareList,
        request::RequestHead,
        shared::{Command, Dispatch, EarlyResponse, ORIGIN, Run, Shared},
        socket::{Disconnect, Socket},
    },
    error::Error,
    event::kind::{CallOutcome, Direction, EventKind, Text},
    message::payload::MessageId,
    options::Options,
    random::{is_seeded, random},
    response::Response,
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
    /// The waker of the handlers. It wakes the driver; within a turn, the mailbox only records the wake-up.
    waker: Waker,
    commands: Vec<Command>,
    /// The calls that were taken out of the mailbox and not yet reported to it as written or ended.
    queued: u32,
    /// The calls in flight that were reported to the mailbox.
    in_flight: u32,
    closing: Closing,
    /// The senders and events that are due when the written messages are flushed.
    unflushed: RareList<Unflushed>,
    /// The handlers of this driver that have outlived their connections. Four bytes, because idle connections keep them.
    outlived: u32,
    /// The bytes that this turn may still read and write.
    budget: u32,
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

/// The time after which a turn ends early, so that other tasks of the thread come first.
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
        let (negotiated, generation) = (run.negotiated(), shared.mailbox().generation());
        let mut exchange = Exchange::new(negotiated, options, shared.call_ids(), generation, keep_responses);
        exchange.calls_in.set_raw(dispatch.is_raw());
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
            in_flight: 0,
            closing: Closing::NotRequested(None),
            unflushed: RareList::new(),
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
        self.report_counts();
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
        let next = self.shared.disconnected(&self.run, after);
        for unflushed in self.unflushed.take() {
            if let Unflushed::Caller(sender) = unflushed {
                complete(sender, Err(Error::Disconnected { maybe_delivered: true }));
            }
        }
        for (sender, error) in self.exchange.disconnect(next, after) {
            complete(sender, Err(error));
        }
        self.report_events();
        self.report_counts();
        self.count_outliving();
    }

    /// Counts the handlers that have outlived their connections.
    fn count_outliving(&mut self) {
        let count = self.handlers.len().saturating_sub(self.exchange.calls_in.running());
        if count != self.outlived as usize {
            self.outliving.change(self.run.key(), self.outlived as usize, count);
            self.outlived = count as u32;
        }
    }

    /// Waits for `future` after the last connection: handlers continue, and every command fails.
    pub(crate) async fn run_closing<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll_offline_handlers(cx);
            self.shared.mailbox().take(&mut self.commands, cx);
            self.queued += self.commands.iter().filter(|command| matches!(command, Command::Call(_))).count() as u32;
            self.commands.drain(..).for_each(Command::fail);
            self.report_counts();
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
                    self.drop_handlers();
                }
                return Poll::Ready(Err(close));
            }
            self.expire(now);
            self.report_counts();
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
        let deadline = tokio::time::Instant::now() + TURN_TIME;
        while let Poll::Ready(Some(finished)) = self.handlers.poll_next(cx) {
            self.apply_early_responses();
            let message = self.exchange.respond(&finished.request, &finished.response);
            let ended = self.describe_end(&finished, message.as_ref());
            if let Some(message) = message {
                self.queue_response(message);
            }
            self.count_outliving();
            self.report_events();
            self.report_end(ended);
            if is_past(deadline) {
                // Other tasks of the thread come first.
                cx.waker().wake_by_ref();
                return;
            }
        }
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

    /// Drops all handlers. Their calls end without a response.
    fn drop_handlers(&mut self) {
        for RunningHandler { request, timer, work, .. } in self.handlers.take_all() {
            drop(work);
            let outcome = self.exchange.abandon(&request);
            if let Some(duration) = timer.dropped().filter(|_| self.exchange.is_observed()) {
                let (direction, RequestHead { id, action, .. }) = (Direction::In, request);
                self.shared.report(EventKind::CallEnded { direction, id, action: Text(action), outcome, duration });
            }
        }
        self.count_outliving();
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
        self.apply_commands();
    }

    /// Applies early responses before the end of their handlers, whose layers may have replaced [`Response::Given`].
    fn apply_early_responses(&mut self) {
        if self.shared.has_early_response() {
            self.shared.take_early_responses(&mut self.commands);
            self.apply_commands();
        }
    }

    fn apply_commands(&mut self) {
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
                Command::SetDispatch(dispatch) => {
                    self.exchange.calls_in.set_raw(dispatch.is_raw());
                    self.dispatch = dispatch;
                }
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
    #[inline]
    fn report_events(&mut self) {
        // Most messages cause none.
        if self.exchange.has_events() {
            self.exchange.take_events().into_iter().for_each(|event| self.shared.report(event));
        }
    }

    /// Reports how many calls have left the queue, how many are in flight, and new errors.
    fn report_counts(&mut self) {
        // Only changes: the driver of a client's earlier run must not report for the next run, on the same mailbox.
        let in_flight = self.exchange.calls_out.in_flight() as u32;
        if self.in_flight != in_flight {
            self.shared.mailbox().set_in_flight(in_flight);
            self.in_flight = in_flight;
        }
        if self.exchange.has_errors() {
            self.run.count_errors(self.exchange.take_errors());
        }
        let queued = self.exchange.calls_out.queued() as u32;
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
        self.drop_handlers();
    }
}

pub(crate) mod turn;

fn is_past(deadline: tokio::time::Instant) -> bool {
    tokio::time::Instant::now() > deadline
}

fn complete(sender: ResponseSender, outcome: Result<CallResult, Error>) {
    // A caller that dropped its call does not wait.
    let _ = sender.send(outcome);
}
