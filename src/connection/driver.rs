//! The one task of a connection: reads, hands calls to handlers, writes their answers and our calls, keeps time.
//!
//! It awaits nothing but its own turn. Each turn does all that is ready, then flushes once.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    task::unconstrained,
    time::{Sleep, sleep},
};

use super::{
    Command, Dispatch, EarlyAnswer, Inbound, Link, Next, Reply, Ticket,
    exchange::{Exchange, Received},
    handler::{Done, Handler},
    keepalive::{KeepAlive, Ping},
    socket::{Farewell, Incoming, Socket},
};
use crate::{
    close::{Cause, Close, Closed, Manner},
    dialect::Dialect,
    error::{CallError, Error},
    event::{EventKind, Text},
    options::Options,
    payload::{MessageId, Payload},
    wire,
};

/// Serves connections: one, or for a client one after the other. Its handlers, and calls that wait for their turn,
/// outlive a connection.
pub(crate) struct Driver {
    link: Arc<Link>,
    exchange: Exchange<Ticket>,
    dispatch: Arc<dyn Dispatch>,
    handlers: FuturesUnordered<Handler>,
    /// Counts connections, so that an answer goes out on the one that the call came in on, or not at all.
    generation: u32,
    commands: Vec<Command>,
    /// Calls that the link counts as waiting and the exchange had last.
    counted: usize,
    close_by: Option<Instant>,
    /// Answers that wait to be written: those that were given early, and those of earlier connections.
    answers: VecDeque<(String, Option<Ticket>)>,
    /// Answers outlive the connection that their call came in on.
    keeps_answers: bool,
    /// Who wants to know that a message was written, once the socket has taken it all.
    unflushed: Vec<Ticket>,
    /// Told when somebody wishes to close.
    closing: Option<Box<dyn FnOnce() + Send>>,
}

/// How many messages are read in one turn, so that one busy peer cannot starve the others.
const READ_BATCH: usize = 32;

/// What the timer is set to before anything is due.
const NEVER: Duration = Duration::MAX;

impl Driver {
    /// Boxed, because each future that it is moved into would have room for all of it.
    pub(crate) fn new(link: Arc<Link>, dispatch: Arc<dyn Dispatch>, options: Options) -> Box<Self> {
        Box::new(Self {
            exchange: Exchange::new(link.agreed().map_or(Dialect::of(None), |a| a.dialect), options),
            link,
            dispatch,
            handlers: FuturesUnordered::new(),
            generation: 0,
            commands: Vec::new(),
            counted: 0,
            close_by: None,
            answers: VecDeque::new(),
            keeps_answers: false,
            unflushed: Vec::new(),
            closing: None,
        })
    }

    /// Answers outlive their connection and go out on the next one.
    pub(crate) fn keep_answers(&mut self) {
        self.keeps_answers = true;
    }

    /// Has `told` run as soon as the driver hears of a wish to close.
    pub(crate) fn when_closing(&mut self, told: impl FnOnce() + Send + 'static) {
        self.closing = Some(Box::new(told));
    }

    pub(crate) fn set_dialect(&mut self, dialect: Dialect) {
        self.exchange.set_dialect(dialect);
    }

    pub(crate) fn options(&self) -> &Options {
        self.exchange.options()
    }

    /// Serves a connection to its end and lets its handlers finish. `leave` runs once the socket is gone, before
    /// anybody who waits for the end hears of it.
    pub(crate) async fn serve(mut self: Box<Self>, mut socket: Box<Socket>, leave: impl FnOnce(&Closed)) {
        let farewell = self.run(&mut socket).await;
        self.lose(Next::End);
        let patience = self.options().close_timeout;
        // Boxed, because an idle connection shall not keep room for its end.
        let closed = self.alongside(Box::pin(socket.part(farewell, patience))).await;
        leave(&closed);
        self.finish(closed).await;
    }

    /// Tells everybody of the end, and lets handlers finish.
    pub(crate) async fn finish(mut self: Box<Self>, closed: Closed) {
        self.lose(Next::End);
        self.link.shut(closed);
        while self.handlers.next().await.is_some() {}
    }

    /// Serves a connection until it ends, one way or another.
    pub(crate) async fn run(&mut self, socket: &mut Socket) -> Farewell {
        let &Options { ping_interval, activity_defers_pings, .. } = self.options();
        let now = tokio::time::Instant::now().into_std();
        let mut keepalive = KeepAlive::new(ping_interval, activity_defers_pings, rand::random(), now);
        let mut timer = pin!(sleep(NEVER));
        std::future::poll_fn(|cx| match self.turn(socket, &mut keepalive, timer.as_mut(), cx) {
            Ok(()) => Poll::Pending,
            Err(farewell) => Poll::Ready(farewell),
        })
        .await
    }

    /// Ends what hangs on a connection that is over.
    pub(crate) fn lose(&mut self, next: Next) {
        self.link.lost(next);
        self.generation += 1;
        self.exchange.forget_inbound();
        for ticket in self.unflushed.drain(..) {
            settle(ticket, Err(Error::Disconnected { maybe_delivered: true }));
        }
        for (ticket, error) in self.exchange.fail_written() {
            settle(ticket, Err(error));
        }
        if next == Next::End {
            for (ticket, error) in self.exchange.fail_unwritten() {
                settle(ticket, Err(error));
            }
        }
        if next == Next::End || !self.keeps_answers {
            for ticket in self.answers.drain(..).filter_map(|(_, ticket)| ticket) {
                settle(ticket, Err(Error::Disconnected { maybe_delivered: false }));
            }
        }
        self.count();
    }

    /// Waits for something while there is no connection and will be none: handlers go on.
    pub(crate) async fn alongside<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            self.poll_orphans(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Waits for something while there is no connection yet: handlers go on, calls come and run out of time. An
    /// error is the wish to close.
    pub(crate) async fn offline<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Close> {
        let mut future = pin!(future);
        let mut timer = pin!(sleep(NEVER));
        std::future::poll_fn(|cx| {
            self.poll_orphans(cx);
            let now = tokio::time::Instant::now().into_std();
            if let Some(close) = self.take_commands(cx) {
                if close.manner() == Manner::Forced {
                    self.handlers.clear();
                }
                return Poll::Ready(Err(close));
            }
            self.expire(now);
            self.count();
            self.arm(timer.as_mut(), None, cx);
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Lets handlers go on whose connection is gone.
    fn poll_orphans(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(done)) = self.handlers.poll_next_unpin(cx) {
            if let Some(text) = self.answer(&done).filter(|_| self.keeps_answers) {
                self.keep((text, None));
            }
        }
    }

    /// Keeps an answer for the next connection. The oldest goes where there are too many.
    fn keep(&mut self, answer: (String, Option<Ticket>)) {
        self.answers.push_back(answer);
        while self.answers.len() > self.most_answers() {
            if let Some((_, Some(ticket))) = self.answers.pop_front() {
                settle(ticket, Err(Error::Disconnected { maybe_delivered: false }));
            }
        }
    }

    /// How many answers may wait to be written.
    fn most_answers(&self) -> usize {
        self.options().handler_queue.saturating_add(self.options().handler_concurrency)
    }

    fn answer_early(&mut self, EarlyAnswer { id, generation, reply, ticket }: EarlyAnswer) {
        let is_ours = generation == self.generation;
        if is_ours {
            self.exchange.answered_early(&id);
        }
        match self.answer(&Done { id, wants_answer: true, generation, reply }) {
            Some(text) if is_ours => self.answers.push_back((text, Some(ticket))),
            Some(text) if self.keeps_answers => self.keep((text, Some(ticket))),
            _ => settle(ticket, Err(Error::Disconnected { maybe_delivered: false })),
        }
    }

    /// Does all that is ready. An error is the end of the connection.
    fn turn(
        &mut self,
        socket: &mut Socket,
        keepalive: &mut KeepAlive,
        timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Result<(), Farewell> {
        let now = tokio::time::Instant::now();
        // First, so that an order holds for all that is read after it was given.
        let close = self.take_commands(cx);
        if let Some(close) = close.as_ref().filter(|close| close.manner() == Manner::Forced) {
            self.handlers.clear();
            return Err(Farewell::drop(close.cause));
        }
        self.read(socket, keepalive, now, cx)?;
        self.poll_handlers(socket, cx)?;
        let now = now.into_std();
        self.expire(now);
        let &Options { ping_interval, activity_defers_pings, .. } = self.options();
        keepalive.set(ping_interval, activity_defers_pings, now);
        let next_ping = loop {
            match keepalive.due(now) {
                Ping::Wait(until) => break until,
                Ping::Send(payload) => socket.ping(payload)?,
                Ping::GiveUp => return Err(Farewell::drop(Cause::PingTimeout)),
            }
        };
        let all_sent = self.write(socket, now, cx)?;
        if let Some(close) = close {
            self.consider(&close, all_sent, now)?;
        }
        self.arm(timer, next_ping, cx);
        Ok(())
    }

    fn read(
        &mut self,
        socket: &mut Socket,
        keepalive: &mut KeepAlive,
        now: tokio::time::Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), Farewell> {
        for read in 0.. {
            if read == READ_BATCH {
                // There may be more: come back once the others had their turn.
                cx.waker().wake_by_ref();
                break;
            }
            let Poll::Ready(incoming) = socket.poll_read(cx) else { break };
            self.link.seen(now);
            keepalive.activity(now.into_std());
            match incoming {
                Incoming::Text(text) => self.receive(&text, socket, cx)?,
                Incoming::Ping => {}
                Incoming::Pong(payload) => {
                    if let Some(time) = keepalive.pong(&payload, now.into_std()) {
                        self.link.emit(|| EventKind::Pong(time));
                    }
                }
                Incoming::Binary => {
                    let close = Close::new(1003).reason("OCPP-J is text").because(Cause::ProtocolError);
                    return Err(Farewell::close(&close));
                }
                Incoming::End(farewell) => return Err(farewell),
            }
        }
        Ok(())
    }

    fn receive(&mut self, text: &ByteString, socket: &mut Socket, cx: &mut Context<'_>) -> Result<(), Farewell> {
        tracing::trace!(%text, "received");
        self.link.emit(|| EventKind::Received(Text(text.clone())));
        match self.exchange.receive(text) {
            Received::Call(call) => self.start(call, socket, cx),
            Received::Outcome(ticket, outcome) => {
                self.link.answered();
                settle(ticket, outcome);
                Ok(())
            }
            Received::Late(id) => {
                self.link.emit(|| EventKind::LateAnswer(id));
                Ok(())
            }
            Received::Refused(call, error) if call.wants_answer => {
                self.send(self.refusal(Some(&call.id), &error), socket)
            }
            Received::Refused(call, _) => {
                self.link.emit(|| EventKind::UnhandledSend { action: Text(call.action) });
                Ok(())
            }
            Received::ResultError(id, error) => {
                self.link.emit(|| EventKind::ResultError { id, error });
                Ok(())
            }
            Received::Bad { fault, id, answer, unbearable } => {
                tracing::debug!(%fault, "bad message");
                let code = answer.as_ref().map(|error| error.code().clone());
                self.link.emit(|| EventKind::BadMessage { text: Text(text.clone()), fault, answer: code });
                if let Some(error) = answer {
                    self.send(self.refusal(id.as_ref(), &error), socket)?;
                }
                match unbearable {
                    true => {
                        let close = Close::new(1002).reason("too many bad messages").because(Cause::ProtocolError);
                        Err(Farewell::close(&close))
                    }
                    false => Ok(()),
                }
            }
            Received::InLine | Received::Nothing => Ok(()),
        }
    }

    /// Hands a call to its handler, which may have the answer at once.
    fn start(&mut self, mut call: Inbound, socket: &mut Socket, cx: &mut Context<'_>) -> Result<(), Farewell> {
        let (id, wants_answer) = (call.id.clone(), call.wants_answer);
        call.generation = self.generation;
        let work = self.dispatch.dispatch(call, &self.link);
        let mut handler = Handler { id, wants_answer, generation: self.generation, work };
        match Pin::new(&mut handler).poll(cx) {
            Poll::Ready(done) => self.answer(&done).map_or(Ok(()), |text| self.send(text, socket)),
            Poll::Pending => {
                self.exchange.started(&handler.id, wants_answer);
                self.handlers.push(handler);
                Ok(())
            }
        }
    }

    fn poll_handlers(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Result<(), Farewell> {
        self.start_next(socket, cx)?;
        while let Poll::Ready(Some(done)) = self.handlers.poll_next_unpin(cx) {
            let is_ours = done.generation == self.generation;
            if is_ours {
                self.exchange.finished(&done.id, done.frees_id());
            }
            if (is_ours || self.keeps_answers)
                && let Some(text) = self.answer(&done)
            {
                self.send(text, socket)?;
            }
            self.start_next(socket, cx)?;
        }
        Ok(())
    }

    /// Starts calls that waited in line for a handler, as many as there is room for.
    fn start_next(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Result<(), Farewell> {
        while let Some(call) = self.exchange.next_in_line() {
            self.start(call, socket, cx)?;
        }
        Ok(())
    }

    /// The text of an answer, where there is one.
    fn answer(&self, done: &Done) -> Option<String> {
        if let Reply::Error(error) = &done.reply
            && let Some(source) = std::error::Error::source(error)
        {
            tracing::warn!(id = %done.id, error = source, "a handler failed");
        }
        match &done.reply {
            _ if !done.wants_answer => None,
            Reply::Result(payload) => Some(wire::call_result(&done.id, payload)),
            Reply::Error(error) => Some(self.refusal(Some(&done.id), error)),
            Reply::Nothing | Reply::Given => None,
        }
    }

    fn refusal(&self, id: Option<&MessageId>, error: &CallError) -> String {
        let code = self.exchange.dialect().spell(error.code());
        wire::call_error(id, code, &error.told(self.options().detailed_errors), error.details())
    }

    fn send(&mut self, text: String, socket: &mut Socket) -> Result<(), Farewell> {
        tracing::trace!(text, "sent");
        self.link.emit(|| EventKind::Sent(Text(text.as_str().into())));
        socket.queue(text)
    }

    /// Does what the handles ask for; gives the wish to close, if there is one.
    fn take_commands(&mut self, cx: &Context<'_>) -> Option<Close> {
        loop {
            let mut commands = std::mem::take(&mut self.commands);
            let close = self.link.take(&mut commands, cx);
            if let Some(told) = self.closing.take_if(|_| close.is_some()) {
                told();
            }
            if commands.is_empty() {
                self.commands = commands;
                return close;
            }
            for command in commands.drain(..) {
                match command {
                    Command::Call(call) => {
                        self.counted += 1;
                        self.exchange.submit(*call);
                    }
                    Command::Cancel(key) => self.exchange.cancel(key),
                    Command::Answer(answer) => self.answer_early(*answer),
                    Command::Dispatch(dispatch) => self.dispatch = dispatch,
                    Command::Options(options) => {
                        self.exchange.set_options(*options);
                    }
                }
            }
            self.commands = commands;
        }
    }

    /// Writes answers that were kept and calls whose turn it is, never more at once than the socket takes well; says
    /// whether all is sent.
    fn write(&mut self, socket: &mut Socket, now: Instant, cx: &mut Context<'_>) -> Result<bool, Farewell> {
        loop {
            while socket.has_room() {
                if let Some((answer, written)) = self.answers.pop_front() {
                    self.send(answer, socket)?;
                    self.unflushed.extend(written);
                } else if let Some((text, written)) = self.exchange.next_write(now) {
                    self.send(text, socket)?;
                    self.unflushed.extend(written);
                } else {
                    break;
                }
            }
            self.count();
            let had_room = socket.has_room();
            let Poll::Ready(flushed) = socket.poll_flush(cx) else {
                return match self.answers.len() > self.most_answers() {
                    true => Err(Farewell::drop(Cause::NotReading)),
                    false => Ok(false),
                };
            };
            flushed?;
            for ticket in self.unflushed.drain(..) {
                settle(ticket, Ok(Payload::default()));
            }
            if had_room {
                return Ok(true);
            }
        }
    }

    /// Tells the link how many calls have left the line.
    fn count(&mut self) {
        let unwritten = self.exchange.unwritten();
        if self.counted > unwritten {
            self.link.leave_line(self.counted - unwritten);
            self.counted = unwritten;
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((ticket, error)) = self.exchange.expired(now) {
            if let Error::Timeout = error {
                self.link.timed_out();
            }
            settle(ticket, Err(error));
        }
    }

    /// Whether it is time to close, where somebody wishes it.
    fn consider(&mut self, close: &Close, all_sent: bool, now: Instant) -> Result<(), Farewell> {
        match close.manner() {
            Manner::AtOnce => Err(Farewell::close(close)),
            Manner::Forced => Err(Farewell::drop(close.cause)),
            Manner::AfterPending(deadline) => {
                let close_by = *self.close_by.get_or_insert_with(|| now + deadline);
                // Where answers are kept, handlers of earlier connections are waited for as well.
                let is_settled = self.exchange.is_settled()
                    && self.answers.is_empty()
                    && (!self.keeps_answers || self.handlers.is_empty());
                match now >= close_by || (all_sent && is_settled) {
                    true => Err(Farewell::close(close)),
                    false => Ok(()),
                }
            }
        }
    }

    /// Sets the one timer to whatever is due first. An earlier alarm that was set before is left to ring in vain:
    /// to move it at every message costs more.
    fn arm(&self, mut timer: Pin<&mut Sleep>, next_ping: Option<Instant>, cx: &mut Context<'_>) {
        let due = [next_ping, self.exchange.next_deadline(), self.close_by].into_iter().flatten().min();
        let Some(due) = due.map(tokio::time::Instant::from_std) else { return };
        if timer.is_elapsed() || due < timer.deadline() {
            timer.as_mut().reset(due);
            // A turn may have used its task's budget up, without which a timer would not even be set. It may be ready
            // already, when the moment has passed since the turn began.
            if pin!(unconstrained(timer)).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

/// However the task ends, nobody waits for it in vain.
impl Drop for Driver {
    fn drop(&mut self) {
        self.lose(Next::End);
        self.link.shut(Closed::abnormal(Cause::Local));
    }
}

fn settle(ticket: Ticket, outcome: Result<Payload, Error>) {
    // Who dropped the call does not want to know.
    let _ = ticket.send(outcome);
}
