//! The policy for connections that are lost.

use crate::{backoff::Backoff, connection::mailbox::OfflineCalls};

/// The policy for a connection that is lost: whether, how often and how fast to connect again.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::client::{Backoff, Reconnect};
///
/// let backoff = Backoff::exponential().max(Duration::from_secs(60));
/// let reconnect = Reconnect::always().backoff(backoff).retry_first_connect(true);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Reconnect {
    /// `None` is no limit.
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Backoff,
    pub(super) retry_first_connect: bool,
    pub(super) retry_if_refused: bool,
    pub(super) keep_responses: bool,
    pub(super) offline_calls: OfflineCalls,
}

impl Reconnect {
    /// Connects again without a limit of attempts.
    ///
    /// The client gives up if another attempt cannot help: if the server chooses another subprotocol than at first, if
    /// its response is no WebSocket handshake, and at HTTP status 401, 403 or 404.
    pub fn always() -> Self {
        Self {
            attempts: None,
            backoff: Backoff::exponential(),
            retry_first_connect: false,
            retry_if_refused: false,
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
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Sets whether the first connect is retried like the others. Default off: it fails at once.
    pub fn retry_first_connect(self, retry: bool) -> Self {
        Self { retry_first_connect: retry, ..self }
    }

    /// Sets whether the client tries again after HTTP status 401, 403 or 404. Default off. Turn it on if the server may
    /// learn of the station later.
    pub fn retry_if_refused(self, retry: bool) -> Self {
        Self { retry_if_refused: retry, ..self }
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
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::always()
    }
}
