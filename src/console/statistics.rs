//! The figures of the overview: calls per second, their times, and the number of rare facts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Serialize, Serializer};

use crate::{
    error::Error,
    event::{
        activity::{Activity, CallTimes},
        kind::{CallOutcome, Direction},
    },
};

/// The points that are kept: five minutes.
pub(crate) const POINTS: usize = 300;

/// The names of causes, deviations and the like that are counted one by one.
const MAX_NAMES: usize = 64;

/// The figures of one server, or of all nodes of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// The latest seconds with the times of their calls, the oldest first.
    seconds: VecDeque<(Point, Both<CallTimes>)>,
    /// The sum of these times.
    recent: Both<CallTimes>,
    /// The calls of this node in the current second, which other nodes do not know yet.
    own: Activity,
    /// The calls of other nodes in the current second.
    others: Both<Calls>,
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

/// Calls in one direction: the times of those that have one, and the number of others.
#[derive(Debug, Default, Clone, Copy)]
struct Calls {
    times: CallTimes,
    untimed: u64,
}

impl Calls {
    fn add(&mut self, times: &CallTimes, untimed: u64) {
        self.times.merge(times);
        self.untimed = self.untimed.saturating_add(untimed);
    }

    fn count(&self) -> u64 {
        self.times.calls().saturating_add(self.untimed)
    }
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
    closes: &'a Counts<Box<str>>,
    refusals: &'a Counts<Option<u16>>,
    deviations: &'a Counts<Box<str>>,
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

/// The memory of the recorded messages.
#[derive(Debug, Serialize)]
pub(crate) struct Recorded {
    pub(crate) stations: usize,
    pub(crate) bytes: usize,
    pub(crate) max_bytes: usize,
}

impl Statistics {
    /// Counts a call of this node that ended.
    pub(crate) fn call(&mut self, direction: Direction, outcome: &CallOutcome, time: Duration) {
        let (is_error, has_time, is_sent) = match outcome {
            CallOutcome::Result | CallOutcome::RespondedEarly => (false, true, true),
            // Without a handler, a rejection takes no time.
            CallOutcome::Rejected(_) => (true, direction == Direction::Out || !time.is_zero(), true),
            CallOutcome::NoResponse => (false, false, true),
            CallOutcome::Failed(error) => (true, false, direction == Direction::In || is_sent(error)),
        };
        self.own.errors += u64::from(is_error);
        let own = &mut self.own;
        match (direction, has_time) {
            (Direction::In, true) => own.calls_in.add(time),
            (Direction::In, false) => own.untimed_in += 1,
            (Direction::Out, true) => own.calls_out.add(time),
            (Direction::Out, false) => own.untimed_out += u64::from(is_sent),
        }
    }

    /// Counts the calls of a second of another node.
    pub(crate) fn others(&mut self, activity: &Activity) {
        self.others.r#in.add(&activity.calls_in, activity.untimed_in);
        self.others.out.add(&activity.calls_out, activity.untimed_out);
        self.errors = self.errors.saturating_add(activity.errors);
    }

    /// Ends a second. `at` is the Unix time in milliseconds, `stations` the number of stations of all nodes. `length` is
    /// the real length of the second: a busy server may end it late. Returns the point, and the activity of this node
    /// without its sessions.
    pub(crate) fn tick(&mut self, at: u64, stations: usize, length: Duration) -> (Point, Activity) {
        let own = std::mem::take(&mut self.own);
        let mut calls = std::mem::take(&mut self.others);
        calls.r#in.add(&own.calls_in, own.untimed_in);
        calls.out.add(&own.calls_out, own.untimed_out);
        self.errors = self.errors.saturating_add(own.errors);
        self.calls.r#in = self.calls.r#in.saturating_add(calls.r#in.count());
        self.calls.out = self.calls.out.saturating_add(calls.out.count());
        let times = Both { r#in: calls.r#in.times, out: calls.out.times };
        self.recent.r#in.merge(&times.r#in);
        self.recent.out.merge(&times.out);
        let point = Point {
            at,
            stations,
            calls_in: per_second(calls.r#in.count(), length),
            calls_out: per_second(calls.out.count(), length),
            p50_in: quantile(&times.r#in, 0.5),
            p99_in: quantile(&times.r#in, 0.99),
            p50_out: quantile(&times.out, 0.5),
            p99_out: quantile(&times.out, 0.99),
        };
        if self.seconds.len() == POINTS
            && let Some((_, old)) = self.seconds.pop_front()
        {
            self.recent.r#in.subtract(&old.r#in);
            self.recent.out.subtract(&old.out);
        }
        self.seconds.push_back((point.clone(), times));
        (point, own)
    }

    /// Returns the latest points, the oldest first.
    pub(crate) fn points(&self) -> Vec<Point> {
        self.seconds.iter().map(|(point, _)| point.clone()).collect()
    }

    pub(crate) fn totals(&self, stations: usize, recorded: Recorded) -> Totals<'_> {
        Totals {
            stations,
            calls_in: self.calls.r#in.saturating_add(self.own.calls_in.calls()).saturating_add(self.own.untimed_in),
            calls_out: self.calls.out.saturating_add(self.own.calls_out.calls()).saturating_add(self.own.untimed_out),
            latency: Both { r#in: latency(&self.recent.r#in), out: latency(&self.recent.out) },
            closes: &self.closes,
            refusals: &self.refusals,
            deviations: &self.deviations,
            violations: self.violations,
            bad_messages: self.bad_messages,
            errors: self.errors.saturating_add(self.own.errors),
            lost_events: self.lost_events,
            recorded,
        }
    }
}

/// Returns false if a call failed before it was sent.
fn is_sent(error: &Error) -> bool {
    error.maybe_delivered() || matches!(error, Error::Rejected(_) | Error::Decode(_) | Error::Invalid(_))
}

/// Returns the calls of a time per second.
fn per_second(calls: u64, time: Duration) -> u64 {
    (calls as f64 / time.as_secs_f64().max(1.0)).round() as u64
}

fn latency(times: &CallTimes) -> Latency {
    Latency { calls: times.calls(), p50: quantile(times, 0.5), p99: quantile(times, 0.99) }
}

/// Returns the time in seconds that this part of the calls did not exceed.
fn quantile(times: &CallTimes, part: f64) -> Option<f64> {
    times.quantile(part).map(|time| time.as_secs_f64())
}

/// The numbers of facts by name. They serialize to pairs, the highest number first.
#[derive(Debug, Default)]
pub(crate) struct Counts<K>(BTreeMap<K, u64>);

impl<K: Ord> Counts<K> {
    /// Counts a fact. Names beyond [`MAX_NAMES`] are not counted: other nodes of a cluster choose them.
    pub(crate) fn add(&mut self, name: K) {
        if self.0.len() < MAX_NAMES || self.0.contains_key(&name) {
            *self.0.entry(name).or_default() += 1;
        }
    }

    /// Returns the names with their numbers, the highest first.
    fn sorted(&self) -> Vec<(&K, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, count)| (name, *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }
}

impl<K: Ord + Serialize> Serialize for Counts<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.sorted())
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
        assert_eq!((counts.sorted()[0], counts.sorted().len()), ((&0, 2), MAX_NAMES));
    }

    #[test]
    fn calls_of_a_late_second_are_spread_over_its_length() {
        let mut statistics = Statistics::default();
        let times = [(9, 3.0, 3), (9, 1.0, 9), (9, 0.98, 9), (0, 2.0, 0)];
        for (calls, seconds, expected) in times {
            (0..calls).for_each(|_| statistics.call(Direction::In, &CallOutcome::Result, Duration::ZERO));
            assert_eq!(statistics.tick(0, 0, Duration::from_secs_f64(seconds)).0.calls_in, expected, "{seconds} s");
        }
        assert_eq!(statistics.calls.r#in, 27);
    }

    #[test]
    fn calls_without_a_response_have_no_time() {
        let rejected = || CallOutcome::Rejected(crate::error::ErrorCode::NOT_SUPPORTED);
        let never_sent = [Error::NeverSent, Error::QueueFull, Error::Disconnected { maybe_delivered: false }];
        let sent = [Error::Timeout, Error::Cancelled, Error::Disconnected { maybe_delivered: true }];
        let never_sent = never_sent.map(|error| (CallOutcome::Failed(error), 1, [0, 0]));
        let sent = sent.map(|error| (CallOutcome::Failed(error), 1, [1, 0]));
        let timed = [CallOutcome::Result, CallOutcome::RespondedEarly].map(|outcome| (outcome, 1, [1, 1]));
        let others = [(CallOutcome::NoResponse, 1, [1, 0]), (rejected(), 1, [1, 1])];
        for (outcome, seconds, out) in never_sent.into_iter().chain(sent).chain(timed).chain(others) {
            for (direction, expected) in [(Direction::Out, out), (Direction::In, [1, out[1]])] {
                let mut statistics = Statistics::default();
                statistics.call(direction, &outcome, Duration::from_secs(seconds));
                let activity = statistics.tick(0, 0, Duration::from_secs(1)).1;
                let (times, untimed) = match direction {
                    Direction::In => (activity.calls_in, activity.untimed_in),
                    Direction::Out => (activity.calls_out, activity.untimed_out),
                };
                assert_eq!([times.calls() + untimed, times.calls()], expected, "{direction:?} {outcome:?}");
                let is_error = matches!(outcome, CallOutcome::Rejected(_) | CallOutcome::Failed(_));
                assert_eq!(activity.errors, u64::from(is_error), "{outcome:?}");
            }
        }
        let mut statistics = Statistics::default();
        statistics.call(Direction::In, &rejected(), Duration::ZERO);
        assert_eq!((statistics.own.calls_in.calls(), statistics.own.untimed_in), (0, 1), "without a handler");
    }

    proptest! {
        #[test]
        fn recent_calls_are_those_of_the_latest_points(seconds in prop::collection::vec(0..4_u64, 0..700)) {
            let mut statistics = Statistics::default();
            for (at, calls) in seconds.iter().enumerate() {
                for call in 0..*calls {
                    statistics.call(Direction::Out, &CallOutcome::Result, Duration::from_secs(call));
                }
                statistics.others(&Activity { calls_out: statistics.own.calls_out, errors: 1, ..Activity::default() });
                statistics.tick(at as u64, 1, Duration::from_secs(1));
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
