//! The figures of the overview: calls per second, their times, and the number of rare facts.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::event::kind::Direction;

/// The points that are kept: five minutes.
pub(crate) const POINTS: usize = 300;

/// The upper bounds of the buckets of a histogram, in seconds. A last bucket holds what is above.
pub(crate) const BOUNDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The names of causes, deviations and the like that are counted one by one.
const MAX_NAMES: usize = 64;

/// The figures of one server, or of all nodes of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// The latest seconds, the oldest first.
    seconds: VecDeque<Second>,
    current: Second,
    points: VecDeque<Point>,
    /// The sum of `seconds`.
    recent: Both<Histogram>,
    calls: Both<u64>,
    pub(crate) closes: Counts<Box<str>>,
    pub(crate) refusals: Counts<Option<u16>>,
    pub(crate) deviations: Counts<Box<str>>,
    pub(crate) violations: u64,
    pub(crate) bad_messages: u64,
    pub(crate) errors: u64,
    pub(crate) lost_events: u64,
}

/// A value for each direction.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Both<T> {
    r#in: T,
    out: T,
}

impl<T> Both<T> {
    fn of(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::In => &mut self.r#in,
            Direction::Out => &mut self.out,
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Second {
    calls: Both<u64>,
    times: Both<Histogram>,
}

/// The figures of one second.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    at: u64,
    stations: usize,
    calls_in: u64,
    calls_out: u64,
    p50_in: Option<f64>,
    p99_in: Option<f64>,
    p50_out: Option<f64>,
    p99_out: Option<f64>,
}

/// The figures since recording began.
#[derive(Debug, Serialize)]
pub(crate) struct Totals<'a> {
    stations: usize,
    calls_in: u64,
    calls_out: u64,
    latency: Both<Latency>,
    closes: Vec<Cause<'a>>,
    refusals: Vec<Refusal>,
    deviations: Vec<DeviationCount<'a>>,
    violations: u64,
    bad_messages: u64,
    errors: u64,
    lost_events: u64,
    recorded: Recorded,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Latency {
    calls: u64,
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Cause<'a> {
    cause: &'a str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Refusal {
    status: Option<u16>,
    count: u64,
}

#[derive(Debug, Serialize)]
struct DeviationCount<'a> {
    deviation: &'a str,
    count: u64,
}

/// The memory of the recorded messages.
#[derive(Debug, Serialize)]
pub(crate) struct Recorded {
    pub(crate) stations: usize,
    pub(crate) bytes: usize,
    pub(crate) max_bytes: usize,
}

impl Statistics {
    /// Counts a call that ended.
    pub(crate) fn call(&mut self, direction: Direction, seconds: f64) {
        *self.current.calls.of(direction) += 1;
        self.current.times.of(direction).add(seconds);
    }

    /// Ends a second. `at` is the Unix time in milliseconds.
    pub(crate) fn tick(&mut self, at: u64, stations: usize) -> Point {
        let second = std::mem::take(&mut self.current);
        let times = &second.times;
        self.calls.r#in += second.calls.r#in;
        self.calls.out += second.calls.out;
        self.recent.r#in.merge(&times.r#in);
        self.recent.out.merge(&times.out);
        let point = Point {
            at,
            stations,
            calls_in: second.calls.r#in,
            calls_out: second.calls.out,
            p50_in: times.r#in.quantile(0.5),
            p99_in: times.r#in.quantile(0.99),
            p50_out: times.out.quantile(0.5),
            p99_out: times.out.quantile(0.99),
        };
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point.clone());
        if self.seconds.len() == POINTS
            && let Some(old) = self.seconds.pop_front()
        {
            self.recent.r#in.subtract(&old.times.r#in);
            self.recent.out.subtract(&old.times.out);
        }
        self.seconds.push_back(second);
        point
    }

    /// Returns the latest points, the oldest first.
    pub(crate) fn points(&self) -> Vec<Point> {
        self.points.iter().cloned().collect()
    }

    pub(crate) fn totals(&self, stations: usize, recorded: Recorded) -> Totals<'_> {
        Totals {
            stations,
            calls_in: self.calls.r#in + self.current.calls.r#in,
            calls_out: self.calls.out + self.current.calls.out,
            latency: Both { r#in: self.recent.r#in.latency(), out: self.recent.out.latency() },
            closes: self.closes.sorted().map(|(cause, count)| Cause { cause, count }).collect(),
            refusals: self.refusals.sorted().map(|(status, count)| Refusal { status: *status, count }).collect(),
            deviations: self
                .deviations
                .sorted()
                .map(|(deviation, count)| DeviationCount { deviation, count })
                .collect(),
            violations: self.violations,
            bad_messages: self.bad_messages,
            errors: self.errors,
            lost_events: self.lost_events,
            recorded,
        }
    }
}

/// The numbers of facts by name.
#[derive(Debug)]
pub(crate) struct Counts<K>(BTreeMap<K, u64>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Counts<K> {
    /// Counts a fact. Names beyond [`MAX_NAMES`] are not counted: other nodes of a cluster choose them.
    pub(crate) fn add(&mut self, name: K) {
        if self.0.len() < MAX_NAMES || self.0.contains_key(&name) {
            *self.0.entry(name).or_default() += 1;
        }
    }

    /// Returns the names with their numbers, the highest first.
    fn sorted(&self) -> impl Iterator<Item = (&K, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, count)| (name, *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.into_iter()
    }
}

/// The times of calls, in buckets.
#[derive(Debug, Default, Clone, Copy)]
struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        self.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count += other);
    }

    fn subtract(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count -= other);
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn latency(&self) -> Latency {
        Latency { calls: self.total(), p50: self.quantile(0.5), p99: self.quantile(0.99) }
    }

    /// Returns the time that this part of the calls did not exceed, as if the times of a bucket were spread evenly.
    /// `None` without calls.
    fn quantile(&self, part: f64) -> Option<f64> {
        let rank = part * self.total() as f64;
        let mut before = 0.0;
        for (bucket, count) in self.counts.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && before + count >= rank {
                let low = bucket.checked_sub(1).map_or(0.0, |below| BOUNDS[below]);
                // The last bucket has no upper bound.
                let high = BOUNDS.get(bucket).copied().unwrap_or(low);
                return Some(low + (high - low) * (rank - before) / count);
            }
            before += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_between_the_bounds_of_their_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (0..99).for_each(|_| histogram.add(0.003));
        histogram.add(60.0);
        let p50 = histogram.quantile(0.5).expect("calls");
        assert!((0.0025..0.005).contains(&p50), "{p50}");
        assert_eq!(histogram.quantile(1.0), Some(30.0));
    }

    #[test]
    fn names_are_bounded() {
        let mut counts = Counts::default();
        for number in 0..1000 {
            counts.add(number);
        }
        counts.add(0);
        assert_eq!(counts.sorted().next(), Some((&0, 2)));
        assert_eq!(counts.sorted().count(), MAX_NAMES);
    }

    proptest! {
        #[test]
        fn recent_calls_are_those_of_the_latest_points(seconds in prop::collection::vec(0..4_u64, 0..700)) {
            let mut statistics = Statistics::default();
            for (at, calls) in seconds.iter().enumerate() {
                (0..*calls).for_each(|call| statistics.call(Direction::Out, call as f64 / 10.0));
                statistics.tick(at as u64, 1);
            }
            let recent = seconds.len().saturating_sub(POINTS);
            let points = statistics.points();
            prop_assert!(points.iter().map(|point| point.calls_out).eq(seconds[recent..].iter().copied()));
            prop_assert_eq!(statistics.recent.out.total(), seconds[recent..].iter().sum::<u64>());
            prop_assert_eq!(statistics.calls.out, seconds.iter().sum::<u64>());
            prop_assert_eq!(statistics.recent.r#in.total(), 0);
        }
    }
}
