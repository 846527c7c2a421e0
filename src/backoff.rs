//! The time between attempts to connect.

use std::time::Duration;

/// A schedule of waits that grow with each failed attempt.
///
/// No wait is shorter than 100 ms, even if the settings or the jitter say so.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::client::Backoff;
///
/// let slow = Backoff::exponential().max(Duration::from_secs(60));
/// // RetryBackOffWaitMinimum, RetryBackOffRandomRange and RetryBackOffRepeatTimes of OCPP 2.x.
/// let standard = Backoff::ocpp2(Duration::from_secs(30), Duration::from_secs(10), 5);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff(Scheme);

#[derive(Debug, Clone, PartialEq)]
enum Scheme {
    Exponential { min: Duration, max: Duration, factor: f64, jitter: f64 },
    Ocpp2 { wait: Duration, range: Duration, times: u32 },
}

impl Backoff {
    /// Creates an exponential back-off: 1 s, then twice as long after each failure, at most 10 s.
    ///
    /// Each wait is randomly up to a quarter shorter or longer.
    pub fn exponential() -> Self {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(10));
        Self(Scheme::Exponential { min, max, factor: 2.0, jitter: 0.25 })
    }

    /// Creates the back-off of OCPP 2.1 part 4 §5.4 and 2.0.1 part 4 §5.3.
    ///
    /// The first wait is `wait`. It doubles after each failure, at most `times` times. Each wait is longer by a new random
    /// share of `range`. If both are zero, that is an error when the client is built.
    pub fn ocpp2(wait: Duration, range: Duration, times: u32) -> Self {
        Self(Scheme::Ocpp2 { wait, range, times })
    }

    /// Sets the first wait of an exponential back-off. Zero is an error when the client is built. Default 1 s. Ignored
    /// by [`ocpp2`](Self::ocpp2).
    #[must_use]
    pub fn min(mut self, wait: Duration) -> Self {
        if let Scheme::Exponential { min, .. } = &mut self.0 {
            *min = wait;
        }
        self
    }

    /// Sets the longest wait of an exponential back-off, without the jitter. Default 10 s. Ignored by
    /// [`ocpp2`](Self::ocpp2).
    #[must_use]
    pub fn max(mut self, wait: Duration) -> Self {
        if let Scheme::Exponential { max, .. } = &mut self.0 {
            *max = wait;
        }
        self
    }

    /// Sets the factor between two waits of an exponential back-off. Default 2. Ignored by [`ocpp2`](Self::ocpp2).
    #[must_use]
    pub fn factor(mut self, by: f64) -> Self {
        if let Scheme::Exponential { factor, .. } = &mut self.0 {
            *factor = by;
        }
        self
    }

    /// Sets the largest random change of a wait of an exponential back-off, as a share of the wait from 0 to 1. Default
    /// 0.25. Ignored by [`ocpp2`](Self::ocpp2).
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        if let Scheme::Exponential { jitter, .. } = &mut self.0 {
            *jitter = share;
        }
        self
    }

    /// Returns the wait after a failed attempt, without its random part. `failures` is the number of failures before it
    /// since the last success.
    fn base(&self, failures: u32) -> Duration {
        match self.0 {
            Scheme::Exponential { min, max, factor, .. } => {
                let grown = min.as_secs_f64() * factor.powi(failures.min(1 << 16).cast_signed());
                Duration::from_secs_f64(grown.min(max.as_secs_f64()))
            }
            Scheme::Ocpp2 { wait, times, .. } => wait.saturating_mul(2_u32.saturating_pow(failures.min(times))),
        }
    }

    /// Adds the random part to a wait. `random` must be from 0 to 1.
    fn randomize(&self, base: Duration, random: f64) -> Duration {
        match self.0 {
            Scheme::Exponential { jitter, .. } => base.mul_f64(1.0 + jitter * (2.0 * random - 1.0)),
            Scheme::Ocpp2 { range, .. } => base.saturating_add(range.mul_f64(random)),
        }
    }

    /// Returns the error of settings that contradict each other.
    pub(crate) fn invalid_setting(&self) -> Option<&'static str> {
        const LONG: Duration = Duration::from_secs(365 * 86_400);
        match self.0 {
            Scheme::Exponential { min, .. } if min.is_zero() => Some("the back-off's min is zero"),
            Scheme::Ocpp2 { wait, range, .. } if wait.is_zero() && range.is_zero() => {
                Some("the back-off's wait and range are zero")
            }
            Scheme::Exponential { min, max, .. } if min > max || max > LONG => {
                Some("the back-off's min is longer than its max, or its max is longer than a year")
            }
            Scheme::Exponential { factor, jitter, .. }
                if !((1.0..=1e6).contains(&factor) && (0.0..=1.0).contains(&jitter)) =>
            {
                Some("the back-off's factor is not between 1 and 1000000, or its jitter is not between 0 and 1")
            }
            Scheme::Ocpp2 { wait, range, times } if wait > LONG || range > LONG || times > 20 => {
                Some("the back-off's wait or range is longer than a year, or its times exceed 20")
            }
            _ => None,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::exponential()
    }
}

/// The shortest time between two attempts to connect, whatever is set.
pub(crate) const MIN_WAIT: Duration = Duration::from_millis(100);

/// The longest wait after a refusal that names none, unless the back-off has longer ones.
const MAX_REFUSED: Duration = Duration::from_secs(300);

/// The failure of an attempt to connect, as far as it decides on the next wait. A greater one has a longer wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// There was no connection, or it did not last.
    Unreachable,
    /// A server responded, but accepted no connection.
    Refused {
        /// The shortest wait that the server allows.
        retry_after: Option<Duration>,
    },
}

/// The waits since the last success.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    count: u32,
    /// The last wait, without the random part of the back-off.
    last: Duration,
}

impl Waits {
    /// Returns the wait before the next attempt. `random` must be from 0 to 1.
    pub(crate) fn next(&mut self, backoff: &Backoff, failure: Failure, random: f64) -> Duration {
        let mut base = backoff.base(self.count).max(MIN_WAIT);
        let mut shortest = MIN_WAIT;
        if let Failure::Refused { retry_after } = failure {
            base = base.max(self.last.saturating_mul(2).min(MAX_REFUSED));
            // The stations that a server refuses at one moment must not come back at one moment.
            let later = |after| backoff.randomize(after, 0.5 + random / 2.0);
            shortest = retry_after.map_or(MIN_WAIT, later).max(MIN_WAIT);
        }
        self.count = self.count.saturating_add(1);
        self.last = base.max(shortest);
        backoff.randomize(base, random).max(shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNREACHABLE: Failure = Failure::Unreachable;

    fn seconds(backoff: &Backoff, random: f64) -> Vec<f64> {
        let mut waits = Waits::default();
        (0..6).map(|_| waits.next(backoff, UNREACHABLE, random).as_secs_f64()).collect()
    }

    #[test]
    fn exponential_wait_doubles_up_to_the_maximum() {
        let backoff = Backoff::exponential();
        assert_eq!(seconds(&backoff, 0.5), [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!(seconds(&backoff, 0.0)[0], 0.75);
        assert_eq!(seconds(&backoff, 1.0)[5], 12.5);
        let mut late = Waits { count: u32::MAX, ..Waits::default() };
        assert_eq!(late.next(&backoff, UNREACHABLE, 0.5), Duration::from_secs(10));
    }

    #[test]
    fn wait_after_a_refusal_doubles_the_one_that_the_server_asked_for() {
        let mut waits = Waits::default();
        let mut refused = |seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            waits.next(&Backoff::exponential(), Failure::Refused { retry_after }, 0.5).as_secs()
        };
        assert!((120..=150).contains(&refused(Some(120))));
        assert!((240..=300).contains(&refused(None)));
        assert_eq!(refused(None), 300);
    }

    #[test]
    fn setting_one_field_keeps_the_others() {
        let backoff = Backoff::exponential().max(Duration::from_secs(3));
        assert_eq!(seconds(&backoff, 0.5), [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(seconds(&backoff.factor(1.0), 1.0), [1.25; 6]);
    }

    #[test]
    fn ocpp2_wait_doubles_at_most_the_given_times() {
        let backoff = Backoff::ocpp2(Duration::from_secs(4), Duration::from_secs(2), 3);
        assert_eq!(seconds(&backoff, 0.0), [4.0, 8.0, 16.0, 32.0, 32.0, 32.0]);
        assert_eq!(seconds(&backoff, 0.5), [5.0, 9.0, 17.0, 33.0, 33.0, 33.0]);
    }

    #[test]
    fn invalid_setting_is_rejected() {
        let second = Duration::from_secs(1);
        for backoff in [
            Backoff::exponential().min(Duration::ZERO),
            Backoff::exponential().min(Duration::ZERO).max(Duration::ZERO),
            Backoff::ocpp2(Duration::ZERO, Duration::ZERO, 3),
            Backoff::exponential().max(Duration::from_millis(1)),
            Backoff::exponential().factor(0.5),
            Backoff::exponential().factor(f64::NAN),
            Backoff::exponential().jitter(2.0),
            Backoff::exponential().max(Duration::MAX),
            Backoff::ocpp2(Duration::MAX, second, 1),
            Backoff::ocpp2(second, second, 99),
        ] {
            assert!(backoff.invalid_setting().is_some(), "{backoff:?}");
        }
        assert_eq!(Backoff::default().invalid_setting(), None);
    }

    #[test]
    fn wait_is_never_shorter_than_the_floor() {
        let nanosecond = Duration::from_nanos(1);
        for backoff in [
            Backoff::exponential().min(nanosecond).max(nanosecond),
            Backoff::exponential().jitter(1.0),
            Backoff::ocpp2(Duration::ZERO, Duration::from_secs(1), 3),
        ] {
            assert_eq!(backoff.invalid_setting(), None);
            for failure in [UNREACHABLE, Failure::Refused { retry_after: None }] {
                assert_eq!(Waits::default().next(&backoff, failure, 0.0), MIN_WAIT, "{backoff:?}");
            }
        }
    }

    #[test]
    fn wait_after_a_refusal_doubles_up_to_five_minutes() {
        const REFUSED: Failure = Failure::Refused { retry_after: None };
        let next = |waits: &mut Waits, backoff: &Backoff, failure| waits.next(backoff, failure, 0.5).as_secs();
        for (backoff, expected) in [
            (Backoff::exponential(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]),
            (Backoff::exponential().factor(1.0), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]),
            (
                Backoff::ocpp2(Duration::from_secs(200), Duration::ZERO, 3),
                [200, 400, 800, 1600, 1600, 1600, 1600, 1600, 1600, 1600, 1600],
            ),
        ] {
            let mut waits = Waits::default();
            assert_eq!(expected.map(|_| next(&mut waits, &backoff, REFUSED)), expected);
        }
        // A server that was unreachable for long refuses, and is unreachable again.
        let mut waits = Waits { count: 1000, last: Duration::from_secs(10) };
        let failures = [REFUSED, REFUSED, UNREACHABLE, REFUSED];
        let seconds = failures.map(|failure| next(&mut waits, &Backoff::exponential(), failure));
        assert_eq!(seconds, [20, 40, 10, 20]);
    }

    #[test]
    fn wait_is_never_shorter_than_the_server_allows() {
        let refused = |seconds| Failure::Refused { retry_after: Some(Duration::from_secs(seconds)) };
        let backoff = Backoff::exponential();
        for (random, expected) in [(0.0, 60.0), (0.5, 67.5), (1.0, 75.0)] {
            assert_eq!(Waits::default().next(&backoff, refused(60), random).as_secs_f64(), expected);
        }
        let mut waits = Waits { count: 3, ..Waits::default() };
        assert_eq!(waits.next(&backoff, refused(2), 0.5).as_secs(), 8, "the back-off is longer");
    }
}
