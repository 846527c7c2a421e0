//! A process of a cluster that has no stations.

use std::{fmt, pin::Pin, sync::Arc};

use crate::{
    close::{info::CloseInfo, intent::Close},
    cluster::{
        filter::EventFilter,
        member::{Member, lists::Stations, watching::ClusterEvents},
        transport::{Cluster, JoinError},
    },
    connection::shared::Shared,
    error::Error,
    info::StationInfo,
    mask::Mask,
    route::{RemoteCall, RemoteOutcome, Route, RouteFuture},
    station::Station,
    telemetry::Telemetry,
};

/// A node of a cluster without stations of its own, such as a process that serves an API.
///
/// It calls the stations of all nodes. It leaves the cluster when its last clone and the last [`Station`] of it are
/// dropped.
///
/// ```
/// use ocpp_rpc::{Error, cluster::{Local, Observer}};
/// use serde_json::{Value, json};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Local::new();
/// let observer = Observer::join(cluster.node("api"))?;
/// let reset = observer.station("CP-1").call::<Value>("Reset", &json!({"type": "Soft"})).await;
/// assert!(matches!(reset, Err(Error::NotConnected)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Observer {
    state: Arc<ObserverState>,
}

struct ObserverState {
    member: Arc<Member>,
    telemetry: Arc<Telemetry>,
}

impl Observer {
    /// Joins a cluster.
    ///
    /// # Errors
    ///
    /// Fails if another node has joined through the same value.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn join(cluster: impl Cluster) -> Result<Self, JoinError> {
        let member = Member::join(Arc::new(cluster), Arc::default())?;
        Ok(Self { state: Arc::new(ObserverState { member, telemetry: Telemetry::new(Mask::new()) }) })
    }

    /// Returns the handle on the station with this key. See [`RpcServer::station`](crate::RpcServer::station).
    pub fn station(&self, key: impl Into<Arc<str>>) -> Station {
        Station::new(self.state.clone(), key.into())
    }

    /// Returns the stations of all nodes. See [`RpcServer::stations`](crate::RpcServer::stations).
    pub fn stations(&self) -> Stations {
        Stations::new(None, Some(&self.state.member))
    }

    /// Subscribes to the events of all nodes. See
    /// [`RpcServer::events_everywhere`](crate::RpcServer::events_everywhere).
    pub fn events(&self, filter: EventFilter) -> ClusterEvents {
        self.state.member.events(filter)
    }
}

impl Route for ObserverState {
    fn find(&self, _: &str) -> Option<Arc<Shared>> {
        None
    }

    fn connected<'a>(&'a self, key: &'a Arc<str>) -> RouteFuture<'a, Option<StationInfo>> {
        Box::pin(async move { Some(self.member.connected(key, || None).await) })
    }

    fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    fn call_elsewhere(&self, call: RemoteCall) -> Option<Pin<Box<dyn Future<Output = RemoteOutcome> + Send>>> {
        Some(Box::pin(self.member.clone().call(call)))
    }

    fn info<'a>(&'a self, key: &'a Arc<str>) -> RouteFuture<'a, Result<Option<StationInfo>, Error>> {
        Box::pin(self.member.info(key))
    }

    fn close<'a>(&'a self, key: &'a Arc<str>, close: &'a Close) -> RouteFuture<'a, Result<CloseInfo, Error>> {
        Box::pin(self.member.close(key, close))
    }
}

impl Drop for ObserverState {
    fn drop(&mut self) {
        self.member.stop();
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("name", self.state.member.name()).finish_non_exhaustive()
    }
}
