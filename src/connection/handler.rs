//! A call that is being worked on, as a future of the driver's task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytestring::ByteString;

use super::Reply;
use crate::{
    error::{CallError, ErrorCode},
    meter::{self, Stopwatch},
    payload::MessageId,
};

/// A handler at work.
pub(super) struct Handler {
    pub(super) id: MessageId,
    pub(super) action: ByteString,
    pub(super) wants_answer: bool,
    pub(super) generation: u32,
    pub(super) since: Stopwatch,
    pub(super) work: Pin<Box<dyn Future<Output = Reply> + Send>>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) id: MessageId,
    pub(super) action: ByteString,
    pub(super) wants_answer: bool,
    pub(super) generation: u32,
    pub(super) reply: Reply,
}

impl Done {
    /// Whether the id of the call is free from now on. Where the answer was given early, it is so from then on, and
    /// may have been taken anew.
    pub(super) fn frees_id(&self) -> bool {
        self.wants_answer && !matches!(self.reply, Reply::Given)
    }
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
        meter::handled(&reply, self.since);
        Poll::Ready(Done { id, action, wants_answer: self.wants_answer, generation: self.generation, reply })
    }
}
