//! Handlers of typed actions: what such a handler takes and gives is checked where it is put into a router.

use crate::{
    action::{Action, SendAction},
    error::CallError,
    handler::{
        extract::{FromCall, Params},
        function::{Handler, HandlerOutput, IntoResponse},
        router::RpcRouter,
    },
};

/// The arguments of a handler whose action has the request `R`: first [`Params<R>`](Params), then any extractors.
#[diagnostic::on_unimplemented(
    message = "the handler of this action takes `Params<{R}>` first, not `{Self}`",
    label = "does not take the request of its action",
    note = "after its request, a handler may take any extractors, see `ocpp_rpc::extract`"
)]
pub trait ArgumentsFor<R> {}

/// What a handler returns whose action has the response `R`: `Result<R, E>`, where `E` converts into a [`CallError`].
#[diagnostic::on_unimplemented(
    message = "the handler of this action returns `Result<{R}, _>`, not `{Self}`",
    label = "does not return the response of its action",
    note = "the error is any that converts into a `CallError`; where nothing can fail, `std::convert::Infallible`"
)]
pub trait OutputFor<R>: HandlerOutput {}

impl<R: IntoResponse, E: Into<CallError>> OutputFor<R> for Result<R, E> {}

impl<S: Send + Sync + 'static> RpcRouter<S> {
    /// Answers an action with a handler of its own types: an async function whose first argument is [`Params`] of the
    /// action's request, and whose result is its response. See [`Action`].
    ///
    /// A handler that answers early or not at all has no response to return, and goes to [`on`](Self::on).
    ///
    /// # Panics
    /// When the action has a handler already.
    #[must_use]
    #[track_caller]
    pub fn on_action<A: Action, Arguments>(
        self,
        handler: impl Handler<Arguments, Output: OutputFor<A::Response>, Future: Send>,
    ) -> Self
    where
        Arguments: ArgumentsFor<A::Request> + FromCall<S> + Send + 'static,
    {
        self.on(A::NAME, handler)
    }

    /// Handles a message that is never answered with a handler of its own type: an async function whose first argument
    /// is [`Params`] of the message, and whose result is `()`. See [`SendAction`].
    ///
    /// # Panics
    /// When the action has a handler already.
    #[must_use]
    #[track_caller]
    pub fn on_send_action<A: SendAction, Arguments>(
        self,
        handler: impl Handler<Arguments, Output: OutputFor<()>, Future: Send>,
    ) -> Self
    where
        Arguments: ArgumentsFor<A::Request> + FromCall<S> + Send + 'static,
    {
        self.on(A::NAME, handler)
    }
}

macro_rules! arguments {
    ($($argument:ident)*) => {
        #[diagnostic::do_not_recommend]
        impl<R, $($argument,)*> ArgumentsFor<R> for (Params<R>, $($argument,)*) {}
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
