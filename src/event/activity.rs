//! The calls of a server within a second, in numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The calls of a server that ended within a second, in
/// [`EventKind::Activity`](crate::event::EventKind::Activity).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Activity {
    /// The number of sessions at the end of the second.
    pub sessions: usize,
    /// The times of the calls of stations that a handler took.
    pub calls_in: CallTimes,
    /// The times of the calls to stations that had a response.
    pub calls_out: CallTimes,
    /// The number of other calls of stations, such as those that no handler took, and SENDs.
    #[serde(default)]
    pub untimed_in: u64,
    /// The number of other calls that were sent to stations, such as those that timed out, and SENDs.
    #[serde(default)]
    pub untimed_out: u64,
    /// The number of calls that were rejected or failed, with those that were never sent.
    #[serde(default)]
    pub errors: u64,
}

/// The number of bounds of [`CallTimes`].
const BOUNDS: usize = 18;

/// The times that calls took, as the number of calls in each of the [`BUCKETS`](Self::BUCKETS).
///
/// It serializes to an array of these numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallTimes {
    counts: [u64; BOUNDS + 1],
}

impl CallTimes {
    /// The upper bounds of the buckets, in seconds. A bound belongs to its bucket. One more bucket has the calls that took
    /// longer than the last bound.
    pub const BUCKETS: &[f64] = &[
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0,
    ];

    /// Returns the number of calls in each bucket.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.counts.iter().fold(0, |calls, count| calls.saturating_add(*count))
    }

    /// Returns the time that this part of the calls did not exceed, for example 0.99 of them. `None` without calls.
    ///
    /// This is an estimate: the times of a bucket count as evenly spread, and those above the last bound as equal to it.
    ///
    /// ```
    /// use ocpp_rpc::event::{Activity, EventKind};
    ///
    /// fn show(event: &EventKind) {
    ///     if let EventKind::Activity(activity) = event {
    ///         println!("{} calls, p99 {:?}", activity.calls_in.calls(), activity.calls_in.quantile(0.99));
    ///     }
    /// }
    /// ```
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = part.clamp(0.0, 1.0) * self.calls() as f64;
        let mut before = 0.0;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if before + count >= rank {
                let low = bucket.checked_sub(1).map_or(0.0, |below| Self::BUCKETS[below]);
                let high = Self::BUCKETS.get(bucket).copied().unwrap_or(low);
                return Some(Duration::from_secs_f64(low + (high - low) * ((rank - before) / count).max(0.0)));
            }
            before += count;
        }
        None
    }

    /// Counts a call that took this long.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.counts[Self::BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
    }

    /// Adds the calls of `other`.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*other);
        }
    }

    /// Removes the calls of `other`, which were added before.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) fn subtract(&mut self, other: &Self) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_sub(*other);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(times: &[Duration]) -> CallTimes {
        let mut counted = CallTimes::default();
        times.iter().for_each(|time| counted.add(*time));
        counted
    }

    #[test]
    fn call_counts_in_the_bucket_whose_bound_it_does_not_exceed() {
        let millis = Duration::from_millis;
        for (time, bucket) in
            [(Duration::ZERO, 0), (millis(1), 3), (Duration::from_micros(1001), 4), (millis(60_000), 17)]
        {
            assert_eq!(of(&[time]).counts()[bucket], 1, "{time:?}");
        }
        assert_eq!(of(&[Duration::MAX]).counts()[BOUNDS], 1);
        assert_eq!(CallTimes::BUCKETS.len(), BOUNDS);
        assert!(CallTimes::BUCKETS.is_sorted());
    }

    #[test]
    fn quantile_lies_in_the_bucket_of_the_call() {
        assert_eq!(CallTimes::default().quantile(0.5), None);
        let mut times = of(&[Duration::from_millis(8); 98]);
        assert_eq!(times.quantile(0.0), Some(Duration::from_millis(5)));
        assert_eq!(times.quantile(0.5), Some(Duration::from_micros(7500)));
        times.add(Duration::from_secs(3600));
        times.add(Duration::from_secs(3600));
        assert_eq!(times.quantile(0.99), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_was_added_can_be_removed() {
        let (one, two) = (of(&[Duration::from_secs(1); 3]), of(&[Duration::from_secs(2)]));
        let mut sum = one;
        sum.merge(&two);
        assert_eq!(sum.calls(), 4);
        sum.subtract(&one);
        assert_eq!(sum, two);
    }

    #[test]
    fn activity_serializes_to_counts_per_bucket() {
        let activity =
            Activity { sessions: 2, calls_in: of(&[Duration::ZERO]), untimed_in: 1, errors: 3, ..Activity::default() };
        let written = serde_json::to_value(&activity).expect("JSON");
        let mut counts = vec![0; 19];
        assert_eq!(written["calls_out"], json!(counts));
        counts[0] = 1;
        assert_eq!((&written["sessions"], &written["calls_in"]), (&json!(2), &json!(counts)));
        assert_eq!(
            (&written["errors"], &written["untimed_in"], &written["untimed_out"]),
            (&json!(3), &json!(1), &json!(0))
        );
        assert_eq!(serde_json::from_value::<Activity>(written).expect("readable"), activity);
    }
}
