//! The settings of a client, and the plan of an attempt that follows from them.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

#[cfg(not(feature = "tls"))]
use crate::client::no_tls;
#[cfg(feature = "tls")]
use crate::client::tls;
use crate::{
    client::{
        connect::ConnectPlan,
        connector::{DynConnector, Tcp},
        handshake,
        reconnect::Reconnect,
        redirect,
    },
    connection::shared::Dispatch,
    error::BuildError,
    handler::router::RpcRouter,
    handshake::check_protocols,
    mask::Mask,
    message::dialect::Dialect,
    options::{self, Options},
    outgoing::CallService,
};

/// The settings of a client, unchecked.
///
/// A connection reads them from [`Prepared`], so they can change meanwhile.
#[derive(Clone)]
pub(super) struct ClientSettings {
    pub(super) endpoint: String,
    pub(super) identity: String,
    pub(super) query: String,
    pub(super) password: Option<Vec<u8>>,
    pub(super) headers: HeaderMap,
    /// Each list that is set has an allocation of its own.
    pub(super) protocols: Arc<[Arc<str>]>,
    pub(super) dialects: Vec<(Arc<str>, Dialect)>,
    pub(super) options: Options,
    pub(super) call_service: Option<CallService>,
    pub(super) mask: Mask,
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) reconnect: Reconnect,
    pub(super) connector: ConnectorKind,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<tls::ClientTls>,
    pub(super) connect_timeout: Duration,
    pub(super) max_redirects: u32,
}

/// The settings that the next connection of a client reads, checked and encoded.
pub(super) struct Prepared {
    pub(super) plan: ConnectPlan,
    pub(super) dialects: Vec<(Arc<str>, Dialect)>,
    pub(super) reconnect: Reconnect,
    pub(super) max_message_size: usize,
    pub(super) max_unsent: usize,
}

/// The connector of a client.
#[derive(Clone)]
pub(super) enum ConnectorKind {
    /// The client adds TLS to its streams.
    Plain(Arc<dyn DynConnector>),
    /// Has TLS of its own.
    Secure(Arc<dyn DynConnector>),
}

impl ClientSettings {
    pub(super) fn new(endpoint: String, identity: String) -> Self {
        Self {
            endpoint,
            identity,
            query: String::new(),
            password: None,
            headers: HeaderMap::new(),
            protocols: Arc::default(),
            dialects: Vec::new(),
            options: Options::client(),
            call_service: None,
            mask: Mask::new(),
            dispatch: RpcRouter::new().into_dispatch(),
            reconnect: Reconnect::always(),
            connector: ConnectorKind::Plain(Arc::new(Tcp)),
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(30),
            max_redirects: 0,
        }
    }

    /// Returns the endpoint without the parts that may be secret: a user and the query.
    fn redacted_endpoint(&self) -> &str {
        let bare = self.endpoint.split(['?', '#']).next().unwrap_or_default();
        if bare.contains('@') { "<redacted>" } else { bare }
    }

    /// Checks the settings and returns what the next connection needs of them.
    pub(super) fn prepare(&self) -> Result<Prepared, BuildError> {
        Ok(Prepared {
            plan: self.plan()?,
            dialects: self.dialects.clone(),
            reconnect: self.reconnect.clone(),
            max_message_size: self.options.max_message_size,
            max_unsent: self.options.max_unsent,
        })
    }

    fn plan(&self) -> Result<ConnectPlan, BuildError> {
        if self.identity.is_empty() || self.identity.chars().any(char::is_control) {
            return Err(BuildError::settings("invalid identity: it is empty or has control characters"));
        }
        let invalid =
            |why: &str| BuildError::settings(format!("invalid endpoint {:?}: {why}", self.redacted_endpoint()));
        let endpoint: Uri = self.endpoint.parse().map_err(|_| invalid("it is not a URL"))?;
        let scheme = endpoint.scheme_str().unwrap_or_default();
        if !["ws", "wss"].iter().any(|allowed| scheme.eq_ignore_ascii_case(allowed)) {
            return Err(invalid("the scheme is neither ws:// nor wss://"));
        }
        let (target, authority) = redirect::parse_target(&endpoint).map_err(invalid)?;
        let connector = match &self.connector {
            #[cfg(feature = "tls")]
            ConnectorKind::Plain(connector) => tls::wrap(self.tls.clone(), connector.clone(), &target)?,
            #[cfg(not(feature = "tls"))]
            ConnectorKind::Plain(connector) => no_tls::wrap(connector.clone(), &target)?,
            ConnectorKind::Secure(connector) => connector.clone(),
        };

        let mut path = handshake::identity_path(endpoint.path(), &self.identity);
        for (query, separator) in [endpoint.query().unwrap_or_default(), &self.query].iter().zip(["?", "&"]) {
            if !query.is_empty() {
                path.push_str(if path.contains('?') { separator } else { "?" });
                path.push_str(query);
            }
        }
        let path = path.parse().map_err(|_| invalid("the path and the query are too long"))?;

        if !options::is_timeout(self.connect_timeout) {
            return Err(BuildError::settings(
                "invalid connect_timeout: less than a millisecond, or at least a hundred years",
            ));
        }
        self.options.check_for(&self.protocols)?;
        if let Some(why) = self.reconnect.backoff.invalid_setting() {
            return Err(BuildError::settings(why));
        }
        check_protocols(&self.protocols, &self.dialects)?;
        let mut headers = self.headers.clone();
        if let Some(name) = headers.keys().find(|name| is_reserved(name)) {
            return Err(BuildError::settings(format!("the header {name} cannot be set: the handshake sets it")));
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        if let Some(password) = &self.password {
            headers.insert(header::AUTHORIZATION, handshake::basic_credentials(&self.identity, password)?);
        }
        Ok(ConnectPlan {
            connector,
            target,
            authority,
            path,
            headers,
            protocols: self.protocols.clone(),
            compression: self.options.compression,
            max_redirects: self.max_redirects,
            connect_timeout: self.connect_timeout,
        })
    }
}

/// Returns whether the handshake itself sets this header.
fn is_reserved(name: &HeaderName) -> bool {
    [header::CONNECTION, header::HOST, header::UPGRADE].contains(name) || name.as_str().starts_with("sec-websocket-")
}

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Omits the password, the headers and the query, which may be secret.
impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("endpoint", &self.redacted_endpoint())
            .field("identity", &self.identity)
            .field("protocols", &self.protocols)
            .field("password", &self.password.is_some())
            .field("options", &self.options)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}
