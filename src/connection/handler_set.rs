//! The handlers at work, as futures of the driver's task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{
    connection::request::RequestHead,
    error::{CallError, ErrorCode},
    response::Response,
    telemetry::CallTimer,
};

/// The handlers at work. An empty set keeps no memory.
///
/// Most stations have one call in flight (OCPP-J 1.6 §4.1.1, OCPP 2.0.1 part 4 §4.1.1), so one handler is the common
/// case and is polled by itself.
#[derive(Default)]
pub(super) enum HandlerSet {
    #[default]
    Empty,
    One(Box<RunningHandler>),
    Many(FuturesUnordered<RunningHandler>),
}

impl HandlerSet {
    /// Adds a handler that was polled and is pending. It is polled again when a waker of the set is woken.
    pub(super) fn push(&mut self, handler: RunningHandler) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(Box::new(handler)),
            Self::One(first) => Self::Many([*first, handler].into_iter().collect()),
            Self::Many(handlers) => {
                handlers.push(handler);
                Self::Many(handlers)
            }
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Drops all handlers.
    pub(super) fn clear(&mut self) {
        *self = Self::Empty;
    }

    /// Polls for the next handler that has finished. Returns `None` if the set is empty.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Finished>> {
        let next = match self {
            Self::Empty => return Poll::Ready(None),
            Self::One(handler) => Some(ready!(Pin::new(handler).poll(cx))),
            Self::Many(handlers) => ready!(handlers.poll_next_unpin(cx)),
        };
        if !matches!(self, Self::Many(handlers) if !handlers.is_empty()) {
            self.clear();
        }
        Poll::Ready(next)
    }
}

/// A handler at work.
pub(super) struct RunningHandler {
    pub(super) request: RequestHead,
    pub(super) timer: CallTimer,
    pub(super) work: Pin<Box<dyn Future<Output = Response> + Send>>,
}

/// A handler that has finished.
pub(super) struct Finished {
    pub(super) request: RequestHead,
    pub(super) response: Response,
}

impl Future for RunningHandler {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let response = match catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(response)) => response,
            Err(_) => {
                tracing::error!(id = %self.request.id, action = &*self.request.action, "a handler panicked");
                Response::Error(CallError::new(ErrorCode::INTERNAL_ERROR, "An internal error occurred"))
            }
        };
        self.timer.handled(&response);
        Poll::Ready(Finished { request: std::mem::take(&mut self.request), response })
    }
}
