//! Functions that handle calls.

use serde::Serialize;

use crate::{error::CallError, message::payload::Payload, response::Response};

/// An async function that handles calls, by its arguments `A`.
///
/// A function is a handler if each of its at most twelve arguments is an [extractor](crate::extract::FromCall) and it
/// returns a `Result<R, E>`. `R` is any type that serializes to a JSON object, or [`NoResponse`]. `E` converts into a
/// [`CallError`], as any error does. See [`RpcRouter::on`](crate::RpcRouter::on).
///
/// Handlers run in the task of their connection: work that keeps a processor busy belongs in
/// `tokio::task::spawn_blocking`.
///
/// The trait is implemented for functions and closures, and is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not an async function of at most twelve arguments",
    note = "a handler is an `async fn` that returns `Result<R, E>` where `R: Serialize` and `E: Into<CallError>`"
)]
pub trait Handler<A>: sealed::Handler<A> + Clone + Send + Sync + 'static {
    /// The output of the function.
    type Output;
    /// The future of the function.
    type Future: Future<Output = Self::Output>;

    /// Calls the function.
    fn call(&self, arguments: A) -> Self::Future;
}

/// The output of a handler: a `Result`, or a [`Response`].
///
/// The trait is sealed.
#[diagnostic::on_unimplemented(
    message = "a handler returns a `Result`, not `{Self}`",
    note = "if nothing can fail, the error is `std::convert::Infallible`"
)]
pub trait HandlerOutput: sealed::HandlerOutput {
    /// Converts the output into the response to send.
    fn into_response(self) -> Response;
}

impl<R: IntoResponse, E: Into<CallError>> HandlerOutput for Result<R, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(result) => result.into_response(),
            Err(error) => Response::Error(error.into()),
        }
    }
}

impl HandlerOutput for Response {
    fn into_response(self) -> Response {
        self
    }
}

/// The successful result of a handler.
///
/// It is implemented for all that serializes. Implement it for a type of your own that is sometimes no result, such as
/// one that converts into [`Response::Nothing`].
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, handler::{IntoResponse, Response}};
/// use serde_json::json;
///
/// /// The outcome of unlocking, which the station does not always know.
/// enum Unlock {
///     Done,
///     Unknown,
/// }
///
/// impl IntoResponse for Unlock {
///     fn into_response(self) -> Response {
///         match self {
///             Self::Done => json!({"status": "Unlocked"}).into_response(),
///             Self::Unknown => Response::Nothing,
///         }
///     }
/// }
///
/// async fn unlock() -> Result<Unlock, Infallible> {
///     Ok(Unlock::Done)
/// }
///
/// let router = RpcRouter::new().on("UnlockConnector", unlock);
/// # let _ = Unlock::Unknown;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a call",
    note = "a result is any type that implements `serde::Serialize` and becomes a JSON object, or `NoResponse`"
)]
pub trait IntoResponse {
    /// Converts the result into the response to send.
    fn into_response(self) -> Response;
}

impl<T: Serialize> IntoResponse for T {
    fn into_response(self) -> Response {
        match Payload::encode(&self) {
            Ok(payload) => Response::Result(payload),
            Err(error) => Response::Error(CallError::internal(error)),
        }
    }
}

/// The result of a handler that does not respond: the caller runs into its timeout.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, handler::NoResponse};
///
/// /// Behaves as a broken station, for a test of the server's timeout.
/// async fn ignore() -> Result<NoResponse, Infallible> {
///     Ok(NoResponse)
/// }
///
/// let router = RpcRouter::new().fallback(ignore);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoResponse;

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for NoResponse {
    fn into_response(self) -> Response {
        Response::Nothing
    }
}

/// Traits that only this crate can implement.
pub(super) mod sealed {
    pub trait Handler<A> {}

    pub trait HandlerOutput {}

    impl<R, E> HandlerOutput for Result<R, E> {}

    impl HandlerOutput for super::Response {}

    pub trait ArgumentsFor<R> {}
}

macro_rules! handler {
    ($($argument:ident)*) => {
        impl<F, Fut, $($argument,)*> sealed::Handler<($($argument,)*)> for F
        where
            F: Fn($($argument,)*) -> Fut,
            Fut: Future,
        {
        }

        impl<F, Fut, $($argument,)*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future,
        {
            type Output = Fut::Output;
            type Future = Fut;

            #[allow(non_snake_case, reason = "type parameters name the arguments")]
            fn call(&self, ($($argument,)*): ($($argument,)*)) -> Fut {
                self($($argument,)*)
            }
        }
    };
}

handler!();
handler!(A);
handler!(A B);
handler!(A B C);
handler!(A B C D);
handler!(A B C D E);
handler!(A B C D E G);
handler!(A B C D E G H);
handler!(A B C D E G H I);
handler!(A B C D E G H I J);
handler!(A B C D E G H I J K);
handler!(A B C D E G H I J K L);
handler!(A B C D E G H I J K L M);
