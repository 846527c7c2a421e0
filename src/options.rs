//! The options of a connection, the same at both ends.

use std::{sync::Arc, time::Duration};

use crate::{
    error::BuildError, message::tolerance::Tolerance, validate::validation::Validation,
    websocket::compression::Compression,
};

/// The timeouts, limits and policies of a connection.
///
/// `None` turns a timeout, an interval or a limit off. A value that could never work is an error when the options are
/// used: a limit of zero, a timeout below a millisecond, or a size of 2 GiB or more.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::Options;
///
/// let options = Options::server().call_timeout(Duration::from_secs(10)).ping_interval(None).call_concurrency(4);
/// ```
///
/// | Option | Default |
/// |---|---|
/// | [`call_timeout`](Self::call_timeout) | 30 s at a server, 60 s at a client |
/// | [`call_concurrency`](Self::call_concurrency) | 1 |
/// | [`call_queue`](Self::call_queue) | 1000 calls |
/// | [`handler_concurrency`](Self::handler_concurrency) | 64 |
/// | [`handler_queue`](Self::handler_queue) | 256 calls |
/// | [`ping_interval`](Self::ping_interval) | 30 s |
/// | [`activity_defers_pings`](Self::activity_defers_pings) | off |
/// | [`require_pongs`](Self::require_pongs) | off |
/// | [`max_message_size`](Self::max_message_size) | 1 MiB |
/// | [`max_unsent`](Self::max_unsent) | 4 MiB |
/// | [`max_bad_messages`](Self::max_bad_messages) | no limit |
/// | [`close_timeout`](Self::close_timeout) | 5 s |
/// | [`detailed_errors`](Self::detailed_errors) | off |
/// | [`tolerance`](Self::tolerance) | [`Tolerance::Lenient`] |
/// | [`call_rate`](Self::call_rate) | no limit |
/// | [`validation`](Self::validation) | none |
/// | [`compression`](Self::compression) | on at a server, off at a client |
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) call_concurrency: usize,
    pub(crate) call_queue: usize,
    pub(crate) handler_concurrency: usize,
    pub(crate) handler_queue: usize,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) activity_defers_pings: bool,
    pub(crate) require_pongs: bool,
    pub(crate) max_message_size: usize,
    pub(crate) max_unsent: usize,
    pub(crate) max_bad_messages: Option<u32>,
    pub(crate) close_timeout: Duration,
    pub(crate) detailed_errors: bool,
    pub(crate) tolerance: Tolerance,
    pub(crate) call_rate: Option<(u32, Duration)>,
    pub(crate) validation: Option<Validation>,
    pub(crate) compression: Option<Compression>,
}

impl Options {
    /// Returns the defaults of a server.
    pub fn server() -> Self {
        Self {
            call_timeout: Some(Duration::from_secs(30)),
            call_concurrency: 1,
            call_queue: 1000,
            handler_concurrency: 64,
            handler_queue: 256,
            ping_interval: Some(Duration::from_secs(30)),
            activity_defers_pings: false,
            require_pongs: false,
            max_message_size: 1 << 20,
            max_unsent: 4 << 20,
            max_bad_messages: None,
            close_timeout: Duration::from_secs(5),
            detailed_errors: false,
            tolerance: Tolerance::Lenient,
            call_rate: None,
            validation: None,
            compression: Some(Compression::new()),
        }
    }

    /// Returns the defaults of a client.
    pub fn client() -> Self {
        Self { call_timeout: Some(Duration::from_secs(60)), compression: None, ..Self::server() }
    }

    /// Sets how long a call waits for its response, counted from the moment at which it is written. `None` waits for
    /// ever. A call that takes longer fails with [`Error::Timeout`](crate::Error::Timeout).
    ///
    /// Default 30 s at a server, 60 s at a client. [`Call::timeout`](crate::Call::timeout) overrides it.
    #[must_use]
    pub fn call_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self { call_timeout: timeout.into().map(finite), ..self }
    }

    /// Sets how many calls to the peer may be in flight at once. The others wait in the queue.
    ///
    /// Default 1, as OCPP requires (1.6 §4.1.1, 2.0.1 part 4 §4.1.1).
    #[must_use]
    pub fn call_concurrency(self, calls: usize) -> Self {
        Self { call_concurrency: calls, ..self }
    }

    /// Sets how many calls to the peer may wait in the queue. More fail with
    /// [`Error::QueueFull`](crate::Error::QueueFull). Default 1000.
    #[must_use]
    pub fn call_queue(self, calls: usize) -> Self {
        Self { call_queue: calls, ..self }
    }

    /// Sets how many handlers of one connection may run at once. With 1, the calls of the peer are handled in strict
    /// order. Default 64.
    #[must_use]
    pub fn handler_concurrency(self, calls: usize) -> Self {
        Self { handler_concurrency: calls, ..self }
    }

    /// Sets how many calls of the peer may wait for a handler. More are rejected with
    /// [`ErrorCode::GENERIC_ERROR`](crate::ErrorCode::GENERIC_ERROR). Default 256.
    ///
    /// Their messages together may be at most four times [`max_message_size`](Self::max_message_size) long.
    #[must_use]
    pub fn handler_queue(self, calls: usize) -> Self {
        Self { handler_queue: calls, ..self }
    }

    /// Sets the interval of pings; `None` sends none. Default 30 s.
    ///
    /// The first ping is sent at a random moment of the first interval, so that many connections do not ping at once. If
    /// nothing at all arrives for two intervals after a ping, the connection is dropped with
    /// [`CloseCause::PingTimeout`](crate::close::CloseCause::PingTimeout). Bytes of an unfinished message count as well,
    /// so that a large message on a slow link does not end its connection. See [`require_pongs`](Self::require_pongs).
    #[must_use]
    pub fn ping_interval(self, interval: impl Into<Option<Duration>>) -> Self {
        Self { ping_interval: interval.into().map(finite), ..self }
    }

    /// Sets whether anything that arrives defers the next ping, so that pings are sent only after an interval of silence.
    /// Default off: pings follow the interval.
    #[must_use]
    pub fn activity_defers_pings(self, defers: bool) -> Self {
        Self { activity_defers_pings: defers, ..self }
    }

    /// Sets whether only a pong proves that the peer is alive. The connection is then dropped if no pong arrives for two
    /// intervals after a ping, although other messages do. Default off: anything that arrives proves it.
    ///
    /// While more than half of [`max_unsent`](Self::max_unsent) waits, a peer that reads some of it is alive as well,
    /// because its pong may be late.
    ///
    /// Use it to detect a peer that still sends but no longer reads.
    #[must_use]
    pub fn require_pongs(self, required: bool) -> Self {
        Self { require_pongs: required, ..self }
    }

    /// Sets the largest message that is read, in bytes. A larger one closes the connection with 1009. Default 1 MiB.
    #[must_use]
    pub fn max_message_size(self, bytes: usize) -> Self {
        Self { max_message_size: bytes, ..self }
    }

    /// Sets how many bytes may wait for a peer that does not read. If more are waiting, the next message drops the
    /// connection with [`CloseCause::NotReading`](crate::close::CloseCause::NotReading). Default 4 MiB.
    ///
    /// While more than half of them wait and no call is in flight, the peer's messages are not read.
    #[must_use]
    pub fn max_unsent(self, bytes: usize) -> Self {
        Self { max_unsent: bytes, ..self }
    }

    /// Sets how many bad messages in a row are tolerated. The next one closes the connection with 1002, so 0 tolerates
    /// none. Default `None`: no limit.
    #[must_use]
    pub fn max_bad_messages(self, messages: impl Into<Option<u32>>) -> Self {
        Self { max_bad_messages: messages.into(), ..self }
    }

    /// Sets how long the peer may take to reply to a close frame. Then the socket is dropped. Default 5 s.
    #[must_use]
    pub fn close_timeout(self, timeout: Duration) -> Self {
        Self { close_timeout: finite(timeout), ..self }
    }

    /// Sets whether the description of an internal error says what failed. Default off: the text goes to the log
    /// alone. Turn it on in a test environment.
    #[must_use]
    pub fn detailed_errors(self, detailed: bool) -> Self {
        Self { detailed_errors: detailed, ..self }
    }

    /// Sets which deviations from the standards are tolerated. Default [`Tolerance::Lenient`].
    #[must_use]
    pub fn tolerance(self, tolerance: Tolerance) -> Self {
        Self { tolerance, ..self }
    }

    /// Sets how many calls the peer may make in the time `per`, on average and at once. More are rejected with
    /// [`ErrorCode::GENERIC_ERROR`](crate::ErrorCode::GENERIC_ERROR). Default no limit.
    #[must_use]
    pub fn call_rate(self, calls: u32, per: Duration) -> Self {
        Self { call_rate: Some((calls, finite(per))), ..self }
    }

    /// Validates payloads, see [`Validation`]. Default none.
    #[must_use]
    pub fn validation(self, validation: Validation) -> Self {
        Self { validation: Some(validation), ..self }
    }

    /// Compresses messages (RFC 7692, permessage-deflate), if the peer supports it. `None` turns it off. See
    /// [`Compression`] for its memory and its limits.
    ///
    /// Default [`Compression::new`] at a server, because OCPP requires it of a CSMS (2.0.1 part 4 §3.3, 2.1 part 4
    /// §3.4). Default `None` at a client. A server reads it at each handshake, a client when it connects for the first
    /// time and after a close.
    #[must_use]
    pub fn compression(self, compression: impl Into<Option<Compression>>) -> Self {
        Self { compression: compression.into(), ..self }
    }

    /// Returns an error if the options can never work with these protocols.
    pub(crate) fn check_for(&self, protocols: &[Arc<str>]) -> Result<(), BuildError> {
        self.check()?;
        self.validation.as_ref().map_or(Ok(()), |validation| validation.check(protocols))
    }

    /// Returns whether a session with this protocol is validated as far as the options require it.
    pub(crate) fn covers(&self, protocol: Option<&str>) -> bool {
        self.validation.as_ref().is_none_or(|validation| {
            validation.protocols.is_some() || protocol.is_some_and(|protocol| validation.applies_to(protocol))
        })
    }

    /// Returns an error if the options can never work.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let is_short = |duration: Option<Duration>| duration.is_some_and(|duration| duration < MIN_TIMEOUT);
        let wrong = [
            (
                is_short(self.call_timeout),
                "call_timeout is less than a millisecond: every call would time out; `None` waits for ever",
            ),
            (self.call_concurrency == 0, "call_concurrency is zero: no call could be sent"),
            (self.call_queue == 0, "call_queue is zero: every call passes through the queue"),
            (self.handler_concurrency == 0, "handler_concurrency is zero: no call could be handled"),
            (is_short(self.ping_interval), "ping_interval is less than a millisecond: `None` sends no pings"),
            (
                !self.close_timeout.is_zero() && is_short(Some(self.close_timeout)),
                "close_timeout is less than a millisecond: zero drops the socket at once",
            ),
            (self.max_message_size == 0, "max_message_size is zero: no message could be read"),
            (self.max_message_size > MAX_SIZE, "max_message_size is 2 GiB or more: no buffer may be so large"),
            (self.max_unsent == 0, "max_unsent is zero: no message could be sent"),
            (self.max_unsent > MAX_SIZE, "max_unsent is 2 GiB or more: no buffer may be so large"),
            (
                self.call_rate.is_some_and(|(calls, per)| calls == 0 || per.is_zero()),
                "call_rate is zero: no call could be handled",
            ),
            (
                self.call_rate.is_some_and(|(calls, per)| calls > 0 && (per / calls).is_zero()),
                "call_rate is more than one call in a nanosecond: it would limit nothing",
            ),
            (
                self.compression.is_some_and(|compression| {
                    let bits = [compression.received_window_bits, compression.sent_window_bits];
                    !bits.iter().all(|bits| (9..=15).contains(bits))
                }),
                "window_bits of the compression is not in 9..=15: zlib has no other windows",
            ),
            (
                self.compression.is_some_and(|compression| compression.max_ratio == Some(0)),
                "max_ratio of the compression is zero: no long message could be read; `None` turns it off",
            ),
        ]
        .into_iter()
        .find_map(|(wrong, why)| wrong.then_some(why));
        wrong.map_or(Ok(()), |why| Err(BuildError::settings(why)))
    }
}

/// The shortest timeout: timers have this resolution.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The largest size of a message or a buffer, which fits the memory of any platform.
pub(crate) const MAX_SIZE: usize = i32::MAX as usize;

/// The longest duration that is added to a moment.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Returns a duration that can be added to any moment: at most a hundred years.
pub(crate) fn finite(duration: Duration) -> Duration {
    duration.min(CENTURY)
}

/// Returns whether a duration is a timeout: at least a millisecond, and not without end.
pub(crate) fn is_timeout(duration: Duration) -> bool {
    (MIN_TIMEOUT..CENTURY).contains(&duration)
}
