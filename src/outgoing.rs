//! Layers around calls to the peer: to log, trace, count, limit or retry them.
//!
//! [`RpcServerBuilder::call_layer`](crate::server::RpcServerBuilder::call_layer) and
//! [`RpcClientBuilder::call_layer`](crate::client::RpcClientBuilder::call_layer) wrap a tower layer around every call
//! that the server or client makes: calls and SENDs by [`Session`](crate::Session), [`Station`](crate::Station) and
//! [`RpcClient`](crate::RpcClient), in handlers and elsewhere. [`Session::send_raw`](crate::Session::send_raw) has none.
//! The layer that was added last runs first. [`from_fn`] makes a layer of an async function:
//!
//! ```
//! use std::time::Instant;
//! use ocpp_rpc::{Error, RpcRouter, RpcServer, outgoing::{self, CallResponse, Next, OutgoingCall}};
//! use tower::limit::GlobalConcurrencyLimitLayer;
//!
//! /// Logs the time of each call.
//! async fn log(call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
//!     let (start, action, station) = (Instant::now(), call.action().to_owned(), call.key());
//!     let result = next.run(call).await;
//!     println!("{action} of {station} took {:?}: {:?}", start.elapsed(), result.as_ref().err());
//!     result
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = RpcServer::builder(RpcRouter::new())
//!     // At most 100 calls to all stations together.
//!     .call_layer(GlobalConcurrencyLimitLayer::new(100))
//!     .call_layer(outgoing::from_fn(log))
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside and outside of the layers
//!
//! A layer's service takes an [`OutgoingCall`] and returns a [`CallResponse`]. The [future](crate::Call) of the call
//! passes it to the layers when it is first polled. The innermost service then makes the call: queue, validation,
//! timeout and response are inside. The response is decoded outside, where a CALLRESULTERROR can still reject it.
//!
//! - All calls share the layers. A concurrency limit therefore holds for all stations together.
//! - Calls are written in the order in which they pass the layers. A layer that waits changes the order.
//! - [`Call::total_timeout`](crate::Call::total_timeout) includes the time in the layers, and all attempts of one that
//!   retries. [`Call::timeout`](crate::Call::timeout) is for each attempt.
//! - Dropping the call drops the futures of the layers. Its [token](crate::Call::cancel_on) does the same.
//! - Metrics, spans and [`CallEnded`](crate::event::EventKind::CallEnded) are those of each attempt. An attempt that gets
//!   a result counts as one, even if the result does not decode afterwards.
//! - In a [cluster](crate::cluster), the layers of the node that makes the call run, and not those of the node that the
//!   station is connected to.
//! - Calls that a layer itself makes pass all layers as well.
//!
//! An [`Error`] of a service is the error of the call. tower's timeout becomes [`Error::Timeout`], and any other error
//! [`Error::Layer`].
//!
//! # Retries
//!
//! [`Error::is_retryable`] tells if a call can be made again without risk. This policy for tower's retry layer makes
//! up to five attempts. Each has a new message id, unless [`Call::id`](crate::Call::id) set one.
//!
//! ```
//! use std::time::Duration;
//! use ocpp_rpc::{Error, RpcRouter, RpcServer, outgoing::{CallResponse, OutgoingCall}};
//! use tokio::time::{Sleep, sleep};
//! use tower::retry::{Policy, RetryLayer};
//!
//! /// Repeats the calls that were certainly not carried out.
//! #[derive(Clone, Default)]
//! struct RetryUnsent {
//!     retries: u32,
//! }
//!
//! impl Policy<OutgoingCall, CallResponse, Error> for RetryUnsent {
//!     type Future = Sleep;
//!
//!     fn retry(&mut self, _: &mut OutgoingCall, result: &mut Result<CallResponse, Error>) -> Option<Sleep> {
//!         if self.retries == 4 || !matches!(result, Err(error) if error.is_retryable()) {
//!             return None;
//!         }
//!         // 1, 2, 4 and 8 seconds.
//!         let wait = Duration::from_secs(1 << self.retries);
//!         self.retries += 1;
//!         Some(sleep(wait))
//!     }
//!
//!     fn clone_request(&mut self, call: &OutgoingCall) -> Option<OutgoingCall> {
//!         Some(call.clone())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server =
//!     RpcServer::builder(RpcRouter::new()).call_layer(RetryLayer::new(RetryUnsent::default())).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! A call to a [`Station`](crate::Station) that has reconnected meanwhile goes to its new session. A call to a server's
//! session that has ended fails each time.

pub(crate) mod deadline;
mod function;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytestring::ByteString;
use http::Extensions;
use tower::{BoxError, Layer, Service, ServiceExt, timeout::error::Elapsed, util::BoxCloneSyncService};

use crate::{
    connection::{
        call_result::CallResult,
        calls_out::{Kind, Timeout},
        shared::Shared,
    },
    error::Error,
    message::payload::{MessageId, Payload},
    outgoing::deadline::Deadline,
    route::{Rejecter, Route},
    telemetry::Telemetry,
};

pub use self::function::{FunctionLayer, FunctionService, Next, from_fn};

/// A call to the peer, the request of layers around calls.
///
/// A clone is the same call, so a layer can make several attempts. See the [module](self).
#[derive(Clone)]
pub struct OutgoingCall {
    pub(crate) target: Target,
    pub(crate) action: ByteString,
    pub(crate) params: Payload,
    pub(crate) kind: Kind,
    pub(crate) id: Option<MessageId>,
    pub(crate) timeout: Timeout,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) extensions: Extensions,
}

impl OutgoingCall {
    /// Returns the key of the station that the call goes to. At a client, it is the client's own identity.
    pub fn key(&self) -> Arc<str> {
        match &self.target {
            Target::Session(shared) => shared.run().key().clone(),
            Target::Station(_, key) => key.clone(),
        }
    }

    /// Returns the action.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// Returns the parameters as JSON text.
    pub fn params(&self) -> &Payload {
        &self.params
    }

    /// Replaces the parameters, which must be a JSON object. Otherwise the call fails with [`Error::Encode`].
    pub fn set_params(&mut self, params: Payload) {
        self.params = params;
    }

    /// Returns the message id that the caller [set](crate::Call::id). If `None`, each attempt gets a new one.
    pub fn id(&self) -> Option<&MessageId> {
        self.id.as_ref()
    }

    /// Returns whether the call waits for a response. A SEND and a call that is made to
    /// [fire and forget](crate::Call::fire_and_forget) do not: the response of the service is empty.
    pub fn expects_response(&self) -> bool {
        self.kind.expects_response()
    }

    /// Returns whether the message is a SEND (OCPP 2.1).
    pub fn is_send(&self) -> bool {
        self.kind == Kind::Send
    }

    /// Returns the [timeout](crate::Call::timeout) that the caller set. If `None`, the session's
    /// [default](crate::Options::call_timeout) applies; `Some(None)` waits for ever.
    pub fn timeout(&self) -> Option<Option<Duration>> {
        match self.timeout {
            Timeout::Default => None,
            Timeout::After(timeout) => Some(Some(timeout)),
            Timeout::Never => Some(None),
        }
    }

    /// Sets the timeout, as [`Call::timeout`](crate::Call::timeout) does.
    pub fn set_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.timeout = timeout.into().into();
    }

    /// Returns the moment at which the [total timeout](crate::Call::total_timeout) ends. `None` if there is none.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.deadline.as_ref().map(|deadline| deadline.at().into_std())
    }

    /// Returns the values that the [caller](crate::Call::extension) and layers have attached.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the values that the caller and layers have attached, to attach more for the layers inside.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

/// Omits the parameters, which may be secret.
impl fmt::Debug for OutgoingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingCall").field("key", &self.key()).field("action", &self.action()).finish_non_exhaustive()
    }
}

/// The response to an [`OutgoingCall`]: the payload of its CALLRESULT, or the empty object if it expects none.
///
/// A layer that responds itself makes one from a [`Payload`]:
///
/// ```
/// use ocpp_rpc::{Error, Payload, outgoing::{CallResponse, Next, OutgoingCall}};
/// use serde_json::json;
///
/// /// Does not send resets, for a test in production.
/// async fn rehearse(call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
///     if call.action() == "Reset" {
///         return Ok(Payload::encode(&json!({"status": "Accepted"}))?.into());
///     }
///     next.run(call).await
/// }
/// ```
pub struct CallResponse {
    pub(crate) result: CallResult,
    pub(crate) reject: Reject,
}

impl CallResponse {
    /// Returns the payload. It is not decoded yet, and may not fit the caller's type.
    pub fn payload(&self) -> &Payload {
        &self.result.payload
    }
}

impl From<Payload> for CallResponse {
    fn from(payload: Payload) -> Self {
        Self { result: CallResult { payload, ..CallResult::default() }, reject: Reject::None }
    }
}

/// Omits the payload, which may be secret.
impl fmt::Debug for CallResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallResponse").finish_non_exhaustive()
    }
}

/// The calls of a server or client as a tower service, which a layer wraps.
#[derive(Clone)]
pub struct CallService(BoxCloneSyncService<OutgoingCall, CallResponse, Error>);

impl CallService {
    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Service<OutgoingCall, Response = CallResponse> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(service.map_err(into_error)))
    }

    /// Wraps a layer around the service.
    pub(crate) fn layered<L>(self, layer: &L) -> Self
    where
        L: Layer<CallService>,
        L::Service: Service<OutgoingCall, Response = CallResponse> + Clone + Send + Sync + 'static,
        <L::Service as Service<OutgoingCall>>::Error: Into<BoxError>,
        <L::Service as Service<OutgoingCall>>::Future: Send + 'static,
    {
        Self::new(layer.layer(self))
    }

    /// Passes a call to the service when the future is first polled, and ends it at its deadline.
    pub(crate) async fn run(self, call: OutgoingCall) -> Result<CallResponse, Error> {
        match call.deadline.clone() {
            Some(deadline) => deadline.limit(self.oneshot(call)).await,
            None => self.oneshot(call).await,
        }
    }
}

/// Returns the error of a call for the error of a layer.
pub(crate) fn into_error(error: impl Into<BoxError>) -> Error {
    match error.into().downcast::<Error>() {
        Ok(error) => *error,
        // The layer has dropped the attempt, which may have been written.
        Err(error) if error.is::<Elapsed>() => Error::Timeout,
        Err(error) => Error::Layer(error.into()),
    }
}

impl Service<OutgoingCall> for CallService {
    type Response = CallResponse;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<CallResponse, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: OutgoingCall) -> Self::Future {
        self.0.call(call)
    }
}

impl fmt::Debug for CallService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallService").finish_non_exhaustive()
    }
}

/// The session that a call goes to.
#[derive(Clone)]
pub(crate) enum Target {
    Session(Arc<Shared>),
    /// The session that the station with this key has when the call is made.
    Station(Arc<dyn Route>, Arc<str>),
}

impl Target {
    /// Returns the identity for the span of the call, if it is known.
    pub(crate) fn identity(&self) -> Option<Arc<str>> {
        match self {
            Self::Session(shared) => Some(shared.run().identity.clone()),
            Self::Station(..) => None,
        }
    }

    /// Returns the key for the span of the call, unless the identity is the key.
    pub(crate) fn key(&self) -> Option<Arc<str>> {
        match self {
            Self::Session(shared) => shared.run().own_key().cloned(),
            Self::Station(_, key) => Some(key.clone()),
        }
    }

    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        match self {
            Self::Session(shared) => &shared.telemetry,
            Self::Station(route, _) => route.telemetry(),
        }
    }
}

/// Informs the peer that its result cannot be used.
pub(crate) enum Reject {
    Session(Arc<Shared>),
    Node(Rejecter),
    /// The protocol has no CALLRESULTERROR, or a layer has made the result.
    None,
}
