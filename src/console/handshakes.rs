//! The latest refused handshakes.

use std::{collections::VecDeque, sync::Arc};

/// The refusals that are kept.
const MAX: usize = 200;

/// The latest refused handshakes as JSON, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    latest: VecDeque<Arc<str>>,
    /// The number of refusals since recording began.
    total: u64,
}

impl Handshakes {
    pub(crate) fn push(&mut self, json: String) {
        if self.latest.len() == MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(json.into());
        self.total += 1;
    }

    /// Returns the number of refusals since recording began.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the refusals, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<Arc<str>> {
        self.latest.iter().rev().cloned().collect()
    }

    /// Returns the refusals that followed when there had been this many in total, and how many of them were dropped.
    pub(crate) fn after(&self, total: u64) -> (Vec<Arc<str>>, u64) {
        let new = usize::try_from(self.total.saturating_sub(total)).unwrap_or(usize::MAX);
        let kept = new.min(self.latest.len());
        (self.latest.iter().skip(self.latest.len() - kept).cloned().collect(), (new - kept) as u64)
    }
}
