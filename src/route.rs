//! The way of a call to the session that a station has when the call is made.

use std::{pin::Pin, sync::Arc};

use crate::{connection::shared::Shared, telemetry::Telemetry};

/// Finds the sessions of stations.
pub(crate) trait Route: Send + Sync + 'static {
    /// Returns the newest session of a station, and one that accepts calls if there is one.
    fn find(&self, key: &str) -> Option<Arc<Shared>>;

    /// Waits for a session of a station that accepts calls. Returns `None` if there will be none.
    fn connected<'a>(&'a self, key: &'a Arc<str>) -> Pin<Box<dyn Future<Output = Option<Arc<Shared>>> + Send + 'a>>;

    /// Returns the telemetry of calls.
    fn telemetry(&self) -> &Arc<Telemetry>;
}
