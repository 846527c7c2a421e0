//! The handle on a connection, and the future of an answer.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{Span, field};

use crate::{
    action::{Action, SendAction},
    close::{Close, Closed},
    connection::{
        Answered, Command, Link, Ticket,
        calls_out::{CallKey, Kind, Outgoing, Timeout},
    },
    error::Error,
    meter::Stopwatch,
    options::{self, BuildError, Options},
    payload::{MessageId, NotAnObject, Payload},
    validate::misfit,
};

/// The other end of a connection: call it, close it, wait for its end.
///
/// Cheap to clone, and of no weight: a connection ends when it is closed or lost, not when its handles are dropped.
#[derive(Clone)]
pub struct Peer {
    link: Arc<Link>,
}

impl Peer {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Calls an action of the peer.
    ///
    /// The call is made when the returned future is first polled; it then waits for its turn
    /// ([`Options::call_concurrency`](crate::Options::call_concurrency)), is written, and waits for its answer.
    /// Parameters must serialize to a JSON object; `&()` is the empty one. The answer is read as `R`:
    /// `serde_json::Value` takes any, [`Payload`] leaves it unread.
    ///
    /// ```no_run
    /// # async fn example(peer: ocpp_rpc::Peer) -> Result<(), ocpp_rpc::Error> {
    /// use std::time::Duration;
    /// use serde_json::{Value, json};
    ///
    /// let answer: Value = peer.call("Reset", &json!({"type": "Soft"})).timeout(Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Error`] lists them.
    ///
    /// # Cancel safety
    /// Dropping the future takes the call back, wherever it stands. One that was not written yet never will be.
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        self.draft(Kind::Call, action, Payload::encode(params), read)
    }

    /// Calls the action that `request` is a request of, and reads the answer as the response of that action: see
    /// [`Action`]. Else it is as [`call`](Self::call).
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        self.call(A::NAME, request.params())
    }

    /// Sends a message that is never answered: OCPP 2.1's SEND. The future is done when the message has been
    /// written; it does not wait for calls that are in line.
    ///
    /// # Errors
    /// [`Error::NoSend`] where the connection's [`Dialect`](crate::Dialect) has no SEND, or a client has not been
    /// connected yet; else as for a call that is not written.
    pub fn send(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<()> {
        let mut call = self.draft(Kind::Send, action, Payload::encode(params), |_, _| Ok(()));
        if !self.link.agreed().is_some_and(|agreed| agreed.dialect.has_send()) {
            call.state = State::Failed(Error::NoSend);
        }
        call
    }

    /// Sends a message that is never answered, under the name of its action: see [`SendAction`]. Else it is as
    /// [`send`](Self::send).
    pub fn send_action<A: SendAction>(&self, message: A) -> Call<()> {
        self.send(A::NAME, message.params())
    }

    fn draft<R>(&self, kind: Kind, action: &str, params: Result<Payload, NotAnObject>, read: Read<R>) -> Call<R> {
        let id = MessageId::random();
        let span = tracing::debug_span!(
            "call",
            direction = "out",
            identity = self.identity(),
            action,
            id = id.as_str(),
            outcome = field::Empty,
        );
        let state = match params {
            Err(error) => State::Failed(error.into()),
            Ok(params) => {
                let (ticket, outcome) = oneshot::channel();
                let (key, timeout, action) = (self.link.next_key(), Timeout::Default, action.into());
                let call = Box::new(Outgoing { key, id, action, params, kind, timeout, deadline: None, ticket });
                State::Draft { link: self.link.clone(), call, outcome, within: None }
            }
        };
        Call { state, cancelled: None, read, span, stopwatch: self.link.meter.call() }
    }

    /// Changes the times and limits of this connection, all of them: what is not set is as by default. As they were
    /// stay [`max_message_size`](Options::max_message_size), [`max_unsent`](Options::max_unsent),
    /// [`call_queue`](Options::call_queue), [`tolerance`](Options::tolerance) and
    /// [`validation`](Options::validation), and calls that were written keep the timeout that they had.
    ///
    /// # Errors
    /// When they could never work; nothing is changed then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        options.check()?;
        self.link.order(Command::Options(Box::new(options)));
        Ok(())
    }

    /// Closes the connection and waits for its end. The first wish to close decides how; later ones get the same
    /// outcome.
    ///
    /// Nothing takes longer than the time given for calls under way, plus
    /// [`Options::close_timeout`](crate::Options::close_timeout), plus one second.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close(&self, close: Close) -> Closed {
        self.link.close(close);
        self.link.closed().await
    }

    /// Waits for the end of the connection.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn closed(&self) -> Closed {
        self.link.closed().await
    }

    /// Whether calls may be made.
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// How many of our calls in a row ran into their timeout: some charging stations send their own calls and ignore
    /// ours. An answer in time sets it back to zero.
    pub fn consecutive_timeouts(&self) -> u32 {
        self.link.consecutive_timeouts()
    }

    /// The identity of the charging station on this connection.
    pub fn identity(&self) -> &str {
        &self.link.about.identity
    }

    /// The subprotocol that was agreed on; none before a client has been connected for the first time.
    pub fn protocol(&self) -> Option<&str> {
        self.link.agreed()?.protocol.as_deref()
    }

    /// What the application said of this connection when it was accepted.
    pub fn extensions(&self) -> &Extensions {
        &self.link.about.extensions
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("identity", &self.identity())
            .field("protocol", &self.protocol())
            .finish_non_exhaustive()
    }
}

/// The future of an answer, made by [`Peer::call`].
#[must_use = "nothing is called until the future is awaited"]
pub struct Call<R> {
    state: State,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    read: Read<R>,
    span: Span,
    stopwatch: Stopwatch,
}

type Read<R> = fn(Answered, &Link) -> Result<R, Error>;

enum State {
    Draft { link: Arc<Link>, call: Box<Outgoing<Ticket>>, outcome: Outcome, within: Option<Duration> },
    Submitted { link: Arc<Link>, key: CallKey, outcome: Outcome },
    Failed(Error),
    Done,
}

type Outcome = oneshot::Receiver<Result<Answered, Error>>;

impl<R> Call<R> {
    /// A call on no connection at all.
    #[cfg(feature = "client")]
    pub(crate) fn closed(stopwatch: Stopwatch) -> Self {
        Self {
            state: State::Failed(Error::Closed),
            cancelled: None,
            read: |_, _| Err(Error::Closed),
            span: Span::none(),
            stopwatch,
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
    pub fn cancelled_by(mut self, token: &CancellationToken) -> Self {
        self.cancelled = Some(Box::pin(token.clone().cancelled_owned()));
        self
    }

    /// Does not wait for its turn: the call goes out although others are in flight, which OCPP does not want (1.6
    /// §4.1.1, 2.0.1 part 4 §4.1.1) and few stations bear.
    ///
    /// For handlers that call back the peer that waits for them in turn. One call back is always answered. A chain
    /// that comes back to the same end (a call, whose handler calls back, whose handler calls again) would wait for a
    /// call that waits for it.
    pub fn out_of_turn(mut self) -> Self {
        if let State::Draft { call, .. } = &mut self.state
            && call.kind == Kind::Call
        {
            call.kind = Kind::OutOfTurn;
        }
        self
    }

    /// Does not wait for the answer: the future is done when the call has been written, and the answer is thrown
    /// away when it comes.
    pub fn without_answer(mut self) -> Call<()> {
        if let State::Draft { call, .. } = &mut self.state
            && call.kind == Kind::Call
        {
            call.kind = Kind::Forgotten;
        }
        let state = std::mem::replace(&mut self.state, State::Done);
        Call {
            state,
            cancelled: self.cancelled.take(),
            read: |_, _| Ok(()),
            span: self.span.clone(),
            stopwatch: self.stopwatch.clone(),
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
        self.stopwatch.called(outcome);
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
                let complaint = misfit::<R>(&payload, &error).into();
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
