//! Handlers of typed actions. The router checks their arguments and output at compile time.

use crate::{
    action::{Action, SendAction},
    error::CallError,
    handler::{
        extract::{FromCall, Params},
        function::{Handler, HandlerOutput, IntoResponse, sealed},
        router::RpcRouter,
    },
};

/// The arguments of a handler for the request `R`: first [`Params<R>`](Params), then any extractors.
///
/// The trait is implemented for tuples, and is sealed.
#[diagnostic::on_unimplemented(
    message = "the handler of this action takes `Params<{R}>` first, not `{Self}`",
    label = "does not take the request of its action",
    note = "after its request, a handler may take any extractors, see `ocpp_rpc::extract`"
)]
pub trait ArgumentsFor<R>: sealed::ArgumentsFor<R> {}

/// The output of a handler with the response `R`: `Result<R, E>`, where `E` converts into a [`CallError`].
///
/// The trait is implemented for results, and is sealed.
#[diagnostic::on_unimplemented(
    message = "the handler of this action returns `Result<{R}, _>`, not `{Self}`",
    label = "does not return the response of its action",
    note = "the error is any that converts into a `CallError`; if nothing can fail, `std::convert::Infallible`"
)]
pub trait OutputFor<R>: HandlerOutput {}

impl<R: IntoResponse, E: Into<CallError>> OutputFor<R> for Result<R, E> {}

impl<S: Send + Sync + 'static> RpcRouter<S> {
    /// Adds the handler of a typed [`Action`]: an async function from [`Params`] of the action's request,
    /// and any further extractors, to the action's response.
    ///
    /// A handler that responds early or not at all has no response to return: add it by [`on`](Self::on).
    ///
    /// # Panics
    ///
    /// Panics if the action has a handler already.
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

    /// Adds the handler of a typed [`SendAction`], which has no response: an async function from [`Params`] of the
    /// message, and any further extractors, to `()`.
    ///
    /// # Panics
    ///
    /// Panics if the action has a handler already.
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
        impl<R, $($argument,)*> sealed::ArgumentsFor<R> for (Params<R>, $($argument,)*) {}

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
