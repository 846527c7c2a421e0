//! The schedule of pings, and the decision to give up on a silent peer.

use std::time::{Duration, Instant};

use crate::options::Options;

/// The next step of the driver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ping {
    /// Waits until this moment, or for ever.
    Wait(Option<Instant>),
    /// Sends a ping with this payload. Another step follows at once.
    Send([u8; 4]),
    /// Drops the connection: two intervals have passed without a sign of life.
    GiveUp,
}

/// The pings of one connection, and the round-trip time of the latest one.
#[derive(Debug)]
pub(super) struct KeepAlive {
    // One by one, because a struct of them would have padding of its own, in each idle connection.
    interval: Option<Duration>,
    require_pongs: bool,
    activity_defers_pings: bool,
    next: Instant,
    /// The moment of the first ping since the last sign of life.
    unanswered_since: Option<Instant>,
    /// The number of the latest ping, which is its payload.
    number: u32,
    sent: Instant,
}

/// The beats of an interval, on which pings are sent.
///
/// Many connections share a beat and wake together, which costs less than to wake one after the other.
const BEATS_PER_INTERVAL: u32 = 128;

impl KeepAlive {
    /// Creates the schedule of a connection that opens `now`.
    ///
    /// `jitter`, from 0 to 1, sets the moment of the first ping within the first interval, so that connections that
    /// open together are not pinged together. The moment is rounded up to a beat, counted from `origin`. Later pings
    /// follow at the interval.
    pub(super) fn new(options: &Options, jitter: f64, origin: Instant, now: Instant) -> Self {
        let &Options { ping_interval: interval, require_pongs, activity_defers_pings, .. } = options;
        let next = interval.map_or(now, |interval| {
            let beat = interval / BEATS_PER_INTERVAL;
            beat_after(now + (interval - beat).mul_f64(jitter), beat, origin)
        });
        let (unanswered_since, number, sent) = (None, 0, now);
        Self { interval, require_pongs, activity_defers_pings, next, unanswered_since, number, sent }
    }

    /// Follows changed options. If they concern pings, the next one is due an interval from now.
    pub(super) fn set(&mut self, options: &Options, now: Instant) {
        let &Options { ping_interval: interval, require_pongs, activity_defers_pings, .. } = options;
        if (self.interval, self.require_pongs, self.activity_defers_pings)
            != (interval, require_pongs, activity_defers_pings)
        {
            let next = now + interval.unwrap_or_default();
            *self = Self { interval, require_pongs, activity_defers_pings, next, unanswered_since: None, ..*self };
        }
    }

    /// Returns the next step. It must be called again after each ping.
    pub(super) fn due(&mut self, now: Instant) -> Ping {
        let Some(interval) = self.interval else { return Ping::Wait(None) };
        let give_up = self.unanswered_since.map(|since| since + 2 * interval);
        if give_up.is_some_and(|give_up| now >= give_up) {
            return Ping::GiveUp;
        }
        if now < self.next {
            // A deferred ping may be due later than the end.
            return Ping::Wait(give_up.into_iter().chain([self.next]).min());
        }
        // The next ping stays on a beat, unless this one is more than a beat late.
        let is_late = now - self.next > interval / BEATS_PER_INTERVAL;
        let beat = if is_late { now } else { self.next };
        self.next = beat + interval;
        // Counts from the planned moment, so that a late timer does not extend the two intervals.
        self.unanswered_since.get_or_insert(beat);
        self.sent = now;
        self.number = self.number.wrapping_add(1);
        Ping::Send(self.number.to_be_bytes())
    }

    /// Records that bytes of the peer have arrived: a message, a control frame, or a part of one.
    pub(super) fn activity(&mut self, now: Instant) {
        if !self.require_pongs {
            self.unanswered_since = None;
        }
        if self.activity_defers_pings {
            self.next = now + self.interval.unwrap_or_default();
        }
    }

    /// Records that the peer has read some of the much that waits for it, which proves life even if pongs are required:
    /// a ping waits behind it, and reading pauses meanwhile, so that the pong may be late.
    pub(super) fn peer_reads(&mut self, now: Instant) {
        self.unanswered_since = None;
        self.activity(now);
    }

    /// Records a pong. Returns the round-trip time if it belongs to the latest ping.
    pub(super) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        self.unanswered_since = None;
        (payload == self.number.to_be_bytes()).then(|| now.saturating_duration_since(self.sent))
    }
}

/// Returns the first beat at or after a moment.
fn beat_after(moment: Instant, beat: Duration, origin: Instant) -> Instant {
    let since = moment.saturating_duration_since(origin).as_nanos();
    match since % beat.as_nanos().max(1) {
        0 => moment,
        // It fits: less than a beat, which is less than a year.
        passed => moment + (beat - Duration::from_nanos(passed as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(30);

    /// Returns the schedule of a connection that opens at `start`, with its first ping at once.
    fn keepalive(options: &Options, start: Instant) -> KeepAlive {
        KeepAlive::new(options, 0.0, start, start)
    }

    fn options() -> Options {
        Options::server().ping_interval(INTERVAL)
    }

    #[test]
    fn first_ping_is_jittered_and_later_ones_follow_the_interval() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(&options(), 0.5, start, start);
        let first = start + INTERVAL / 2;
        assert_eq!(keepalive.due(start), Ping::Wait(Some(first)));
        let Ping::Send(payload) = keepalive.due(first) else { panic!("no ping") };
        assert_eq!(keepalive.due(first), Ping::Wait(Some(first + INTERVAL)));
        assert_eq!(keepalive.pong(&payload, first + SECOND), Some(SECOND));
        assert!(matches!(keepalive.due(first + INTERVAL), Ping::Send(_)));
    }

    #[test]
    fn silence_for_two_intervals_after_a_ping_gives_up() {
        let start = Instant::now();
        let mut keepalive = keepalive(&options(), start);
        keepalive.activity(start);
        assert!(matches!(keepalive.due(start), Ping::Send(_)));
        assert!(matches!(keepalive.due(start + INTERVAL), Ping::Send(_)));
        assert_eq!(keepalive.due(start + 2 * INTERVAL), Ping::GiveUp);
    }

    #[test]
    fn input_is_a_sign_of_life_unless_pongs_are_required() {
        let start = Instant::now();
        for (require_pongs, expected) in [(false, None), (true, Some(Ping::GiveUp))] {
            let mut keepalive = keepalive(&options().require_pongs(require_pongs), start);
            assert!(matches!(keepalive.due(start), Ping::Send(_)));
            assert!(matches!(keepalive.due(start + INTERVAL), Ping::Send(_)));
            keepalive.activity(start + INTERVAL + SECOND);
            let step = keepalive.due(start + 2 * INTERVAL);
            match expected {
                Some(expected) => assert_eq!(step, expected),
                None => {
                    assert!(matches!(step, Ping::Send(_)), "{step:?}");
                    assert!(matches!(keepalive.due(start + 3 * INTERVAL), Ping::Send(_)));
                    assert_eq!(keepalive.due(start + 4 * INTERVAL), Ping::GiveUp, "two silent intervals follow");
                }
            }
        }
    }

    #[test]
    fn deferred_pings_do_not_defer_the_end_if_pongs_are_required() {
        let start = Instant::now();
        let mut keepalive = keepalive(&options().require_pongs(true).activity_defers_pings(true), start);
        assert!(matches!(keepalive.due(start), Ping::Send(_)));
        keepalive.activity(start + 50 * SECOND);
        assert_eq!(keepalive.due(start + 50 * SECOND), Ping::Wait(Some(start + 2 * INTERVAL)));
        assert_eq!(keepalive.due(start + 2 * INTERVAL), Ping::GiveUp);
    }

    #[test]
    fn keepalive_with_late_timer_gives_up_after_two_intervals() {
        let start = Instant::now();
        let mut keepalive = keepalive(&options(), start);
        for late in [0, 1] {
            assert!(matches!(keepalive.due(start + late * INTERVAL + (2 - late) * SECOND / 1000), Ping::Send(_)));
        }
        assert_eq!(keepalive.due(start + 2 * INTERVAL), Ping::GiveUp);
    }

    #[test]
    fn pong_to_an_older_ping_is_a_sign_of_life() {
        let start = Instant::now();
        let mut keepalive = keepalive(&options(), start);
        let Ping::Send(first) = keepalive.due(start) else { panic!("no ping") };
        keepalive.due(start + INTERVAL);
        assert_eq!(keepalive.pong(&first, start + INTERVAL + SECOND), None);
        assert!(matches!(keepalive.due(start + 2 * INTERVAL), Ping::Send(_)));
    }

    #[test]
    fn activity_that_counts_defers_pings() {
        let start = Instant::now();
        let mut keepalive = keepalive(&options().activity_defers_pings(true), start);
        keepalive.activity(start);
        assert_eq!(keepalive.due(start), Ping::Wait(Some(start + INTERVAL)));
        keepalive.activity(start + 20 * SECOND);
        assert_eq!(keepalive.due(start + INTERVAL), Ping::Wait(Some(start + 50 * SECOND)));
        assert!(matches!(keepalive.due(start + 50 * SECOND), Ping::Send(_)));
        keepalive.activity(start + 60 * SECOND);
        assert!(matches!(keepalive.due(start + 120 * SECOND), Ping::Send(_)), "the activity was a sign of life");
    }

    #[test]
    fn pings_of_many_connections_share_beats() {
        let origin = Instant::now();
        for n in 1..100 {
            let opened = origin + n * SECOND / 7;
            let mut keepalive = KeepAlive::new(&options(), f64::from(n) / 100.0, origin, opened);
            for _ in 0..3 {
                let Ping::Wait(Some(next)) = keepalive.due(opened) else { panic!("no ping is planned") };
                assert_eq!((next - origin).as_nanos() % (INTERVAL / BEATS_PER_INTERVAL).as_nanos(), 0);
                // A timer is always a little late.
                let fires = next + Duration::from_millis(1);
                assert!(matches!(keepalive.due(fires), Ping::Send(_)));
                keepalive.pong(&[], fires);
            }
        }
    }

    #[test]
    fn keepalive_without_interval_never_pings() {
        let start = Instant::now();
        let mut keepalive = keepalive(&options().ping_interval(None), start);
        assert_eq!(keepalive.due(start + 1000 * INTERVAL), Ping::Wait(None));
    }
}
