//! How a server is put together.

use std::{
    fmt,
    sync::{Arc, RwLock, atomic::AtomicUsize},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    connection::shared::Dispatch,
    error::BuildError,
    handler::router::RpcRouter,
    handshake,
    message::dialect::Dialect,
    options::{self, Options},
    server::{
        handshake::{
            auth::{Authenticate, DynAuthenticate},
            protocol::{Negotiation, NoCommonProtocol, Preference},
        },
        http::{proxies::TrustedProxies, settings::HttpSettings},
        rpc_server::{RpcServer, ServerState},
        session::{
            registry::{DuplicateIdentity, Limits, Registry},
            tasks::SessionTasks,
        },
    },
    telemetry::Telemetry,
};

/// Puts an [`RpcServer`] together.
///
/// | Setting | Default |
/// |---|---|
/// | [`protocols`](Self::protocols) | none: any client is taken, and none is named |
/// | [`default_protocol`](Self::default_protocol) | none: who offers nothing has nothing in common |
/// | [`prefer_server_order`](Self::prefer_server_order) | off: the client's order does |
/// | [`no_common_protocol`](Self::no_common_protocol) | [`NoCommonProtocol::Close`] |
/// | [`auth`](Self::auth) | lets everybody in |
/// | [`trusted_proxies`](Self::trusted_proxies) | no proxies: what such headers say means nothing |
/// | [`duplicate_identity`](Self::duplicate_identity) | [`DuplicateIdentity::ReplaceOld`] |
/// | [`options`](Self::options) | [`Options::server`] |
/// | [`handshake_timeout`](Self::handshake_timeout) | 10 s |
/// | [`max_pending_handshakes`](Self::max_pending_handshakes) | 1024 |
/// | [`max_identity_length`](Self::max_identity_length) | 255 bytes |
/// | [`max_sessions`](Self::max_sessions) | no limit |
/// | [`max_sessions_per_address`](Self::max_sessions_per_address) | no limit |
/// | [`max_head_size`](Self::max_head_size) | 64 KiB |
/// | [`max_headers`](Self::max_headers) | 100 |
/// | [`max_connections`](Self::max_connections) | 4096 |
#[cfg_attr(feature = "http2", doc = "| [`websockets_over_http2`](Self::websockets_over_http2) | off |")]
#[must_use]
pub struct RpcServerBuilder {
    dispatch: Arc<dyn Dispatch>,
    negotiation: Negotiation,
    dialects: Vec<(Arc<str>, Dialect)>,
    authenticator: Option<Box<dyn DynAuthenticate>>,
    proxies: Option<TrustedProxies>,
    options: Options,
    limits: Limits,
    max_pending_handshakes: usize,
    max_identity_length: usize,
    http: HttpSettings,
}

impl RpcServer {
    /// A server whose sessions are answered by `router`.
    pub fn builder<S: Send + Sync + 'static>(router: RpcRouter<S>) -> RpcServerBuilder {
        RpcServerBuilder::new(router.into_dispatch())
    }
}

impl RpcServerBuilder {
    fn new(dispatch: Arc<dyn Dispatch>) -> Self {
        let no_common = NoCommonProtocol::default();
        Self {
            dispatch,
            negotiation: Negotiation {
                protocols: Vec::new(),
                preference: Preference::Client,
                no_common,
                default: None,
            },
            dialects: Vec::new(),
            authenticator: None,
            proxies: None,
            options: Options::server(),
            limits: Limits::default(),
            max_pending_handshakes: 1024,
            max_identity_length: 255,
            http: HttpSettings {
                handshake_timeout: Duration::from_secs(10),
                max_head_size: 64 << 10,
                max_headers: 100,
                max_connections: 4096,
                #[cfg(feature = "http2")]
                websockets_over_http2: false,
            },
        }
    }

    /// The subprotocols that the server speaks, the preferred one first. Among them the client's order decides (OCPP
    /// 2.1 part 4 §3.1.2), unless [`prefer_server_order`](Self::prefer_server_order).
    pub fn protocols<P: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.negotiation.protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        self
    }

    /// The protocol that is spoken with clients that offer none at all, as some in the field do. It is one of
    /// [`protocols`](Self::protocols); the answer does not name it.
    pub fn default_protocol(mut self, protocol: &str) -> Self {
        self.negotiation.default = Some(protocol.into());
        self
    }

    /// Takes the first of the server's protocols that the client offers, not the first of the client's that the
    /// server has.
    pub fn prefer_server_order(mut self, is_on: bool) -> Self {
        self.negotiation.preference = if is_on { Preference::Server } else { Preference::Client };
        self
    }

    /// What is done with a client that offers none of the protocols.
    pub fn no_common_protocol(mut self, answer: NoCommonProtocol) -> Self {
        self.negotiation.no_common = answer;
        self
    }

    /// The rules of a protocol that has rules of its own.
    pub fn dialect(mut self, protocol: &str, dialect: Dialect) -> Self {
        self.dialects.push((protocol.into(), dialect));
        self
    }

    /// Judges every handshake: a closure or a type, see [`Authenticate`].
    pub fn auth(mut self, hook: impl Authenticate) -> Self {
        self.authenticator = Some(Box::new(hook));
        self
    }

    /// Believes these proxies what they say of their clients: in handshakes, sessions and events, and for the whole
    /// application that the built-in listener serves.
    pub fn trusted_proxies(self, proxies: TrustedProxies) -> Self {
        Self { proxies: Some(proxies), ..self }
    }

    /// What becomes of a station that connects a second time.
    pub fn duplicate_identity(mut self, rule: DuplicateIdentity) -> Self {
        self.limits.duplicate_identity = rule;
        self
    }

    /// Times, limits and habits of the sessions. [`RpcServer::set_options`] changes them later,
    /// [`Accept::options`](super::Accept::options) for one session.
    pub fn options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// How long a handshake may take, and with it the authentication hook. At the built-in listener the time begins
    /// when the client is accepted, and TLS, the head of the request and the hook share it; elsewhere it begins with
    /// the hook.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.http.handshake_timeout = timeout;
        self
    }

    /// How many handshakes may wait for the authentication hook at once; more are answered with 503.
    pub fn max_pending_handshakes(self, handshakes: usize) -> Self {
        Self { max_pending_handshakes: handshakes, ..self }
    }

    /// The longest identity, in bytes after decoding; a longer one is answered with 404. OCPP 2.x allows 48
    /// characters, 1.6 states no limit.
    pub fn max_identity_length(self, bytes: usize) -> Self {
        Self { max_identity_length: bytes, ..self }
    }

    /// How many sessions there may be; more are answered with 503. Those that were replaced and have not ended yet
    /// count, and so do sockets that are only told that there is no common protocol; a station that returns may take
    /// the place of its only session also where there is no other.
    pub fn max_sessions(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.limits.max_sessions = sessions.into();
        self
    }

    /// How many sessions there may be from one remote address, or from one network of 64 bits of IPv6; more are
    /// answered with 429. Mind stations that share the address of a site's router. Where an address is
    /// [not known](super::Handshake::remote_address), nothing limits it.
    pub fn max_sessions_per_address(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.limits.max_sessions_per_address = sessions.into();
        self
    }

    /// The largest head of a request at the built-in listener, in bytes, at least 8 KiB; a larger one is answered
    /// with 431.
    pub fn max_head_size(mut self, bytes: usize) -> Self {
        self.http.max_head_size = bytes;
        self
    }

    /// How many header lines a request may have at the built-in listener; more are answered with 431.
    pub fn max_headers(mut self, lines: usize) -> Self {
        self.http.max_headers = lines;
        self
    }

    /// How many HTTP connections each built-in listener has open at once, those in the midst of a TLS handshake
    /// included; further clients wait in the system's backlog until one of them has ended. Sessions do not count: a
    /// connection that was upgraded makes room. One of HTTP/2 keeps its place as long as it has streams.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.http.max_connections = connections;
        self
    }

    /// Takes WebSockets over HTTP/2, each of them a stream that an extended CONNECT opens (RFC 8441): several charging
    /// stations may then share one connection. A hook or a handler sees such a handshake like any other.
    ///
    /// Without this they are not offered, and who asks all the same gets no session; 501 where the HTTP server is
    /// another than the built-in listener.
    ///
    /// A connection keeps its place among [`max_connections`](Self::max_connections) as long as it has streams, and may
    /// have 100 of them. When it is lost, so are all of its sessions.
    #[cfg(feature = "http2")]
    pub fn websockets_over_http2(mut self, is_on: bool) -> Self {
        self.http.websockets_over_http2 = is_on;
        self
    }

    /// The server.
    ///
    /// # Errors
    /// When settings contradict each other or could never work.
    pub fn build(self) -> Result<RpcServer, BuildError> {
        let Self { dispatch, negotiation, dialects, authenticator, proxies, options, limits, mut http, .. } = self;
        handshake::check_protocols(&negotiation.protocols, &dialects)?;
        options.check_for(&negotiation.protocols)?;
        if let Some(default) = negotiation.default.as_ref().filter(|&default| !negotiation.protocols.contains(default))
        {
            return Err(BuildError(format!("the default protocol {default:?} is none of the protocols")));
        }
        if !options::is_timeout(http.handshake_timeout) {
            return Err(BuildError("handshake_timeout must be more than zero and less than 100 years".into()));
        }
        let zero = [
            (self.max_pending_handshakes, "max_pending_handshakes"),
            (self.max_identity_length, "max_identity_length"),
            (limits.max_sessions.unwrap_or(1), "max_sessions"),
            (limits.max_sessions_per_address.unwrap_or(1), "max_sessions_per_address"),
            (http.max_headers, "max_headers"),
            (http.max_connections, "max_connections"),
        ];
        if let Some((_, name)) = zero.into_iter().find(|(limit, _)| *limit == 0) {
            return Err(BuildError(format!("{name} is zero: nobody could ever come in")));
        }
        if http.max_head_size < 8 << 10 {
            return Err(BuildError("max_head_size is less than 8 KiB".into()));
        }
        http.max_connections = http.max_connections.min(Semaphore::MAX_PERMITS);
        let state = ServerState {
            dispatch,
            negotiation,
            dialects,
            authenticator,
            proxies,
            options: RwLock::new(Arc::new(options)),
            max_identity_length: self.max_identity_length,
            http,
            handshake_permits: Semaphore::new(self.max_pending_handshakes.min(Semaphore::MAX_PERMITS)),
            registry: Arc::new(Registry::new(limits)),
            telemetry: Telemetry::new(),
            tasks: TaskTracker::new(),
            session_tasks: SessionTasks::default(),
            closing: CancellationToken::new(),
            abort: CancellationToken::new(),
            clean: AtomicUsize::new(0),
            forced: AtomicUsize::new(0),
        };
        Ok(RpcServer { state: Arc::new(state) })
    }
}

impl fmt::Debug for RpcServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServerBuilder")
            .field("protocols", &self.negotiation.protocols)
            .field("auth", &self.authenticator.is_some())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
