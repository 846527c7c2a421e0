//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Waits that grow from one failed attempt to the next.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::client::Backoff;
///
/// let patient = Backoff::exponential().max(Duration::from_secs(60));
/// // RetryBackOffWaitMinimum, -RandomRange and -RepeatTimes of OCPP 2.x.
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
    /// 1 s, then twice as long each time, up to 10 s; each wait is up to a quarter shorter or longer, by chance.
    pub fn exponential() -> Self {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(10));
        Self(Scheme::Exponential { min, max, factor: 2.0, jitter: 0.25 })
    }

    /// The scheme of OCPP 2.1 part 4 §5.4 (2.0.1 part 4 §5.3): `wait`, doubled after each failure but `times` times
    /// at most, and each time a fresh random share of `range` on top.
    pub fn ocpp2(wait: Duration, range: Duration, times: u32) -> Self {
        Self(Scheme::Ocpp2 { wait, range, times })
    }

    /// The first wait of an exponential back-off; no other scheme is changed by it.
    #[must_use]
    pub fn min(mut self, wait: Duration) -> Self {
        if let Scheme::Exponential { min, .. } = &mut self.0 {
            *min = wait;
        }
        self
    }

    /// The longest wait of an exponential back-off, but for the jitter.
    #[must_use]
    pub fn max(mut self, wait: Duration) -> Self {
        if let Scheme::Exponential { max, .. } = &mut self.0 {
            *max = wait;
        }
        self
    }

    /// By how much a wait of an exponential back-off is longer than the one before.
    #[must_use]
    pub fn factor(mut self, by: f64) -> Self {
        if let Scheme::Exponential { factor, .. } = &mut self.0 {
            *factor = by;
        }
        self
    }

    /// Which share of a wait of an exponential back-off is left to chance, from 0 to 1.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        if let Scheme::Exponential { jitter, .. } = &mut self.0 {
            *jitter = share;
        }
        self
    }

    /// The wait after so many failures since the last success, counted from 0. `random` is from 0 to 1.
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

    /// What is wrong with it, if something is.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        const LONG: Duration = Duration::from_secs(365 * 86_400);
        match self.0 {
            Scheme::Exponential { min, max, .. } if min > max || max > LONG => {
                Some("the shortest wait of the back-off is longer than the longest, or the longest than a year")
            }
            Scheme::Exponential { factor, jitter, .. }
                if !((1.0..=1e6).contains(&factor) && (0.0..=1.0).contains(&jitter)) =>
            {
                Some("the factor of the back-off is below 1 or the jitter is not between 0 and 1")
            }
            Scheme::Ocpp2 { wait, range, times } if wait > LONG || range > LONG || times > 20 => {
                Some("a wait of the back-off is longer than a year, or it doubles more than 20 times")
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
    fn exponential_waits_double_up_to_the_longest() {
        let backoff = Backoff::exponential();
        assert_eq!(seconds(&backoff, 0.5), [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!(seconds(&backoff, 0.0)[0], 0.75);
        assert_eq!(seconds(&backoff, 1.0)[5], 12.5);
        assert_eq!(backoff.wait(u32::MAX, 0.5), Duration::from_secs(10));
    }

    #[test]
    fn changing_one_field_keeps_the_others() {
        let backoff = Backoff::exponential().max(Duration::from_secs(3));
        assert_eq!(seconds(&backoff, 0.5), [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(seconds(&backoff.factor(1.0), 1.0), [1.25; 6]);
    }

    #[test]
    fn the_scheme_of_ocpp_2_doubles_so_many_times_and_adds_chance_each_time() {
        let backoff = Backoff::ocpp2(Duration::from_secs(4), Duration::from_secs(2), 3);
        assert_eq!(seconds(&backoff, 0.0), [4.0, 8.0, 16.0, 32.0, 32.0, 32.0]);
        assert_eq!(seconds(&backoff, 0.5), [5.0, 9.0, 17.0, 33.0, 33.0, 33.0]);
    }

    #[test]
    fn nonsense_is_refused() {
        let second = Duration::from_secs(1);
        for nonsense in [
            Backoff::exponential().max(Duration::from_millis(1)),
            Backoff::exponential().factor(0.5),
            Backoff::exponential().factor(f64::NAN),
            Backoff::exponential().jitter(2.0),
            Backoff::exponential().max(Duration::MAX),
            Backoff::ocpp2(Duration::MAX, second, 1),
            Backoff::ocpp2(second, second, 99),
        ] {
            assert!(nonsense.contradiction().is_some(), "{nonsense:?}");
        }
        assert_eq!(Backoff::default().contradiction(), None);
    }
}
