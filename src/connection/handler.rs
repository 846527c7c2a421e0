//! A call that is being worked on, as a future of the driver's task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytestring::ByteString;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::Reply;
use crate::{
    error::{CallError, ErrorCode},
    meter::Stopwatch,
    payload::MessageId,
};

/// Handlers at work. Nothing is kept while there are none.
#[derive(Default)]
pub(super) struct Handlers(Option<FuturesUnordered<Handler>>);

impl Handlers {
    pub(super) fn push(&mut self, handler: Handler) {
        self.0.get_or_insert_default().push(handler);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// What came of the next one that is done; none where there is no other.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        let Some(handlers) = &mut self.0 else { return Poll::Ready(None) };
        let next = ready!(handlers.poll_next_unpin(cx));
        if handlers.is_empty() {
            self.0 = None;
        }
        Poll::Ready(next)
    }
}

/// A handler at work.
pub(super) struct Handler {
    pub(super) id: MessageId,
    pub(super) action: ByteString,
    pub(super) wants_answer: bool,
    pub(super) generation: u32,
    pub(super) serial: u64,
    pub(super) stopwatch: Stopwatch,
    pub(super) work: Pin<Box<dyn Future<Output = Reply> + Send>>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) id: MessageId,
    pub(super) action: ByteString,
    pub(super) wants_answer: bool,
    pub(super) generation: u32,
    pub(super) serial: u64,
    pub(super) reply: Reply,
}

impl Future for Handler {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let reply = match catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(reply)) => reply,
            Err(_) => {
                tracing::error!(id = %self.id, "a handler panicked");
                Reply::Error(CallError::new(ErrorCode::INTERNAL_ERROR, "An internal error occurred"))
            }
        };
        let (id, action) = (self.id.clone(), self.action.clone());
        self.stopwatch.handled(&reply);
        let &mut Self { wants_answer, generation, serial, .. } = &mut *self;
        Poll::Ready(Done { id, action, wants_answer, generation, serial, reply })
    }
}
