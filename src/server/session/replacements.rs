//! The recent replacements of sessions, by key.
//!
//! A station that reconnects replaces its own session now and then. Two stations that share an identity replace each
//! other again and again.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

/// The replacements of one key within [`PERIOD`] that are usual.
const USUAL: usize = 5;

const PERIOD: Duration = Duration::from_secs(60);

/// The keys that are remembered at once. More keys are not counted until others are forgotten.
const MAX_KEYS: usize = 16_384;

/// The number of keys at which old ones are first removed.
const FIRST_PRUNE: usize = 64;

/// The time between two removals of old keys, which take a walk over all of them.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// The recent replacements of sessions.
#[derive(Debug, Default)]
pub(crate) struct Replacements {
    keys: HashMap<Arc<str>, Recent>,
    /// The time that a newcomer must wait after a replacement, if its key has too many.
    delay: Option<Duration>,
    prune_at: usize,
    pruned_at: Option<Instant>,
}

/// The recent replacements of one key.
#[derive(Debug, Default)]
struct Recent {
    /// The latest ones in order, one more than is usual.
    times: SmallVec<[Instant; USUAL + 1]>,
    reported_at: Option<Instant>,
}

impl Recent {
    /// Returns `true` if there were more replacements than usual at the time of the latest one.
    fn is_unusual(&self) -> bool {
        self.times.len() > USUAL && self.times[USUAL].duration_since(self.times[0]) <= PERIOD
    }

    fn latest(&self) -> Option<Instant> {
        self.times.last().copied()
    }
}

impl Replacements {
    pub(crate) fn new(delay: Option<Duration>) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Records a replacement. Returns `true` if there are too many and the application must learn of it, which is at
    /// most once in each [`PERIOD`].
    pub(crate) fn record(&mut self, key: &Arc<str>, now: Instant) -> bool {
        if !self.keys.contains_key(key) {
            self.prune(now);
            if self.keys.len() >= MAX_KEYS {
                return false;
            }
        }
        let recent = self.keys.entry(key.clone()).or_default();
        if recent.times.len() > USUAL {
            recent.times.remove(0);
        }
        recent.times.push(now);
        let is_new = recent.reported_at.is_none_or(|reported| now.duration_since(reported) >= PERIOD);
        let is_reported = is_new && recent.is_unusual();
        if is_reported {
            recent.reported_at = Some(now);
        }
        is_reported
    }

    /// Returns how long a newcomer must wait before it may replace the session of this key.
    pub(crate) fn delay(&self, key: &str, now: Instant) -> Option<Duration> {
        let delay = self.delay?;
        let recent = self.keys.get(key).filter(|recent| recent.is_unusual())?;
        let waited = now.duration_since(recent.latest()?);
        delay.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// Removes the keys without a recent replacement, if there are many keys.
    fn prune(&mut self, now: Instant) {
        let is_due = self.pruned_at.is_none_or(|pruned| now.duration_since(pruned) >= PRUNE_INTERVAL);
        if self.keys.len() < self.prune_at.max(FIRST_PRUNE) || !is_due {
            return;
        }
        let period = self.delay.unwrap_or_default().max(PERIOD);
        self.keys.retain(|_, recent| recent.latest().is_some_and(|latest| now.duration_since(latest) <= period));
        self.prune_at = (2 * self.keys.len()).min(MAX_KEYS);
        self.pruned_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: usize) -> Arc<str> {
        format!("CP-{number}").into()
    }

    #[test]
    fn sixth_replacement_within_a_minute_is_reported_once_a_minute() {
        let start = Instant::now();
        for (interval, reported) in [(1, &[5, 65][..]), (12, &[60, 120]), (13, &[])] {
            let mut replacements = Replacements::default();
            let seconds = (0..=120).step_by(interval);
            let at: Vec<_> = seconds.filter(|&at| replacements.record(&key(1), start + SECOND * at)).collect();
            assert_eq!(at, reported, "every {interval} s");
        }
    }

    #[test]
    fn newcomer_waits_after_the_latest_replacement() {
        let start = Instant::now();
        let mut replacements = Replacements::new(Some(10 * SECOND));
        for at in 0..6 {
            assert_eq!(replacements.delay("CP-1", start + SECOND * at), None);
            replacements.record(&key(1), start + SECOND * at);
        }
        assert_eq!(replacements.delay("CP-1", start + 6 * SECOND), Some(9 * SECOND));
        assert_eq!(replacements.delay("CP-2", start + 6 * SECOND), None);
        assert_eq!(replacements.delay("CP-1", start + 15 * SECOND), None);
    }

    #[test]
    fn keys_are_forgotten_and_bounded() {
        let start = Instant::now();
        let mut replacements = Replacements::default();
        for number in 0..2 * MAX_KEYS {
            replacements.record(&key(number), start);
        }
        assert_eq!(replacements.keys.len(), MAX_KEYS);
        replacements.record(&key(1), start + 61 * SECOND);
        replacements.record(&key(MAX_KEYS + 1), start + 61 * SECOND);
        assert_eq!(replacements.keys.len(), 2);
    }
}
