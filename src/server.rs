//! The server's end: a tower service and an axum extractor that upgrade requests, sessions by identity, and a
//! listener for those who have none.

mod auth;
#[cfg(feature = "axum")]
mod axum;
mod builder;
mod facts;
mod http1;
mod judge;
#[cfg(feature = "listen")]
mod listen;
mod negotiation;
mod proxies;
mod registry;
mod running;
mod serve;
mod service;
mod session;
#[cfg(all(feature = "listen", feature = "tls"))]
mod tls;
mod upgrade;
#[cfg_attr(not(feature = "http2"), path = "server/versions/one.rs")]
mod versions;

/// Stands in for what axum knows of a request, where there is no axum.
#[cfg(not(feature = "axum"))]
mod axum {
    use std::net::SocketAddr;

    use http::{Extensions, Uri};

    pub(super) fn original_uri(_: &Extensions) -> Option<&Uri> {
        None
    }

    pub(super) fn connect_info(_: &Extensions) -> Option<SocketAddr> {
        None
    }
}

#[cfg(feature = "listen")]
pub use self::listen::Listener;
#[cfg(all(feature = "listen", feature = "tls"))]
pub use self::tls::{ServerTls, ServerTlsBuilder};
pub use self::{
    auth::{Accept, Authenticate, Handshake, Reject},
    builder::RpcServerBuilder,
    facts::{ConnectionFacts, Identity, RemoteAddress, TlsFacts, TlsVersion},
    negotiation::NoCommonProtocol,
    proxies::TrustedProxies,
    registry::SameIdentity,
    service::HandshakeFuture,
    session::Session,
    upgrade::{RpcUpgrade, UpgradeError},
};

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::{Close, Manner},
    connection::Dispatch,
    dialect::Dialect,
    event::{Events, Hub},
    meter::Meter,
    options::{BuildError, Options},
    rpc::RpcRouter,
};

use self::{
    auth::AnyAuth,
    negotiation::{NONE, Negotiation},
    registry::Registry,
    running::Running,
};

/// A server of OCPP-J: upgrades requests to sessions, and knows them by identity.
///
/// It is a tower [`Service`](tower::Service) of HTTP requests, cheap to clone. Mount it on an axum router, serve it
/// with hyper, hand it requests that an [extractor](RpcUpgrade) took in, or let it [`listen`](Self::listen).
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
/// Requests that open no session are answered as follows; the reason is in the body.
///
/// | What is wrong | Status |
/// |---|---|
/// | not a WebSocket request, or not version 13 of it | 426; 400 over HTTP/2 |
/// | the path ends in no identity that can be decoded | 404 |
/// | a header of the handshake is malformed | 400 |
/// | the [hook](Authenticate) says no | what the hook says, 401 by default |
/// | the hook panics | 500 |
/// | the hook takes longer than [`handshake_deadline`](RpcServerBuilder::handshake_deadline) | 503 |
/// | too many handshakes are under way, or the server closes | 503 |
/// | there are as many sessions as there may be | 503; 429 from one address |
/// | the identity is connected, and [`OldestStays`](SameIdentity::OldestStays) | 409 |
///
/// A client that offers no protocol that the server has is upgraded without one and closed with 1002, unless
/// [`NoCommonProtocol`] says otherwise.
///
#[cfg_attr(all(feature = "axum", feature = "listen"), doc = include_str!("docs/shutdown.md"))]
#[derive(Clone)]
pub struct RpcServer {
    inner: Arc<Inner>,
}

struct Inner {
    dispatch: Arc<dyn Dispatch>,
    negotiation: Negotiation,
    dialects: Vec<(Arc<str>, Dialect)>,
    auth: Option<Box<dyn AnyAuth>>,
    proxies: Option<TrustedProxies>,
    options: RwLock<Arc<Options>>,
    handshake_deadline: Duration,
    max_identity: usize,
    /// Of the head of a request.
    max_head: usize,
    max_headers: usize,
    max_connections: usize,
    habits: versions::Habits,
    pending: Semaphore,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    meter: Meter,
    tasks: TaskTracker,
    /// Those of the tasks that are sessions or going to be, until the last of their handlers has ended.
    running: Running,
    /// Fires when closing begins.
    closing: CancellationToken,
    /// Fires when a close has run out of time.
    kill: CancellationToken,
    /// How many sessions ended by themselves since closing began, and how many did not.
    clean: AtomicUsize,
    forced: AtomicUsize,
}

/// What became of the sessions of a server that closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Sessions that ended as they were asked to, with all of their handlers.
    pub clean: usize,
    /// Sessions that were dropped when the time was up, or whose handlers were.
    pub forced: usize,
}

impl RpcServer {
    /// A server whose sessions are answered by `router`.
    pub fn builder<S: Send + Sync + 'static>(router: RpcRouter<S>) -> RpcServerBuilder {
        RpcServerBuilder::new(router.into_dispatch())
    }

    /// The session of this identity: the newest one, where there are several.
    pub fn session(&self, identity: &str) -> Option<Session> {
        self.inner.registry.get(identity)
    }

    /// All sessions, in no order.
    pub fn sessions(&self) -> Vec<Session> {
        self.inner.registry.all()
    }

    /// What happens from now on, on all connections.
    pub fn events(&self) -> Events {
        self.inner.hub.subscribe()
    }

    /// Opens a session for a request that the caller has judged, and gives the response to it: 101, or why not.
    ///
    /// The authentication hook is passed by; everything else holds as for the service. The session is registered
    /// when the client's socket arrives, before anything is read from it.
    ///
    /// `B` is the body of the response: axum's `Body`, or anything else that is made from bytes.
    pub fn accept<B: From<Bytes>>(&self, upgrade: RpcUpgrade, accept: Accept) -> Response<B> {
        self.inner.accept(upgrade, accept)
    }

    /// Answers a request that is no handshake as the service does, and makes it an event.
    ///
    /// ```
    /// use axum::{extract::State, response::Response};
    /// use ocpp_rpc::{Accept, RpcServer, RpcUpgrade, UpgradeError};
    ///
    /// async fn connect(upgrade: Result<RpcUpgrade, UpgradeError>, State(server): State<RpcServer>) -> Response {
    ///     match upgrade {
    ///         Ok(upgrade) => server.accept(upgrade, Accept::new()),
    ///         Err(error) => server.refuse(error),
    ///     }
    /// }
    /// # let _: axum::Router<RpcServer> = axum::Router::new().route("/ocpp/{*identity}", axum::routing::any(connect));
    /// ```
    pub fn refuse<B: From<Bytes>>(&self, error: UpgradeError) -> Response<B> {
        self.inner.emit_refused(None, error.remote_address(), Some(error.status()), error.reason());
        error.into_response()
    }

    /// Changes times and limits of the sessions that open from now on. Those that are open keep theirs; see
    /// [`Peer::set_options`](crate::Peer::set_options).
    ///
    /// # Errors
    /// When they could never work; nothing is changed then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        options.check_for(&self.inner.negotiation.protocols)?;
        *self.inner.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
        Ok(())
    }

    /// Closes the server: its listeners stop, no new sessions open, every session is closed as asked, and all of their
    /// tasks are waited for. An HTTP server that was not opened by [`listen`](Self::listen) is not touched.
    ///
    /// The first close decides. With calls under way waited for or not, sessions have the time that the close
    /// gives them, plus the server's own [`Options::close_timeout`], plus two seconds; what is left then is dropped.
    ///
    /// # Cancel safety
    /// Once polled, closing goes on even if the future is dropped; only the last resort is not taken.
    pub async fn close(&self, close: Close) -> CloseReport {
        let inner = &*self.inner;
        inner.closing.cancel();
        let deadline = inner.registry.close_all(&close, Instant::now() + self.patience(&close));
        inner.tasks.close();
        if timeout_at(deadline, inner.tasks.wait()).await.is_err() {
            // Known before the first of them is gone, for whoever waits for that as well.
            inner.running.abort(|dropped| _ = inner.forced.fetch_max(dropped, Ordering::Relaxed));
            inner.kill.cancel();
            inner.tasks.wait().await;
        }
        inner.hub.end();
        CloseReport { clean: inner.clean.load(Ordering::Relaxed), forced: inner.forced.load(Ordering::Relaxed) }
    }

    /// How long a close may take in all.
    fn patience(&self, close: &Close) -> Duration {
        let pending = match close.manner() {
            Manner::AfterPending(pending) => pending,
            Manner::AtOnce | Manner::Forced => Duration::ZERO,
        };
        pending + self.inner.options().close_timeout + GRACE
    }

    /// Whether [`close`](Self::close) has begun.
    pub fn is_closing(&self) -> bool {
        self.inner.closing.is_cancelled()
    }
}

/// What tasks have on top of all deadlines of their own before they are dropped.
const GRACE: Duration = Duration::from_secs(2);

impl Inner {
    /// The options of sessions to come.
    fn options(&self) -> Arc<Options> {
        // Nothing that runs under the lock can leave it half done.
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn dialect(&self, protocol: Option<&str>) -> Dialect {
        let own = self.dialects.iter().find(|(name, _)| Some(&**name) == protocol);
        own.map_or_else(|| Dialect::of(protocol), |(_, dialect)| *dialect)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.end();
    }
}

impl fmt::Debug for RpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer")
            .field("protocols", &self.inner.negotiation.protocols)
            .field("options", &self.inner.options())
            .field("closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}
