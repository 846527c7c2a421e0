//! What can be set for a connection, the same at both ends.

use std::{sync::Arc, time::Duration};

use crate::{error::BuildError, message::tolerance::Tolerance, validate::validation::Validation};

/// Times, limits and habits of a connection.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::Options;
///
/// let options = Options::server().call_timeout(Duration::from_secs(10)).call_concurrency(4);
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
/// | [`max_message_size`](Self::max_message_size) | 1 MiB |
/// | [`max_unsent`](Self::max_unsent) | 4 MiB |
/// | [`max_bad_messages`](Self::max_bad_messages) | none |
/// | [`close_timeout`](Self::close_timeout) | 5 s |
/// | [`detailed_errors`](Self::detailed_errors) | off |
/// | [`tolerance`](Self::tolerance) | [`Tolerance::Lenient`] |
/// | [`call_rate`](Self::call_rate) | without limit |
/// | [`validation`](Self::validation) | none |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) call_concurrency: usize,
    pub(crate) call_queue: usize,
    pub(crate) handler_concurrency: usize,
    pub(crate) handler_queue: usize,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) activity_defers_pings: bool,
    pub(crate) max_message_size: usize,
    pub(crate) max_unsent: usize,
    pub(crate) max_bad_messages: Option<u32>,
    pub(crate) close_timeout: Duration,
    pub(crate) detailed_errors: bool,
    pub(crate) tolerance: Tolerance,
    pub(crate) call_rate: Option<(u32, Duration)>,
    pub(crate) validation: Option<Validation>,
}

impl Options {
    /// The defaults of a server.
    pub fn server() -> Self {
        Self {
            call_timeout: Some(Duration::from_secs(30)),
            call_concurrency: 1,
            call_queue: 1000,
            handler_concurrency: 64,
            handler_queue: 256,
            ping_interval: Some(Duration::from_secs(30)),
            activity_defers_pings: false,
            max_message_size: 1 << 20,
            max_unsent: 4 << 20,
            max_bad_messages: None,
            close_timeout: Duration::from_secs(5),
            detailed_errors: false,
            tolerance: Tolerance::Lenient,
            call_rate: None,
            validation: None,
        }
    }

    /// The defaults of a client.
    pub fn client() -> Self {
        Self { call_timeout: Some(Duration::from_secs(60)), ..Self::server() }
    }

    /// How long a call that was written waits for its answer; zero waits for ever. The time starts when the call
    /// leaves the queue.
    #[must_use]
    pub fn call_timeout(self, timeout: Duration) -> Self {
        Self { call_timeout: some(timeout), ..self }
    }

    /// How many of our calls may be unanswered at once; the others wait in line. OCPP wants 1 (1.6 §4.1.1, 2.0.1
    /// part 4 §4.1.1).
    #[must_use]
    pub fn call_concurrency(self, calls: usize) -> Self {
        Self { call_concurrency: calls, ..self }
    }

    /// How many of our calls may wait for their turn; one more fails with
    /// [`Error::QueueFull`](crate::Error::QueueFull).
    #[must_use]
    pub fn call_queue(self, calls: usize) -> Self {
        Self { call_queue: calls, ..self }
    }

    /// How many of the peer's calls are worked on at once; 1 keeps them in strict order.
    #[must_use]
    pub fn handler_concurrency(self, calls: usize) -> Self {
        Self { handler_concurrency: calls, ..self }
    }

    /// How many of the peer's calls may wait for a handler, in messages of four times
    /// [`max_message_size`](Self::max_message_size) in all; one more is answered with
    /// [`ErrorCode::GENERIC_ERROR`](crate::ErrorCode::GENERIC_ERROR).
    #[must_use]
    pub fn handler_queue(self, calls: usize) -> Self {
        Self { handler_queue: calls, ..self }
    }

    /// How often the peer is pinged; zero never pings. The first ping comes at a random moment of the first
    /// interval; a peer that answers none for two intervals is dropped.
    #[must_use]
    pub fn ping_interval(self, interval: Duration) -> Self {
        Self { ping_interval: some(interval), ..self }
    }

    /// Takes anything that arrives as a sign of life, and pings only after an interval of silence. Without it only
    /// the answer to a ping counts.
    #[must_use]
    pub fn activity_defers_pings(self) -> Self {
        Self { activity_defers_pings: true, ..self }
    }

    /// The largest message that is read, in bytes; a larger one closes the connection with 1009.
    #[must_use]
    pub fn max_message_size(self, bytes: usize) -> Self {
        Self { max_message_size: bytes, ..self }
    }

    /// How many bytes may wait for a peer that does not read. With more than that waiting, the next message drops
    /// the connection with [`CloseCause::NotReading`](crate::close::CloseCause::NotReading).
    #[must_use]
    pub fn max_unsent(self, bytes: usize) -> Self {
        Self { max_unsent: bytes, ..self }
    }

    /// How many bad messages in a row are borne; one more closes the connection with 1002. Zero bears none.
    #[must_use]
    pub fn max_bad_messages(self, messages: u32) -> Self {
        Self { max_bad_messages: Some(messages), ..self }
    }

    /// How long the peer may take to answer our close frame.
    #[must_use]
    pub fn close_timeout(self, timeout: Duration) -> Self {
        Self { close_timeout: finite(timeout), ..self }
    }

    /// Tells the peer what an internal error was about. Useful in a test environment.
    #[must_use]
    pub fn detailed_errors(self) -> Self {
        Self { detailed_errors: true, ..self }
    }

    /// How much is put up with from a peer that strays from the standards.
    #[must_use]
    pub fn tolerance(self, tolerance: Tolerance) -> Self {
        Self { tolerance, ..self }
    }

    /// How many calls the peer may make in such a time on the whole, and how many at once; one more is answered with
    /// [`ErrorCode::GENERIC_ERROR`](crate::ErrorCode::GENERIC_ERROR). Zero of either is no limit.
    #[must_use]
    pub fn call_rate(self, calls: u32, per: Duration) -> Self {
        Self { call_rate: some(per).filter(|_| calls > 0).map(|per| (calls, per)), ..self }
    }

    /// Checks payloads; see [`Validation`].
    #[must_use]
    pub fn validation(self, validation: Validation) -> Self {
        Self { validation: Some(validation), ..self }
    }

    /// Refuses what could never work where these protocols are spoken.
    pub(crate) fn check_for(&self, protocols: &[Arc<str>]) -> Result<(), BuildError> {
        self.check()?;
        self.validation.as_ref().map_or(Ok(()), |validation| validation.check(protocols))
    }

    /// Whether payloads of this protocol are validated where all are to be.
    pub(crate) fn covers(&self, protocol: Option<&str>) -> bool {
        let covers = |validation: &Validation| {
            validation.protocols.is_some() || protocol.is_some_and(|protocol| validation.applies_to(protocol))
        };
        self.validation.as_ref().is_none_or(covers)
    }

    /// Refuses what could never work.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let wrong = [
            (self.call_concurrency == 0, "call_concurrency is zero: no call could ever be sent"),
            (self.call_queue == 0, "call_queue is zero: every call passes through it"),
            (self.handler_concurrency == 0, "handler_concurrency is zero: no call could ever be handled"),
            (self.max_message_size == 0, "max_message_size is zero: no message could ever be read"),
            (self.max_unsent == 0, "max_unsent is zero: no message could ever be sent"),
        ]
        .into_iter()
        .find_map(|(wrong, why)| wrong.then_some(why));
        wrong.map_or(Ok(()), |why| Err(BuildError(why.into())))
    }
}

/// Longer than anybody waits, and short enough for every clock to add up.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Zero means never; so does a time that nobody lives to see.
pub(crate) fn some(duration: Duration) -> Option<Duration> {
    (!duration.is_zero() && duration < CENTURY).then_some(duration)
}

/// A time that can be added to the present.
pub(crate) fn finite(duration: Duration) -> Duration {
    duration.min(CENTURY)
}
