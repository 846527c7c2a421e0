//! The authenticator, the handshake that it receives, and its results.

use std::{borrow::Cow, fmt, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};

use crate::{
    connection::shared::Dispatch,
    handler::router::RpcRouter,
    header_case::header_case,
    info::TlsInfo,
    options::Options,
    server::handshake::credentials::{self, Credentials},
    session::Session,
};

/// The request of a WebSocket handshake, as the [authenticator](Authenticate) receives it.
///
/// Cheap to clone. The `Debug` output contains neither the password nor any header.
#[derive(Clone)]
pub struct Handshake {
    request: Arc<HandshakeRequest>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) tls: Option<TlsInfo>,
}

/// The parts of a handshake's request.
pub(crate) struct HandshakeRequest {
    pub(crate) parts: Parts,
    pub(crate) identity: Arc<str>,
    /// The path of the whole request, which begins with the endpoint.
    pub(crate) path: String,
    pub(crate) endpoint_len: usize,
    pub(crate) protocols: Vec<String>,
}

impl Handshake {
    /// Creates a handshake, and marks headers with credentials as sensitive.
    pub(crate) fn new(mut request: HandshakeRequest, remote_address: Option<SocketAddr>) -> Self {
        for (name, value) in &mut request.parts.headers {
            if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(name) {
                value.set_sensitive(true);
            }
        }
        let tls = request.parts.extensions.get().cloned();
        Self { request: Arc::new(request), remote_address, tls }
    }

    /// Returns the identity of the charging station.
    ///
    /// This is the [`Identity`](crate::server::Identity) in the request's extensions, if a layer set one. Otherwise it
    /// is the last segment of the path, decoded.
    pub fn identity(&self) -> &str {
        &self.request.identity
    }

    pub(crate) fn shared_identity(&self) -> Arc<str> {
        self.request.identity.clone()
    }

    /// Returns the path in front of the identity, not decoded and without slashes at its end.
    ///
    /// The path is that of the whole request, even if the server is nested in a router.
    pub fn endpoint(&self) -> &str {
        &self.request.path[..self.request.endpoint_len]
    }

    /// Returns the path of the whole request as the client sent it, with the identity and every slash.
    pub fn path(&self) -> &str {
        &self.request.path
    }

    /// Returns the query of the request, not decoded.
    pub fn query(&self) -> Option<&str> {
        self.request.parts.uri.query()
    }

    /// Returns the subprotocols that the client offers, in its order.
    pub fn protocols(&self) -> &[String] {
        &self.request.protocols
    }

    /// Returns the headers of the request.
    pub fn headers(&self) -> &HeaderMap {
        &self.request.parts.headers
    }

    /// Returns the whole head of the request, with the extensions that earlier layers set.
    pub fn parts(&self) -> &Parts {
        &self.request.parts
    }

    /// Returns the password of Basic credentials if their user name is the identity.
    ///
    /// The password is bytes. It may be empty, and is not always UTF-8. Returns `None` if the credentials are of
    /// another user, malformed or missing.
    ///
    /// Standard: OCPP 1.6 security whitepaper §2.3, OCPP 2.0.1 part 2 A00.
    pub fn password(&self) -> Option<Vec<u8>> {
        credentials::basic_password(self.headers(), self.identity())
    }

    /// Returns the user name and the password of Basic credentials as the client sent them.
    ///
    /// The user name need not be the identity. Returns `None` if there are no Basic credentials. The event about a
    /// handshake that is refused with 401 says what is missing.
    ///
    /// ```
    /// use ocpp_rpc::{Accept, Handshake, Reject};
    ///
    /// /// Accepts stations of which the vendor fixed the user name.
    /// async fn authenticate(handshake: Handshake) -> Result<Accept, Reject> {
    ///     match handshake.credentials() {
    ///         Some(credentials) if credentials.user_name() == b"station" => Ok(Accept::new()),
    ///         _ => Err(Reject::unauthorized()),
    ///     }
    /// }
    /// ```
    pub fn credentials(&self) -> Option<Credentials> {
        Credentials::read(self.headers(), self.identity()).ok()
    }

    /// Returns `true` if the client sent this password. Compares in constant time.
    ///
    /// Either password may be the bytes themselves, or 40 hexadecimal digits that spell a key of 20 bytes. OCPP 1.6
    /// stations send one or the other (`AuthorizationKey`, 1.6 security whitepaper §2.3). Returns `false` if the
    /// client sent no password.
    ///
    /// ```
    /// use ocpp_rpc::{Accept, Handshake, Reject};
    ///
    /// async fn authenticate(handshake: Handshake) -> Result<Accept, Reject> {
    ///     if handshake.password_is(b"0001020304050607ffffffffffffffffffffffff") {
    ///         Ok(Accept::new())
    ///     } else {
    ///         Err(Reject::unauthorized())
    ///     }
    /// }
    /// ```
    pub fn password_is(&self, password: &[u8]) -> bool {
        self.password().is_some_and(|sent| credentials::is_same_password(&sent, password))
    }

    /// Returns the address of the client. `None` if unknown.
    ///
    /// The built-in listener sets it. So does axum, if the application is served with `ConnectInfo`. With another HTTP
    /// server, a layer can insert a [`RemoteAddress`](crate::server::RemoteAddress) into the request's extensions.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_address
    }

    /// Returns the TLS version and the client's certificates.
    ///
    /// Returns `None` if the connection does not use TLS, or if the HTTP server does not report it. See [`TlsInfo`].
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("identity", &self.identity())
            .field("endpoint", &self.endpoint())
            .field("protocols", &self.protocols())
            .field("remote_address", &self.remote_address())
            .field("tls", &self.tls())
            .finish_non_exhaustive()
    }
}

/// An authenticator, which accepts or refuses handshakes. Implemented for closures.
///
/// The authenticator runs within the request. It is dropped when the client disconnects, when the server closes, and
/// when the [timeout](crate::server::RpcServerBuilder::handshake_timeout) expires.
///
/// ```
/// use ocpp_rpc::{Accept, Authenticate, Handshake, Reject, RpcRouter, RpcServer};
///
/// struct SharedPassword(Vec<u8>);
///
/// #[derive(Clone)]
/// struct Tenant(u32);
///
/// impl Authenticate for SharedPassword {
///     async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
///         if handshake.password_is(&self.0) {
///             Ok(Accept::new().extension(Tenant(7)))
///         } else {
///             Err(Reject::unauthorized())
///         }
///     }
/// }
///
/// let with_type = RpcServer::builder(RpcRouter::new()).auth(SharedPassword(b"secret".to_vec()));
///
/// let with_closure = RpcServer::builder(RpcRouter::new()).auth(async |handshake: Handshake| {
///     if handshake.identity().starts_with("acme-") { Ok(Accept::new()) } else { Err(Reject::not_found()) }
/// });
/// # let _ = (with_type.build(), with_closure.build());
/// ```
///
/// A closure with captured values clones them for each future:
///
/// ```
/// # use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer};
/// # use std::sync::Arc;
/// # let known = Arc::new(vec!["CP-1".to_owned()]);
/// let server = RpcServer::builder(RpcRouter::new()).auth(move |handshake: Handshake| {
///     let known = known.clone();
///     async move {
///         if known.iter().any(|identity| identity == handshake.identity()) {
///             Ok(Accept::new())
///         } else {
///             Err(Reject::not_found())
///         }
///     }
/// });
/// # let _ = server.build();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an authenticator",
    note = "an authenticator implements `Authenticate`, or is a closure `Fn(Handshake) -> impl Future<Output = Result<Accept, Reject>> + Send`"
)]
pub trait Authenticate: Send + Sync + 'static {
    /// Accepts or refuses a handshake.
    fn authenticate(&self, handshake: Handshake) -> impl Future<Output = Result<Accept, Reject>> + Send;
}

impl<F, Fut> Authenticate for F
where
    F: Fn(Handshake) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Accept, Reject>> + Send,
{
    fn authenticate(&self, handshake: Handshake) -> impl Future<Output = Result<Accept, Reject>> + Send {
        self(handshake)
    }
}

/// A type-erased authenticator.
pub(crate) trait DynAuthenticate: Send + Sync {
    fn authenticate(&self, handshake: Handshake) -> AuthFuture<'_>;
}

type AuthFuture<'a> = Pin<Box<dyn Future<Output = Result<Accept, Reject>> + Send + 'a>>;

impl<A: Authenticate> DynAuthenticate for A {
    fn authenticate(&self, handshake: Handshake) -> AuthFuture<'_> {
        Box::pin(Authenticate::authenticate(self, handshake))
    }
}

/// The acceptance of a handshake, with settings for its session.
#[derive(Clone, Default)]
#[must_use]
pub struct Accept {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) protocol: ProtocolChoice,
    pub(crate) options: Option<Arc<Options>>,
    pub(crate) dispatch: Option<Arc<dyn Dispatch>>,
    pub(crate) extensions: Extensions,
    pub(crate) headers: HeaderMap,
    pub(crate) on_open: Option<OnOpen>,
}

/// A function that gets a session when it opens.
pub(crate) type OnOpen = Arc<dyn Fn(Session) + Send + Sync>;

/// The choice of the session's protocol.
#[derive(Debug, Clone, Default)]
pub(crate) enum ProtocolChoice {
    /// The negotiation decides.
    #[default]
    Negotiated,
    Chosen(Arc<str>),
    /// The session has no protocol.
    Without,
}

impl Accept {
    /// Accepts the client, with the negotiated protocol and the server's options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value of this type to the session.
    ///
    /// Handlers extract it as [`Extension`](crate::extract::Extension).
    /// [`Session::extension`](crate::Session::extension) returns it.
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Sets the options of the session, in place of the [server's](crate::server::RpcServerBuilder::options).
    ///
    /// If the options could never work, the handshake is refused with 500 and the server logs an error.
    pub fn options(self, options: Options) -> Self {
        Self { options: Some(Arc::new(options)), ..self }
    }

    /// Sets the protocol of the session. If the client did not offer it, the handshake is refused with 400.
    pub fn protocol(self, protocol: &str) -> Self {
        Self { protocol: ProtocolChoice::Chosen(protocol.into()), ..self }
    }

    /// Opens the session without a protocol, whatever the client offers. The response names none.
    ///
    /// The dialect of the session is that of [`Dialect::for_protocol`](crate::message::Dialect::for_protocol) with
    /// `None`. If the options validate the payloads of all protocols, the handshake is refused with 500.
    pub fn without_protocol(self) -> Self {
        Self { protocol: ProtocolChoice::Without, ..self }
    }

    /// Sets the key by which the server finds the session and recognizes its successor. Default: the identity.
    ///
    /// Use it if an identity is unique only within a tenant: two sessions with different keys never replace each
    /// other. The guide's page [tenants](crate::guide::tenants) has a whole program.
    ///
    /// ```
    /// use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer};
    ///
    /// let server = RpcServer::builder(RpcRouter::new()).auth(async |handshake: Handshake| {
    ///     let tenant = handshake.endpoint().trim_start_matches('/');
    ///     Ok::<_, Reject>(Accept::new().key(format!("{tenant}/{}", handshake.identity())))
    /// });
    /// let server = server.build()?;
    /// assert!(server.session("acme/CP-1").is_none());
    /// # Ok::<(), ocpp_rpc::BuildError>(())
    /// ```
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Sets the router of the session, in place of the [server's](crate::RpcServer::builder).
    pub fn router<S: Send + Sync + 'static>(self, router: RpcRouter<S>) -> Self {
        Self { dispatch: Some(router.into_dispatch()), ..self }
    }

    /// Sets a function that gets the session when it opens, before its first message is read.
    ///
    /// If the client leaves before, the function is dropped without a call. It must not block, but may spawn a task. If it
    /// panics, the server logs an error and the session continues.
    ///
    /// ```
    /// use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer, Session};
    /// use serde_json::Value;
    ///
    /// /// Reads the configuration of each station that connects.
    /// async fn authenticate(_: Handshake) -> Result<Accept, Reject> {
    ///     Ok(Accept::new().on_open(|session: Session| {
    ///         tokio::spawn(async move {
    ///             let configuration = session.call::<Value>("GetConfiguration", &()).await;
    ///             println!("{}: {configuration:?}", session.identity());
    ///         });
    ///     }))
    /// }
    ///
    /// let server = RpcServer::builder(RpcRouter::new()).auth(authenticate).build();
    /// # assert!(server.is_ok());
    /// ```
    pub fn on_open(self, on_open: impl Fn(Session) + Send + Sync + 'static) -> Self {
        Self { on_open: Some(Arc::new(on_open)), ..self }
    }

    /// Adds a header to the response that accepts the handshake.
    ///
    /// The headers of the WebSocket handshake and of message framing belong to the server: `Connection`, `Upgrade`,
    /// `Sec-WebSocket-*`, `Content-Length`, `Transfer-Encoding`. With one of them, the handshake is refused with 500 and
    /// the server logs an error.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept")
            .field("key", &self.key)
            .field("protocol", &self.protocol)
            .field("options", &self.options)
            .field("extensions", &self.extensions)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// The refusal of a handshake: an HTTP response. Default 401.
#[derive(Debug, Clone)]
pub struct Reject {
    status: StatusCode,
    /// Boxed, because a `HeaderMap` is large and most results have none.
    headers: Box<HeaderMap>,
    body: Cow<'static, str>,
    reason: Option<Cow<'static, str>>,
}

impl Reject {
    /// Refuses the client with this status. A status of 1xx or 2xx becomes 500. Redirects are allowed.
    pub fn new(status: StatusCode) -> Self {
        let status = match status.as_u16() {
            100..=299 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => status,
        };
        Self { status, headers: Box::default(), body: Cow::Borrowed(""), reason: None }
    }

    /// Refuses the client with 401 and asks for Basic credentials.
    pub fn unauthorized() -> Self {
        const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"ocpp\"");
        Self::new(StatusCode::UNAUTHORIZED).header(header::WWW_AUTHENTICATE, CHALLENGE)
    }

    /// Refuses the client with 404, the standards' response to an unknown identity.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND)
    }

    /// Refuses the client, and asks it to retry after 5 s.
    pub(crate) fn retry_later(status: StatusCode, reason: &'static str) -> Self {
        Self::new(status).header(header::RETRY_AFTER, HeaderValue::from_static("5")).body(reason)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets the body, which is plain text.
    #[must_use]
    pub fn body(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self { body: text.into(), ..self }
    }

    /// Sets the reason for the event and the log, which the client does not see. At most 512 bytes; a longer one is cut.
    ///
    /// Default: the body, or else the name of the status. The default of a 401 without a body also says what is wrong
    /// with the Basic credentials.
    #[must_use]
    pub fn reason(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: Some(text.into()), ..self }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns `true` if the application has given a reason, be it as the body.
    pub(crate) fn has_reason(&self) -> bool {
        self.reason.is_some() || !self.body.is_empty()
    }

    /// Returns the reason for the event and the log.
    pub(crate) fn reason_text(&self) -> &str {
        match (&self.reason, &*self.body) {
            (Some(reason), _) => reason,
            (None, "") => self.status.canonical_reason().unwrap_or_default(),
            (None, body) => body,
        }
    }

    pub(crate) fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = Response::new(B::from(Bytes::from(self.body.into_owned())));
        *response.extensions_mut() = header_case();
        *response.status_mut() = self.status;
        *response.headers_mut() = *self.headers;
        let headers = response.headers_mut();
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

impl Default for Reject {
    fn default() -> Self {
        Self::unauthorized()
    }
}

impl From<StatusCode> for Reject {
    fn from(status: StatusCode) -> Self {
        Self::new(status)
    }
}
