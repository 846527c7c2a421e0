//! The state that the handlers of a console share.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    console::{
        history::{HistoryQuery, StationHistory},
        recorder::Recording,
    },
    error::Error,
    info::StationInfo,
    message::payload::Payload,
    server::rpc_server::RpcServer,
};

/// The streams that are served at once.
const MAX_STREAMS: usize = 64;

/// The time for which all readers share one list of stations.
const MAX_AGE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct ConsoleState {
    pub(crate) server: RpcServer,
    pub(crate) recording: Arc<Recording>,
    pub(crate) allowed: Allowed,
    /// One permit per live stream.
    pub(crate) streams: Arc<Semaphore>,
    /// The latest list, which may still be in the making.
    stations: Mutex<Option<SharedList>>,
    /// Ends the recording with the last clone of the router.
    _recorder: AbortOnDropHandle<()>,
}

/// A list that is made for all readers that wait for it. `None` if the task that makes it has panicked.
type SharedList = Shared<BoxFuture<'static, Option<Arc<StationList>>>>;

/// The connected stations of all nodes.
#[derive(Debug)]
pub(crate) struct StationList {
    made_at: Instant,
    pub(crate) stations: Vec<StationInfo>,
    pub(crate) missing_nodes: Vec<Arc<str>>,
}

impl ConsoleState {
    pub(crate) fn new(
        server: RpcServer,
        recording: Arc<Recording>,
        recorder: AbortOnDropHandle<()>,
        allowed: Allowed,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            recording,
            allowed,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            stations: Mutex::default(),
            _recorder: recorder,
        })
    }

    /// Returns true if a station has no session at this node, but may have one at another node.
    pub(crate) fn is_elsewhere(&self, key: &str) -> bool {
        let state = &self.server.state;
        state.cluster.is_some() && state.registry.find(key).is_none()
    }

    /// Returns recorded messages of a station, from its node. `None` if it is not recorded.
    pub(crate) async fn history(&self, key: &Arc<str>, query: &HistoryQuery) -> Result<Option<StationHistory>, Error> {
        if !self.is_elsewhere(key) {
            return Ok(self.recording.history(key, query, usize::MAX));
        }
        let recorded = self.server.recorded(key, Payload::encode(query)?).await?;
        Ok(recorded.map(|recorded| recorded.decode()).transpose()?)
    }

    /// Returns the connected stations of all nodes. The list was made within the last second.
    pub(crate) async fn stations(&self) -> Option<Arc<StationList>> {
        let list = {
            let mut latest = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
            match &*latest {
                Some(list) if list.peek().is_none_or(|list| list.as_ref().is_some_and(|list| list.is_new())) => {
                    list.clone()
                }
                _ => latest.insert(StationList::make(self.server.clone())).clone(),
            }
        };
        list.await
    }
}

impl StationList {
    /// Makes a list in a task of its own, which goes on if the readers go away.
    fn make(server: RpcServer) -> SharedList {
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut pages = server.stations();
            let mut stations = Vec::new();
            while let Some(page) = pages.next().await {
                stations.extend(page);
            }
            Arc::new(Self { made_at: Instant::now(), stations, missing_nodes: pages.missing_nodes() })
        }));
        task.map(Result::ok).boxed().shared()
    }

    fn is_new(&self) -> bool {
        self.made_at.elapsed() < MAX_AGE
    }
}

/// The changes that the page may make.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowed {
    pub(crate) calls: bool,
    pub(crate) close: bool,
}
