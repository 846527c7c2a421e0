//! The settings of a client, and what an attempt to connect makes of them.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

#[cfg(not(feature = "tls"))]
use crate::client::no_tls;
#[cfg(feature = "tls")]
use crate::client::tls;
use crate::{
    client::{
        connect::Plan,
        connector::{AnyConnector, Tcp},
        reconnect::Reconnect,
        redirect,
    },
    connection::shared::Dispatch,
    error::BuildError,
    handler::router::RpcRouter,
    handshake,
    message::dialect::Dialect,
    options::{self, Options},
};

/// The settings of a client.
#[derive(Clone)]
pub(super) struct ClientSettings {
    pub(super) endpoint: String,
    pub(super) identity: String,
    pub(super) query: String,
    pub(super) password: Option<Vec<u8>>,
    pub(super) headers: HeaderMap,
    pub(super) protocols: Vec<Arc<str>>,
    pub(super) dialects: Vec<(Arc<str>, Dialect)>,
    pub(super) options: Options,
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) reconnect: Reconnect,
    pub(super) connector: Dialler,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<tls::ClientTls>,
    pub(super) connect_timeout: Duration,
    pub(super) max_redirects: u32,
}

/// What makes streams, and whether it speaks TLS by itself.
#[derive(Clone)]
pub(super) enum Dialler {
    Plain(Arc<dyn AnyConnector>),
    Secure(Arc<dyn AnyConnector>),
}

impl ClientSettings {
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
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(30),
            max_redirects: 0,
        }
    }

    /// The endpoint without what may be a secret in it: a user, a query.
    fn shown_endpoint(&self) -> &str {
        let bare = self.endpoint.split(['?', '#']).next().unwrap_or_default();
        if bare.contains('@') { "with a user in it" } else { bare }
    }

    /// Everything that an attempt needs to know.
    pub(super) fn plan(&self) -> Result<Plan, BuildError> {
        if self.identity.is_empty() || self.identity.chars().any(char::is_control) {
            return Err(BuildError::settings("the identity is empty or has control characters"));
        }
        let wrong = |why: &str| BuildError::settings(format!("the endpoint {:?} {why}", self.shown_endpoint()));
        let endpoint: Uri = self.endpoint.parse().map_err(|_| wrong("is no URL"))?;
        if !matches!(endpoint.scheme_str(), Some("ws" | "wss")) {
            return Err(wrong("is neither ws:// nor wss://"));
        }
        let (target, authority) = redirect::locate(&endpoint).map_err(wrong)?;
        let connector = match &self.connector {
            #[cfg(feature = "tls")]
            Dialler::Plain(connector) => tls::over(self.tls.clone(), connector.clone(), &target)?,
            #[cfg(not(feature = "tls"))]
            Dialler::Plain(connector) => no_tls::over(connector.clone(), &target)?,
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

        if !options::is_timeout(self.connect_timeout) {
            return Err(BuildError::settings("connect_timeout is zero or without end"));
        }
        handshake::check_protocols(&self.protocols, &self.dialects)?;
        let mut headers = self.headers.clone();
        if let Some(name) = headers.keys().find(|name| is_of_the_handshake(name)) {
            return Err(BuildError::settings(format!("the header {name} is the handshake's own")));
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        if let Some(password) = &self.password {
            headers.insert(header::AUTHORIZATION, handshake::basic_credentials(&self.identity, password)?);
        }
        Ok(Plan {
            connector,
            target,
            authority,
            path,
            headers,
            protocols: self.protocols.iter().cloned().collect(),
            max_redirects: self.max_redirects,
            connect_timeout: self.connect_timeout,
        })
    }
}

fn is_of_the_handshake(name: &HeaderName) -> bool {
    [header::CONNECTION, header::HOST, header::UPGRADE].contains(name) || name.as_str().starts_with("sec-websocket-")
}

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Says nothing of the password or of headers.
impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("endpoint", &self.shown_endpoint())
            .field("identity", &self.identity)
            .field("protocols", &self.protocols)
            .field("password", &self.password.is_some())
            .field("options", &self.options)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}
