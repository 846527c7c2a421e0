//! The server: its sessions, its options and its end.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::intent::{Close, CloseMode},
    connection::shared::Dispatch,
    error::BuildError,
    event::Events,
    message::dialect::Dialect,
    options::Options,
    server::{
        handshake::{auth::DynAuthenticate, protocol::Negotiation},
        http::{proxies::TrustedProxies, settings::HttpSettings},
        session::{registry::Registry, tasks::SessionTasks},
    },
    session::Session,
    telemetry::Telemetry,
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
/// | the hook takes longer than [`handshake_timeout`](RpcServerBuilder::handshake_timeout) | 503 |
/// | too many handshakes are under way, or the server closes | 503 |
/// | there are as many sessions as there may be | 503; 429 from one address |
/// | the identity is connected, and [`RejectNew`](DuplicateIdentity::RejectNew) | 409 |
///
/// A client that offers no protocol that the server has is upgraded without one and closed with 1002, unless
/// [`NoCommonProtocol`] says otherwise.
///
#[cfg_attr(feature = "axum", doc = include_str!("../docs/shutdown.md"))]
#[derive(Clone)]
pub struct RpcServer {
    pub(crate) state: Arc<ServerState>,
}

pub(crate) struct ServerState {
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) negotiation: Negotiation,
    pub(crate) dialects: Vec<(Arc<str>, Dialect)>,
    pub(crate) authenticator: Option<Box<dyn DynAuthenticate>>,
    pub(crate) proxies: Option<TrustedProxies>,
    pub(crate) options: RwLock<Arc<Options>>,
    pub(crate) max_identity_length: usize,
    pub(crate) http: HttpSettings,
    pub(crate) handshake_permits: Semaphore,
    pub(crate) registry: Arc<Registry>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) tasks: TaskTracker,
    /// Those of the tasks that are sessions or going to be, until the last of their handlers has ended.
    pub(crate) session_tasks: SessionTasks,
    /// Fires when closing begins.
    pub(crate) closing: CancellationToken,
    /// Fires when a close has run out of time.
    pub(crate) abort: CancellationToken,
    /// How many sessions ended by themselves since closing began, and how many did not.
    pub(crate) clean: AtomicUsize,
    pub(crate) forced: AtomicUsize,
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
    /// The session of this identity: the newest one, where there are several.
    pub fn session(&self, identity: &str) -> Option<Session> {
        self.state.registry.get(identity)
    }

    /// All sessions, in no order.
    pub fn sessions(&self) -> Vec<Session> {
        self.state.registry.all()
    }

    /// What happens from now on, on all connections.
    pub fn events(&self) -> Events {
        self.state.telemetry.subscribe()
    }

    /// Changes times and limits of the sessions that open from now on. Those that are open keep theirs; see
    /// [`Session::set_options`](crate::Session::set_options).
    ///
    /// # Errors
    /// When they could never work; nothing is changed then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        options.check_for(&self.state.negotiation.protocols)?;
        *self.state.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
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
        let state = &*self.state;
        state.closing.cancel();
        let deadline = state.registry.close_all(&close, Instant::now() + self.close_timeout(&close));
        state.tasks.close();
        if timeout_at(deadline, state.tasks.wait()).await.is_err() {
            // Known before the first of them is gone, for whoever waits for that as well.
            state.session_tasks.abort(|dropped| _ = state.forced.fetch_max(dropped, Ordering::Relaxed));
            state.abort.cancel();
            state.tasks.wait().await;
        }
        state.telemetry.end();
        CloseReport { clean: state.clean.load(Ordering::Relaxed), forced: state.forced.load(Ordering::Relaxed) }
    }

    /// How long a close may take in all.
    pub(crate) fn close_timeout(&self, close: &Close) -> Duration {
        let drain = match close.mode() {
            CloseMode::Drain(timeout) => timeout,
            CloseMode::Immediate | CloseMode::Forced => Duration::ZERO,
        };
        drain + self.state.options().close_timeout + GRACE
    }

    /// Whether [`close`](Self::close) has begun.
    pub fn is_closing(&self) -> bool {
        self.state.closing.is_cancelled()
    }
}

/// What tasks have on top of all deadlines of their own before they are dropped.
const GRACE: Duration = Duration::from_secs(2);

impl ServerState {
    /// The options of sessions to come.
    pub(crate) fn options(&self) -> Arc<Options> {
        // Nothing that runs under the lock can leave it half done.
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn dialect(&self, protocol: Option<&str>) -> Dialect {
        let own = self.dialects.iter().find(|(name, _)| Some(&**name) == protocol);
        own.map_or_else(|| Dialect::for_protocol(protocol), |(_, dialect)| *dialect)
    }
}

impl Drop for ServerState {
    fn drop(&mut self) {
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
