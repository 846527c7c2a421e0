//! The time between attempts to connect.

use std::time::Duration;

/// A schedule of waits that grow with each failed attempt.
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
    /// share of `range`.
    pub fn ocpp2(wait: Duration, range: Duration, times: u32) -> Self {
        Self(Scheme::Ocpp2 { wait, range, times })
    }

    /// Sets the first wait of an exponential back-off. Default 1 s. Ignored by [`ocpp2`](Self::ocpp2).
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

    /// Returns the wait after a failed attempt. `failures` is the number of failures before it since the last success.
    /// `random` must be from 0 to 1.
    pub(crate) fn wait(&self, failures: u32, random: f64) -> Duration {
        match self.0 {
            Scheme::Exponential { min, max, factor, jitter } => {
                let grown = min.as_secs_f64() * factor.powi(failures.min(1 << 16).cast_signed());
                let capped = grown.min(max.as_secs_f64());
                Duration::from_secs_f64(capped * (1.0 + jitter * (2.0 * random - 1.0)))
            }
            Scheme::Ocpp2 { wait, range, times } => {
                let doubled = 2_u32.saturating_pow(failures.min(times));
                wait.saturating_mul(doubled).saturating_add(range.mul_f64(random))
            }
        }
    }

    /// Returns the error of settings that contradict each other.
    pub(crate) fn invalid_setting(&self) -> Option<&'static str> {
        const LONG: Duration = Duration::from_secs(365 * 86_400);
        match self.0 {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(backoff: &Backoff, random: f64) -> Vec<f64> {
        (0..6).map(|failures| backoff.wait(failures, random).as_secs_f64()).collect()
    }

    #[test]
    fn exponential_wait_doubles_up_to_the_maximum() {
        let backoff = Backoff::exponential();
        assert_eq!(seconds(&backoff, 0.5), [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!(seconds(&backoff, 0.0)[0], 0.75);
        assert_eq!(seconds(&backoff, 1.0)[5], 12.5);
        assert_eq!(backoff.wait(u32::MAX, 0.5), Duration::from_secs(10));
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
}
