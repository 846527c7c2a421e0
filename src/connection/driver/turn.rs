//! One turn of the driver: orders, messages, handlers, time, writing. It does all that is ready, then flushes once.

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
        driver::{Driver, Unflushed, settle},
        exchange::Received,
        handler::{Done, Handler},
        keepalive::{KeepAlive, Ping},
        link::Orders,
        request::Inbound,
        result::Answered,
        socket::{Farewell, Incoming, Socket},
    },
    event::{Direction, EventKind, Text},
    message::{read, tolerance::Deviation},
    options::Options,
    response::Response,
};

/// How many messages are read in one turn, so that one busy peer cannot starve the others.
const READ_BATCH: usize = 32;

impl Driver {
    /// Does all that is ready. An error is the end of the connection.
    pub(super) fn turn(
        &mut self,
        socket: &mut Socket,
        keepalive: &mut KeepAlive,
        timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Result<(), Farewell> {
        let now = tokio::time::Instant::now();
        // First, so that an order holds for all that is read after it was given.
        let begun = self.link.begin_turn(&mut self.commands);
        self.obey(&begun);
        self.abort_if_forced(&begun)?;
        self.read(socket, keepalive, now, cx)?;
        if !self.handlers.is_empty() && (begun.stirred || self.link.was_stirred()) {
            self.poll_handlers(socket)?;
        }
        // What handlers have asked for is done in the same turn; they may have taken their time.
        let orders = self.take_orders(cx);
        self.abort_if_forced(&orders)?;
        self.start_next(socket)?;
        // A second look and no third one, so that handlers that wake themselves starve nobody: what comes now is for the
        // next turn.
        if orders.stirred {
            self.poll_handlers(socket)?;
        }
        let now = tokio::time::Instant::now().into_std();
        self.expire(now);
        let &Options { ping_interval, activity_defers_pings, .. } = self.options();
        keepalive.set(ping_interval, activity_defers_pings, now);
        let next_ping = loop {
            match keepalive.due(now) {
                Ping::Wait(until) => break until,
                Ping::Send(payload) => socket.ping(payload)?,
                Ping::GiveUp => return Err(Farewell::drop(CloseCause::PingTimeout)),
            }
        };
        let all_sent = self.write(socket, now, cx)?;
        if !self.exchange.calls_out.awaits_any() {
            socket.rest();
        }
        if let Some(close) = &orders.close {
            self.consider(close, all_sent, now)?;
        }
        self.arm(timer, next_ping, cx);
        Ok(())
    }

    /// Drops everything, where that is wished.
    fn abort_if_forced(&mut self, orders: &Orders) -> Result<(), Farewell> {
        let Some(close) = orders.close.as_ref().filter(|close| close.mode() == CloseMode::Forced) else {
            return Ok(());
        };
        self.handlers.clear();
        Err(Farewell::forced(close))
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
                Incoming::Text(text) => self.receive(&text, now.into_std(), socket)?,
                Incoming::Ping => {}
                Incoming::Pong(payload) => {
                    if let Some(time) = keepalive.pong(&payload, now.into_std()) {
                        self.link.report(EventKind::Pong(time));
                    }
                }
                Incoming::Binary(Some(text)) if Deviation::BinaryMessage.is_allowed_by(self.options().tolerance) => {
                    self.exchange.deviates(Deviation::BinaryMessage, &text);
                    self.receive(&text, now.into_std(), socket)?;
                }
                Incoming::Binary(_) => {
                    let close = Close::new(1003).reason("OCPP-J is text").with_cause(CloseCause::ProtocolError);
                    return Err(Farewell::close(&close));
                }
                Incoming::End(farewell) => return Err(farewell),
            }
        }
        Ok(())
    }

    fn receive(&mut self, text: &ByteString, now: Instant, socket: &mut Socket) -> Result<(), Farewell> {
        tracing::trace!(%text, "received");
        self.tell(Direction::In, text);
        let received = self.exchange.receive(text, now);
        self.tell_news();
        match received {
            Received::Call(call) => self.start(call, socket),
            Received::Outcome(ticket, outcome, complaint) => {
                self.link.answered();
                settle(ticket, outcome);
                complaint.map_or(Ok(()), |text| self.send(text, socket))
            }
            Received::Refused(answer) => self.send(answer, socket),
            Received::Unbearable(answer) => {
                answer.map_or(Ok(()), |text| self.send(text, socket))?;
                let close = Close::new(1002).reason("too many bad messages").with_cause(CloseCause::ProtocolError);
                Err(Farewell::close(&close))
            }
            Received::Nothing => Ok(()),
        }
    }

    /// Hands a call to its handler, which may have the answer at once.
    fn start(&mut self, mut call: Inbound, socket: &mut Socket) -> Result<(), Farewell> {
        let (id, action, expects_response) = (call.id.clone(), call.action.clone(), call.expects_response);
        self.serial += 1;
        (call.generation, call.serial) = (self.generation, self.serial);
        let work = self.dispatch.dispatch(call, &self.link);
        let (generation, serial, timer) = (self.generation, self.serial, self.link.telemetry.call());
        let mut handler = Handler { id, action, expects_response, generation, serial, timer, work };
        let id = match Pin::new(&mut handler).poll(&mut Context::from_waker(&self.waker)) {
            // An answer that was given early is on its way.
            Poll::Ready(Done { id, reply: Response::Given, .. }) => id,
            Poll::Ready(done) => return self.answer(&done).map_or(Ok(()), |(text, _)| self.send(text, socket)),
            Poll::Pending => {
                self.exchange.calls_in.started();
                let id = handler.id.clone();
                self.handlers.push(handler);
                id
            }
        };
        if expects_response {
            self.unanswered.insert(serial);
            self.exchange.calls_in.take(&id);
        }
        Ok(())
    }

    /// Polls handlers that can go on, and answers the calls of those that have ended.
    fn poll_handlers(&mut self, socket: &mut Socket) -> Result<(), Farewell> {
        while let Poll::Ready(Some(done)) = self.handlers.poll_next(&mut Context::from_waker(&self.waker)) {
            let is_ours = done.generation == self.generation;
            if is_ours {
                self.exchange.calls_in.finished();
            }
            if self.may_answer(&done)
                && (is_ours || self.keeps_responses)
                && let Some((text, _)) = self.answer(&done)
            {
                self.send(text, socket)?;
            }
            self.start_next(socket)?;
        }
        Ok(())
    }

    /// Starts calls that waited in line for a handler, as many as there is room for.
    fn start_next(&mut self, socket: &mut Socket) -> Result<(), Farewell> {
        while let Some(call) = self.exchange.next_in_line() {
            self.start(call, socket)?;
        }
        Ok(())
    }

    fn send(&mut self, text: String, socket: &mut Socket) -> Result<(), Farewell> {
        tracing::trace!(text, "sent");
        self.tell(Direction::Out, &text);
        socket.queue(text)
    }

    /// Tells whoever wants to know of a message.
    fn tell(&mut self, direction: Direction, text: &str) {
        self.link.telemetry.message(direction, text.len());
        if self.link.is_watched() {
            self.tell_watchers(direction, text);
        }
    }

    /// Tells those who read events of a message, and of what it says.
    #[cold]
    fn tell_watchers(&mut self, direction: Direction, text: &str) {
        let text = ByteString::from(text);
        let raw = match direction {
            Direction::In => EventKind::Received,
            Direction::Out => EventKind::Sent,
        };
        self.link.report(raw(Text(text.clone())));
        let (Ok(frame), _) = read::read(&text, self.options().tolerance) else { return };
        if direction == Direction::Out && frame.is_answer() {
            self.unflushed.push(Unflushed::Watcher(frame.id().clone()));
        }
        self.link.report(EventKind::of(frame, direction));
    }

    /// Writes answers that were kept and calls whose turn it is, never more at once than the socket takes well; says
    /// whether all is sent.
    fn write(&mut self, socket: &mut Socket, now: Instant, cx: &mut Context<'_>) -> Result<bool, Farewell> {
        loop {
            while socket.has_room() {
                if let Some((answer, written)) = self.answers.pop_front() {
                    self.send(answer, socket)?;
                    self.unflushed.extend(written.map(Unflushed::Caller));
                } else if let Some((text, written)) = self.exchange.next_write(now) {
                    self.send(text, socket)?;
                    self.unflushed.extend(written.map(Unflushed::Caller));
                } else {
                    break;
                }
            }
            self.count();
            let had_room = socket.has_room();
            let Poll::Ready(flushed) = socket.poll_flush(cx) else {
                return match self.answers.len() > self.most_answers() {
                    true => Err(Farewell::drop(CloseCause::NotReading)),
                    false => Ok(false),
                };
            };
            flushed?;
            for unflushed in self.unflushed.drain(..) {
                match unflushed {
                    Unflushed::Caller(ticket) => settle(ticket, Ok(Answered::default())),
                    Unflushed::Watcher(id) => self.link.report(EventKind::ResponseWritten(id)),
                }
            }
            if had_room {
                return Ok(true);
            }
        }
    }

    /// Whether it is time to close, where somebody wishes it.
    fn consider(&mut self, close: &Close, all_sent: bool, now: Instant) -> Result<(), Farewell> {
        match close.mode() {
            CloseMode::Immediate => Err(Farewell::close(close)),
            CloseMode::Forced => Err(Farewell::forced(close)),
            CloseMode::Drain(deadline) => {
                let close_by = *self.close_by.get_or_insert_with(|| now + deadline);
                // Where answers are kept, handlers of earlier connections are waited for as well.
                let is_settled = self.exchange.is_settled()
                    && self.answers.is_empty()
                    && (!self.keeps_responses || self.handlers.is_empty());
                match now >= close_by || (all_sent && is_settled) {
                    true => Err(Farewell::close(close)),
                    false => Ok(()),
                }
            }
        }
    }
}
