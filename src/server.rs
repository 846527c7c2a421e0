//! The server's end: a tower service and an axum extractor that upgrade requests, sessions by identity, and a
//! listener for those who have none.

mod auth;
#[cfg(feature = "axum")]
mod axum;
mod builder;
#[cfg(feature = "listen")]
mod listen;
mod registry;
mod service;
mod session;
mod upgrade;

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
pub use self::{
    auth::{Accept, Authenticate, Handshake, Reject},
    builder::RpcServerBuilder,
    service::HandshakeFuture,
    session::Session,
    upgrade::{RemoteAddress, RpcUpgrade, UpgradeError},
};

use std::{
    fmt,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::{Close, Manner},
    connection::Dispatch,
    dialect::Dialect,
    event::{Event, EventKind, Events, Hub},
    options::Options,
    rpc::RpcRouter,
};

use self::{auth::AnyAuth, registry::Registry};

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
/// | not a WebSocket request, or not version 13 of it | 426 |
/// | the path ends in no identity that can be decoded | 404 |
/// | a header of the handshake is malformed | 400 |
/// | the [hook](Authenticate) says no | what the hook says, 401 by default |
/// | the hook panics | 500 |
/// | the hook takes longer than [`handshake_deadline`](RpcServerBuilder::handshake_deadline) | 503 |
/// | too many handshakes are under way, or the server closes | 503 |
///
/// A client that offers no protocol that the server has is upgraded without one and closed with 1002, as the
/// standards want it (OCPP-J 1.6 §3.2, OCPP 2.0.1 part 4 §3.2).
#[derive(Clone)]
pub struct RpcServer {
    inner: Arc<Inner>,
}

struct Inner {
    dispatch: Arc<dyn Dispatch>,
    protocols: Vec<Arc<str>>,
    dialects: Vec<(Arc<str>, Dialect)>,
    auth: Option<Box<dyn AnyAuth>>,
    options: Options,
    handshake_deadline: Duration,
    max_identity: usize,
    pending: Semaphore,
    registry: Registry,
    hub: Arc<Hub>,
    tasks: TaskTracker,
    /// Fires when closing begins.
    closing: CancellationToken,
    /// Fires when a close has run out of time.
    kill: CancellationToken,
    /// How many sessions there are, until the last of their handlers has ended.
    active: AtomicUsize,
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
        let known = upgrade.handshake.clone();
        match self.inner.check_identity(&known).and_then(|()| self.inner.open(upgrade, accept)) {
            Ok(response) => response,
            Err(reject) => {
                self.inner.refused(&known, Some(reject.status()), reject.reason());
                reject.into_response()
            }
        }
    }

    /// Closes the server: its listeners stop, no new sessions open, every session is closed as asked, and all of their
    /// tasks are waited for. An HTTP server that was not opened by [`listen`](Self::listen) is not touched.
    ///
    /// The first close decides. With calls under way waited for or not, sessions have the time that the close
    /// gives them, plus [`Options::close_timeout`], plus two seconds; what is left then is dropped.
    ///
    /// # Cancel safety
    /// Once polled, closing goes on even if the future is dropped; only the last resort is not taken.
    pub async fn close(&self, close: Close) -> CloseReport {
        let inner = &*self.inner;
        inner.closing.cancel();
        let deadline = inner.registry.close_all(&close, Instant::now() + self.patience(&close));
        inner.tasks.close();
        if timeout_at(deadline, inner.tasks.wait()).await.is_err() {
            inner.forced.fetch_max(inner.active.load(Ordering::Relaxed), Ordering::Relaxed);
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
        pending + self.inner.options.close_timeout + GRACE
    }

    /// Whether [`close`](Self::close) has begun.
    pub fn is_closing(&self) -> bool {
        self.inner.closing.is_cancelled()
    }

    /// Answers a handshake, with everything that the service does.
    async fn handshake(&self, upgrade: Result<RpcUpgrade, UpgradeError>) -> Response<http_body_util::Full<Bytes>> {
        let inner = &self.inner;
        let upgrade = match upgrade {
            Ok(upgrade) => upgrade,
            Err(error) => {
                inner.emit_refused(None, error.remote_address(), Some(error.status()), error.reason());
                return error.into_response();
            }
        };
        let mut judgement = Judgement { inner, handshake: upgrade.handshake.clone(), is_open: true };
        let judged = inner.judge(upgrade).await;
        judgement.is_open = false;
        match judged {
            Ok(response) => response,
            Err(reject) => {
                inner.refused(&judgement.handshake, Some(reject.status()), reject.reason());
                reject.into_response()
            }
        }
    }
}

/// A handshake that is being judged; one that is dropped by then was broken off by its client.
struct Judgement<'a> {
    inner: &'a Inner,
    handshake: Handshake,
    is_open: bool,
}

impl Drop for Judgement<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.inner.refused(&self.handshake, None, "the client left before it was judged");
        }
    }
}

/// What tasks have on top of all deadlines of their own before they are dropped.
const GRACE: Duration = Duration::from_secs(2);

impl Inner {
    /// Asks the hook, then opens the session.
    async fn judge<B: From<Bytes>>(self: &Arc<Self>, upgrade: RpcUpgrade) -> Result<Response<B>, Reject> {
        self.check_identity(&upgrade.handshake)?;
        let Ok(_place) = self.pending.try_acquire() else { return Err(unavailable("too many handshakes")) };
        let accept = match &self.auth {
            None => Accept::new(),
            Some(auth) => {
                let handshake = upgrade.handshake.clone();
                // A closure may panic before there is a future.
                let hook = AssertUnwindSafe(async { auth.authenticate(handshake).await }).catch_unwind();
                let hook = self.closing.run_until_cancelled(timeout(self.handshake_deadline, hook));
                match hook.await {
                    None => return Err(unavailable("the server is closing")),
                    Some(Err(_)) => return Err(unavailable("authentication took too long")),
                    Some(Ok(Err(_))) => {
                        tracing::error!("the authentication hook panicked");
                        return Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR).body("authentication failed"));
                    }
                    Some(Ok(Ok(judgement))) => judgement?,
                }
            }
        };
        self.open(upgrade, accept)
    }

    fn check_identity(&self, handshake: &Handshake) -> Result<(), Reject> {
        match handshake.identity().len() > self.max_identity {
            true => Err(Reject::not_found().body("the identity is too long")),
            false => Ok(()),
        }
    }

    /// Negotiates the protocol and lets a task wait for the socket.
    fn open<B: From<Bytes>>(self: &Arc<Self>, upgrade: RpcUpgrade, accept: Accept) -> Result<Response<B>, Reject> {
        // A close that begins now waits for this token, and so for the task.
        let _token = self.tasks.token();
        if self.closing.is_cancelled() {
            return Err(unavailable("the server is closing"));
        }
        let (protocol, extensions) = accept.into_parts();
        let agreement = self.negotiate(&upgrade.handshake, protocol)?;
        let mut response = Response::new(B::from(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        upgrade.answer(headers);
        if let Agreement::Protocol(protocol) = &agreement {
            insert(headers, header::SEC_WEBSOCKET_PROTOCOL, protocol)?;
        }
        let task = session::run(self.clone(), upgrade, agreement, extensions);
        let kill = self.kill.clone();
        self.tasks.spawn(async move { kill.run_until_cancelled(task).await });
        Ok(response)
    }

    /// The first protocol of the client's list that the server has, or the one that the hook chose.
    fn negotiate(&self, handshake: &Handshake, chosen: Option<Arc<str>>) -> Result<Agreement, Reject> {
        let offered = handshake.protocols();
        match chosen {
            Some(chosen) if offered.iter().any(|offer| **offer == *chosen) => Ok(Agreement::Protocol(chosen)),
            Some(_) => Err(Reject::new(StatusCode::BAD_REQUEST).body("the accepted protocol was not offered")),
            None if self.protocols.is_empty() => Ok(Agreement::Unnamed),
            None => {
                let common = offered.iter().find_map(|offer| self.protocols.iter().find(|mine| ***mine == **offer));
                Ok(common.map_or(Agreement::None, |common| Agreement::Protocol(common.clone())))
            }
        }
    }

    fn dialect(&self, protocol: Option<&str>) -> Dialect {
        let own = self.dialects.iter().find(|(name, _)| Some(&**name) == protocol);
        own.map_or_else(|| Dialect::of(protocol), |(_, dialect)| *dialect)
    }

    fn refused(&self, handshake: &Handshake, status: Option<StatusCode>, reason: &str) {
        self.emit_refused(Some(handshake.identity()), handshake.remote_address(), status, reason);
    }

    fn emit_refused(
        &self,
        identity: Option<&str>,
        remote_address: Option<SocketAddr>,
        status: Option<StatusCode>,
        reason: &str,
    ) {
        tracing::debug!(identity, ?remote_address, ?status, reason, "handshake refused");
        self.hub.emit(|| Event {
            at: SystemTime::now(),
            identity: identity.map(Into::into),
            remote_address,
            kind: EventKind::Refused { status: status.map(|status| status.as_u16()), reason: reason.to_owned() },
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.end();
    }
}

/// What came of the negotiation.
enum Agreement {
    Protocol(Arc<str>),
    /// The server has no protocols and takes whoever comes.
    Unnamed,
    /// Nothing in common.
    None,
}

fn unavailable(reason: &'static str) -> Reject {
    Reject::new(StatusCode::SERVICE_UNAVAILABLE).header(header::RETRY_AFTER, HeaderValue::from_static("5")).body(reason)
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) -> Result<(), Reject> {
    // Tokens were checked when they were offered or configured.
    let value = HeaderValue::from_str(value).map_err(|_| Reject::new(StatusCode::BAD_REQUEST))?;
    headers.insert(name, value);
    Ok(())
}

impl fmt::Debug for RpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer")
            .field("protocols", &self.inner.protocols)
            .field("options", &self.inner.options)
            .field("closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}
