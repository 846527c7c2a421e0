//! Nodes within the process of the test, and stations.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ocpp_rpc::{
    Accept, Authenticate, CallError, Close, Error, ErrorCode, Handshake, Options, Reject, RpcClient, RpcRouter,
    RpcServer,
    client::Reconnect,
    cluster::Cluster,
    extract::{Params, State},
    server::Listener,
};
use ocpp_rpc_nats::Nats;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::sleep};

use crate::broker::{Broker, TIMEOUT};

/// A server that listens.
pub(crate) struct Node {
    pub(crate) server: RpcServer,
    listener: Listener,
}

/// Takes keys from identities: `~` separates the parts of a key.
struct Keys;

impl Authenticate for Keys {
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        Ok(Accept::new().key(handshake.identity().replace('~', "/")))
    }
}

pub(crate) async fn connect(url: &str, name: &str) -> Nats {
    Nats::connect(url).await.expect("NATS is there").node_name(name)
}

/// Starts a server in this cluster.
pub(crate) async fn start(cluster: impl Cluster) -> Node {
    let options = Options::server().max_message_size(8 << 20);
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp2.1", "ocpp1.6"]).auth(Keys).options(options);
    let server = server.cluster(cluster).build().expect("a valid configuration");
    let listener = server.listen("127.0.0.1:0").await.expect("a free port");
    Node { server, listener }
}

/// Starts nodes with these names.
pub(crate) async fn start_all<const N: usize>(broker: &Broker, names: [&str; N]) -> [Node; N] {
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(start(connect(&broker.url(), name).await).await);
    }
    nodes.try_into().ok().expect("one for each name")
}

impl Node {
    pub(crate) fn endpoint(&self) -> String {
        format!("ws://{}", self.listener.local_addr())
    }

    pub(crate) async fn close(self, close: Close) {
        self.listener.close(close).await;
    }

    /// Waits until this node can call a station.
    pub(crate) async fn finds(&self, key: &str) {
        self.server.station(key).connected(TIMEOUT).await.unwrap_or_else(|_| panic!("{key} is not found"));
    }

    /// Calls an action of a station.
    pub(crate) async fn call(&self, key: &str, action: &str) -> Result<Value, Error> {
        self.server.station(key).call(action, &json!({})).await
    }
}

/// A station.
pub(crate) struct Station {
    pub(crate) client: RpcClient,
    calls: Arc<Calls>,
}

/// The calls that a station has received.
pub(crate) struct Calls {
    count: AtomicU64,
    /// The `n` of each call of `Echo`, with the number of times that it came.
    echoed: Mutex<HashMap<u64, u32>>,
    /// `Wait` waits for a permit.
    pub(crate) gate: Semaphore,
}

impl Station {
    pub(crate) async fn connect(endpoint: &str, identity: &str) -> Self {
        Self::connect_with(endpoint, identity, "ocpp1.6", Reconnect::never()).await
    }

    pub(crate) async fn connect_with(endpoint: &str, identity: &str, protocol: &str, reconnect: Reconnect) -> Self {
        let gate = Semaphore::new(0);
        let calls = Arc::new(Calls { count: AtomicU64::new(0), echoed: Mutex::default(), gate });
        let router = RpcRouter::with_state(calls.clone())
            .on("Echo", echo)
            .on("Wait", wait)
            .on("Reject", reject)
            .on("Large", large);
        let client = RpcClient::builder(endpoint, identity)
            .protocols([protocol])
            .options(Options::client().max_message_size(8 << 20))
            .router(router)
            .reconnect(reconnect)
            .connect()
            .await
            .unwrap_or_else(|error| panic!("{identity}: {error}"));
        Self { client, calls }
    }

    /// Returns the number of calls that the station has received.
    pub(crate) fn received(&self) -> u64 {
        self.calls.count.load(Ordering::SeqCst)
    }

    /// Returns how often the station has received the call of `Echo` with this `n`.
    pub(crate) fn echoed(&self, number: u64) -> u32 {
        self.calls.echoed.lock().expect("no panic").get(&number).copied().unwrap_or_default()
    }

    /// Waits until the station has received so many calls.
    pub(crate) async fn receives(&self, count: u64) {
        until(&format!("{count} calls"), || self.received() >= count).await;
    }

    /// Lets this many calls of `Wait` end.
    pub(crate) fn release(&self, count: usize) {
        self.calls.gate.add_permits(count);
    }
}

async fn echo(State(calls): State<Arc<Calls>>, Params(params): Params<Value>) -> Result<Value, Infallible> {
    calls.count.fetch_add(1, Ordering::SeqCst);
    if let Some(number) = params["n"].as_u64() {
        *calls.echoed.lock().expect("no panic").entry(number).or_default() += 1;
    }
    Ok(params)
}

async fn wait(State(calls): State<Arc<Calls>>) -> Result<Value, CallError> {
    calls.count.fetch_add(1, Ordering::SeqCst);
    calls.gate.acquire().await.map_err(CallError::internal)?.forget();
    Ok(json!({"waited": true}))
}

async fn reject(State(calls): State<Arc<Calls>>) -> Result<Value, CallError> {
    calls.count.fetch_add(1, Ordering::SeqCst);
    Err(CallError::new(ErrorCode::NOT_SUPPORTED, "no relay").with_details(&json!({"relay": 1})))
}

/// Returns as many bytes as the caller says.
async fn large(State(calls): State<Arc<Calls>>, Params(params): Params<Value>) -> Result<Value, Infallible> {
    calls.count.fetch_add(1, Ordering::SeqCst);
    let bytes = params["bytes"].as_u64().unwrap_or_default();
    Ok(json!({"text": "x".repeat(bytes as usize)}))
}

/// Waits until a condition holds.
pub(crate) async fn until(condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "does not come true: {condition}");
        sleep(Duration::from_millis(5)).await;
    }
}
