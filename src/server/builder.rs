//! The builder of a server.

use std::{
    fmt,
    sync::{Arc, RwLock, Weak, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, SetOnce},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{BoxError, Layer, Service};

use crate::{
    call,
    cluster::{home::Home, member::Member, transport::Cluster},
    connection::{outliving::Outliving, shared::Dispatch},
    error::BuildError,
    handler::router::RpcRouter,
    handshake,
    mask::Mask,
    message::dialect::Dialect,
    openings::Openings,
    options::{self, Options},
    outgoing::{CallResponse, CallService, OutgoingCall},
    server::{
        handshake::{
            auth::{Authenticate, DynAuthenticate},
            protocol::{Negotiation, NoCommonProtocol, Preference},
        },
        history::Histories,
        http::{address::AddressLimit, proxies::TrustedProxies, settings::HttpSettings},
        rpc_server::{RpcServer, ServerState},
        session::{
            registry::{DuplicateIdentity, Limits, Registry},
            tasks::SessionTasks,
        },
    },
    telemetry::Telemetry,
};

/// Configures an [`RpcServer`], then creates it.
///
/// | Setting | Default |
/// |---|---|
/// | [`protocols`](Self::protocols) | none: the server accepts any client and names no protocol |
/// | [`default_protocol`](Self::default_protocol) | none: a client that offers no protocol has no common protocol |
/// | [`prefer_server_order`](Self::prefer_server_order) | `false`: the client's order decides |
/// | [`no_common_protocol`](Self::no_common_protocol) | [`NoCommonProtocol::Close`] |
/// | [`dialect`](Self::dialect) | [`Dialect::for_protocol`] |
/// | [`auth`](Self::auth) | none: the server accepts every client |
/// | [`cluster`](Self::cluster) | none: the server knows its own stations only |
/// | [`trusted_proxies`](Self::trusted_proxies) | none: the server ignores the headers of proxies |
/// | [`duplicate_identity`](Self::duplicate_identity) | [`DuplicateIdentity::ReplaceOld`] |
/// | [`replacement_delay`](Self::replacement_delay) | none: a newcomer replaces the old session at once |
/// | [`options`](Self::options) | [`Options::server`] |
/// | [`call_layer`](Self::call_layer) | none: calls to stations pass no layers |
/// | [`mask`](Self::mask) | [`Mask::new`] |
/// | [`handshake_timeout`](Self::handshake_timeout) | 10 s |
/// | [`max_pending_handshakes`](Self::max_pending_handshakes) | 1024 |
/// | [`max_pending_handshakes_per_address`](Self::max_pending_handshakes_per_address) | a quarter of `max_pending_handshakes` |
/// | [`max_identity_length`](Self::max_identity_length) | 255 bytes |
/// | [`max_sessions`](Self::max_sessions) | no limit |
/// | [`max_sessions_per_address`](Self::max_sessions_per_address) | no limit |
/// | [`max_outliving_handlers`](Self::max_outliving_handlers) | 16,384 |
/// | [`max_head_size`](Self::max_head_size) | 64 KiB |
/// | [`max_headers`](Self::max_headers) | 100 |
/// | [`max_connections`](Self::max_connections) | 4096 |
/// | [`max_connections_per_address`](Self::max_connections_per_address) | a quarter of `max_connections` |
/// | [`body_timeout`](Self::body_timeout) | 30 s |
#[cfg_attr(feature = "http2", doc = "| [`websockets_over_http2`](Self::websockets_over_http2) | `false` |")]
#[must_use]
pub struct RpcServerBuilder {
    dispatch: Arc<dyn Dispatch>,
    negotiation: Negotiation,
    dialects: Vec<(Arc<str>, Dialect)>,
    authenticator: Option<Box<dyn DynAuthenticate>>,
    proxies: Option<TrustedProxies>,
    cluster: Option<Arc<dyn Cluster>>,
    options: Options,
    call_service: Option<CallService>,
    mask: Mask,
    limits: Limits,
    max_pending_handshakes: usize,
    /// `None` is a quarter of all.
    max_pending_handshakes_per_address: Option<usize>,
    /// `None` is a quarter of all.
    max_connections_per_address: Option<usize>,
    max_identity_length: usize,
    max_outliving_handlers: usize,
    http: HttpSettings,
}

/// The most header lines for which hyper can reserve a map.
const MAX_HEADERS: usize = 24_576;

impl RpcServer {
    /// Returns a builder of a server. `router` handles the calls of all stations.
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
            cluster: None,
            options: Options::server(),
            call_service: None,
            mask: Mask::new(),
            limits: Limits::default(),
            max_pending_handshakes: 1024,
            max_pending_handshakes_per_address: None,
            max_connections_per_address: None,
            max_identity_length: 255,
            max_outliving_handlers: 16_384,
            http: HttpSettings::default(),
        }
    }

    /// Sets the subprotocols that the server speaks, the preferred one first.
    ///
    /// By default the server selects the first protocol of the client that it speaks, as OCPP 2.1 part 4 §3.1.2
    /// requires. See [`prefer_server_order`](Self::prefer_server_order).
    pub fn protocols<P: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.negotiation.protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        self
    }

    /// Sets the protocol of clients that offer none, as some stations in the field do.
    ///
    /// It must be one of [`protocols`](Self::protocols). The response does not name it.
    pub fn default_protocol(mut self, protocol: &str) -> Self {
        self.negotiation.default = Some(protocol.into());
        self
    }

    /// Sets whether the server's order of protocols decides, instead of the client's. Default `false`.
    pub fn prefer_server_order(mut self, is_on: bool) -> Self {
        self.negotiation.preference = if is_on { Preference::Server } else { Preference::Client };
        self
    }

    /// Sets the response to a client that offers none of the protocols. Default [`NoCommonProtocol::Close`].
    pub fn no_common_protocol(mut self, action: NoCommonProtocol) -> Self {
        self.negotiation.no_common = action;
        self
    }

    /// Sets the dialect of a protocol, for a protocol with rules of its own.
    ///
    /// The protocol must be one of [`protocols`](Self::protocols).
    pub fn dialect(mut self, protocol: &str, dialect: Dialect) -> Self {
        self.dialects.push((protocol.into(), dialect));
        self
    }

    /// Sets the authenticator that accepts or refuses each handshake. It is a closure or a type, see [`Authenticate`].
    pub fn auth(mut self, authenticator: impl Authenticate) -> Self {
        self.authenticator = Some(Box::new(authenticator));
        self
    }

    /// Makes the server a node of a cluster.
    ///
    /// A [station](RpcServer::station) can then be called from every node. A station that connects to another node
    /// replaces its old session there, as [`duplicate_identity`](Self::duplicate_identity) says; all nodes must have the
    /// same setting. The server joins in [`build`](Self::build), which must be called within a tokio runtime. See the
    /// module [`cluster`](crate::cluster).
    pub fn cluster(self, cluster: impl Cluster) -> Self {
        Self { cluster: Some(Arc::new(cluster)), ..self }
    }

    /// Sets the trusted proxies.
    ///
    /// The address, TLS and certificate of a client then come from the headers of these proxies. This applies to
    /// handshakes, sessions and events, and to the whole application that the built-in listener serves.
    pub fn trusted_proxies(self, proxies: TrustedProxies) -> Self {
        Self { proxies: Some(proxies), ..self }
    }

    /// Sets the action when a station connects a second time. Default [`DuplicateIdentity::ReplaceOld`].
    pub fn duplicate_identity(mut self, action: DuplicateIdentity) -> Self {
        self.limits.duplicate_identity = action;
        self
    }

    /// Sets how long a newcomer must wait if the sessions of its key replace each other repeatedly. Default `None`: it
    /// need not wait.
    ///
    /// After more than five replacements within a minute, the server refuses newcomers with 429 until `delay` has passed
    /// since the latest replacement, and `Retry-After` names the rest of it. One of two stations that share an identity
    /// then works, instead of none. The server refuses them rather than holding their handshakes, because a held
    /// handshake takes a connection and a place.
    ///
    /// A station with a bad network may also replace its own sessions. It then cannot connect for `delay`, unless its
    /// old session ends before; in a [cluster](Self::cluster) also after that.
    /// [`IdentityConflict`](crate::event::EventKind::IdentityConflict) reports such replacements in any case. The
    /// setting has no effect unless sessions [are replaced](DuplicateIdentity::ReplaceOld). Zero is an error of
    /// [`build`](Self::build).
    pub fn replacement_delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.limits.replacement_delay = delay.into();
        self
    }

    /// Sets the options of all sessions. Default [`Options::server`].
    ///
    /// [`RpcServer::set_options`] changes them later. [`Accept::options`](crate::Accept::options) sets the options of
    /// one session.
    pub fn options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Wraps a tower layer around all calls to stations, those in handlers included.
    ///
    /// The layer that was added last runs first. All calls share the resulting service. An error of the service is the
    /// error of the call: see the module [`outgoing`](crate::outgoing), which also has layers of async functions and
    /// retries.
    ///
    /// The service must be `Clone`. tower's rate limit is not, and needs a buffer around it:
    ///
    /// ```
    /// use std::time::Duration;
    /// use ocpp_rpc::{RpcRouter, RpcServer};
    /// use tower::ServiceBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // At most 50 calls a second, to all stations together. The buffer needs a tokio runtime here.
    /// let limit = ServiceBuilder::new().buffer(1000).rate_limit(50, Duration::from_secs(1));
    /// let server = RpcServer::builder(RpcRouter::new()).call_layer(limit).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<CallService>,
        L::Service: Service<OutgoingCall, Response = CallResponse> + Clone + Send + Sync + 'static,
        <L::Service as Service<OutgoingCall>>::Error: Into<BoxError>,
        <L::Service as Service<OutgoingCall>>::Future: Send + 'static,
    {
        self.call_service = Some(self.call_service.unwrap_or_else(call::service).layered(&layer));
        self
    }

    /// Sets the tokens and secrets that are hidden in the TRACE log and in serialized events. Default [`Mask::new`].
    pub fn mask(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// Sets the timeout of a handshake. Default 10 s.
    ///
    /// At the built-in listener the timeout runs from the accepted connection. It includes TLS, the head of the
    /// request and the authenticator. With another HTTP server it runs from the start of the authenticator. Zero is
    /// an error of [`build`](Self::build).
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.http.handshake_timeout = timeout;
        self
    }

    /// Sets how many handshakes may wait for the authenticator at once.
    ///
    /// At most `handshakes`; more are refused with 503. Default 1024.
    pub fn max_pending_handshakes(self, handshakes: usize) -> Self {
        Self { max_pending_handshakes: handshakes, ..self }
    }

    /// Sets how many handshakes of one remote address may wait for the authenticator at once.
    ///
    /// At most `handshakes`; more are refused with 503. Default: a quarter of
    /// [`max_pending_handshakes`](Self::max_pending_handshakes). An IPv6 network of 64 bits counts as one address.
    ///
    /// Stations behind one router share its address. [Trusted proxies](Self::trusted_proxies) are not limited, and
    /// neither are clients without a [known address](crate::Handshake::remote_address).
    pub fn max_pending_handshakes_per_address(self, handshakes: usize) -> Self {
        Self { max_pending_handshakes_per_address: Some(handshakes), ..self }
    }

    /// Sets the maximum length of an identity, in bytes after decoding.
    ///
    /// At most `bytes`; longer identities are refused with 404. Default 255. OCPP 2.x allows 48 characters, OCPP 1.6
    /// states no limit.
    pub fn max_identity_length(self, bytes: usize) -> Self {
        Self { max_identity_length: bytes, ..self }
    }

    /// Sets how many sessions may be open at once.
    ///
    /// At most `sessions`; more are refused with 503. Default `None`: no limit.
    ///
    /// Sessions that were replaced count until they end. Connections that are closed because there is no common
    /// protocol also count. A station that returns may replace its only session even if the limit is reached.
    pub fn max_sessions(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.limits.max_sessions = sessions.into();
        self
    }

    /// Sets how many sessions one remote address may have at once.
    ///
    /// At most `sessions`; more are refused with 429. Default `None`: no limit. An IPv6 network of 64 bits counts as
    /// one address.
    ///
    /// Stations behind one router share its address. Clients without a
    /// [known address](crate::Handshake::remote_address) are not limited.
    pub fn max_sessions_per_address(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.limits.max_sessions_per_address = sessions.into();
        self
    }

    /// Sets how many handlers may outlive their sessions at once.
    ///
    /// A handler continues when its connection is lost. While `handlers` of them have not finished, further calls of all
    /// stations are rejected with [`ErrorCode::GENERIC_ERROR`](crate::ErrorCode::GENERIC_ERROR). Default 16,384.
    ///
    /// For each station there is a limit as well, of twice the
    /// [`handler_concurrency`](crate::Options::handler_concurrency): the handlers that have outlived their sessions and
    /// those of the connection together.
    pub fn max_outliving_handlers(self, handlers: usize) -> Self {
        Self { max_outliving_handlers: handlers, ..self }
    }

    /// Sets the maximum size of a request's head at the built-in listener.
    ///
    /// At most `bytes`; larger heads are refused with 431. Default 64 KiB, minimum 8 KiB.
    pub fn max_head_size(mut self, bytes: usize) -> Self {
        self.http.max_head_size = bytes;
        self
    }

    /// Sets how many header lines a request may have at the built-in listener.
    ///
    /// At most `lines`; requests with more are refused with 431. Default 100, maximum 24,576.
    pub fn max_headers(mut self, lines: usize) -> Self {
        self.http.max_headers = lines;
        self
    }

    /// Sets how many HTTP connections each built-in listener may have open at once.
    ///
    /// At most `connections`. Default 4096. If all places are taken, the connection that has been idle for the longest
    /// time is closed for a newcomer. Idle are connections between two requests, and connections that have waited 5 s
    /// for their first request or for progress of a body. If none is idle, a connection is closed whose client has sent a
    /// request, or read a response, slowly for the longest time, and at least for 5 s. If there is none either, newcomers
    /// wait in the system's backlog.
    ///
    /// Connections in the TLS handshake count. Sessions do not count: an upgraded connection frees its place. An HTTP/2
    /// connection counts as long as it has streams.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.http.max_connections = connections;
        self
    }

    /// Sets how many HTTP connections one remote address may have open at each built-in listener.
    ///
    /// At most `connections`; more are closed at once, with an event. Default: a quarter of
    /// [`max_connections`](Self::max_connections). An IPv6 network of 64 bits counts as one address.
    ///
    /// Stations behind one router or load balancer share its address, but sessions do not count.
    /// [Trusted proxies](Self::trusted_proxies) are not limited.
    pub fn max_connections_per_address(self, connections: usize) -> Self {
        Self { max_connections_per_address: Some(connections), ..self }
    }

    /// Sets how long the body of a request or a response may make no progress, at the built-in listener.
    ///
    /// Then the connection is closed; over HTTP/2, its stream. Default 30 s. `None` waits for ever. The time runs while
    /// the application waits for a part of the request's body, while the client does not read the response, and while
    /// the application produces no part of the response's body. Server-sent events therefore need keep-alives.
    pub fn body_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.http.body_timeout = timeout.into();
        self
    }

    /// Sets whether the server accepts WebSockets over HTTP/2 (RFC 8441). Default `false`.
    ///
    /// Each WebSocket is a stream that an extended CONNECT opens, so several charging stations can share one
    /// connection. Authenticators and handlers see such a handshake like any other.
    ///
    /// If `false`, the built-in listener does not offer WebSockets over HTTP/2. With another HTTP server, the
    /// handshake is refused with 501.
    ///
    /// A connection counts toward [`max_connections`](Self::max_connections) as long as it has streams, and may have
    /// 100 of them. When it disconnects, all of its sessions disconnect.
    #[cfg(feature = "http2")]
    pub fn websockets_over_http2(mut self, is_on: bool) -> Self {
        self.http.websockets_over_http2 = is_on;
        self
    }

    /// Creates the server.
    ///
    /// # Errors
    ///
    /// Fails if settings contradict each other, or could never work.
    pub fn build(self) -> Result<RpcServer, BuildError> {
        let Self { dispatch, negotiation, dialects, authenticator, proxies, options, limits, mut http, .. } = self;
        handshake::check_protocols(&negotiation.protocols, &dialects)?;
        options.check_for(&negotiation.protocols)?;
        if let Some(default) = negotiation.default.as_ref().filter(|&default| !negotiation.protocols.contains(default))
        {
            return Err(BuildError::settings(format!("default_protocol {default:?} is not in protocols")));
        }
        if limits.replacement_delay.is_some_and(|delay| !options::is_timeout(delay)) {
            return Err(BuildError::settings(
                "invalid replacement_delay: less than a millisecond, or at least a hundred years",
            ));
        }
        if !options::is_timeout(http.handshake_timeout) {
            return Err(BuildError::settings(
                "invalid handshake_timeout: less than a millisecond, or at least a hundred years",
            ));
        }
        let zero = [
            (self.max_pending_handshakes, "max_pending_handshakes"),
            (self.max_pending_handshakes_per_address.unwrap_or(1), "max_pending_handshakes_per_address"),
            (self.max_identity_length, "max_identity_length"),
            (self.max_outliving_handlers, "max_outliving_handlers"),
            (limits.max_sessions.unwrap_or(1), "max_sessions"),
            (limits.max_sessions_per_address.unwrap_or(1), "max_sessions_per_address"),
            (http.max_headers, "max_headers"),
            (http.max_connections, "max_connections"),
            (self.max_connections_per_address.unwrap_or(1), "max_connections_per_address"),
        ];
        if let Some((_, name)) = zero.into_iter().find(|(limit, _)| *limit == 0) {
            return Err(BuildError::settings(format!("{name} must be more than zero")));
        }
        if !(8 << 10..=options::MAX_SIZE).contains(&http.max_head_size) {
            return Err(BuildError::settings("max_head_size must be at least 8 KiB and less than 2 GiB"));
        }
        if http.body_timeout.is_some_and(|timeout| !options::is_timeout(timeout)) {
            return Err(BuildError::settings(
                "invalid body_timeout: less than a millisecond, or at least a hundred years",
            ));
        }
        http.max_connections_per_address = self.max_connections_per_address.unwrap_or(http.max_connections.div_ceil(4));
        if http.max_headers > MAX_HEADERS {
            return Err(BuildError::settings(format!("max_headers must be at most {MAX_HEADERS}")));
        }
        negotiation.check_validation(&options)?;
        let openings = Arc::<Openings>::default();
        let cluster = match self.cluster {
            None => None,
            Some(_) if Handle::try_current().is_err() => {
                return Err(BuildError::settings("a server of a cluster must be built within a tokio runtime"));
            }
            Some(cluster) => {
                let member = Member::join(cluster, openings.clone());
                Some(member.map_err(|error| BuildError::settings(format!("cannot join the cluster: {error}")))?)
            }
        };
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
            handshakes_per_address: AddressLimit::new(
                self.max_pending_handshakes_per_address.unwrap_or(self.max_pending_handshakes.div_ceil(4)),
            ),
            registry: Arc::new(Registry::new(limits, openings, cluster.clone())),
            cluster: cluster.clone(),
            outliving: Outliving::new(self.max_outliving_handlers),
            telemetry: Telemetry::with_call_layers(self.mask, self.call_service),
            histories: Histories::default(),
            tasks: TaskTracker::new(),
            session_tasks: SessionTasks::default(),
            close_tasks: TaskTracker::new(),
            closed: SetOnce::new(),
            closing: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
            abort_connections: CancellationToken::new(),
            clean: AtomicUsize::new(0),
            forced: AtomicUsize::new(0),
        };
        let state = Arc::new(state);
        if let Some(cluster) = cluster {
            let home: Weak<dyn Home> = Arc::<ServerState>::downgrade(&state);
            cluster.set_home(home);
        }
        Ok(RpcServer { state })
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
