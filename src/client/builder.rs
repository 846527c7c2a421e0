//! How a client is put together.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    RpcClient,
    connect::{AnyConnector, ConnectError, Connector, Plan, Tcp},
    redirect, tls,
};
use crate::{
    backoff::Backoff,
    connection::{Dispatch, link::Meanwhile},
    dialect::Dialect,
    handshake,
    options::{self, BuildError, Options},
    rpc::RpcRouter,
};

/// Puts an [`RpcClient`] together.
///
/// | Setting | Default |
/// |---|---|
/// | [`protocols`](Self::protocols) | none are offered |
/// | [`password`](Self::password) | no credentials |
/// | [`options`](Self::options) | [`Options::client`] |
/// | [`router`](Self::router) | every call is answered with `NotImplemented` |
/// | [`reconnect`](Self::reconnect) | [`Reconnect::always`] |
/// | [`connect_deadline`](Self::connect_deadline) | 30 s |
/// | [`max_redirects`](Self::max_redirects) | 0: a redirect is an error |
/// | [`connector`](Self::connector) | TCP, and TLS for `wss://` endpoints with the feature `tls` |
#[derive(Clone)]
#[must_use]
pub struct RpcClientBuilder {
    pub(super) endpoint: String,
    pub(super) identity: String,
    query: String,
    password: Option<Vec<u8>>,
    headers: HeaderMap,
    pub(super) protocols: Vec<Arc<str>>,
    pub(super) dialects: Vec<(Arc<str>, Dialect)>,
    pub(super) options: Options,
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) reconnect: Reconnect,
    connector: Dialler,
    pub(super) tls: Option<tls::ClientTls>,
    connect_deadline: Duration,
    max_redirects: u32,
}

/// What makes streams, and whether it speaks TLS by itself.
#[derive(Clone)]
enum Dialler {
    Plain(Arc<dyn AnyConnector>),
    Secure(Arc<dyn AnyConnector>),
}

impl RpcClientBuilder {
    pub(super) fn new(endpoint: String, identity: String) -> Self {
        Self {
            endpoint,
            identity,
            query: String::new(),
            password: None,
            headers: HeaderMap::new(),
            protocols: Vec::new(),
            dialects: Vec::new(),
            options: Options::client(),
            dispatch: RpcRouter::new().into_dispatch(),
            reconnect: Reconnect::always(),
            connector: Dialler::Plain(Arc::new(Tcp)),
            tls: None,
            connect_deadline: Duration::from_secs(30),
            max_redirects: 0,
        }
    }

    /// The subprotocols to offer, the preferred one first.
    pub fn protocols<P: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        self
    }

    /// The rules of a protocol that has rules of its own.
    pub fn dialect(mut self, protocol: &str, dialect: Dialect) -> Self {
        self.dialects.push((protocol.into(), dialect));
        self
    }

    /// Basic credentials: the identity is the user name, and this the password, a text or any bytes (OCPP security
    /// profiles 1 and 2).
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A further header of the handshake. `User-Agent` takes the place of the crate's own; those of the handshake
    /// itself cannot be set.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// A further pair of the query, encoded as it has to be.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let separator = if self.query.is_empty() { "" } else { "&" };
        self.query.push_str(&format!("{separator}{}={}", encode(name), encode(value)));
        self
    }

    /// Times, limits and habits of the connection.
    pub fn options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Answers the calls of the server. Handlers live on while the client reconnects.
    pub fn router<S: Send + Sync + 'static>(mut self, router: RpcRouter<S>) -> Self {
        self.dispatch = router.into_dispatch();
        self
    }

    /// What becomes of a connection that is lost.
    pub fn reconnect(self, reconnect: Reconnect) -> Self {
        Self { reconnect, ..self }
    }

    /// How long one attempt may take, from the look-up of the name to the end of the handshake.
    pub fn connect_deadline(self, deadline: Duration) -> Self {
        Self { connect_deadline: deadline, ..self }
    }

    /// How many redirects an attempt may follow; one more, or one that leads from `wss` to `ws`, is an error as any
    /// other refusal is. Another host is sent none of the headers and no password. A reconnect begins at the
    /// endpoint again.
    pub fn max_redirects(self, redirects: u32) -> Self {
        Self { max_redirects: redirects, ..self }
    }

    /// Dials over something else than TCP. For `wss://` endpoints TLS is spoken over it.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Dialler::Plain(Arc::new(connector));
        self
    }

    /// Dials over something else than TCP, which speaks TLS by itself where the
    /// [target](super::Target::is_secure) wants it.
    pub fn secure_connector(mut self, connector: impl Connector) -> Self {
        self.connector = Dialler::Secure(Arc::new(connector));
        self
    }

    /// A client that is closed for now.
    ///
    /// # Errors
    /// When settings contradict each other or could never work.
    pub fn build(self) -> Result<RpcClient, BuildError> {
        self.options.check_for(&self.protocols)?;
        if let Some(why) = self.reconnect.backoff.contradiction() {
            return Err(BuildError(why.into()));
        }
        self.plan()?;
        Ok(RpcClient::new(self))
    }

    /// A client that is connected.
    ///
    /// # Errors
    /// When settings contradict each other, or the server cannot be reached or refuses.
    ///
    /// # Cancel safety
    /// Dropping the future drops the client.
    pub async fn connect(self) -> Result<RpcClient, ConnectError> {
        let client = self.build().map_err(ConnectError::Settings)?;
        client.connect().await?;
        Ok(client)
    }

    /// The endpoint without what may be a secret in it: a user, a query.
    fn shown_endpoint(&self) -> &str {
        let bare = self.endpoint.split(['?', '#']).next().unwrap_or_default();
        if bare.contains('@') { "with a user in it" } else { bare }
    }

    /// Everything that an attempt needs to know.
    pub(super) fn plan(&self) -> Result<Plan, BuildError> {
        if self.identity.is_empty() || self.identity.chars().any(char::is_control) {
            return Err(BuildError("the identity is empty or has control characters".into()));
        }
        let wrong = |why: &str| BuildError(format!("the endpoint {:?} {why}", self.shown_endpoint()));
        let endpoint: Uri = self.endpoint.parse().map_err(|_| wrong("is no URL"))?;
        if !matches!(endpoint.scheme_str(), Some("ws" | "wss")) {
            return Err(wrong("is neither ws:// nor wss://"));
        }
        let (target, authority) = redirect::locate(&endpoint).map_err(wrong)?;
        let connector = match &self.connector {
            Dialler::Plain(connector) => tls::over(self.tls.clone(), connector.clone(), &target)?,
            Dialler::Secure(connector) => connector.clone(),
        };

        let mut path = handshake::path_of(endpoint.path(), &self.identity);
        for (query, separator) in [endpoint.query().unwrap_or_default(), &self.query].iter().zip(["?", "&"]) {
            if !query.is_empty() {
                path.push_str(if path.contains('?') { separator } else { "?" });
                path.push_str(query);
            }
        }
        let path = path.parse().map_err(|_| wrong("has a path or a query that is too long"))?;

        handshake::check_protocols(&self.protocols, &self.dialects)?;
        let mut headers = self.headers.clone();
        if let Some(name) = headers.keys().find(|name| is_of_the_handshake(name)) {
            return Err(BuildError(format!("the header {name} is the handshake's own")));
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        if let Some(password) = &self.password {
            headers.insert(header::AUTHORIZATION, handshake::basic_credentials(&self.identity, password)?);
        }
        let deadline = options::some(self.connect_deadline);
        Ok(Plan {
            connector,
            target,
            authority,
            path,
            headers,
            protocols: self.protocols.iter().cloned().collect(),
            max_redirects: self.max_redirects,
            deadline: deadline.ok_or_else(|| BuildError("connect_deadline is zero or without end".into()))?,
        })
    }
}

fn is_of_the_handshake(name: &HeaderName) -> bool {
    [header::CONNECTION, header::HOST, header::UPGRADE].contains(name) || name.as_str().starts_with("sec-websocket-")
}

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Says nothing of the password or of headers.
impl fmt::Debug for RpcClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcClientBuilder")
            .field("endpoint", &self.shown_endpoint())
            .field("identity", &self.identity)
            .field("protocols", &self.protocols)
            .field("password", &self.password.is_some())
            .field("options", &self.options)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}

/// What becomes of a connection that is lost: whether, how often and how fast to dial again.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::{Backoff, Reconnect};
///
/// let patient = Reconnect::always().backoff(Backoff::exponential().max(Duration::from_secs(60))).first_connect_too();
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Reconnect {
    pub(super) attempts: u32,
    pub(super) backoff: Backoff,
    pub(super) first_connect: bool,
    pub(super) even_if_refused: bool,
    pub(super) keep_answers: bool,
    pub(super) meanwhile: Meanwhile,
}

impl Reconnect {
    /// Dials again, as often as it takes. Gives up for good where that cannot help: at another subprotocol than at
    /// first, at an answer that is no WebSocket handshake, and at HTTP status 401, 403 or 404.
    pub fn always() -> Self {
        let backoff = Backoff::exponential();
        Self {
            attempts: u32::MAX,
            backoff,
            first_connect: false,
            even_if_refused: false,
            keep_answers: true,
            meanwhile: Meanwhile::Wait,
        }
    }

    /// A connection that is lost is the end.
    pub fn never() -> Self {
        Self::always().attempts(0)
    }

    /// How many attempts in a row may fail. A connection that did not live for ten seconds is a failed attempt.
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// How long to wait before each attempt.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Does the same for the first connect, which fails at once without this.
    pub fn first_connect_too(self) -> Self {
        Self { first_connect: true, ..self }
    }

    /// Dials on in spite of HTTP status 401, 403 or 404: the server may come to know the station later.
    pub fn even_if_refused(self) -> Self {
        Self { even_if_refused: true, ..self }
    }

    /// Refuses calls with [`Error::NotConnected`](crate::Error::NotConnected) while there is no connection, the first
    /// one included. Without this they wait for it.
    pub fn refuse_calls(self) -> Self {
        Self { meanwhile: Meanwhile::Refuse, ..self }
    }

    /// Drops answers with the connection that their call came in on. Without this they go out on the next one.
    pub fn drop_answers(self) -> Self {
        Self { keep_answers: false, ..self }
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::always()
    }
}
