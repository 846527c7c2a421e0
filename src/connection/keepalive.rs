//! When to ping, and when to give a silent peer up.

use std::time::{Duration, Instant};

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ping {
    /// Nothing, until then.
    Wait(Option<Instant>),
    /// Send a ping with this payload, and ask again.
    Send([u8; 4]),
    /// Two intervals have passed without a sign of life.
    GiveUp,
}

/// Pings at an interval, and measures the answers.
#[derive(Debug)]
pub(super) struct KeepAlive {
    interval: Option<Duration>,
    activity_counts: bool,
    next: Instant,
    /// When the first ping went out that nothing has answered.
    unanswered_since: Option<Instant>,
    number: u32,
    sent: Instant,
}

/// How many beats an interval has. Pings go out on one of them, so that of many connections several are woken at once,
/// which costs less than to wake one after the other.
const BEATS: u32 = 128;

impl KeepAlive {
    /// `jitter`, from 0 to 1, says when in the first interval the first ping goes out: connections that came in
    /// together shall not all be pinged together. It goes out on a beat, which are counted from `origin`, and the others
    /// do so after it.
    pub(super) fn new(
        interval: Option<Duration>,
        activity_counts: bool,
        jitter: f64,
        origin: Instant,
        now: Instant,
    ) -> Self {
        let next = interval.map_or(now, |interval| {
            let beat = interval / BEATS;
            beat_after(now + (interval - beat).mul_f64(jitter), beat, origin)
        });
        Self { interval, activity_counts, next, unanswered_since: None, number: 0, sent: now }
    }

    /// Another interval, from now on.
    pub(super) fn set(&mut self, interval: Option<Duration>, activity_counts: bool, now: Instant) {
        if (self.interval, self.activity_counts) != (interval, activity_counts) {
            let next = now + interval.unwrap_or_default();
            *self = Self { interval, activity_counts, next, unanswered_since: None, ..*self };
        }
    }

    pub(super) fn due(&mut self, now: Instant) -> Ping {
        let Some(interval) = self.interval else { return Ping::Wait(None) };
        if self.unanswered_since.is_some_and(|since| now >= since + 2 * interval) {
            return Ping::GiveUp;
        }
        if now < self.next {
            return Ping::Wait(Some(self.next));
        }
        // On a beat again, unless this one was missed by more than a beat.
        let is_late = now - self.next > interval / BEATS;
        let beat = if is_late { now } else { self.next };
        self.next = beat + interval;
        // However late a timer rings, two intervals are two.
        self.unanswered_since.get_or_insert(beat);
        self.sent = now;
        self.number = self.number.wrapping_add(1);
        Ping::Send(self.number.to_be_bytes())
    }

    /// Something arrived.
    pub(super) fn activity(&mut self, now: Instant) {
        if self.activity_counts {
            self.unanswered_since = None;
            self.next = now + self.interval.unwrap_or_default();
        }
    }

    /// A pong arrived; gives the round-trip time if it answers the latest ping.
    pub(super) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        self.unanswered_since = None;
        (payload == self.number.to_be_bytes()).then(|| now.saturating_duration_since(self.sent))
    }
}

/// The first beat that is not before a moment.
fn beat_after(moment: Instant, beat: Duration, origin: Instant) -> Instant {
    let since = moment.saturating_duration_since(origin).as_nanos();
    match since % beat.as_nanos().max(1) {
        0 => moment,
        // Less than a beat, which is less than a year.
        passed => moment + (beat - Duration::from_nanos(passed as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(30);

    #[test]
    fn the_first_ping_is_jittered_and_the_others_follow_at_the_interval() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(Some(INTERVAL), false, 0.5, start, start);
        let first = start + INTERVAL / 2;
        assert_eq!(keepalive.due(start), Ping::Wait(Some(first)));
        let Ping::Send(payload) = keepalive.due(first) else { panic!("no ping") };
        assert_eq!(keepalive.due(first), Ping::Wait(Some(first + INTERVAL)));
        assert_eq!(keepalive.pong(&payload, first + SECOND), Some(SECOND));
        assert!(matches!(keepalive.due(first + INTERVAL), Ping::Send(_)));
    }

    #[test]
    fn two_silent_intervals_are_the_end() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(Some(INTERVAL), false, 0.0, start, start);
        assert!(matches!(keepalive.due(start), Ping::Send(_)));
        keepalive.activity(start + SECOND);
        assert!(matches!(keepalive.due(start + INTERVAL), Ping::Send(_)));
        assert_eq!(keepalive.due(start + 2 * INTERVAL), Ping::GiveUp);
    }

    #[test]
    fn two_silent_intervals_are_the_end_however_late_the_timer_rings() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(Some(INTERVAL), false, 0.0, start, start);
        for late in [0, 1] {
            assert!(matches!(keepalive.due(start + late * INTERVAL + (2 - late) * SECOND / 1000), Ping::Send(_)));
        }
        assert_eq!(keepalive.due(start + 2 * INTERVAL), Ping::GiveUp);
    }

    #[test]
    fn an_answer_to_an_older_ping_is_a_sign_of_life_too() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(Some(INTERVAL), false, 0.0, start, start);
        let Ping::Send(first) = keepalive.due(start) else { panic!("no ping") };
        keepalive.due(start + INTERVAL);
        assert_eq!(keepalive.pong(&first, start + INTERVAL + SECOND), None);
        assert!(matches!(keepalive.due(start + 2 * INTERVAL), Ping::Send(_)));
    }

    #[test]
    fn activity_defers_pings_where_it_shall() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(Some(INTERVAL), true, 0.0, start, start);
        keepalive.activity(start);
        assert_eq!(keepalive.due(start), Ping::Wait(Some(start + INTERVAL)));
        keepalive.activity(start + 20 * SECOND);
        assert_eq!(keepalive.due(start + INTERVAL), Ping::Wait(Some(start + 50 * SECOND)));
        assert!(matches!(keepalive.due(start + 50 * SECOND), Ping::Send(_)));
        keepalive.activity(start + 60 * SECOND);
        assert!(matches!(keepalive.due(start + 120 * SECOND), Ping::Send(_)), "life is on record");
    }

    #[test]
    fn connections_are_pinged_on_common_beats() {
        let origin = Instant::now();
        for n in 1..100 {
            let opened = origin + n * SECOND / 7;
            let mut keepalive = KeepAlive::new(Some(INTERVAL), false, f64::from(n) / 100.0, origin, opened);
            for _ in 0..3 {
                let Ping::Wait(Some(next)) = keepalive.due(opened) else { panic!("no ping is planned") };
                assert_eq!((next - origin).as_nanos() % (INTERVAL / BEATS).as_nanos(), 0);
                // A timer is a little late.
                let rings = next + Duration::from_millis(1);
                assert!(matches!(keepalive.due(rings), Ping::Send(_)));
                keepalive.pong(&[], rings);
            }
        }
    }

    #[test]
    fn no_interval_no_pings() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(None, false, 0.0, start, start);
        assert_eq!(keepalive.due(start + 1000 * INTERVAL), Ping::Wait(None));
    }
}
