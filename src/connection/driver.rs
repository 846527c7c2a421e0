//! The one task of a connection: reads, hands calls to handlers, writes their answers and our calls, keeps time.
//!
//! It awaits nothing but its own [turn]. What is here is the life around the turns: connections that come and go, and
//! what is done in either.

mod turn;

use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, LazyLock},
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
        exchange::Exchange,
        handler::{Done, Handlers},
        info::Agreed,
        keepalive::KeepAlive,
        link::{Command, Dispatch, EarlyAnswer, Link, Next, Orders},
        result::{Answered, Ticket},
        socket::{Farewell, Socket},
    },
    error::Error,
    event::EventKind,
    message::payload::MessageId,
    options::Options,
    response::Response,
};

/// Serves connections: one, or for a client one after the other. Its handlers, and calls that wait for their turn,
/// outlive a connection.
pub(crate) struct Driver {
    link: Arc<Link>,
    exchange: Exchange<Ticket>,
    dispatch: Arc<dyn Dispatch>,
    handlers: Handlers,
    /// Wakes the driver for its handlers, or is noted in the turn that it comes in.
    waker: Waker,
    /// Counts connections, so that an answer goes out on the one that the call came in on, or not at all.
    generation: u32,
    /// Counts calls that came in.
    serial: u64,
    /// Calls that have no answer yet, and no other way to get one than by their handler or early: whichever comes
    /// first answers.
    unanswered: HashSet<u64>,
    commands: Vec<Command>,
    /// Calls that the link counts as waiting and the exchange had last.
    counted: usize,
    close_by: Option<Instant>,
    /// Answers that wait to be written: those that were given early, and those of earlier connections.
    answers: VecDeque<(String, Option<Ticket>)>,
    /// Answers outlive the connection that their call came in on.
    keeps_responses: bool,
    /// Who wants to know that a message was written, once the socket has taken it all.
    unflushed: Vec<Unflushed>,
    /// Told when somebody wishes to close.
    closing: Option<Box<dyn FnOnce() + Send>>,
    is_closing: bool,
}

/// Somebody who wants to know that a message was written.
enum Unflushed {
    Caller(Ticket),
    /// Whoever reads events: it was an answer.
    Watcher(MessageId),
}

/// What all connections count their beats from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the timer is set to before anything is due.
const NEVER: Duration = Duration::MAX;

impl Driver {
    /// Boxed, because each future that it is moved into would have room for all of it.
    pub(crate) fn new(link: Arc<Link>, dispatch: Arc<dyn Dispatch>, options: Arc<Options>) -> Box<Self> {
        Box::new(Self {
            exchange: Exchange::new(link.agreed().cloned(), options),
            waker: link.clone().into(),
            link,
            dispatch,
            handlers: Handlers::default(),
            generation: 0,
            serial: 0,
            unanswered: HashSet::new(),
            commands: Vec::new(),
            counted: 0,
            close_by: None,
            answers: VecDeque::new(),
            keeps_responses: false,
            unflushed: Vec::new(),
            closing: None,
            is_closing: false,
        })
    }

    /// Answers outlive their connection and go out on the next one.
    pub(crate) fn keep_responses(&mut self) {
        self.keeps_responses = true;
    }

    /// Has `told` run as soon as the driver hears of a wish to close.
    pub(crate) fn when_closing(&mut self, told: impl FnOnce() + Send + 'static) {
        self.closing = Some(Box::new(told));
    }

    /// Both ends have agreed on a protocol: calls that it does not allow fail.
    pub(crate) fn agree(&mut self, agreed: Agreed) {
        for (ticket, error) in self.exchange.agree(agreed) {
            settle(ticket, Err(error));
        }
        self.tell_news();
        self.count();
    }

    pub(crate) fn options(&self) -> &Options {
        self.exchange.options()
    }

    /// Serves a connection until its socket is gone.
    pub(crate) async fn serve(&mut self, mut socket: Box<Socket>) -> CloseInfo {
        self.link.found();
        let farewell = self.run(&mut socket).await;
        self.lose(Next::End);
        let patience = self.options().close_timeout;
        // Boxed, because an idle connection shall not keep room for its end.
        self.alongside(Box::pin(socket.part(farewell, patience))).await
    }

    /// Tells everybody of the end, and lets handlers finish.
    pub(crate) async fn finish(mut self: Box<Self>, closed: CloseInfo) {
        self.lose(Next::End);
        self.link.shut(closed);
        while poll_fn(|cx| self.handlers.poll_next(cx)).await.is_some() {}
    }

    /// Serves a connection until it ends, one way or another.
    pub(crate) async fn run(&mut self, socket: &mut Socket) -> Farewell {
        let &Options { ping_interval, activity_defers_pings, .. } = self.options();
        let now = tokio::time::Instant::now().into_std();
        let mut keepalive = KeepAlive::new(ping_interval, activity_defers_pings, rand::random(), *ORIGIN, now);
        let mut timer = pin!(sleep(NEVER));
        poll_fn(|cx| match self.turn(socket, &mut keepalive, timer.as_mut(), cx) {
            Ok(()) => Poll::Pending,
            Err(farewell) => Poll::Ready(farewell),
        })
        .await
    }

    /// Ends what hangs on a connection that is over.
    pub(crate) fn lose(&mut self, next: Next) {
        self.link.lost(next);
        self.generation += 1;
        self.exchange.calls_in.forget();
        for unflushed in self.unflushed.drain(..) {
            if let Unflushed::Caller(ticket) = unflushed {
                settle(ticket, Err(Error::Disconnected { maybe_delivered: true }));
            }
        }
        for (ticket, error) in self.exchange.calls_out.fail_written() {
            settle(ticket, Err(error));
        }
        if next == Next::End {
            for (ticket, error) in self.exchange.calls_out.fail_unwritten() {
                settle(ticket, Err(error));
            }
        }
        if next == Next::End || !self.keeps_responses {
            for ticket in self.answers.drain(..).filter_map(|(_, ticket)| ticket) {
                settle(ticket, Err(Error::Disconnected { maybe_delivered: false }));
            }
        }
        self.count();
    }

    /// Waits for something while there is no connection and will be none: handlers go on, and what they ask for fails.
    pub(crate) async fn alongside<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll_orphans(cx);
            self.link.take(&mut self.commands, cx);
            self.counted += self.commands.iter().filter(|command| matches!(command, Command::Call(_))).count();
            self.commands.drain(..).for_each(Command::fail);
            self.count();
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Waits for something while there is no connection yet: handlers go on, calls come and run out of time. An
    /// error is the wish to close.
    pub(crate) async fn offline<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Close> {
        let mut future = pin!(future);
        let mut timer = pin!(sleep(NEVER));
        poll_fn(|cx| {
            self.poll_orphans(cx);
            let now = tokio::time::Instant::now().into_std();
            if let Some(close) = self.take_orders(cx).close {
                if close.mode() == CloseMode::Forced {
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
        while let Poll::Ready(Some(done)) = self.handlers.poll_next(cx) {
            if self.may_answer(&done)
                && self.keeps_responses
                && let Some((text, _)) = self.answer(&done)
            {
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

    fn answer_early(&mut self, EarlyAnswer { id, action, generation, serial, reply, ticket }: EarlyAnswer) {
        let is_ours = generation == self.generation;
        let done = Done { id, action, expects_response: true, generation, serial, reply };
        if !self.may_answer(&done) || !(is_ours || self.keeps_responses) {
            return settle(ticket, Err(Error::Disconnected { maybe_delivered: false }));
        }
        let ticket = match self.answer(&done) {
            Some((text, Ok(()))) => (text, Some(ticket)),
            Some((text, Err(error))) => {
                settle(ticket, Err(error));
                (text, None)
            }
            None => return settle(ticket, Ok(Answered::default())),
        };
        match is_ours {
            true => self.answers.push_back(ticket),
            false => self.keep(ticket),
        }
    }

    /// Whether this is the first answer to its call; from then on there is no other, and its id is free.
    fn may_answer(&mut self, done: &Done) -> bool {
        if matches!(done.reply, Response::Given) || !self.unanswered.remove(&done.serial) {
            return false;
        }
        if done.generation == self.generation {
            self.exchange.calls_in.answered(&done.id);
        }
        true
    }

    /// The text of an answer, where there is one, and whether it is the one that was meant.
    fn answer(&mut self, done: &Done) -> Option<(String, Result<(), Error>)> {
        if let Response::Error(error) = &done.reply
            && let Some(source) = std::error::Error::source(error)
        {
            tracing::warn!(id = %done.id, error = source, "a handler failed");
        }
        let text = match &done.reply {
            _ if !done.expects_response => None,
            Response::Result(payload) => Some(self.exchange.result(&done.action, &done.id, payload)),
            Response::Error(error) => Some((self.exchange.refusal(Some(&done.id), error), Ok(()))),
            Response::Nothing | Response::Given => None,
        };
        self.tell_news();
        text
    }

    /// Tells those who read events what the exchange has to tell.
    fn tell_news(&mut self) {
        if self.exchange.has_news() {
            for news in self.exchange.news() {
                self.link.report(news);
            }
        }
    }

    /// Does what the handles ask for, and is woken for the next of it.
    fn take_orders(&mut self, cx: &Context<'_>) -> Orders {
        let orders = self.link.take(&mut self.commands, cx);
        self.obey(&orders);
        orders
    }

    /// Does what was taken out of the mailbox.
    fn obey(&mut self, orders: &Orders) {
        if orders.close.is_some() && !self.is_closing {
            self.is_closing = true;
            if let Some(told) = self.closing.take() {
                told();
            }
            self.link.report(EventKind::Closing);
        }
        if self.commands.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Call(call) => {
                    self.counted += 1;
                    if let Some((ticket, error)) = self.exchange.submit(call) {
                        settle(ticket, Err(error));
                    }
                }
                Command::Cancel(key) => self.exchange.calls_out.cancel(key),
                Command::Complain(complaint) => {
                    let (id, error) = &*complaint;
                    if let Some(text) = self.exchange.complaint(id, error) {
                        self.keep((text, None));
                    }
                }
                Command::Responder(answer) => self.answer_early(*answer),
                Command::Dispatch(dispatch) => self.dispatch = dispatch,
                Command::Options(options) => self.exchange.set_options(*options),
            }
        }
        self.commands = commands;
        self.tell_news();
    }

    /// Tells the link how many calls have left the line.
    fn count(&mut self) {
        let unwritten = self.exchange.calls_out.unwritten();
        if self.counted > unwritten {
            self.link.leave_line(self.counted - unwritten);
            self.counted = unwritten;
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((ticket, error)) = self.exchange.calls_out.expired(now) {
            if let Error::Timeout = error {
                self.link.timed_out();
            }
            settle(ticket, Err(error));
        }
    }

    /// Sets the one timer to whatever is due first. An earlier alarm that was set before is left to ring in vain:
    /// to move it at every message costs more.
    fn arm(&self, mut timer: Pin<&mut Sleep>, next_ping: Option<Instant>, cx: &mut Context<'_>) {
        let due = [next_ping, self.exchange.calls_out.next_deadline(), self.close_by].into_iter().flatten().min();
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
        self.link.shut(CloseInfo::abnormal(CloseCause::Local));
    }
}

fn settle(ticket: Ticket, outcome: Result<Answered, Error>) {
    // Who dropped the call does not want to know.
    let _ = ticket.send(outcome);
}
