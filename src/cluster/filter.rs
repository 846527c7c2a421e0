//! The choice of events.

use serde::{Deserialize, Serialize};

/// A choice of events of a cluster, for [`RpcServer::events_everywhere`](crate::RpcServer::events_everywhere).
///
/// ```
/// use ocpp_rpc::cluster::EventFilter;
///
/// // The messages of one station.
/// let filter = EventFilter::all().key("CP-1").kinds(["call", "call_result", "call_error"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct EventFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_prefix: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kinds: Option<Vec<Box<str>>>,
}

impl EventFilter {
    /// Chooses all events.
    pub fn all() -> Self {
        Self::default()
    }

    /// Chooses the events of the station with this key only.
    pub fn key(self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Chooses the events of the stations whose keys begin with this text only, such as `acme/` for a tenant.
    ///
    /// A process that may call the stations of one tenant only gets opened and closed sessions by it, and no other kind.
    pub fn key_prefix(self, prefix: &str) -> Self {
        Self { key_prefix: Some(prefix.into()), ..self }
    }

    /// Chooses events of these kinds only. A kind has the name that an [`Event`](crate::event::Event) serializes as its
    /// `type`, such as `opened`.
    pub fn kinds<K: AsRef<str>>(self, kinds: impl IntoIterator<Item = K>) -> Self {
        Self { kinds: Some(kinds.into_iter().map(|kind| kind.as_ref().into()).collect()), ..self }
    }

    /// Returns the memory that the texts take, in bytes.
    pub(crate) fn size(&self) -> usize {
        let kinds = self.kinds.iter().flatten().map(|kind| kind.len() + size_of::<Box<str>>());
        let keys = [&self.key, &self.key_prefix].map(|text| text.as_deref().map_or(0, str::len));
        keys.iter().sum::<usize>() + kinds.sum::<usize>()
    }

    /// Returns the only key whose events are chosen.
    pub(crate) fn only_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns `true` if an event of this key and kind is chosen.
    pub(crate) fn matches(&self, key: Option<&str>, kind: &str) -> bool {
        self.key.as_deref().is_none_or(|chosen| key == Some(chosen))
            && self.key_prefix.as_deref().is_none_or(|prefix| key.is_some_and(|key| key.starts_with(prefix)))
            && self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|chosen| **chosen == *kind))
    }
}
