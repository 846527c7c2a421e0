//! The server of a node, as the cluster sees it.

use crate::{cluster::epoch::Epoch, event::bus::Events, message::payload::Payload, session::Session};

/// The sessions of a node.
pub(crate) trait Home: Send + Sync + 'static {
    /// Returns the newest session of a key that accepts calls, or the newest one if none does.
    fn find(&self, key: &str) -> Option<Session>;

    /// Compares the sessions of a key with one that another node announced, and closes those that must give way. Returns
    /// the epoch of the session here that takes precedence.
    fn announced(&self, key: &str, epoch: Epoch) -> Option<Epoch>;

    /// Returns the newest session of each key, in no particular order.
    fn sessions(&self) -> Vec<Session>;

    /// Returns the newest session of each key behind `after` that begins with `prefix`, at most `limit`, in the order of
    /// their keys.
    fn sessions_after(&self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Session>;

    /// Returns the recorded messages of a station, the newest that fit into `max_bytes` bytes of JSON. `None` if this node
    /// records none.
    fn recorded(&self, key: &str, query: &Payload, max_bytes: usize) -> Option<Payload>;

    /// Subscribes to the events of this node.
    fn events(&self) -> Events;
}
