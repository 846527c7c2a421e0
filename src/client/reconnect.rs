//! What becomes of a connection that is lost.

use crate::{backoff::Backoff, connection::link::Meanwhile};

/// What becomes of a connection that is lost: whether, how often and how fast to dial again.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::client::{Backoff, Reconnect};
///
/// let patient = Reconnect::always().backoff(Backoff::exponential().max(Duration::from_secs(60))).retry_first_connect();
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Reconnect {
    pub(super) attempts: u32,
    pub(super) backoff: Backoff,
    pub(super) first_connect: bool,
    pub(super) retry_if_refused: bool,
    pub(super) keep_responses: bool,
    pub(super) meanwhile: Meanwhile,
}

impl Reconnect {
    /// Dials again, as often as it takes. Gives up for good where that cannot help: at another subprotocol than at
    /// first, at an answer that is no WebSocket handshake, and at HTTP status 401, 403 or 404.
    pub fn always() -> Self {
        let backoff = Backoff::exponential();
        Self {
            attempts: u32::MAX,
            backoff,
            first_connect: false,
            retry_if_refused: false,
            keep_responses: true,
            meanwhile: Meanwhile::Wait,
        }
    }

    /// A connection that is lost is the end.
    pub fn never() -> Self {
        Self::always().attempts(0)
    }

    /// How many attempts in a row may fail. A connection that did not live for ten seconds is a failed attempt.
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// How long to wait before each attempt.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Does the same for the first connect, which fails at once without this.
    pub fn retry_first_connect(self) -> Self {
        Self { first_connect: true, ..self }
    }

    /// Dials on in spite of HTTP status 401, 403 or 404: the server may come to know the station later.
    pub fn retry_if_refused(self) -> Self {
        Self { retry_if_refused: true, ..self }
    }

    /// Refuses calls with [`Error::NotConnected`](crate::Error::NotConnected) while there is no connection, the first
    /// one included. Without this they wait for it.
    pub fn refuse_calls(self) -> Self {
        Self { meanwhile: Meanwhile::Refuse, ..self }
    }

    /// Drops answers with the connection that their call came in on. Without this they go out on the next one.
    pub fn drop_responses(self) -> Self {
        Self { keep_responses: false, ..self }
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::always()
    }
}
