//! The figures of the overview: calls per second, their times, and the number of rare facts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;

use crate::event::{
    activity::{Activity, CallTimes},
    kind::Direction,
};

/// The points that are kept: five minutes.
pub(crate) const POINTS: usize = 300;

/// The names of causes, deviations and the like that are counted one by one.
const MAX_NAMES: usize = 64;

/// The figures of one server, or of all nodes of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// The calls of the latest seconds, the oldest first.
    seconds: VecDeque<Both<CallTimes>>,
    points: VecDeque<Point>,
    /// The sum of `seconds`.
    recent: Both<CallTimes>,
    /// The calls of this node in the current second, which other nodes do not know yet.
    own: Activity,
    /// The calls of other nodes in the current second.
    others: Both<CallTimes>,
    calls: Both<u64>,
    pub(crate) closes: Counts<Box<str>>,
    pub(crate) refusals: Counts<Option<u16>>,
    pub(crate) deviations: Counts<Box<str>>,
    pub(crate) violations: u64,
    pub(crate) bad_messages: u64,
    errors: u64,
    pub(crate) lost_events: u64,
}

/// A value for each direction.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Both<T> {
    r#in: T,
    out: T,
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
    /// Counts a call of this node that ended.
    pub(crate) fn call(&mut self, direction: Direction, time: Duration) {
        match direction {
            Direction::In => self.own.calls_in.add(time),
            Direction::Out => self.own.calls_out.add(time),
        }
    }

    /// Counts a call of this node that was rejected or failed.
    pub(crate) fn error(&mut self) {
        self.own.errors += 1;
    }

    /// Counts the calls of a second of another node.
    pub(crate) fn others(&mut self, activity: &Activity) {
        self.others.r#in.merge(&activity.calls_in);
        self.others.out.merge(&activity.calls_out);
        self.errors = self.errors.saturating_add(activity.errors);
    }

    /// Ends a second. `at` is the Unix time in milliseconds, `stations` the number of stations of all nodes. Returns the
    /// point, and the activity of this node without its sessions.
    pub(crate) fn tick(&mut self, at: u64, stations: usize) -> (Point, Activity) {
        let own = std::mem::take(&mut self.own);
        let mut times = std::mem::take(&mut self.others);
        times.r#in.merge(&own.calls_in);
        times.out.merge(&own.calls_out);
        self.errors = self.errors.saturating_add(own.errors);
        self.calls.r#in = self.calls.r#in.saturating_add(times.r#in.calls());
        self.calls.out = self.calls.out.saturating_add(times.out.calls());
        self.recent.r#in.merge(&times.r#in);
        self.recent.out.merge(&times.out);
        let point = Point {
            at,
            stations,
            calls_in: times.r#in.calls(),
            calls_out: times.out.calls(),
            p50_in: quantile(&times.r#in, 0.5),
            p99_in: quantile(&times.r#in, 0.99),
            p50_out: quantile(&times.out, 0.5),
            p99_out: quantile(&times.out, 0.99),
        };
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point.clone());
        if self.seconds.len() == POINTS
            && let Some(old) = self.seconds.pop_front()
        {
            self.recent.r#in.subtract(&old.r#in);
            self.recent.out.subtract(&old.out);
        }
        self.seconds.push_back(times);
        (point, own)
    }

    /// Returns the latest points, the oldest first.
    pub(crate) fn points(&self) -> Vec<Point> {
        self.points.iter().cloned().collect()
    }

    pub(crate) fn totals(&self, stations: usize, recorded: Recorded) -> Totals<'_> {
        Totals {
            stations,
            calls_in: self.calls.r#in.saturating_add(self.own.calls_in.calls()),
            calls_out: self.calls.out.saturating_add(self.own.calls_out.calls()),
            latency: Both { r#in: latency(&self.recent.r#in), out: latency(&self.recent.out) },
            closes: self.closes.sorted().map(|(cause, count)| Cause { cause, count }).collect(),
            refusals: self.refusals.sorted().map(|(status, count)| Refusal { status: *status, count }).collect(),
            deviations: self
                .deviations
                .sorted()
                .map(|(deviation, count)| DeviationCount { deviation, count })
                .collect(),
            violations: self.violations,
            bad_messages: self.bad_messages,
            errors: self.errors.saturating_add(self.own.errors),
            lost_events: self.lost_events,
            recorded,
        }
    }
}

fn latency(times: &CallTimes) -> Latency {
    Latency { calls: times.calls(), p50: quantile(times, 0.5), p99: quantile(times, 0.99) }
}

/// Returns the time in seconds that this part of the calls did not exceed.
fn quantile(times: &CallTimes, part: f64) -> Option<f64> {
    times.quantile(part).map(|time| time.as_secs_f64())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                (0..*calls).for_each(|call| statistics.call(Direction::Out, Duration::from_secs(call)));
                statistics.others(&Activity { calls_out: statistics.own.calls_out, errors: 1, ..Activity::default() });
                statistics.tick(at as u64, 1);
            }
            let recent = seconds.len().saturating_sub(POINTS);
            let points = statistics.points();
            // Another node has as many.
            prop_assert!(points.iter().map(|point| point.calls_out).eq(seconds[recent..].iter().map(|calls| 2 * calls)));
            prop_assert_eq!(statistics.recent.out.calls(), 2 * seconds[recent..].iter().sum::<u64>());
            prop_assert_eq!(statistics.calls.out, 2 * seconds.iter().sum::<u64>());
            prop_assert_eq!(statistics.recent.r#in.calls(), 0);
            prop_assert_eq!(statistics.errors, seconds.len() as u64);
        }
    }
}
