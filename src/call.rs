//! The future of a call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{Span, field};

use crate::{
    connection::{
        calls_out::{CallKey, Kind, Outgoing, Timeout},
        link::{Command, Link},
        result::{Answered, Ticket},
    },
    error::Error,
    message::payload::{EncodeError, MessageId, Payload},
    options,
    telemetry::CallTimer,
    validate::decode_error::explain_decode_error,
};

/// The future of an answer, made by [`Session::call`].
#[must_use = "nothing is called until the future is awaited"]
pub struct Call<R> {
    state: State,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    read: Read<R>,
    span: Span,
    timer: CallTimer,
}

type Read<R> = fn(Answered, &Link) -> Result<R, Error>;

enum State {
    Draft { link: Arc<Link>, call: Box<Outgoing<Ticket>>, outcome: Outcome, within: Option<Duration> },
    Submitted { link: Arc<Link>, key: CallKey, outcome: Outcome },
    Failed(Error),
    Done,
}

type Outcome = oneshot::Receiver<Result<Answered, Error>>;

impl<R: DeserializeOwned + 'static> Call<R> {
    /// A call that was not made yet.
    pub(crate) fn new(link: &Arc<Link>, kind: Kind, action: &str, params: Result<Payload, EncodeError>) -> Self {
        let id = MessageId::random();
        let span = tracing::debug_span!(
            "call",
            direction = "out",
            identity = &*link.about.identity,
            action,
            id = id.as_str(),
            outcome = field::Empty,
        );
        let state = match params {
            Err(error) => State::Failed(error.into()),
            Ok(params) => {
                let (ticket, outcome) = oneshot::channel();
                let (key, timeout, action) = (link.next_key(), Timeout::Default, action.into());
                let call = Box::new(Outgoing { key, id, action, params, kind, timeout, deadline: None, ticket });
                State::Draft { link: link.clone(), call, outcome, within: None }
            }
        };
        Call { state, cancelled: None, read, span, timer: link.telemetry.call() }
    }
}

impl<R> Call<R> {
    /// A call on no connection at all.
    #[cfg(feature = "client")]
    pub(crate) fn closed(timer: CallTimer) -> Self {
        Self {
            state: State::Failed(Error::Closed),
            cancelled: None,
            read: |_, _| Err(Error::Closed),
            span: Span::none(),
            timer,
        }
    }

    /// How long the answer may take once the call was written; zero waits for ever. The default is
    /// [`Options::call_timeout`](crate::Options::call_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let State::Draft { call, .. } = &mut self.state {
            call.timeout = options::some(timeout).map_or(Timeout::Never, Timeout::After);
        }
        self
    }

    /// How long it may take in all, in line and for the answer; zero waits for ever, which is the default.
    pub fn within(mut self, total: Duration) -> Self {
        if let State::Draft { within, .. } = &mut self.state {
            *within = options::some(total);
        }
        self
    }

    /// Takes the call back when `token` fires, as dropping it would; it then fails with [`Error::Cancelled`].
    pub fn cancel_on(mut self, token: &CancellationToken) -> Self {
        self.cancelled = Some(Box::pin(token.clone().cancelled_owned()));
        self
    }

    /// Does not wait for its turn: the call goes out although others are in flight, which OCPP does not want (1.6
    /// §4.1.1, 2.0.1 part 4 §4.1.1) and few stations bear.
    ///
    /// For handlers that call back the peer that waits for them in turn. One call back is always answered. A chain
    /// that comes back to the same end (a call, whose handler calls back, whose handler calls again) would wait for a
    /// call that waits for it.
    pub fn bypass_queue(mut self) -> Self {
        if let State::Draft { call, .. } = &mut self.state
            && call.kind == Kind::Call
        {
            call.kind = Kind::OutOfTurn;
        }
        self
    }

    /// Does not wait for the answer: the future is done when the call has been written, and the answer is thrown
    /// away when it comes.
    pub fn fire_and_forget(mut self) -> Call<()> {
        if let State::Draft { call, .. } = &mut self.state
            && call.kind == Kind::Call
        {
            call.kind = Kind::Forgotten;
        }
        self.ignore_result()
    }

    /// Fails in place of being made.
    pub(crate) fn fail(mut self, error: Error) -> Self {
        self.state = State::Failed(error);
        self
    }

    /// Gives nothing, in place of the result.
    pub(crate) fn ignore_result(mut self) -> Call<()> {
        let state = std::mem::replace(&mut self.state, State::Done);
        Call {
            state,
            cancelled: self.cancelled.take(),
            read: |_, _| Ok(()),
            span: self.span.clone(),
            timer: self.timer.clone(),
        }
    }

    fn take_back(&mut self) {
        if let State::Submitted { link, key, .. } = std::mem::replace(&mut self.state, State::Done) {
            link.order(Command::Cancel(key));
            self.ended(&Err(Error::Cancelled));
        }
    }

    /// Leaves word of what came of the call.
    fn ended(&self, outcome: &Result<R, Error>) {
        self.timer.ended(outcome);
        self.span.record("outcome", outcome.as_ref().err().map_or("result", Error::outcome));
    }
}

impl State {
    fn poll<R>(&mut self, read: Read<R>, cx: &mut Context<'_>) -> Poll<Result<R, Error>> {
        if let Self::Draft { .. } = self {
            *self = std::mem::replace(self, Self::Done).submit();
        }
        let outcome = match self {
            Self::Submitted { outcome, .. } => Some(ready!(Pin::new(outcome).poll(cx))),
            _ => None,
        };
        // It is over before the user's type reads the answer, which may panic.
        Poll::Ready(match (std::mem::replace(self, Self::Done), outcome) {
            (Self::Submitted { link, .. }, Some(Ok(outcome))) => outcome.and_then(|answered| read(answered, &link)),
            // The connection's task was dropped with the call in its hands.
            (Self::Submitted { .. }, _) => Err(Error::Disconnected { maybe_delivered: true }),
            (Self::Failed(error), _) => Err(error),
            (Self::Draft { .. } | Self::Done, _) => panic!("a call was polled after it had ended"),
        })
    }

    /// Puts a draft in line.
    fn submit(self) -> Self {
        let Self::Draft { link, mut call, outcome, within } = self else { return self };
        let key = call.key;
        call.deadline = within.map(|within| Instant::now().into_std() + within);
        match link.submit(call) {
            Ok(()) => Self::Submitted { link, key, outcome },
            Err(error) => Self::Failed(error),
        }
    }
}

/// Reads a result. Where it is of no use and the protocol has words for that, the peer is told (OCPP 2.1).
fn read<R: DeserializeOwned + 'static>(answered: Answered, link: &Link) -> Result<R, Error> {
    let Answered { id, payload, valid } = answered;
    match valid.take() {
        Some(result) => Ok(result),
        None => payload.decode().map_err(|error| {
            if link.agreed().is_some_and(|agreed| agreed.dialect.has_call_result_error()) {
                let complaint = explain_decode_error::<R>(&payload, &error).into();
                link.order(Command::Complain(Box::new((id, complaint))));
            }
            error.into()
        }),
    }
}

impl<R> Future for Call<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(cancelled) = &mut self.cancelled
            && cancelled.as_mut().poll(cx).is_ready()
        {
            self.take_back();
            return Poll::Ready(Err(Error::Cancelled));
        }
        let Self { state, read, span, .. } = &mut *self;
        let polled = span.in_scope(|| state.poll(*read, cx));
        if let Poll::Ready(outcome) = &polled {
            self.ended(outcome);
        }
        polled
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
