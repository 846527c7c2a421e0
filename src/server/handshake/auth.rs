//! Who may come in: the hook that judges handshakes, what it is shown, and what it can say.

use std::{borrow::Cow, fmt, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};

use crate::{info::TlsInfo, options::Options, server::handshake::credentials};

/// A request that wants to become a session, as the [hook](Authenticate) sees it. Cheap to clone.
///
/// Neither the password nor any header is in its `Debug`.
#[derive(Clone)]
pub struct Handshake {
    request: Arc<HandshakeRequest>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) tls: Option<TlsInfo>,
}

/// What the request says.
pub(crate) struct HandshakeRequest {
    pub(crate) parts: Parts,
    pub(crate) identity: Arc<str>,
    pub(crate) endpoint: String,
    pub(crate) protocols: Vec<String>,
}

impl Handshake {
    pub(crate) fn new(mut request: HandshakeRequest, remote_address: Option<SocketAddr>) -> Self {
        for (name, value) in &mut request.parts.headers {
            if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(name) {
                value.set_sensitive(true);
            }
        }
        let tls = request.parts.extensions.get().cloned();
        Self { request: Arc::new(request), remote_address, tls }
    }

    /// The identity of the charging station: the last segment of the path, decoded, or the
    /// [`Identity`](super::Identity) that a layer put into the request's extensions.
    pub fn identity(&self) -> &str {
        &self.request.identity
    }

    pub(crate) fn shared_identity(&self) -> Arc<str> {
        self.request.identity.clone()
    }

    /// The path in front of the identity, as it was sent; of the whole request, even where the server is nested.
    pub fn endpoint(&self) -> &str {
        &self.request.endpoint
    }

    /// The query of the request, as it was sent.
    pub fn query(&self) -> Option<&str> {
        self.request.parts.uri.query()
    }

    /// The subprotocols that the client offers, in its order.
    pub fn protocols(&self) -> &[String] {
        &self.request.protocols
    }

    /// The headers of the request.
    pub fn headers(&self) -> &HeaderMap {
        &self.request.parts.headers
    }

    /// The whole head of the request, with whatever earlier layers put into its extensions.
    pub fn parts(&self) -> &Parts {
        &self.request.parts
    }

    /// The password of Basic credentials whose user name is the identity: bytes, perhaps none, perhaps not UTF-8.
    /// Credentials of anybody else, or that cannot be read, are no password.
    ///
    /// Standard: OCPP 1.6 security whitepaper §2.3, OCPP 2.0.1 part 2 A00.
    pub fn password(&self) -> Option<Vec<u8>> {
        credentials::basic_password(self.headers(), self.identity())
    }

    /// Whether this is the password that was sent, which takes as long for a wrong one as for the right one.
    ///
    /// Both may be bytes or the forty hexadecimal digits that 1.6 stations have for a key of twenty bytes; some send
    /// the one, some the other (`AuthorizationKey`, 1.6 security whitepaper §2.3). No password is no match.
    ///
    /// ```
    /// use ocpp_rpc::{Accept, Handshake, Reject};
    ///
    /// async fn gate(handshake: Handshake) -> Result<Accept, Reject> {
    ///     if handshake.password_is(b"0001020304050607ffffffffffffffffffffffff") { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
    /// }
    /// ```
    pub fn password_is(&self, password: &[u8]) -> bool {
        self.password().is_some_and(|sent| credentials::is_same_password(&sent, password))
    }

    /// The address at the other end, where it is known: the built-in listener knows it, and axum where the
    /// application is served with `ConnectInfo`. Others can put a [`RemoteAddress`](super::RemoteAddress) into the
    /// request's extensions.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_address
    }

    /// What is known of the TLS below: version, and the client's certificates. None where there is no TLS, or where
    /// nobody says so; see [`TlsInfo`].
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

/// Judges handshakes: a closure, or a type of one's own.
///
/// It runs inside the request: it is dropped when the client leaves, when the server closes, and at the
/// [deadline](super::RpcServerBuilder::handshake_timeout).
///
/// ```
/// use ocpp_rpc::{Accept, Authenticate, Handshake, Reject, RpcRouter, RpcServer};
///
/// struct Gate {
///     password: Vec<u8>,
/// }
///
/// #[derive(Clone)]
/// struct Tenant(u32);
///
/// impl Authenticate for Gate {
///     async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
///         if handshake.password_is(&self.password) { Ok(Accept::new().extension(Tenant(7))) } else { Err(Reject::unauthorized()) }
///     }
/// }
///
/// let with_type = RpcServer::builder(RpcRouter::new()).auth(Gate { password: b"secret".to_vec() });
///
/// let with_closure = RpcServer::builder(RpcRouter::new()).auth(async |handshake: Handshake| {
///     if handshake.identity().starts_with("acme-") { Ok(Accept::new()) } else { Err(Reject::not_found()) }
/// });
/// # let _ = (with_type.build(), with_closure.build());
/// ```
///
/// A closure that keeps something gives each future its own handle on it:
///
/// ```
/// # use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer};
/// # use std::sync::Arc;
/// # let known = Arc::new(vec!["CP-1".to_owned()]);
/// let server = RpcServer::builder(RpcRouter::new()).auth(move |handshake: Handshake| {
///     let known = known.clone();
///     async move {
///         if known.iter().any(|identity| identity == handshake.identity()) { Ok(Accept::new()) } else { Err(Reject::not_found()) }
///     }
/// });
/// # let _ = server.build();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot judge handshakes",
    note = "a hook implements `Authenticate`, or is a closure `Fn(Handshake) -> impl Future<Output = Result<Accept, Reject>> + Send`"
)]
pub trait Authenticate: Send + Sync + 'static {
    /// Says whether the handshake becomes a session, or what it is answered with instead.
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

/// A hook with its type forgotten.
pub(crate) trait DynAuthenticate: Send + Sync {
    fn authenticate(&self, handshake: Handshake) -> AuthFuture<'_>;
}

type AuthFuture<'a> = Pin<Box<dyn Future<Output = Result<Accept, Reject>> + Send + 'a>>;

impl<A: Authenticate> DynAuthenticate for A {
    fn authenticate(&self, handshake: Handshake) -> AuthFuture<'_> {
        Box::pin(Authenticate::authenticate(self, handshake))
    }
}

/// Lets a client in, with what the application knows of it.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Accept {
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) options: Option<Arc<Options>>,
    pub(crate) extensions: Extensions,
}

impl Accept {
    /// Lets the client in; the protocol is negotiated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the session a value of this type: handlers get it as
    /// [`Extension`](crate::extract::Extension), holders of the session from
    /// [`Session::extension`](super::Session::extension).
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Gives the session times and limits of its own, in place of the
    /// [server's](super::RpcServerBuilder::options). Those that could never work are a 500, and an error in the log.
    pub fn options(self, options: Options) -> Self {
        Self { options: Some(Arc::new(options)), ..self }
    }

    /// Chooses the protocol, which the client must have offered: else it is answered with 400.
    pub fn protocol(self, protocol: &str) -> Self {
        Self { protocol: Some(protocol.into()), ..self }
    }
}

/// Turns a client away with an HTTP response; 401 by default.
#[derive(Debug, Clone)]
pub struct Reject {
    status: StatusCode,
    /// Boxed, because a map of headers is large and most results have none.
    headers: Box<HeaderMap>,
    body: Cow<'static, str>,
}

impl Reject {
    /// Turns the client away with this status. Redirects are fine; 1xx and 2xx are not and become 500.
    pub fn new(status: StatusCode) -> Self {
        let status = match status.as_u16() {
            100..=299 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => status,
        };
        Self { status, headers: Box::default(), body: Cow::Borrowed("") }
    }

    /// 401, which asks for Basic credentials.
    pub fn unauthorized() -> Self {
        const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"ocpp\"");
        Self::new(StatusCode::UNAUTHORIZED).header(header::WWW_AUTHENTICATE, CHALLENGE)
    }

    /// 404: the standards' answer to an identity that is not known.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND)
    }

    /// Creates a rejection that asks the client to retry after 5 s.
    pub(crate) fn retry_later(status: StatusCode, reason: &'static str) -> Self {
        Self::new(status).header(header::RETRY_AFTER, HeaderValue::from_static("5")).body(reason)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets the body, a text.
    #[must_use]
    pub fn body(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self { body: text.into(), ..self }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn reason(&self) -> &str {
        match &*self.body {
            "" => self.status.canonical_reason().unwrap_or_default(),
            body => body,
        }
    }

    pub(crate) fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = Response::new(B::from(Bytes::from(self.body.into_owned())));
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
