//! The handlers at work, as futures of the driver's task.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{
    connection::request::RequestHead,
    error::{CallError, ErrorCode},
    response::Response,
    telemetry::{self, CallTimer},
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

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(handlers) => handlers.len(),
        }
    }

    /// Returns the requests whose handlers await a close of the session with this id.
    pub(super) fn awaiting_close(&self, session_id: u64) -> impl Iterator<Item = &RequestHead> {
        let (one, many) = match self {
            Self::Empty => (None, None),
            Self::One(handler) => (Some(&**handler), None),
            Self::Many(handlers) => (None, Some(handlers.iter())),
        };
        let closes = move |handler: &&RunningHandler| handler.awaits.as_ref().is_some_and(|it| it.contain(session_id));
        one.into_iter().chain(many.into_iter().flatten()).filter(closes).map(|handler| &handler.request)
    }

    /// Takes all handlers, which have not finished.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = RunningHandler> + use<> {
        let (one, many) = match std::mem::take(self) {
            Self::Empty => (None, None),
            Self::One(handler) => (Some(*handler), None),
            Self::Many(handlers) => (None, Some(handlers)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Polls for the next handler that has finished. Returns `None` if the set is empty.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Finished>> {
        let next = match self {
            Self::Empty => return Poll::Ready(None),
            Self::One(handler) => Some(ready!(Pin::new(handler).poll(cx))),
            Self::Many(handlers) => ready!(handlers.poll_next_unpin(cx)),
        };
        if !matches!(self, Self::Many(handlers) if !handlers.is_empty()) {
            *self = Self::Empty;
        }
        Poll::Ready(next)
    }
}

/// The close that a handler awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwaitedClose {
    /// The close of the session with this id.
    Session(u64),
    /// The close of the server, with all of its sessions.
    Server,
}

/// The closes that a handler awaits. A close whose future has ended or was dropped does not count any more.
#[derive(Default)]
pub(super) struct AwaitedCloses(Vec<Weak<AwaitedClose>>);

impl AwaitedCloses {
    /// Returns whether the handler awaits a close of the session with this id.
    fn contain(&self, session_id: u64) -> bool {
        self.0.iter().filter_map(Weak::upgrade).any(|close| match *close {
            AwaitedClose::Session(id) => id == session_id,
            AwaitedClose::Server => true,
        })
    }
}

/// The work of a thread, as far as closes need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Polled {
    NoHandler,
    Handler,
    /// A handler that has begun to await a close in this poll.
    AwaitingHandler,
}

thread_local! {
    static POLLED: Cell<Polled> = const { Cell::new(Polled::NoHandler) };
    /// The closes that the polled handler has begun to await in this poll.
    static BEGUN: RefCell<Vec<Weak<AwaitedClose>>> = const { RefCell::new(Vec::new()) };
}

/// Waits for a close. If a handler polls this, it counts as finished for the close, until this is dropped.
///
/// A close that waits for handlers would otherwise wait for the handler that awaits it.
pub(crate) async fn await_close<T>(awaited: AwaitedClose, close: impl Future<Output = T>) -> T {
    let mut close = pin!(close);
    let mut awaiting = None;
    poll_fn(|cx| {
        let polled = close.as_mut().poll(cx);
        if polled.is_pending() && awaiting.is_none() && POLLED.get() != Polled::NoHandler {
            POLLED.set(Polled::AwaitingHandler);
            let close = awaiting.insert(Arc::new(awaited));
            BEGUN.with_borrow_mut(|begun| begun.push(Arc::downgrade(close)));
        }
        polled
    })
    .await
}

/// A handler at work.
pub(super) struct RunningHandler {
    pub(super) request: RequestHead,
    /// The closes that the handler awaits. Boxed, because few handlers await any.
    pub(super) awaits: Option<Box<AwaitedCloses>>,
    pub(super) timer: CallTimer,
    pub(super) work: Pin<Box<dyn Future<Output = Response> + Send>>,
}

/// A handler that has finished.
pub(super) struct Finished {
    pub(super) request: RequestHead,
    pub(super) response: Response,
    /// The time that the handler took, if it was measured.
    pub(super) duration: Option<Duration>,
}

impl RunningHandler {
    /// Adds the closes that the handler has begun to await.
    #[cold]
    fn add_awaited(&mut self) {
        let closes = &mut self.awaits.get_or_insert_default().0;
        closes.retain(|close| close.strong_count() > 0);
        closes.append(&mut BEGUN.take());
    }
}

impl Future for RunningHandler {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        // A handler may run another handler to its end, in a runtime of its own.
        let outer = POLLED.replace(Polled::Handler);
        let polled = catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(cx)));
        if POLLED.replace(outer) == Polled::AwaitingHandler {
            self.add_awaited();
        }
        let response = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(response)) => {
                self.request.log_failure(&response);
                response
            }
            Err(_) => {
                let (action, id) = (telemetry::cut(&self.request.action), telemetry::cut(self.request.id.as_str()));
                tracing::warn!(action, id, error = "the handler panicked", "a handler failed");
                Response::Error(CallError::new(ErrorCode::INTERNAL_ERROR, "An internal error occurred"))
            }
        };
        let duration = self.timer.handled(&response);
        Poll::Ready(Finished { request: std::mem::take(&mut self.request), response, duration })
    }
}
