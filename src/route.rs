//! The way of a call to the session that a station has when the call is made.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use crate::{
    close::{info::CloseInfo, intent::Close},
    connection::{
        calls_out::{Kind, Timeout},
        shared::Shared,
    },
    error::{CallError, Error},
    info::StationInfo,
    message::payload::Payload,
    telemetry::Telemetry,
};

pub(crate) type RouteFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Finds the sessions of stations.
pub(crate) trait Route: Send + Sync + 'static {
    /// Returns the newest session of a station, and one that accepts calls if there is one.
    fn find(&self, key: &str) -> Option<Arc<Shared>>;

    /// Waits for a session of a station that accepts calls. Returns `None` if there will be none.
    fn connected<'a>(&'a self, key: &'a Arc<str>) -> RouteFuture<'a, Option<StationInfo>>;

    /// Returns the telemetry of calls.
    fn telemetry(&self) -> &Arc<Telemetry>;

    /// Calls a station that is connected to another node. Returns `None` if there are no other nodes.
    fn call_elsewhere(&self, call: RemoteCall) -> Option<Pin<Box<dyn Future<Output = RemoteOutcome> + Send>>>;

    /// Returns the information on a station. `None` if it is not connected.
    fn info<'a>(&'a self, key: &'a Arc<str>) -> RouteFuture<'a, Result<Option<StationInfo>, Error>>;

    /// Closes the session of a station.
    fn close<'a>(&'a self, key: &'a Arc<str>, close: &'a Close) -> RouteFuture<'a, Result<CloseInfo, Error>>;
}

/// A call to a station that is connected to another node.
#[derive(Debug, Clone)]
pub(crate) struct RemoteCall {
    pub(crate) key: Arc<str>,
    pub(crate) action: String,
    pub(crate) params: Payload,
    pub(crate) kind: Kind,
    /// The id that the caller gave.
    pub(crate) id: Option<String>,
    pub(crate) timeout: Timeout,
    pub(crate) total_timeout: Option<Duration>,
}

/// The result of a call to another node.
pub(crate) struct RemoteResult {
    pub(crate) payload: Payload,
    pub(crate) rejecter: Option<Rejecter>,
}

/// Informs the station that its result cannot be used. Absent if the protocol has no CALLRESULTERROR.
pub(crate) type Rejecter = Box<dyn FnOnce(CallError) + Send>;

/// The outcome of a call to another node.
pub(crate) type RemoteOutcome = Result<RemoteResult, Error>;

impl fmt::Debug for RemoteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteResult").field("payload", &self.payload).finish_non_exhaustive()
    }
}
