//! A call that is being worked on, as a future of the driver's task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytestring::ByteString;
use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{
    error::{CallError, ErrorCode},
    message::payload::MessageId,
    response::Response,
    telemetry::CallTimer,
};

/// Handlers at work. Nothing is kept while there are none.
///
/// Most stations call one thing at a time (OCPP-J 1.6 §4.1.1, OCPP 2.0.1 part 4 §4.1.1): only where there is more than one
/// handler does it pay to know which of them can go on.
#[derive(Default)]
pub(super) enum Handlers {
    #[default]
    None,
    One(Box<Handler>),
    Many(FuturesUnordered<Handler>),
}

impl Handlers {
    /// Takes a handler that is not done. It is polled when its waker asks for it, or some other handler's.
    pub(super) fn push(&mut self, handler: Handler) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(Box::new(handler)),
            Self::One(first) => Self::Many([*first, handler].into_iter().collect()),
            Self::Many(handlers) => {
                handlers.push(handler);
                Self::Many(handlers)
            }
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::None;
    }

    /// What came of the next one that is done; none where there is no other.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        let next = match self {
            Self::None => return Poll::Ready(None),
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
pub(super) struct Handler {
    pub(super) id: MessageId,
    pub(super) action: ByteString,
    pub(super) expects_response: bool,
    pub(super) generation: u32,
    pub(super) serial: u64,
    pub(super) timer: CallTimer,
    pub(super) work: Pin<Box<dyn Future<Output = Response> + Send>>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) id: MessageId,
    pub(super) action: ByteString,
    pub(super) expects_response: bool,
    pub(super) generation: u32,
    pub(super) serial: u64,
    pub(super) reply: Response,
}

impl Future for Handler {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let reply = match catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(reply)) => reply,
            Err(_) => {
                tracing::error!(id = %self.id, "a handler panicked");
                Response::Error(CallError::new(ErrorCode::INTERNAL_ERROR, "An internal error occurred"))
            }
        };
        self.timer.handled(&reply);
        let &mut Self { expects_response, generation, serial, .. } = &mut *self;
        let (id, action) = (std::mem::take(&mut self.id), std::mem::take(&mut self.action));
        Poll::Ready(Done { id, action, expects_response, generation, serial, reply })
    }
}
