//! The places of a listener: how many connections it may have open at once, and which one gives way to a newcomer.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::server::http::{
    activity::{Activity, Eviction},
    settings::HttpSettings,
};

/// The maximum age of the list of connections that may give way, and the minimum time between two lists.
const LIST_AGE: Duration = Duration::from_millis(50);

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    state: Mutex<State>,
    /// Notified when a place is free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    holders: HashMap<u64, Holder>,
    next: u64,
    /// The connections that may give way, in order. Made only when all places are taken.
    list: VecDeque<(Eviction, u64)>,
    listed_at: Option<Instant>,
}

/// A connection that holds a place.
#[derive(Debug)]
struct Holder {
    activity: Arc<Activity>,
    remote: SocketAddr,
    /// `None` until the task of the connection runs, and after it was aborted.
    task: Option<AbortHandle>,
}

/// The result of an attempt to take a place.
enum Attempt {
    Taken(u64, Arc<Activity>),
    /// This connection gives way. Its place is free when its task has ended.
    Evicted(SocketAddr, Arc<Activity>),
    /// No connection gives way before this moment.
    Full(Instant),
}

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default(), freed: Notify::new() })
    }

    /// Waits for a place. If all are taken, closes the first connection in the order of [`Eviction`].
    ///
    /// `on_evict` receives the address of a connection that gives way without having made a request.
    pub(crate) async fn take(
        self: &Arc<Self>,
        remote: SocketAddr,
        settings: &HttpSettings,
        on_evict: impl Fn(SocketAddr),
    ) -> (Place, Arc<Activity>) {
        loop {
            let now = Instant::now();
            let retry_at = match self.attempt(remote, settings, now) {
                Attempt::Taken(number, activity) => return (Place { places: self.clone(), number }, activity),
                Attempt::Evicted(remote, activity) => {
                    if !activity.has_request() {
                        on_evict(remote);
                    }
                    now + LIST_AGE
                }
                Attempt::Full(retry_at) => retry_at,
            };
            // A timeout is another attempt.
            let _ = timeout_at(retry_at, self.freed.notified()).await;
        }
    }

    /// Sets the task that ends when the holder of a place must give way.
    pub(crate) fn set_task(&self, number: u64, task: AbortHandle) {
        if let Some(holder) = self.lock().holders.get_mut(&number) {
            holder.task = Some(task);
        }
    }

    fn attempt(&self, remote: SocketAddr, settings: &HttpSettings, now: Instant) -> Attempt {
        let mut state = self.lock();
        if state.holders.len() < self.max {
            let number = state.next;
            state.next += 1;
            let activity = Activity::new(settings, now);
            state.holders.insert(number, Holder { activity: activity.clone(), remote, task: None });
            return Attempt::Taken(number, activity);
        }
        if state.listed_at.is_none_or(|listed_at| listed_at + LIST_AGE <= now) {
            state.make_list(now);
        }
        while let Some((eviction, number)) = state.list.pop_front() {
            // The connection may have ended, or may be in use again.
            let holder = state.holders.get_mut(&number);
            let holder = holder.filter(|holder| holder.activity.eviction(now) == Some(eviction));
            if let Some((holder, task)) = holder.and_then(|holder| holder.task.take().map(|task| (holder, task))) {
                let evicted = (holder.remote, holder.activity.clone());
                drop(state);
                // A task that is dropped within `abort` takes the lock to free its place.
                task.abort();
                return Attempt::Evicted(evicted.0, evicted.1);
            }
        }
        Attempt::Full(state.listed_at.unwrap_or(now) + LIST_AGE)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lists the connections that may give way now, the longest idle first.
    fn make_list(&mut self, now: Instant) {
        let evictable = |(&number, holder): (&u64, &Holder)| {
            holder.task.as_ref()?;
            Some((holder.activity.eviction(now)?, number))
        };
        let mut list: Vec<_> = self.holders.iter().filter_map(evictable).collect();
        list.sort_unstable();
        self.list = list.into();
        self.listed_at = Some(now);
    }
}

/// A place at a listener, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Place {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.holders.remove(&self.number);
        if state.holders.len() < self.places.max / 2 {
            // The pressure is over. Releases the allocation.
            state.list = VecDeque::new();
        }
        drop(state);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http::Version;
    use tokio::{task::JoinSet, time::advance};

    use super::*;
    use crate::server::http::activity::Exchange;

    /// A connection that holds its place until it must give way.
    struct Site {
        places: Arc<Places>,
        tasks: JoinSet<()>,
    }

    impl Site {
        async fn connect(&mut self) -> (u64, Arc<Activity>) {
            let remote = "127.0.0.1:1".parse().expect("an address");
            let (place, activity) = self.places.take(remote, &HttpSettings::default(), |_| {}).await;
            let number = place.number();
            let task = self.tasks.spawn(async move {
                let _place = place;
                pending().await
            });
            self.places.set_task(number, task);
            (number, activity)
        }

        fn holders(&self) -> Vec<u64> {
            let mut holders: Vec<_> = self.places.lock().holders.keys().copied().collect();
            holders.sort_unstable();
            holders
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_gives_way_before_one_without_a_request() {
        let mut site = Site { places: Places::new(3), tasks: JoinSet::new() };
        let (_, working) = site.connect().await;
        working.note_request();
        let exchange = working.begin(Version::HTTP_11);
        site.connect().await;
        let (_, idle) = site.connect().await;
        idle.note_request();
        let start = Instant::now();
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![0, 1, 3], 0));
        // A client in the middle of its first request has a grace of 5 s.
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![0, 3, 4], 5));
        // The application begins to wait for the body of the request.
        advance(Duration::from_secs(1)).await;
        exchange.request_pending();
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![0, 4, 5], 6));
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![0, 5, 6], 10));
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![5, 6, 7], 11));
    }

    #[tokio::test(start_paused = true)]
    async fn connection_whose_client_trickles_gives_way_after_idle_ones() {
        let mut site = Site { places: Places::new(3), tasks: JoinSet::new() };
        let trickle = |exchange: &Exchange| {
            exchange.request_progressed();
            exchange.request_pending();
        };
        let (_, first) = site.connect().await;
        first.note_request();
        let one = first.begin(Version::HTTP_11);
        let (_, second) = site.connect().await;
        second.note_request();
        let other = second.begin(Version::HTTP_11);
        let (_, idle) = site.connect().await;
        idle.note_request();
        let start = Instant::now();
        for _ in 0..20 {
            advance(Duration::from_secs(1)).await;
            trickle(&one);
            trickle(&other);
        }
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![0, 1, 3], 20));
        site.connect().await;
        assert_eq!((site.holders(), start.elapsed().as_secs()), (vec![1, 3, 4], 20));
    }
}
