//! Functions that answer calls.

use serde::Serialize;

use crate::{error::CallError, message::payload::Payload, response::Response};

/// An async function, by its arguments `A`.
///
/// A function is a handler when each of its at most twelve arguments is an [extractor](FromCall) and it returns a
/// `Result<R, E>`, where `R` is anything that serializes to a JSON object (or [`NoResponse`]) and `E` converts into a
/// [`CallError`]: see [`RpcRouter::on`](super::RpcRouter::on).
///
/// Handlers run as a part of their connection's task: work that keeps a processor busy belongs in
/// `tokio::task::spawn_blocking`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler",
    label = "not an async function of at most twelve arguments",
    note = "a handler is an `async fn` that returns `Result<R, E>` where `R: Serialize` and `E: Into<CallError>`"
)]
pub trait Handler<A>: Clone + Send + Sync + 'static {
    /// What comes of it.
    type Output;
    /// Its future.
    type Future: Future<Output = Self::Output>;

    /// Calls the function.
    fn call(&self, arguments: A) -> Self::Future;
}

/// What a handler returns: a `Result`.
#[diagnostic::on_unimplemented(
    message = "a handler returns a `Result`, not `{Self}`",
    note = "where nothing can fail, the error is `std::convert::Infallible`"
)]
pub trait HandlerOutput {
    /// The reply to send.
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

/// What a handler may return for success.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a call",
    note = "a result is anything that implements `serde::Serialize` and becomes a JSON object, or `NoResponse`"
)]
pub trait IntoResponse {
    /// The reply to send.
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

/// Returned by a handler that does not answer: the caller will run into its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoResponse;

impl IntoResponse for NoResponse {
    fn into_response(self) -> Response {
        Response::Nothing
    }
}

macro_rules! handler {
    ($($argument:ident)*) => {
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
