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
    /// Where beats are counted from.
    origin: Instant,
}

/// How many beats an interval has. Pings wait for the next one, so that of many connections several are woken at once,
/// which costs less than to wake one after the other.
const BEATS: u32 = 128;

impl KeepAlive {
    /// `jitter`, from 0 to 1, says when in the first interval the first ping goes out: connections that came in
    /// together shall not all be pinged together. Connections with the same `origin` have their beats in common.
    pub(super) fn new(
        interval: Option<Duration>,
        activity_counts: bool,
        jitter: f64,
        origin: Instant,
        now: Instant,
    ) -> Self {
        let next = now + interval.unwrap_or_default().mul_f64(jitter);
        Self { interval, activity_counts, next, unanswered_since: None, number: 0, sent: now, origin }
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
            return Ping::Wait(Some(self.beat(interval)));
        }
        self.next = now + interval;
        self.unanswered_since.get_or_insert(now);
        self.sent = now;
        self.number = self.number.wrapping_add(1);
        Ping::Send(self.number.to_be_bytes())
    }

    /// The first beat that is not before the next ping.
    fn beat(&self, interval: Duration) -> Instant {
        let beat = (interval / BEATS).as_nanos().max(1);
        let since = self.next.saturating_duration_since(self.origin).as_nanos();
        let early = since.next_multiple_of(beat) - since;
        self.next + Duration::from_nanos(early as u64)
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
        assert_eq!(keepalive.due(start + INTERVAL), Ping::Wait(Some(start + 214 * INTERVAL / 128)), "50 s and a bit");
        assert!(matches!(keepalive.due(start + 50 * SECOND), Ping::Send(_)));
        keepalive.activity(start + 60 * SECOND);
        assert!(matches!(keepalive.due(start + 120 * SECOND), Ping::Send(_)), "life is on record");
    }

    #[test]
    fn connections_are_pinged_on_common_beats() {
        let origin = Instant::now();
        let waits = (1..100).map(|n| {
            let opened = origin + n * SECOND / 7;
            KeepAlive::new(Some(INTERVAL), false, f64::from(n) / 100.0, origin, opened).due(opened)
        });
        for wait in waits {
            let Ping::Wait(Some(until)) = wait else { panic!("{wait:?}") };
            assert_eq!((until - origin).as_nanos() % (INTERVAL / BEATS).as_nanos(), 0);
        }
    }

    #[test]
    fn no_interval_no_pings() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(None, false, 0.0, start, start);
        assert_eq!(keepalive.due(start + 1000 * INTERVAL), Ping::Wait(None));
    }
}
