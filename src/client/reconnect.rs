//! The policy for connections that are lost.

use std::{fmt, sync::Arc};

use crate::{backoff::Backoff, client::error::ConnectError, connection::mailbox::OfflineCalls};

/// The policy for a connection that is lost: whether, how often and how fast to connect again.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::client::{Backoff, Reconnect};
///
/// let backoff = Backoff::exponential().max(Duration::from_secs(60));
/// let reconnect = Reconnect::always().backoff(backoff).retry_first_connect(true);
/// ```
#[derive(Clone)]
#[must_use]
pub struct Reconnect {
    /// `None` is no limit.
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Backoff,
    pub(super) retry_first_connect: bool,
    gives_up: Option<GivesUp>,
    pub(super) keep_responses: bool,
    pub(super) offline_calls: OfflineCalls,
}

type GivesUp = Arc<dyn Fn(&ConnectError) -> bool + Send + Sync>;

impl Reconnect {
    /// Connects again without a limit of attempts, whatever the error is.
    pub fn always() -> Self {
        Self {
            attempts: None,
            backoff: Backoff::exponential(),
            retry_first_connect: false,
            gives_up: None,
            keep_responses: true,
            offline_calls: OfflineCalls::Queue,
        }
    }

    /// Does not connect again: a connection that is lost ends the client.
    pub fn never() -> Self {
        Self::always().attempts(0)
    }

    /// Sets how many attempts in a row may fail; `None` is no limit, and the default. A connection that lasts less than
    /// ten seconds counts as a failed attempt.
    pub fn attempts(self, attempts: impl Into<Option<u32>>) -> Self {
        Self { attempts: attempts.into(), ..self }
    }

    /// Sets how long to wait before each attempt. Default [`Backoff::exponential`].
    ///
    /// If the server responds but does not accept the client, each wait is at least twice as long as the last one, up to
    /// five minutes. It is never shorter than the `Retry-After` of the response, of which at most an hour counts.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Sets whether the first connect is retried like the others. Default off: it fails at once, or with several
    /// [endpoints](super::RpcClientBuilder::endpoints) after an attempt at each.
    pub fn retry_first_connect(self, retry: bool) -> Self {
        Self { retry_first_connect: retry, ..self }
    }

    /// Gives up after an error for which `is_final` returns `true`. By default, no error is final: the server may be
    /// misconfigured for a while, or learn of the station later.
    ///
    /// ```
    /// use ocpp_rpc::client::{ConnectError, Reconnect};
    ///
    /// // Any HTTP status but that of an upgrade.
    /// let reconnect = Reconnect::always().give_up_if(ConnectError::is_refused);
    /// // One status.
    /// let reconnect = Reconnect::always().give_up_if(|error| error.status().is_some_and(|status| status == 401));
    /// ```
    pub fn give_up_if(self, is_final: impl Fn(&ConnectError) -> bool + Send + Sync + 'static) -> Self {
        Self { gives_up: Some(Arc::new(is_final)), ..self }
    }

    /// Sets whether calls fail with [`Error::NotConnected`](crate::Error::NotConnected) while there is no connection,
    /// before the first one as well. Default off: they wait for the next connection.
    pub fn refuse_calls(self, refuse: bool) -> Self {
        Self { offline_calls: if refuse { OfflineCalls::Refuse } else { OfflineCalls::Queue }, ..self }
    }

    /// Sets whether responses are dropped with the connection of their call. Default off: they are sent on the next
    /// connection.
    pub fn drop_responses(self, drop: bool) -> Self {
        Self { keep_responses: !drop, ..self }
    }

    /// Returns whether the client gives up after this error.
    pub(super) fn gives_up(&self, error: &ConnectError) -> bool {
        self.gives_up.as_ref().is_some_and(|gives_up| gives_up(error))
    }
}

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("attempts", &self.attempts)
            .field("backoff", &self.backoff)
            .field("retry_first_connect", &self.retry_first_connect)
            .field("keep_responses", &self.keep_responses)
            .field("offline_calls", &self.offline_calls)
            .finish_non_exhaustive()
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::always()
    }
}
