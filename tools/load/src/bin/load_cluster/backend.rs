//! The backend that calls the stations: HTTP requests to the nodes, each at the time at which it is due.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

use crate::{
    Result,
    node::{CALL_TIMEOUT, LOCAL, OTHER_CONNECTIONS, PLACE},
};

/// The calls that are in flight at once. Each needs a connection.
const MAX_IN_FLIGHT: u32 = OTHER_CONNECTIONS / 2;

/// The time after which an idle connection is closed. A node closes it after 10 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time from a request to the end of its response. A node responds within less.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2 * CALL_TIMEOUT.as_secs());

/// A call that has ended.
pub(crate) struct Outcome {
    pub(crate) due: Instant,
    pub(crate) ended: Instant,
    pub(crate) result: std::result::Result<Place, String>,
}

/// The node of a station, as seen from the node that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Local,
    Remote,
}

/// The client of the nodes.
#[derive(Clone)]
pub(crate) struct Backend(Arc<Shared>);

struct Shared {
    client: Client<HttpConnector, Full<Bytes>>,
    nodes: Mutex<Vec<SocketAddr>>,
    outcomes: Mutex<Vec<Outcome>>,
    places: Arc<Semaphore>,
    is_stopped: AtomicBool,
}

impl Backend {
    pub(crate) fn new(nodes: Vec<SocketAddr>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut client = Client::builder(TokioExecutor::new());
        let client = client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector);
        Self(Arc::new(Shared {
            client,
            nodes: Mutex::new(nodes),
            outcomes: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
            is_stopped: AtomicBool::new(false),
        }))
    }

    /// Makes no more calls through a node.
    pub(crate) fn remove(&self, node: SocketAddr) {
        lock(&self.0.nodes).retain(|other| *other != node);
    }

    /// Makes calls of stations with the numbers 1 to `stations`, `rate` per second, until [`stop`](Self::stop).
    pub(crate) fn start(&self, stations: u32, rate: u32) -> Result<()> {
        let (backend, runtime, interval) = (self.clone(), Handle::current(), Duration::from_secs(1) / rate);
        // A thread sleeps more precisely than a task.
        thread::Builder::new().name("pace".into()).spawn(move || {
            let mut due = Instant::now();
            for number in 0_u64.. {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if backend.0.is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                backend.begin(&runtime, due, number, stations);
                due += interval;
            }
        })?;
        Ok(())
    }

    fn begin(&self, runtime: &Handle, due: Instant, number: u64, stations: u32) {
        let Ok(place) = self.0.places.clone().try_acquire_owned() else {
            let result = Err(format!("not sent: {MAX_IN_FLIGHT} calls are in flight"));
            lock(&self.0.outcomes).push(Outcome { due, ended: Instant::now(), result });
            return;
        };
        let random = scatter(number);
        let station = 1 + (random >> 32) as u32 % stations;
        let node = {
            let nodes = lock(&self.0.nodes);
            nodes[random as u32 as usize % nodes.len()]
        };
        let backend = self.clone();
        runtime.spawn(async move {
            let result = backend.call(node, station, number).await;
            lock(&backend.0.outcomes).push(Outcome { due, ended: Instant::now(), result });
            drop(place);
        });
    }

    async fn call(&self, node: SocketAddr, station: u32, number: u64) -> std::result::Result<Place, String> {
        let (action, params) = match number % 2 {
            0 => ("GetConfiguration", r#"{"key":["HeartbeatInterval"]}"#),
            _ => ("ChangeAvailability", r#"{"connectorId":1,"type":"Operative"}"#),
        };
        let request = Request::post(format!("http://{node}/stations/LOAD-{station}/calls/{action}"));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Full::from(params));
        let (response, body) = self.send(request).await?;
        if response.status().is_success() {
            let is_local = response.headers().get(PLACE).is_some_and(|place| place == LOCAL);
            return Ok(if is_local { Place::Local } else { Place::Remote });
        }
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = error["error"].as_str().map(|name| name.replace('_', " "));
        let name = name.unwrap_or_else(|| format!("HTTP status {}", response.status()));
        let maybe_delivered = error["maybe_delivered"].as_bool().unwrap_or_default();
        Err(if maybe_delivered { format!("{name}, maybe delivered") } else { name })
    }

    /// Returns the numbers of stations and sessions in the cluster, if all nodes have answered.
    pub(crate) async fn list(&self) -> std::result::Result<Option<(u64, u64)>, String> {
        let node = lock(&self.0.nodes)[0];
        let (_, body) = self.send(Request::get(format!("http://{node}/stations")).body(Full::default())).await?;
        let list: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let is_complete = list["missing_nodes"].as_array().is_some_and(Vec::is_empty);
        let [stations, sessions] = ["stations", "sessions"].map(|name| list[name].as_u64().unwrap_or_default());
        Ok(is_complete.then_some((stations, sessions)))
    }

    async fn send(
        &self,
        request: hyper::http::Result<Request<Full<Bytes>>>,
    ) -> std::result::Result<(Response<()>, Bytes), String> {
        let request = request.map_err(|error| error.to_string())?;
        let exchange = async {
            let response: Response<Incoming> = self.0.client.request(request).await.map_err(|error| {
                if error.is_connect() { "the node cannot be reached" } else { "the node ended before its response" }
            })?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|_| "the node ended during its response")?;
            Ok((Response::from_parts(parts, ()), body.to_bytes()))
        };
        match timeout(RESPONSE_TIMEOUT, exchange).await {
            Ok(result) => result.map_err(str::to_owned),
            Err(_) => Err("no response of the node".to_owned()),
        }
    }

    /// Makes no more calls, waits for those in flight, and returns all outcomes.
    pub(crate) async fn stop(&self) -> Vec<Outcome> {
        self.0.is_stopped.store(true, Ordering::Relaxed);
        // Fails only if the semaphore is closed.
        let _ = self.0.places.acquire_many(MAX_IN_FLIGHT).await;
        std::mem::take(&mut lock(&self.0.outcomes))
    }
}

/// Returns a number that looks random, the same in each run: the finalizer of splitmix64.
fn scatter(number: u64) -> u64 {
    let mut random = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    random = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    random = (random ^ (random >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    random ^ (random >> 31)
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under the locks can panic half way.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
