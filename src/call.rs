//! The future of a call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytestring::ByteString;
use http::Extensions;
use serde::de::DeserializeOwned;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::service_fn;
use tracing::{Span, field};

use crate::{
    connection::{
        call_result::{CallResult, ResponseSender},
        calls_out::{CallKey, Kind, Outgoing},
        shared::{Command, Shared},
    },
    error::{CallError, Error},
    event::kind::{CallOutcome, Direction, EventKind, Text},
    message::payload::{EncodeError, MessageId, Payload},
    options,
    outgoing::{CallResponse, CallService, OutgoingCall, Reject, Target, deadline::Deadline},
    route::{RemoteCall, RemoteOutcome, RemoteResult, Route},
    telemetry::{CallTimer, cut},
    validate::decode_error::explain_decode_error,
};

/// The future of a call, returned by [`Session::call`](crate::Session::call) and [`Station::call`](crate::Station::call).
///
/// The call is made when the future is first polled. If the future is dropped, the call is cancelled. The application can
/// wrap [layers](crate::outgoing) around all calls.
#[must_use = "a call is not made until its future is awaited"]
pub struct Call<R> {
    state: State,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    read: Read<R>,
    span: Span,
    timer: CallTimer,
    /// Set at the first poll if an application reads events.
    described: Option<Box<DescribedCall>>,
}

/// The parts of the event that a call has ended.
struct DescribedCall {
    shared: Arc<Shared>,
    id: MessageId,
    action: ByteString,
    kind: Kind,
    started_at: Instant,
}

/// The most characters of a message id (OCPP 2.0.1 part 4 §4.1.4).
const MAX_ID: usize = 36;

type Read<R> = fn(CallResult, Reject) -> Result<R, Error>;

enum State {
    Draft {
        target: Target,
        call: Box<Outgoing<ResponseSender>>,
        receiver: Receiver,
        total_timeout: Option<Duration>,
        layers: Option<Box<Layers>>,
    },
    Submitted {
        shared: Arc<Shared>,
        key: CallKey,
        receiver: Receiver,
    },
    /// The call goes to another node. It is cancelled when dropped.
    Remote(Pin<Box<dyn Future<Output = RemoteOutcome> + Send>>),
    /// The call passes the layers of the application, inside of which each attempt is a call of its own.
    Layered(Pin<Box<dyn Future<Output = Result<CallResponse, Error>> + Send>>),
    Failed(Error),
    Done,
}

type Receiver = oneshot::Receiver<Result<CallResult, Error>>;

/// The layers around a call, and what the caller attached for them.
struct Layers {
    service: CallService,
    extensions: Extensions,
}

impl<R: DeserializeOwned + 'static> Call<R> {
    /// Creates a call to the peer of a session.
    pub(crate) fn new(shared: &Arc<Shared>, kind: Kind, action: &str, params: Result<Payload, EncodeError>) -> Self {
        Self::layered(Target::Session(shared.clone()), kind, action, params)
    }

    /// Creates a call to the station with this key.
    pub(crate) fn to_station(
        route: &Arc<dyn Route>,
        key: &Arc<str>,
        kind: Kind,
        action: &str,
        params: Result<Payload, EncodeError>,
    ) -> Self {
        Self::layered(Target::Station(route.clone(), key.clone()), kind, action, params)
    }

    /// Creates a call that passes the layers of the application, if there are any.
    fn layered(target: Target, kind: Kind, action: &str, params: Result<Payload, EncodeError>) -> Self {
        let service = target.telemetry().call_layers::<CallService>().filter(|_| params.is_ok());
        let layers = service.map(|service| Layers { service: service.clone(), extensions: Extensions::new() });
        Self::to(target, layers.map(Box::new), kind, action, params, read)
    }
}

impl<R> Call<R> {
    fn to(
        target: Target,
        layers: Option<Box<Layers>>,
        kind: Kind,
        action: impl Into<ByteString>,
        params: Result<Payload, EncodeError>,
        read: Read<R>,
    ) -> Self {
        let action = action.into();
        // With layers, each attempt has a span.
        let span = if layers.is_some() {
            Span::none()
        } else {
            tracing::debug_span!(
                "call",
                direction = "out",
                identity = target.identity().as_deref(),
                key = target.key().as_deref(),
                action = &*action,
                id = field::Empty,
                outcome = field::Empty,
            )
        };
        let timer = target.telemetry().call();
        let state = match params {
            Err(error) => State::Failed(error.into()),
            Ok(params) => {
                let (sender, receiver) = oneshot::channel();
                let call = Box::new(Outgoing::new(kind, action, params, sender));
                State::Draft { target, call, receiver, total_timeout: None, layers }
            }
        };
        Self { state, cancelled: None, read, span, timer, described: None }
    }
}

impl Call<CallResult> {
    /// Creates a call that another node makes. Its result is not read.
    pub(crate) fn remote(shared: &Arc<Shared>, kind: Kind, action: &str, params: Payload) -> Self {
        Self::to(Target::Session(shared.clone()), None, kind, action, object(params), |result, _| Ok(result))
    }
}

/// Returns the service that makes calls, which layers wrap.
pub(crate) fn service() -> CallService {
    CallService::new(service_fn(attempt))
}

/// Makes a call that has passed the layers.
async fn attempt(call: OutgoingCall) -> Result<CallResponse, Error> {
    let OutgoingCall { target, action, params, kind, id, timeout, deadline, .. } = call;
    let mut call =
        Call::to(target, None, kind, action, object(params), |result, reject| Ok(CallResponse { result, reject }));
    if let State::Draft { call, .. } = &mut call.state {
        call.timeout = timeout;
        call.has_own_id = id.is_some();
        call.id = id.unwrap_or_default();
    }
    match deadline {
        Some(deadline) => deadline.attempt(|left| call.total_timeout(left)).await,
        None => call.await,
    }
}

fn object(params: Payload) -> Result<Payload, EncodeError> {
    if params.is_object() { Ok(params) } else { Err(EncodeError::NotAnObject) }
}

impl<R> Call<R> {
    /// Sets how long the response may take, counted from the moment at which the call is written; `None` waits for
    /// ever. The default is [`Options::call_timeout`](crate::Options::call_timeout).
    ///
    /// A call that takes longer fails with [`Error::Timeout`]. With a timeout of zero it fails as soon as it is written.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        if let State::Draft { call, .. } = &mut self.state {
            call.timeout = timeout.into().into();
        }
        self
    }

    /// Sets how long the call may take in all, in the queue and in flight; `None` waits for ever, and is the default.
    ///
    /// A call that takes longer fails with [`Error::NeverSent`] if it is still in the queue, and with
    /// [`Error::Timeout`] if it is in flight. The [`timeout`](Self::timeout) and its default apply as well, so a slow
    /// station may need both.
    pub fn total_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        if let State::Draft { total_timeout, .. } = &mut self.state {
            *total_timeout = timeout.into().map(options::finite);
        }
        self
    }

    /// Sets the message id of the call, such as that of an earlier attempt. By default each call gets a new one.
    ///
    /// The peer sees `id` as it is; it must not be that of another call, and has 1 to 36 characters (OCPP 2.0.1 part 4
    /// §4.1.4). Otherwise the call fails with [`Error::InvalidMessageId`] before anything is sent. The id of a call that
    /// has ended may be used again.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        if let State::Draft { call, .. } = &mut self.state {
            let id = id.into();
            match id.chars().take(MAX_ID + 1).count() {
                0 => return self.fail(Error::InvalidMessageId { reason: "it is empty" }),
                1..=MAX_ID => {}
                _ => return self.fail(Error::InvalidMessageId { reason: "it has more than 36 characters" }),
            }
            call.id = MessageId::new(id);
            call.has_own_id = true;
        }
        self
    }

    /// Cancels the call when `token` is cancelled, as dropping it does. It then fails with [`Error::Cancelled`].
    pub fn cancel_on(mut self, token: &CancellationToken) -> Self {
        self.cancelled = Some(Box::pin(token.clone().cancelled_owned()));
        self
    }

    /// Sends the call at once, although other calls may be in flight.
    ///
    /// OCPP allows one call in flight (1.6 §4.1.1, 2.0.1 part 4 §4.1.1), and few stations support more.
    ///
    /// Use this for a call in a handler if the peer may wait for that handler while it has a call of its own in flight:
    ///
    /// - The server's call A is in flight, the station's handler of A calls B, and the server's handler of B calls C. C
    ///   waits in the queue behind A, and A waits for C.
    /// - Both ends have a call in flight, and the handlers of both call back. Each call back waits in the queue behind
    ///   the call that its own end has in flight, which waits for the other end's call back.
    ///
    /// Without this, the calls wait until one of them times out. A higher
    /// [`call_concurrency`](crate::Options::call_concurrency) avoids that as well, if the peer supports it.
    pub fn bypass_queue(mut self) -> Self {
        if let State::Draft { call, .. } = &mut self.state {
            call.kind = match call.kind {
                Kind::Call => Kind::Immediate,
                Kind::FireAndForget => Kind::ImmediateAndForget,
                kind => kind,
            };
        }
        self
    }

    /// Does not wait for the response: the future resolves when the call is written, and the response is ignored.
    pub fn fire_and_forget(mut self) -> Call<()> {
        if let State::Draft { call, .. } = &mut self.state {
            call.kind = match call.kind {
                Kind::Call => Kind::FireAndForget,
                Kind::Immediate => Kind::ImmediateAndForget,
                kind => kind,
            };
        }
        self.ignore_result()
    }

    /// Attaches a value for the [layers](crate::outgoing) around the call, which find it in
    /// [`OutgoingCall::extensions`]. Without layers, this has no effect.
    ///
    /// ```
    /// use ocpp_rpc::{Error, RpcRouter, RpcServer, outgoing::{self, CallResponse, Next, OutgoingCall}};
    /// use serde_json::{Value, json};
    ///
    /// /// The user of a REST API who makes a call.
    /// #[derive(Clone, Debug)]
    /// struct User(String);
    ///
    /// async fn audit(call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
    ///     println!("{:?}: {} to {}", call.extensions().get::<User>(), call.action(), call.key());
    ///     next.run(call).await
    /// }
    ///
    /// async fn reset(server: &RpcServer, key: &str, user: User) -> Result<Value, Error> {
    ///     server.station(key).call("Reset", &json!({"type": "Soft"})).extension(user).await
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).call_layer(outgoing::from_fn(audit)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        if let State::Draft { layers: Some(layers), .. } = &mut self.state {
            layers.extensions.insert(value);
        }
        self
    }

    /// Replaces the call by one that fails.
    fn fail(mut self, error: Error) -> Self {
        self.state = State::Failed(error);
        self
    }

    /// Replaces the result by `()`.
    pub(crate) fn ignore_result(mut self) -> Call<()> {
        let state = std::mem::replace(&mut self.state, State::Done);
        Call {
            state,
            cancelled: self.cancelled.take(),
            read: |_, _| Ok(()),
            span: self.span.clone(),
            timer: self.timer.clone(),
            described: None,
        }
    }

    /// Cancels the call if it was made and has not ended.
    fn cancel(&mut self) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Submitted { shared, key, .. } => shared.send(Command::Cancel(key)),
            State::Remote(..) | State::Layered(..) => {}
            State::Draft { .. } | State::Failed(_) | State::Done => return,
        }
        self.record(&Err(Error::Cancelled));
    }

    /// Records the outcome of the call.
    fn record(&mut self, outcome: &Result<R, Error>) {
        self.timer.ended(outcome);
        self.span.record("outcome", outcome.as_ref().err().map_or("result", |error| cut(error.outcome())));
        if let Some(described) = self.described.take() {
            described.report(outcome.as_ref().err());
        }
    }
}

impl DescribedCall {
    /// Returns the parts of the event for a call that is about to be made.
    fn of<T>(shared: &Arc<Shared>, call: &Outgoing<T>) -> Box<Self> {
        let (shared, id, action) = (shared.clone(), call.id.clone(), call.action.clone());
        Box::new(Self { shared, id, action, kind: call.kind, started_at: Instant::now() })
    }

    fn report(self, error: Option<&Error>) {
        let outcome = match error {
            None if self.kind.expects_response() => CallOutcome::Result,
            None => CallOutcome::NoResponse,
            Some(Error::Rejected(error)) => CallOutcome::Rejected(error.code().clone()),
            Some(error) => CallOutcome::Failed(error.clone()),
        };
        let Self { shared, id, action, started_at, .. } = self;
        let (direction, action, duration) = (Direction::Out, Text(action), started_at.elapsed());
        shared.report(EventKind::CallEnded { direction, id, action, outcome, duration });
    }
}

impl State {
    fn poll<R>(
        &mut self,
        read: Read<R>,
        span: &Span,
        timer: &mut CallTimer,
        described: &mut Option<Box<DescribedCall>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<R, Error>> {
        if let Self::Draft { .. } = self {
            *self = std::mem::replace(self, Self::Done).submit(span, timer, described);
        }
        if let Self::Layered(response) = self {
            let response = ready!(response.as_mut().poll(cx));
            *self = Self::Done;
            return Poll::Ready(response.and_then(|CallResponse { result, reject }| read(result, reject)));
        }
        if let Self::Remote(outcome) = self {
            let outcome = ready!(outcome.as_mut().poll(cx));
            *self = Self::Done;
            return Poll::Ready(outcome.and_then(|RemoteResult { payload, rejecter }| {
                read(CallResult { payload, ..CallResult::default() }, rejecter.map_or(Reject::None, Reject::Node))
            }));
        }
        let received = match self {
            Self::Submitted { receiver, .. } => Some(ready!(Pin::new(receiver).poll(cx))),
            _ => None,
        };
        // The call has ended before the type of the caller reads the response, which may panic.
        Poll::Ready(match (std::mem::replace(self, Self::Done), received) {
            (Self::Submitted { shared, .. }, Some(Ok(outcome))) => {
                outcome.and_then(|result| read(result, Reject::Session(shared)))
            }
            // The task of the connection was dropped while the call was pending.
            (Self::Submitted { .. }, _) => Err(Error::Disconnected { maybe_delivered: true }),
            (Self::Failed(error), _) => Err(error),
            (Self::Remote(..) | Self::Layered(..), _) => unreachable!("polled above"),
            (Self::Draft { .. } | Self::Done, _) => panic!("a call was polled after it had ended"),
        })
    }

    /// Submits a draft.
    fn submit(self, span: &Span, timer: &mut CallTimer, described: &mut Option<Box<DescribedCall>>) -> Self {
        let Self::Draft { target, mut call, receiver, total_timeout, layers } = self else { return self };
        if let Some(layers) = layers {
            // Each attempt is counted.
            timer.disarm();
            return Self::submit_layered(target, *call, total_timeout, *layers);
        }
        let shared = match target {
            Target::Session(shared) => shared,
            Target::Station(route, key) => match route.find(&key) {
                Some(shared) => shared,
                None => return Self::submit_elsewhere(route, key, *call, total_timeout),
            },
        };
        if call.kind == Kind::Send && !shared.run().negotiated().is_some_and(|negotiated| negotiated.dialect.has_send())
        {
            return Self::Failed(Error::SendNotSupported);
        }
        let key = shared.next_key();
        call.key = key;
        if !call.has_own_id {
            call.id = shared.call_ids().id(key.0);
        }
        span.record("id", call.id.as_str());
        if shared.telemetry.is_observed() {
            *described = Some(DescribedCall::of(&shared, &call));
        }
        call.deadline = total_timeout.map(|timeout| Instant::now().into_std() + timeout);
        match shared.submit(call) {
            Ok(()) => Self::Submitted { shared, key, receiver },
            Err(error) => Self::Failed(error),
        }
    }

    /// Passes a draft to the layers around it.
    fn submit_layered(
        target: Target,
        call: Outgoing<ResponseSender>,
        total_timeout: Option<Duration>,
        Layers { service, extensions }: Layers,
    ) -> Self {
        let Outgoing { action, params, kind, timeout, id, has_own_id, .. } = call;
        let (id, deadline) = (has_own_id.then_some(id), total_timeout.map(Deadline::after));
        let call = OutgoingCall { target, action, params, kind, id, timeout, deadline, extensions };
        Self::Layered(Box::pin(service.run(call)))
    }

    /// Submits a draft to another node.
    fn submit_elsewhere(
        route: Arc<dyn Route>,
        key: Arc<str>,
        call: Outgoing<ResponseSender>,
        total_timeout: Option<Duration>,
    ) -> Self {
        let Outgoing { action, params, kind, timeout, id, has_own_id, .. } = call;
        let id = has_own_id.then(|| id.as_str().to_owned());
        let action = action.to_string();
        match route.call_elsewhere(RemoteCall { key, action, params, kind, id, timeout, total_timeout }) {
            Some(outcome) => Self::Remote(Box::pin(async move {
                let outcome = outcome.await;
                // Until now, the route has kept this node in the cluster.
                drop(route);
                outcome
            })),
            None => Self::Failed(Error::NotConnected),
        }
    }
}

/// Sends a text as it is. See [`Session::send_raw`](crate::Session::send_raw).
pub(crate) async fn send_raw(shared: &Shared, text: String) -> Result<(), Error> {
    let (sender, receiver) = oneshot::channel();
    let mut raw = Box::new(Outgoing::new(Kind::Raw, ByteString::new(), Payload(text.into()), sender));
    raw.key = shared.next_key();
    let key = raw.key;
    shared.submit(raw)?;
    let cancel = CancelOnDrop { shared, key };
    let written = receiver.await;
    // It has ended.
    std::mem::forget(cancel);
    // Without a sender, the task of the connection was dropped.
    written.unwrap_or(Err(Error::Disconnected { maybe_delivered: true })).map(drop)
}

/// Cancels a call that is dropped before it has ended.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    key: CallKey,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.send(Command::Cancel(self.key));
    }
}

/// Decodes a result. If that fails and the protocol is OCPP 2.1, a CALLRESULTERROR informs the peer.
fn read<R: DeserializeOwned + 'static>(result: CallResult, reject: Reject) -> Result<R, Error> {
    let CallResult { id, action, payload, valid } = result;
    if let Some(value) = valid.take() {
        return Ok(value);
    }
    payload.decode().map_err(|error| {
        let reason = || CallError::from(explain_decode_error::<R>(&payload, &error));
        match reject {
            Reject::Session(shared) if can_reject(&shared) => {
                shared.send(Command::SendResultError(Box::new((id, action, reason()))));
            }
            Reject::Session(_) | Reject::None => {}
            Reject::Node(reject) => reject(reason()),
        }
        error.into()
    })
}

/// Returns whether the protocol of a session has CALLRESULTERROR.
pub(crate) fn can_reject(shared: &Shared) -> bool {
    shared.run().negotiated().is_some_and(|negotiated| negotiated.dialect.has_call_result_error())
}

impl<R> Future for Call<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(cancelled) = &mut self.cancelled
            && cancelled.as_mut().poll(cx).is_ready()
        {
            self.cancel();
            return Poll::Ready(Err(Error::Cancelled));
        }
        let Self { state, read, span, timer, described, .. } = &mut *self;
        let polled = span.in_scope(|| state.poll(*read, span, timer, described, cx));
        if let State::Remote(..) = self.state {
            // The other node counts the call.
            self.timer.disarm();
        }
        if let Poll::Ready(outcome) = &polled {
            self.record(outcome);
        }
        polled
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
