//! Functions that answer calls.

use serde::Serialize;

use super::{IncomingCall, extract::FromCall};
use crate::{connection::Reply, error::CallError, wire::Payload};

/// An async function that answers calls.
///
/// Its arguments, up to twelve, are [extractors](super::extract); it returns `Result<R, E>`, where `R` is anything
/// that serializes to a JSON object (or [`NoReply`]) and `E` converts into a [`CallError`].
///
/// Handlers run as a part of their connection's task: work that keeps a processor busy belongs in
/// `tokio::task::spawn_blocking`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler for a router with state `{S}`",
    note = "a handler is an `async fn` of at most twelve arguments",
    note = "each argument is an extractor, see `ocpp_rpc::extract`",
    note = "it returns `Result<R, E>` where `R: Serialize` and `E: Into<CallError>`, and its future is `Send`"
)]
pub trait Handler<T, S>: Clone + Send + Sync + 'static {
    /// Answers a call.
    fn call(&self, call: IncomingCall, state: &S) -> impl Future<Output = Reply> + Send;
}

/// What a handler may return for success.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a call",
    note = "a result is anything that implements `serde::Serialize` and becomes a JSON object, or `NoReply`"
)]
pub trait IntoReply {
    /// The reply to send.
    fn into_reply(self) -> Reply;
}

impl<T: Serialize> IntoReply for T {
    fn into_reply(self) -> Reply {
        match Payload::encode(&self) {
            Ok(payload) => Reply::Result(payload),
            Err(error) => Reply::Error(CallError::internal(error)),
        }
    }
}

/// Returned by a handler that does not answer: the caller will run into its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoReply;

impl IntoReply for NoReply {
    fn into_reply(self) -> Reply {
        Reply::Nothing
    }
}

macro_rules! handler {
    ($($argument:ident)*) => {
        impl<F, Fut, R, E, S, $($argument,)*> Handler<($($argument,)*), S> for F
        where
            F: Fn($($argument,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Result<R, E>> + Send,
            R: IntoReply,
            E: Into<CallError>,
            S: Sync,
            $($argument: FromCall<S> + Send,)*
        {
            #[allow(non_snake_case, reason = "type parameters name the arguments")]
            #[allow(unused_variables, reason = "no arguments, no state")]
            async fn call(&self, call: IncomingCall, state: &S) -> Reply {
                $(let $argument = match $argument::from_call(&call, state).await {
                    Ok(argument) => argument,
                    Err(error) => return Reply::Error(error),
                };)*
                // What the arguments did not take is not needed any more.
                drop(call);
                match self($($argument,)*).await {
                    Ok(result) => result.into_reply(),
                    Err(error) => Reply::Error(error.into()),
                }
            }
        }
    };
}

handler!();
handler!(A);
handler!(A B);
handler!(A B C);
handler!(A B C D);
handler!(A B C D E_);
handler!(A B C D E_ F_);
handler!(A B C D E_ F_ G);
handler!(A B C D E_ F_ G H);
handler!(A B C D E_ F_ G H I);
handler!(A B C D E_ F_ G H I J);
handler!(A B C D E_ F_ G H I J K);
handler!(A B C D E_ F_ G H I J K L);
