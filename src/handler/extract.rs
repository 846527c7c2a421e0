//! Extractors: each argument of a handler is made from the call, by its type.

use std::{
    any::type_name,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytestring::ByteString;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
pub use tokio_util::sync::CancellationToken;

use crate::{
    connection::{call_result::CallResult, request::RequestHead, shared::EarlyResponse},
    error::{CallError, Error},
    handler::{function::IntoResponse, incoming::IncomingCall},
    message::payload::{MessageId, Payload},
    response::Response,
    session::Session,
    text::impl_text,
    validate::decode_error::explain_decode_error,
};

/// An extractor: a type that can be an argument of a handler.
///
/// ```
/// use ocpp_rpc::{CallError, ErrorCode, extract::FromCall, handler::IncomingCall};
///
/// /// The identity of a station of this tenant.
/// struct OurStation(String);
///
/// impl<S: Sync> FromCall<S> for OurStation {
///     async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
///         match call.session().identity().strip_prefix("acme-") {
///             Some(name) => Ok(Self(name.to_owned())),
///             None => Err(CallError::new(ErrorCode::SECURITY_ERROR, "not a station of this tenant")),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "not an extractor for a router with state `{S}`",
    note = "extractors are `Params<T>` where `T: DeserializeOwned`, `State<T>` where `T: FromRef<{S}>`, `Extension<T>`, `Session`, `Responder`, `Action`, `MessageId`, `Payload` and `CancellationToken`, see `ocpp_rpc::extract`"
)]
pub trait FromCall<S>: Sized {
    /// Makes the argument from a call, or rejects the call.
    fn from_call(call: &IncomingCall, state: &S) -> impl Future<Output = Result<Self, CallError>> + Send;
}

/// An extractor that can be absent: `Option` of it is an extractor as well.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::extract::Extension;
///
/// /// The tenant of a station.
/// #[derive(Clone)]
/// struct Tenant(String);
///
/// async fn heartbeat(tenant: Option<Extension<Tenant>>) -> Result<(), Infallible> {
///     println!("{}", tenant.map_or("no tenant".to_owned(), |Extension(tenant)| tenant.0));
///     Ok(())
/// }
/// # let _ = ocpp_rpc::RpcRouter::new().on("Heartbeat", heartbeat);
/// ```
pub trait OptionalFromCall<S>: Sized {
    /// Makes the argument from a call if it is there, or rejects the call.
    fn from_call(call: &IncomingCall, state: &S) -> impl Future<Output = Result<Option<Self>, CallError>> + Send;
}

impl<T: OptionalFromCall<S>, S: Sync> FromCall<S> for Option<T> {
    async fn from_call(call: &IncomingCall, state: &S) -> Result<Self, CallError> {
        T::from_call(call, state).await
    }
}

/// The argument, or the error that would reject the call.
impl<T: FromCall<S>, S: Sync> FromCall<S> for Result<T, CallError> {
    async fn from_call(call: &IncomingCall, state: &S) -> Result<Self, CallError> {
        Ok(T::from_call(call, state).await)
    }
}

/// A part of a router's state.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, extract::{FromRef, State}};
///
/// #[derive(Clone)]
/// struct Tariffs(Vec<u32>);
///
/// struct App {
///     tariffs: Tariffs,
/// }
///
/// impl FromRef<App> for Tariffs {
///     fn from_ref(app: &App) -> Self {
///         app.tariffs.clone()
///     }
/// }
///
/// async fn transfer(State(tariffs): State<Tariffs>) -> Result<(), Infallible> {
///     println!("{} tariffs", tariffs.0.len());
///     Ok(())
/// }
///
/// let router = RpcRouter::with_state(App { tariffs: Tariffs(vec![30]) }).on("DataTransfer", transfer);
/// ```
#[diagnostic::on_unimplemented(
    message = "the router's state `{S}` contains no `{Self}`",
    note = "implement `FromRef<{S}> for {Self}`, or create the router by `with_state` of a `{Self}`"
)]
pub trait FromRef<S> {
    /// Clones the part out of the state.
    fn from_ref(state: &S) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> Self {
        state.clone()
    }
}

/// The parameters of the call, deserialized as a `T`.
///
/// Parameters that do not deserialize reject the call. The CALLERROR describes the fault and has its JSON pointer
/// (RFC 6901) in the details:
///
/// | Fault | Code |
/// |---|---|
/// | a member is missing, or there are too few or too many items | [`ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION`](crate::ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION) |
/// | a value has another JSON type | [`ErrorCode::TYPE_CONSTRAINT_VIOLATION`](crate::ErrorCode::TYPE_CONSTRAINT_VIOLATION) |
/// | a value is not allowed: out of range, an unknown variant, or an error of the type's own | [`ErrorCode::PROPERTY_CONSTRAINT_VIOLATION`](crate::ErrorCode::PROPERTY_CONSTRAINT_VIOLATION) |
/// | a member is repeated, or denied by `deny_unknown_fields`; `T` is not read from an object | [`ErrorCode::FORMAT_VIOLATION`](crate::ErrorCode::FORMAT_VIOLATION) |
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, extract::Params};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Reset {
///     r#type: String,
/// }
///
/// async fn reset(Params(reset): Params<Reset>) -> Result<(), Infallible> {
///     println!("a {} reset", reset.r#type);
///     Ok(())
/// }
///
/// let router = RpcRouter::new().on("Reset", reset);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned + 'static, S: Sync> FromCall<S> for Params<T> {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        match call.validated() {
            Some(params) => Ok(Self(params)),
            None => call
                .params()
                .decode()
                .map(Self)
                .map_err(|error| explain_decode_error::<T>(call.params(), &error).into()),
        }
    }
}

/// The parameters of the call, unread.
impl<S: Sync> FromCall<S> for Payload {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        Ok(call.params().clone())
    }
}

/// The text of a message, as the peer sent it. Only for the handler of [`RpcRouter::raw`](crate::RpcRouter::raw).
///
/// ```
/// use ocpp_rpc::Payload;
///
/// /// Returns the action of a CALL or a SEND.
/// fn action(message: &str) -> Option<String> {
///     let elements: Vec<Payload> = serde_json::from_str(message).ok()?;
///     let [kind, _id, action, ..] = &elements[..] else { return None };
///     if ["2", "6"].contains(&kind.as_str()) { action.decode().ok() } else { None }
/// }
///
/// assert_eq!(action(r#"[2,"1","Heartbeat",{}]"#).as_deref(), Some("Heartbeat"));
/// assert_eq!(action(r#"[3,"1",{}]"#), None);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawMessage(ByteString);

impl RawMessage {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RawMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl_text!(RawMessage);

impl From<RawMessage> for String {
    fn from(message: RawMessage) -> Self {
        message.as_str().to_owned()
    }
}

impl<S: Sync> FromCall<S> for RawMessage {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        if call.request.head.is_raw() {
            Ok(Self(call.params().0.clone()))
        } else {
            Err(CallError::internal("only a handler of raw messages can take a RawMessage"))
        }
    }
}

/// The router's state, or a part of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct State<T>(pub T);

impl<T: FromRef<S> + Send, S: Sync> FromCall<S> for State<T> {
    async fn from_call(_: &IncomingCall, state: &S) -> Result<Self, CallError> {
        Ok(Self(T::from_ref(state)))
    }
}

/// A value that a [middleware](crate::middleware) attached to the call, or that the application attached to the
/// connection when it accepted it. That of the call takes precedence.
///
/// If there is no such value, the call is rejected with
/// [`ErrorCode::INTERNAL_ERROR`](crate::ErrorCode::INTERNAL_ERROR), and the log names the missing type. An
/// `Option<Extension<T>>` is `None` instead.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extension<T>(pub T);

impl<T: Clone + Send + Sync + 'static, S: Sync> FromCall<S> for Extension<T> {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        match Self::of(call) {
            Some(extension) => Ok(extension),
            None => Err(CallError::internal(format!("the connection has no extension `{}`", type_name::<T>()))),
        }
    }
}

impl<T: Clone + Send + Sync + 'static, S: Sync> OptionalFromCall<S> for Extension<T> {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Option<Self>, CallError> {
        Ok(Self::of(call))
    }
}

impl<T: Clone + Send + Sync + 'static> Extension<T> {
    fn of(call: &IncomingCall) -> Option<Self> {
        call.extensions().get().cloned().or_else(|| call.session().extension()).map(Self)
    }
}

/// The action of the call.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, extract::Action};
///
/// async fn other(action: Action) -> Result<(), Infallible> {
///     println!("{action} does nothing");
///     Ok(())
/// }
///
/// let router = RpcRouter::new().fallback(other);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Action(ByteString);

impl Action {
    /// Returns the name of the action.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl_text!(Action);

impl<S: Sync> FromCall<S> for Action {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        Ok(Self(call.action_text()))
    }
}

impl<S: Sync> FromCall<S> for MessageId {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        Ok(call.id().clone())
    }
}

/// The session of the caller. A handler may call back and await the response. If handlers of both ends do so, they need
/// [`Call::bypass_queue`](crate::Call::bypass_queue).
impl<S: Sync> FromCall<S> for Session {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        Ok(call.session().clone())
    }
}

/// The right to respond before the handler ends: the handler can go on working, and do what must follow the response.
///
/// If a response was given this way, the result that the handler returns in the end is not sent; return
/// [`NoResponse`](crate::handler::NoResponse).
///
/// ```
/// use ocpp_rpc::{CallError, RpcRouter, Session, extract::Responder, handler::NoResponse};
/// use serde_json::{Value, json};
///
/// /// Some stations lose a call that reaches them before the response to their BootNotification.
/// async fn boot(responder: Responder, session: Session) -> Result<NoResponse, CallError> {
///     responder.send(json!({"status": "Accepted", "interval": 300, "currentTime": "2026-01-01T00:00:00Z"})).await?;
///     let configuration: Value = session.call("GetConfiguration", &()).await?;
///     println!("{configuration}");
///     Ok(NoResponse)
/// }
///
/// let router = RpcRouter::new().on("BootNotification", boot);
/// ```
#[derive(Debug)]
pub struct Responder {
    session: Session,
    request: RequestHead,
    given: Arc<AtomicBool>,
}

impl Responder {
    /// Responds with a result. The future ends when the response was written; dropping it does not cancel the
    /// response.
    ///
    /// Only the first response to a call is sent: a later one is dropped, be it of the handler, of a layer with a
    /// timeout, or of another `Responder`.
    ///
    /// # Errors
    ///
    /// The future fails with [`Error::Disconnected`] if the response can no longer be written, or the call has one
    /// already. It fails with [`Error::Invalid`] if the result did not pass validation and was replaced by an error.
    pub fn send(self, result: impl IntoResponse) -> Written {
        self.respond(result.into_response())
    }

    /// Rejects the call with an error; see [`send`](Self::send).
    pub fn reject(self, error: impl Into<CallError>) -> Written {
        self.respond(Response::Error(error.into()))
    }

    fn respond(self, response: Response) -> Written {
        let Self { session, request, given } = self;
        let (sender, written) = oneshot::channel();
        if request.expects_response {
            session.shared().respond(EarlyResponse { request, response, sender });
        } else {
            // A SEND has no response.
            let _ = sender.send(Ok(CallResult::default()));
        }
        // Afterwards, so that the driver has the response when the handler ends.
        given.store(true, Ordering::Release);
        Written(written)
    }
}

impl<S: Sync> FromCall<S> for Responder {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        Ok(Self {
            session: call.session().clone(),
            request: call.request.head.clone(),
            given: call.given.get_or_init(Arc::default).clone(),
        })
    }
}

/// The future of [`Responder::send`] and [`Responder::reject`], which ends when the response was written.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, extract::{Responder, Written}, handler::NoResponse};
/// use serde_json::json;
///
/// async fn reset(responder: Responder) -> Result<NoResponse, Infallible> {
///     let written: Written = responder.send(json!({"status": "Accepted"}));
///     match written.await {
///         Ok(()) => println!("the server knows: restart now"),
///         Err(error) => println!("the server does not know: {error}"),
///     }
///     Ok(NoResponse)
/// }
///
/// let router = RpcRouter::new().on("Reset", reset);
/// ```
#[derive(Debug)]
pub struct Written(oneshot::Receiver<Result<CallResult, Error>>);

impl Future for Written {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let written = std::task::ready!(Pin::new(&mut self.0).poll(cx));
        // The sender is dropped if the connection's task was dropped before the response was written.
        Poll::Ready(written.unwrap_or(Err(Error::Disconnected { maybe_delivered: false })).map(drop))
    }
}

/// A token that is cancelled when the connection of the call is lost, or closed without waiting for pending calls. The
/// handler goes on nevertheless; its response is dropped.
impl<S: Sync> FromCall<S> for CancellationToken {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        Ok(call.session().shared().disconnect_token(call.request.head.key))
    }
}

/// Implements the extraction of all arguments of a handler, in order.
macro_rules! arguments {
    ($($argument:ident)*) => {
        impl<S: Sync, $($argument: FromCall<S> + Send,)*> FromCall<S> for ($($argument,)*) {
            #[allow(unused_variables, reason = "no arguments, no call and no state")]
            async fn from_call(call: &IncomingCall, state: &S) -> Result<Self, CallError> {
                Ok(($($argument::from_call(call, state).await?,)*))
            }
        }
    };
}

arguments!();
arguments!(A);
arguments!(A B);
arguments!(A B C);
arguments!(A B C D);
arguments!(A B C D E);
arguments!(A B C D E G);
arguments!(A B C D E G H);
arguments!(A B C D E G H I);
arguments!(A B C D E G H I J);
arguments!(A B C D E G H I J K);
arguments!(A B C D E G H I J K L);
arguments!(A B C D E G H I J K L M);
