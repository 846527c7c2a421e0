//! The server: its sessions, its options and its shutdown.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SetOnce},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::{
        info::CloseInfo,
        intent::{Close, CloseMode},
    },
    cluster::{
        epoch::Epoch,
        filter::EventFilter,
        home::Home,
        member::{Member, lists::Stations, watching::ClusterEvents},
    },
    connection::{
        handler_set::{self, AwaitedClose},
        outliving::Outliving,
        shared::{Dispatch, Shared},
    },
    error::{BuildError, Error},
    event::{
        activity::Activity,
        bus::Events,
        kind::{EventKind, Origin},
    },
    info::StationInfo,
    message::{dialect::Dialect, payload::Payload},
    options::Options,
    route::{RemoteCall, RemoteOutcome, Route, RouteFuture},
    server::{
        handshake::{auth::DynAuthenticate, protocol::Negotiation},
        history::{Histories, History},
        http::{
            address::{AddressLimit, address_prefix},
            proxies::TrustedProxies,
            settings::HttpSettings,
        },
        session::{
            registry::Registry,
            tasks::{Abort, SessionTasks},
        },
    },
    session::Session,
    station::Station,
    telemetry::Telemetry,
};

/// A server of OCPP-J, which upgrades HTTP requests to sessions and finds the sessions by identity.
///
/// It is a tower [`Service`](tower::Service) of HTTP requests and cheap to clone. There are four ways to serve it:
/// mount it on an axum router, serve it with hyper, pass it the [extractor](crate::RpcUpgrade) of a handler, or
/// [`listen`](Self::listen).
///
/// Sessions keep the server alive: dropping the last clone does not end them. To end them, [`close`](Self::close) the
/// server.
///
/// Without [`auth`](crate::server::RpcServerBuilder::auth), the server accepts every client.
///
/// ```
/// use ocpp_rpc::{RpcRouter, RpcServer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp2.0.1", "ocpp1.6"]).build()?;
/// let app: axum::Router = axum::Router::new().route_service("/ocpp/{*identity}", server);
/// # Ok(())
/// # }
/// ```
///
/// The server refuses a request with one of these statuses, and with the reason in the body:
///
/// | Cause | Status |
/// |---|---|
/// | the request is not a WebSocket request of version 13 | 426; over HTTP/2 400; 404 if a listener without an application receives a request that is no upgrade |
/// | the path does not end with an identity, or the identity cannot be decoded or is too long | 404 |
/// | a header of the handshake is malformed, or the handshake deviates and the options do not [tolerate](crate::Options::tolerance) it | 400 |
/// | the handshake comes over HTTP/2, and the builder does not enable WebSockets there | 501 |
/// | the [authenticator](crate::Authenticate) refuses the client | the authenticator's, 401 by default |
/// | the authenticator panics, or accepts with options or headers that cannot work | 500 |
/// | the authenticator exceeds the [`handshake_timeout`](crate::server::RpcServerBuilder::handshake_timeout) | 503 |
/// | too many handshakes are pending, or the server closes | 503 |
/// | the limit of sessions is reached | 503; per address 429 |
/// | the sessions of the identity replace each other repeatedly, with a [`replacement_delay`](crate::server::RpcServerBuilder::replacement_delay) | 429 |
/// | the identity is connected, with [`RejectNew`](crate::server::DuplicateIdentity::RejectNew) | 409 |
///
/// If the client offers none of the server's protocols, the server completes the handshake without a protocol and
/// closes the connection with 1002. [`NoCommonProtocol`](crate::server::NoCommonProtocol) sets other responses.
///
/// The guide's page [deployment](crate::guide::deployment#shutdown) has the order of a shutdown, alone and together with
/// your own HTTP server. [Troubleshooting](crate::guide::troubleshooting) begins with what an operator sees.
#[derive(Clone)]
pub struct RpcServer {
    pub(crate) state: Arc<ServerState>,
}

/// The state that all clones of a server share.
pub(crate) struct ServerState {
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) negotiation: Negotiation,
    pub(crate) dialects: Vec<(Arc<str>, Dialect)>,
    pub(crate) authenticator: Option<Box<dyn DynAuthenticate>>,
    pub(crate) proxies: Option<TrustedProxies>,
    pub(crate) options: RwLock<Arc<Options>>,
    pub(crate) max_identity_length: usize,
    pub(crate) http: HttpSettings,
    /// One permit per handshake that waits for the authenticator.
    pub(crate) handshake_permits: Semaphore,
    pub(crate) handshakes_per_address: Arc<AddressLimit>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cluster: Option<Arc<Member>>,
    pub(crate) outliving: Arc<Outliving>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) histories: Histories,
    pub(crate) tasks: TaskTracker,
    /// The subset of `tasks` that are sessions or will be, each until its last handler ends.
    pub(crate) session_tasks: SessionTasks,
    /// The tasks that close the server and its listeners, even if the futures of the closes are dropped.
    pub(crate) close_tasks: TaskTracker,
    /// Set when the server has closed.
    pub(crate) closed: SetOnce<CloseReport>,
    /// Cancelled when closing begins.
    pub(crate) closing: CancellationToken,
    /// Cancelled when a close exceeds its timeout.
    pub(crate) abort: CancellationToken,
    /// The HTTP connections, for which a close does not wait.
    pub(crate) connections: TaskTracker,
    /// Cancelled when the time of HTTP requests after a close is over.
    pub(crate) abort_connections: CancellationToken,
    /// The number of sessions that ended in time since closing began.
    pub(crate) clean: AtomicUsize,
    /// The number of sessions that were dropped.
    pub(crate) forced: AtomicUsize,
}

/// The result of closing a server: the number of sessions that closed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Sessions that closed in time, with all of their handlers.
    pub clean: usize,
    /// Sessions that were dropped at the deadline, or had handlers that were dropped.
    pub forced: usize,
}

impl RpcServer {
    /// Returns the session of this key. If there are several, returns the one whose request arrived last.
    ///
    /// The key is the identity of the charging station, unless [`Accept::key`](crate::Accept::key) set another.
    pub fn session(&self, key: &str) -> Option<Session> {
        self.state.registry.get(key)
    }

    /// Returns the handle on the station with this key, connected or not.
    ///
    /// Use it for calls from a REST handler: a call goes to the session that the station has at that moment, and fails
    /// with [`Error::NotConnected`] if it has none.
    pub fn station(&self, key: impl Into<Arc<str>>) -> Station {
        Station::new(self.state.clone(), key.into())
    }

    /// Returns all sessions, in no particular order.
    pub fn sessions(&self) -> Vec<Session> {
        self.state.registry.all()
    }

    /// Returns the connected stations of all nodes of the [cluster](crate::server::RpcServerBuilder::cluster), in pages. Without a
    /// cluster, returns those of this server.
    pub fn stations(&self) -> Stations {
        Stations::new(Some(self.state.clone()), self.state.cluster.as_ref())
    }

    /// Subscribes to the events of all nodes of the [cluster](crate::server::RpcServerBuilder::cluster), this one included.
    ///
    /// Returns `None` without a cluster. [`events`](Self::events) has the events of this node, also while the cluster is
    /// away.
    pub fn events_everywhere(&self, filter: EventFilter) -> Option<ClusterEvents> {
        Some(self.state.cluster.as_ref()?.events(filter))
    }

    /// Subscribes to the events of all connections, from now on.
    pub fn events(&self) -> Events {
        self.state.telemetry.subscribe()
    }

    /// Sets the options of the sessions that open from now on.
    ///
    /// Open sessions keep their options, see [`Session::set_options`](crate::Session::set_options).
    ///
    /// # Errors
    ///
    /// Fails if the options could never work. Nothing changes then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        options.check_for(&self.state.negotiation.protocols)?;
        self.state.negotiation.check_validation(&options)?;
        *self.state.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
        Ok(())
    }

    /// Closes the server and waits until all sessions have ended.
    ///
    /// The server stops the listeners of [`bind`](Self::bind) and [`listen`](Self::listen), refuses new sessions, and
    /// closes every session with `close`. An `axum::serve` of yours continues, and its handshakes are refused with 503.
    ///
    /// The first close decides the code, the reason and the deadline. Later calls wait for the same close and return
    /// its result.
    ///
    /// The deadline is the time of [`Close::spread`], plus the drain time of the close, plus the server's
    /// [`Options::close_timeout`], plus 2 s. Sessions that remain at the deadline are dropped, with their handlers. Then
    /// the [events](Self::events) end.
    ///
    /// The server does not wait for the HTTP requests that it serves, so a request may await this. They can complete,
    /// over either version of HTTP, but are dropped 2 s after the deadline.
    ///
    /// A handler may await it too. It then waits for all other sessions and counts its own as clean, and its response is
    /// dropped. The handler itself has 2 s more than the deadline.
    ///
    /// # Cancel safety
    ///
    /// Once polled, closing continues even if the future is dropped, and ends by the same deadline.
    pub async fn close(&self, close: Close) -> CloseReport {
        let state = &self.state;
        state.begin_close(&close);
        let Some(_closing) = state.session_tasks.await_close() else { return *state.closed.wait().await };
        let waiting = handler_set::await_close(AwaitedClose::Server, state.session_tasks.others_ended()).await;
        let report = state.close_report();
        CloseReport { clean: report.clean + waiting, ..report }
    }

    /// Returns a future that completes when [`close`](Self::close) begins, or at once if it has begun.
    ///
    /// The future keeps neither the server nor its sessions alive. It never completes if the server is dropped without
    /// a close.
    ///
    /// Use it to end responses that never end by themselves. A [listener](crate::server::Listener) that closes waits for
    /// its responses:
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use axum::{extract::State, response::{Sse, sse::{self, KeepAlive}}};
    /// use futures_util::{Stream, StreamExt};
    /// use ocpp_rpc::RpcServer;
    ///
    /// /// Streams the events of all stations until the server begins to close.
    /// async fn events(State(server): State<RpcServer>) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    ///     let events = server.events().filter_map(async |event| sse::Event::default().json_data(&event).ok());
    ///     // Without it, the listener ends a response that sends nothing for 30 s.
    ///     Sse::new(events.map(Ok).take_until(server.closing())).keep_alive(KeepAlive::default())
    /// }
    /// # let _: axum::Router<RpcServer> = axum::Router::new().route("/events", axum::routing::get(events));
    /// ```
    pub fn closing(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.state.closing.clone().cancelled_owned()
    }

    /// Adds a recording of the messages of this server's stations.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) fn add_history(&self, history: Weak<dyn History>) {
        self.state.histories.add(history);
    }

    /// Returns the recorded messages of a station: those of the node that it is connected to, or else those of this node.
    /// `None` if there are none.
    ///
    /// # Errors
    ///
    /// Fails if the station's node cannot be asked, and this node has no messages either.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) async fn recorded(&self, key: &Arc<str>, query: Payload) -> Result<Option<Payload>, Error> {
        let state = &self.state;
        let own = || state.histories.recorded(key, &query, usize::MAX);
        let Some(cluster) = state.cluster.as_ref().filter(|_| state.find_open(key).is_none()) else { return Ok(own()) };
        match cluster.recorded(key, query.clone()).await {
            Ok(Some(recorded)) => Ok(Some(recorded)),
            Ok(None) | Err(Error::NotConnected) => Ok(own()),
            Err(error) => own().map_or(Err(error), |own| Ok(Some(own))),
        }
    }

    /// Emits the event that reports the calls of the latest second.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) fn report_activity(&self, activity: Activity) {
        self.state.telemetry.report(EventKind::Activity(Box::new(activity)), Origin::default);
    }

    /// Returns `true` if [`close`](Self::close) has begun.
    pub fn is_closing(&self) -> bool {
        self.state.closing.is_cancelled()
    }
}

/// The time that tasks have after all of their own timeouts, before they are dropped.
const GRACE: Duration = Duration::from_secs(2);

impl ServerState {
    /// Begins to close the server, unless a close has begun before.
    fn begin_close(self: &Arc<Self>, close: &Close) {
        self.closing.cancel();
        let Some(sessions) = self.registry.begin_close(close) else { return };
        self.tasks.close();
        self.connections.close();
        let (start, spread) = (Instant::now(), close.spread_time());
        let deadline = start + self.close_timeout(close);
        let mut later = Vec::new();
        if spread.is_zero() {
            sessions.iter().for_each(|session| session.shared().close(close.clone()));
        } else {
            later = sessions;
        }
        let (state, close) = (self.clone(), close.clone());
        self.close_tasks.spawn(async move {
            let closing = async {
                let count = later.len() as f64;
                for (place, session) in later.into_iter().enumerate() {
                    sleep_until(start + spread.mul_f64(place as f64 / count)).await;
                    session.shared().close(close.clone());
                }
                state.tasks.wait().await;
            };
            if timeout_at(deadline, closing).await.is_err() {
                state.abort_tasks().await;
            }
            if let Some(cluster) = &state.cluster {
                cluster.leave().await;
            }
            state.telemetry.end();
            let _ = state.closed.set(state.close_report());
            // A request that has awaited the close can still respond.
            if timeout_at(deadline.max(Instant::now()) + GRACE, state.connections.wait()).await.is_err() {
                state.abort_connections.cancel();
            }
        });
    }

    /// Drops all tasks. Handlers that await the close get its report before.
    async fn abort_tasks(&self) {
        // Counted before a task ends, because a handler that awaits the close reads the number then.
        let count = |dropped| _ = self.forced.fetch_add(dropped, Ordering::Relaxed);
        self.session_tasks.abort(Abort::NotClosing, count);
        self.abort.cancel();
        if timeout(GRACE, self.tasks.wait()).await.is_err() {
            self.session_tasks.abort(Abort::All, count);
            self.tasks.wait().await;
        }
    }

    fn close_report(&self) -> CloseReport {
        CloseReport { clean: self.clean.load(Ordering::Relaxed), forced: self.forced.load(Ordering::Relaxed) }
    }

    /// Returns the timeout of the whole close.
    pub(crate) fn close_timeout(&self, close: &Close) -> Duration {
        let drain = match close.mode() {
            CloseMode::Drain(timeout) => timeout,
            CloseMode::Immediate | CloseMode::Forced => Duration::ZERO,
        };
        close.spread_time() + drain + self.options().close_timeout + GRACE
    }

    /// Returns the options of new sessions.
    pub(crate) fn options(&self) -> Arc<Options> {
        // A panic under the lock cannot leave the options half written.
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the address that limits per address count. `None` is not limited: a trusted proxy, or unknown.
    pub(crate) fn limited_address(&self, remote_address: Option<SocketAddr>) -> Option<IpAddr> {
        let is_proxy = |address: &SocketAddr| self.proxies.as_ref().is_some_and(|proxies| proxies.trusts(address));
        remote_address.filter(|address| !is_proxy(address)).map(|address| address_prefix(address.ip()))
    }

    pub(crate) fn station_info(&self, session: &Session) -> StationInfo {
        session.station_info(self.cluster.as_ref().map(|cluster| cluster.name()))
    }

    /// Returns the newest session of a key, if it accepts calls.
    fn find_open(&self, key: &str) -> Option<Session> {
        self.registry.find(key).filter(Session::is_open)
    }

    /// Returns the dialect of a session's protocol.
    pub(crate) fn dialect(&self, protocol: Option<&str>) -> Dialect {
        let own = self.dialects.iter().find(|(name, _)| Some(&**name) == protocol);
        own.map_or_else(|| Dialect::for_protocol(protocol), |(_, dialect)| *dialect)
    }
}

impl Route for ServerState {
    fn find(&self, key: &str) -> Option<Arc<Shared>> {
        // A session that closes gives way to one at another node.
        let is_used = |session: &Session| self.cluster.is_none() || session.is_open();
        Some(self.registry.find(key).filter(is_used)?.shared().clone())
    }

    fn connected<'a>(&'a self, key: &'a Arc<str>) -> RouteFuture<'a, Option<StationInfo>> {
        let find = || self.find_open(key).map(|session| self.station_info(&session));
        Box::pin(async move {
            match &self.cluster {
                Some(cluster) => self.closing.run_until_cancelled(cluster.connected(key, find)).await,
                None => self.closing.run_until_cancelled(self.registry.openings().wait_until(key, find)).await,
            }
        })
    }

    fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    fn call_elsewhere(&self, call: RemoteCall) -> Option<Pin<Box<dyn Future<Output = RemoteOutcome> + Send>>> {
        let cluster = self.cluster.as_ref()?;
        Some(Box::pin(cluster.clone().call(call)))
    }

    fn info<'a>(&'a self, key: &'a Arc<str>) -> RouteFuture<'a, Result<Option<StationInfo>, Error>> {
        let own = self.registry.find(key);
        Box::pin(async move {
            match (own, &self.cluster) {
                (Some(session), None) => Ok(Some(self.station_info(&session))),
                (Some(session), Some(_)) if session.is_open() => Ok(Some(self.station_info(&session))),
                (_, Some(cluster)) => cluster.info(key).await,
                (None, None) => Ok(None),
            }
        })
    }

    fn close<'a>(&'a self, key: &'a Arc<str>, close: &'a Close) -> RouteFuture<'a, Result<CloseInfo, Error>> {
        Box::pin(async move {
            match (self.registry.find(key), &self.cluster) {
                (Some(session), _) => Ok(session.close(close.clone()).await),
                (None, Some(cluster)) => cluster.close(key, close).await,
                (None, None) => Err(Error::NotConnected),
            }
        })
    }
}

impl Home for ServerState {
    fn find(&self, key: &str) -> Option<Session> {
        self.registry.find(key)
    }

    fn announced(&self, key: &str, epoch: Epoch) -> Option<Epoch> {
        self.registry.announced(key, epoch, Instant::now().into_std())
    }

    fn sessions(&self) -> Vec<Session> {
        self.registry.newest_sessions()
    }

    fn sessions_after(&self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Session> {
        self.registry.sessions_after(after, prefix, limit)
    }

    fn recorded(&self, key: &str, query: &Payload, max_bytes: usize) -> Option<Payload> {
        self.histories.recorded(key, query, max_bytes)
    }

    fn events(&self) -> Events {
        self.telemetry.subscribe()
    }
}

impl Drop for ServerState {
    fn drop(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.stop();
        }
        self.telemetry.end();
    }
}

impl fmt::Debug for RpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer")
            .field("protocols", &self.state.negotiation.protocols)
            .field("options", &self.state.options())
            .field("closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}
