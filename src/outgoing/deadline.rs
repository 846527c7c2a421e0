//! The deadline of a call that has a total timeout, over its layers and all attempts.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::error::Error;

/// The moment at which a call ends, in the layers or in an attempt.
#[derive(Clone)]
pub(crate) struct Deadline {
    at: Instant,
    attempts: Arc<Attempts>,
}

/// The attempts of a call that has a deadline.
#[derive(Default)]
struct Attempts {
    pending: AtomicUsize,
    /// Set if the peer may have received one of them.
    sent: AtomicBool,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self { at: Instant::now() + timeout, attempts: Arc::default() }
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Makes an attempt with the time that is left.
    pub(crate) async fn attempt<T, A>(&self, make: impl FnOnce(Duration) -> A) -> Result<T, Error>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::NeverSent);
        }
        self.attempts.pending.fetch_add(1, Ordering::Relaxed);
        let mut attempt = Attempt { attempts: &self.attempts, may_be_sent: true };
        let outcome = make(left).await;
        attempt.may_be_sent = !matches!(&outcome, Err(error) if error.is_retryable());
        outcome
    }

    /// Ends a call at the deadline, unless an attempt is pending. The attempt has the same deadline, and knows if it was
    /// written.
    pub(crate) async fn limit<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut call = pin!(call);
        tokio::select! {
            biased;
            outcome = &mut call => return outcome,
            () = sleep_until(self.at) => {}
        }
        poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Pending if self.attempts.pending.load(Ordering::Relaxed) == 0 => Poll::Ready(Err(self.error())),
            polled => polled,
        })
        .await
    }

    /// Returns the error of a call that ends between its attempts.
    fn error(&self) -> Error {
        if self.attempts.sent.load(Ordering::Relaxed) { Error::Timeout } else { Error::NeverSent }
    }
}

/// A pending attempt. A layer may drop it.
struct Attempt<'a> {
    attempts: &'a Attempts,
    may_be_sent: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.may_be_sent {
            self.attempts.sent.store(true, Ordering::Relaxed);
        }
        self.attempts.pending.fetch_sub(1, Ordering::Relaxed);
    }
}
