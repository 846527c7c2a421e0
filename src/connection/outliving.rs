//! The handlers that outlive their connections, counted for each station and for all.
//!
//! A station that connects again and again could otherwise leave any number of handlers behind.

use std::{
    collections::{HashMap, hash_map},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The handlers of one server or client that have outlived their connections and not finished.
#[derive(Debug)]
pub(crate) struct Outliving {
    max: usize,
    total: AtomicUsize,
    /// The numbers for each station, by its key. None is zero.
    stations: Mutex<HashMap<Arc<str>, usize>>,
}

impl Outliving {
    /// Creates the count. While there are `max`, no other handler starts.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, total: AtomicUsize::new(0), stations: Mutex::default() })
    }

    /// Returns how many handlers of a station have outlived their connections. Returns `None` if no handler may start
    /// because there are too many of all stations.
    pub(super) fn of_station<'a>(&self, key: impl FnOnce() -> &'a Arc<str>) -> Option<usize> {
        match self.total.load(Ordering::Relaxed) {
            // The usual case takes no lock.
            0 => Some(0),
            total if total >= self.max => None,
            _ => Some(self.stations.lock().unwrap_or_else(PoisonError::into_inner).get(key()).copied().unwrap_or(0)),
        }
    }

    /// Changes the share of a task of this station in the count.
    pub(super) fn change(&self, key: &Arc<str>, from: usize, to: usize) {
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        match stations.entry(key.clone()) {
            hash_map::Entry::Occupied(mut count) => {
                *count.get_mut() = *count.get() - from + to;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            // There was none, so `from` is zero.
            hash_map::Entry::Vacant(count) => _ = count.insert(to),
        }
        // Under the lock, so that the numbers agree.
        self.total.fetch_add(to, Ordering::Relaxed);
        self.total.fetch_sub(from, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_counted_by_station_and_in_all() {
        let all = Outliving::new(5);
        let [a, b]: [Arc<str>; 2] = ["A", "B"].map(Arc::from);
        let counts = || (all.of_station(|| &a), all.of_station(|| &b));
        all.change(&a, 0, 2);
        all.change(&a, 0, 1);
        assert_eq!(counts(), (Some(3), Some(0)));
        all.change(&b, 0, 2);
        assert_eq!(counts(), (None, None), "there are five in all");
        all.change(&a, 2, 1);
        assert_eq!(counts(), (Some(2), Some(2)));
        for (key, count) in [(&a, 1), (&a, 1), (&b, 2)] {
            all.change(key, count, 0);
        }
        assert_eq!(counts(), (Some(0), Some(0)));
        assert!(all.stations.lock().expect("no panic").is_empty(), "no station is remembered");
    }
}
