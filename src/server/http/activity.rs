//! The activity of an HTTP connection: since when it waits for its client, and how long it may.
//!
//! A connection waits for its client before the first request, between two requests, and while a body makes no
//! progress. It does not wait for its client while the application works on a request.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Version;
#[cfg(feature = "http2")]
use tokio::task::{Id, try_id};
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::server::http::settings::HttpSettings;

/// The maximum time of a connection without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The time that a client in the middle of a message has before a newcomer may get its place, at most.
const GRACE: Duration = Duration::from_secs(5);

/// The activity of one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    timeouts: Timeouts,
    started_at: Instant,
    state: Mutex<State>,
    /// Notified when the deadline may have become earlier.
    changed: Notify,
}

#[derive(Debug)]
struct Timeouts {
    handshake: Duration,
    body: Option<Duration>,
}

#[derive(Debug)]
struct State {
    /// The moment of the last progress, or of the end of the last request.
    since: Instant,
    has_request: bool,
    /// The moment from which on requests were under way, and the first of them waited for the client.
    first_wait: Option<Instant>,
    /// The number of requests under way, including WebSockets over HTTP/2.
    open: usize,
    /// The number of these that wait for the client.
    waiting: usize,
    /// The number of these whose responses are complete, but not yet written.
    unwritten: usize,
    /// Set while HTTP/1.1 cannot write, because the client does not read.
    is_blocked: bool,
    is_retired: bool,
    /// Set when HTTP/2 is told to open no more streams. Those that are open continue.
    #[cfg(feature = "http2")]
    is_going_away: bool,
    is_http1: bool,
    /// The latest exchange over HTTP/2 and the task of the connection, until the stream's task is spawned there.
    #[cfg(feature = "http2")]
    latest: Option<(Option<Id>, Arc<Exchange>)>,
}

/// The deadline that a connection has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// There was no request within the handshake timeout.
    NoRequest,
    /// There was no further request.
    Idle,
    /// A body made no progress.
    Stalled,
}

impl Expired {
    /// Returns the end of the connection. Only an idle connection ends without an error.
    pub(crate) fn into_result(self) -> Result<(), &'static str> {
        match self {
            Self::NoRequest => Err("the handshake timed out"),
            Self::Idle => Ok(()),
            Self::Stalled => Err("a body made no progress"),
        }
    }
}

impl Activity {
    /// Creates the activity of a connection that was accepted at `started_at`.
    pub(crate) fn new(settings: &HttpSettings, started_at: Instant) -> Arc<Self> {
        Arc::new(Self {
            timeouts: Timeouts { handshake: settings.handshake_timeout, body: settings.body_timeout },
            started_at,
            state: Mutex::new(State {
                since: started_at,
                has_request: false,
                first_wait: None,
                open: 0,
                waiting: 0,
                unwritten: 0,
                is_blocked: false,
                is_retired: false,
                #[cfg(feature = "http2")]
                is_going_away: false,
                is_http1: false,
                #[cfg(feature = "http2")]
                latest: None,
            }),
            changed: Notify::new(),
        })
    }

    pub(crate) fn started_at(&self) -> Instant {
        self.started_at
    }

    pub(crate) fn has_request(&self) -> bool {
        self.lock().has_request
    }

    /// Notes a request. Returns `true` if it is the first.
    pub(crate) fn note_request(&self) -> bool {
        let mut state = self.lock();
        state.since = Instant::now();
        !std::mem::replace(&mut state.has_request, true)
    }

    /// Begins a request. A stream of HTTP/2 counts as open only from [`open_stream`](Self::open_stream).
    pub(crate) fn begin(self: &Arc<Self>, version: Version) -> Arc<Exchange> {
        let exchange = Exchange::new(self.clone());
        let mut state = self.lock();
        if version == Version::HTTP_2 {
            #[cfg(feature = "http2")]
            let _ = state.latest.insert((try_id(), exchange.clone()));
        } else {
            state.open_one();
            state.is_http1 = true;
        }
        drop(state);
        exchange
    }

    /// Counts a task of HTTP/2 as open, until the result is dropped.
    ///
    /// Also returns the exchange of the task, if it is the stream of a request. hyper spawns that in the connection's
    /// task, right after it has called the service. It spawns the writer of an upgraded stream in the stream's own task,
    /// which may be at the same time.
    #[cfg(feature = "http2")]
    pub(crate) fn open_stream(self: &Arc<Self>) -> (OpenStream, Option<Arc<Exchange>>) {
        let mut state = self.lock();
        state.open_one();
        let latest = state.latest.take_if(|(task, _)| *task == try_id());
        drop(state);
        (OpenStream(self.clone()), latest.map(|(_, exchange)| exchange))
    }

    /// Notes that bytes of a response were written over HTTP/1.1.
    pub(crate) fn note_written(&self) {
        let mut state = self.lock();
        state.is_blocked = false;
        state.since = Instant::now();
    }

    /// Notes that no bytes of a response can be written over HTTP/1.1.
    pub(crate) fn note_blocked(&self) {
        self.lock().is_blocked = true;
    }

    /// Notes that all responses so far were written over HTTP/1.1.
    pub(crate) fn note_flushed(&self) {
        let mut state = self.lock();
        state.is_blocked = false;
        let written = std::mem::take(&mut state.unwritten);
        if written > 0 {
            state.open -= written;
            state.waiting -= written;
            state.since = Instant::now();
            self.changed.notify_one();
        }
    }

    /// Lets a connection of HTTP/2 go away, although it is in use.
    #[cfg(feature = "http2")]
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        state.is_retired = !state.is_going_away;
        self.changed.notify_one();
    }

    /// Starts the idle timeout of a connection that has no further requests.
    #[cfg(feature = "http2")]
    pub(crate) fn go_away(&self) {
        let mut state = self.lock();
        state.is_going_away = true;
        state.has_request = true;
        state.since = Instant::now();
    }

    /// Completes when the connection has waited for its client for too long.
    ///
    /// Over HTTP/2, only single streams are stalled, see [`Exchange::stalled`].
    pub(crate) async fn expired(&self) -> Expired {
        loop {
            match self.deadline() {
                None => self.changed.notified().await,
                Some((deadline, expired)) if deadline <= Instant::now() => return expired,
                Some((deadline, _)) => select! {
                    () = sleep_until(deadline) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn deadline(&self) -> Option<(Instant, Expired)> {
        let mut state = self.lock();
        if std::mem::take(&mut state.is_retired) {
            Some((self.started_at, Expired::Idle))
        } else if !state.has_request {
            Some((self.started_at + self.timeouts.handshake, Expired::NoRequest))
        } else if state.open == 0 {
            Some((state.since + self.timeouts.handshake.min(IDLE_TIMEOUT), Expired::Idle))
        } else if state.is_http1 && (state.unwritten > 0 || state.waiting == state.open) {
            self.timeouts.body.map(|timeout| (state.since + timeout, Expired::Stalled))
        } else {
            None
        }
    }

    /// Returns the place of the connection in the order of those that give way to newcomers. `None` if it is in use.
    pub(crate) fn eviction(&self, now: Instant) -> Option<Eviction> {
        let grace = |timeout: Duration| (timeout / 2).min(GRACE);
        let state = self.lock();
        let (idle, first_wait) = if !state.has_request {
            (self.started_at + grace(self.timeouts.handshake), None)
        } else if state.open == 0 {
            (state.since, None)
        } else if state.open == state.waiting {
            let grace = self.timeouts.body.map_or(GRACE, grace);
            (state.since + grace, state.first_wait.map(|since| since + grace))
        } else {
            return None;
        };
        let evictions = [Some(Eviction::Idle(idle)), first_wait.map(Eviction::Slow)];
        evictions.into_iter().flatten().find(|(Eviction::Idle(from) | Eviction::Slow(from))| *from <= now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts another request as under way.
    fn open_one(&mut self) {
        if self.open == 0 {
            self.first_wait = None;
        }
        self.open += 1;
    }
}

/// A place in the order of the connections that give way to newcomers: the smallest is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Eviction {
    /// The connection waits for its client without progress, and gives way from this moment on.
    Idle(Instant),
    /// It makes progress, but its requests have waited for the client before. Otherwise clients that send or read a few
    /// bytes now and then could keep all places.
    Slow(Instant),
}

/// A request and its response, as far as they wait for the client.
#[derive(Debug)]
pub(crate) struct Exchange {
    activity: Arc<Activity>,
    waits: Mutex<Waits>,
    /// Notified when the exchange begins to wait.
    #[cfg(feature = "http2")]
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Waits {
    /// The moment of the last progress.
    since: Instant,
    /// Set while the application waits for the body of the request.
    for_request: bool,
    /// Set from the head of the response to the end of its body.
    for_response: bool,
    is_over: bool,
}

impl Waits {
    fn is_waiting(&self) -> bool {
        self.for_request || self.for_response
    }
}

impl Exchange {
    fn new(activity: Arc<Activity>) -> Arc<Self> {
        Arc::new(Self {
            activity,
            waits: Mutex::new(Waits { since: Instant::now(), for_request: false, for_response: false, is_over: false }),
            #[cfg(feature = "http2")]
            changed: Notify::new(),
        })
    }

    /// Notes that the application waits for the body of the request.
    pub(crate) fn request_pending(&self) {
        self.update(|waits| waits.for_request = true);
    }

    /// Notes that a part of the request's body has arrived, or its end, or that the application has dropped it.
    pub(crate) fn request_progressed(&self) {
        self.progress(|waits| waits.for_request = false);
    }

    /// Notes that the response has begun.
    fn response_begun(&self) {
        self.progress(|waits| waits.for_response = true);
    }

    /// Notes that the application has produced a part of the response's body.
    pub(crate) fn response_progressed(&self) {
        // While the client does not read, the part stays in a buffer.
        let is_blocked = self.activity.lock().is_blocked;
        if !is_blocked {
            self.progress(|_| {});
        }
    }

    /// Notes that the response is complete. Over HTTP/1.1, it is still to be written.
    fn end(&self) {
        let mut waits = self.lock();
        let mut state = self.activity.lock();
        waits.is_over = true;
        state.since = Instant::now();
        if state.is_http1 {
            state.unwritten += 1;
        } else {
            state.waiting -= 1;
            self.activity.changed.notify_one();
        }
    }

    fn progress(&self, change: impl FnOnce(&mut Waits)) {
        self.update(|waits| {
            change(waits);
            waits.since = Instant::now();
        });
        self.activity.lock().since = Instant::now();
    }

    fn update(&self, change: impl FnOnce(&mut Waits)) {
        let mut waits = self.lock();
        if waits.is_over {
            return;
        }
        let before = waits.is_waiting();
        change(&mut waits);
        if waits.is_waiting() == before {
            return;
        }
        let now = Instant::now();
        let mut state = self.activity.lock();
        state.since = now;
        if before {
            state.waiting -= 1;
        } else {
            state.waiting += 1;
            state.first_wait.get_or_insert(now);
            waits.since = now;
            self.activity.changed.notify_one();
            #[cfg(feature = "http2")]
            self.changed.notify_one();
        }
    }

    /// Completes when a body of a stream of HTTP/2 has made no progress for too long.
    #[cfg(feature = "http2")]
    pub(crate) async fn stalled(&self) {
        loop {
            let waits = Some(*self.lock()).filter(|waits| waits.is_waiting() && !waits.is_over);
            match waits.and_then(|waits| Some(waits.since + self.activity.timeouts.body?)) {
                None => self.changed.notified().await,
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => select! {
                    () = sleep_until(deadline) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        // A panic under the lock cannot leave the state inconsistent.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let waits = *self.lock();
        if waits.is_waiting() && !waits.is_over {
            // A stream of HTTP/2 that broke off. A connection of HTTP/1.1 ends with its exchange.
            self.activity.lock().waiting -= 1;
        }
    }
}

/// The body of a response exists. Ends its exchange when dropped.
#[derive(Debug)]
pub(crate) struct ResponseGuard(Arc<Exchange>);

impl ResponseGuard {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        exchange.response_begun();
        Self(exchange)
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.0
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Counts a stream of HTTP/2 as open until dropped.
#[cfg(feature = "http2")]
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<Activity>);

#[cfg(feature = "http2")]
impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open -= 1;
        state.since = Instant::now();
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
#[cfg(feature = "http2")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stream_takes_only_its_own_exchange() {
        let activity = Activity::new(&HttpSettings::default(), Instant::now());
        activity.note_request();
        let exchange = activity.begin(Version::HTTP_2);
        // The stream of a WebSocket is upgraded in its own task, between the request and its stream.
        let of_upgrade = tokio::spawn({
            let activity = activity.clone();
            async move { activity.open_stream().1.is_some() }
        });
        assert!(!of_upgrade.await.expect("no panic"));
        let (_open, own) = activity.open_stream();
        assert!(Arc::ptr_eq(&own.expect("the exchange of the request"), &exchange));
    }
}
