//! The settings of a client, and the plan of an attempt that follows from them.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

#[cfg(not(feature = "tls"))]
use crate::client::no_tls;
#[cfg(feature = "tls")]
use crate::client::tls;
use crate::{
    client::{
        connect::{ConnectPlan, Endpoint},
        connector::{DynConnector, Target, Tcp},
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
    /// Each list that is set has an allocation of its own.
    pub(super) endpoints: Arc<[String]>,
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
    /// The plan of an attempt at the first endpoint.
    plan: ConnectPlan,
    /// The endpoints after the first.
    fallbacks: Box<[Endpoint]>,
    /// The list that they come from.
    pub(super) endpoints: Arc<[String]>,
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
            endpoints: [endpoint].into(),
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

    /// Checks the settings and returns what the next connection needs of them.
    pub(super) fn prepare(&self) -> Result<Prepared, BuildError> {
        let mut connector = None;
        let mut endpoints = Vec::with_capacity(self.endpoints.len());
        for endpoint in &*self.endpoints {
            let endpoint = self.endpoint(endpoint)?;
            connector = Some(self.connector_for(&endpoint.target)?);
            endpoints.push(endpoint);
        }
        let mut endpoints = endpoints.into_iter();
        let Some((endpoint, connector)) = endpoints.next().zip(connector) else {
            return Err(BuildError::settings("there is no endpoint"));
        };
        Ok(Prepared {
            plan: self.plan(endpoint, connector)?,
            fallbacks: endpoints.collect(),
            endpoints: self.endpoints.clone(),
            dialects: self.dialects.clone(),
            reconnect: self.reconnect.clone(),
            max_message_size: self.options.max_message_size,
            max_unsent: self.options.max_unsent,
        })
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, BuildError> {
        if self.identity.is_empty() || self.identity.chars().any(char::is_control) {
            return Err(BuildError::settings("invalid identity: it is empty or has control characters"));
        }
        let invalid = |why: &str| BuildError::settings(format!("invalid endpoint {:?}: {why}", redact(url)));
        let endpoint: Uri = url.parse().map_err(|_| invalid("it is not a URL"))?;
        let scheme = endpoint.scheme_str().unwrap_or_default();
        if !["ws", "wss"].iter().any(|allowed| scheme.eq_ignore_ascii_case(allowed)) {
            return Err(invalid("the scheme is neither ws:// nor wss://"));
        }
        let (target, authority) = redirect::parse_target(&endpoint).map_err(invalid)?;
        let mut path = handshake::identity_path(endpoint.path(), &self.identity);
        for (query, separator) in [endpoint.query().unwrap_or_default(), &self.query].iter().zip(["?", "&"]) {
            if !query.is_empty() {
                path.push_str(if path.contains('?') { separator } else { "?" });
                path.push_str(query);
            }
        }
        let path = path.parse().map_err(|_| invalid("the path and the query are too long"))?;
        Ok(Endpoint { target, authority, path })
    }

    /// Returns the connector with TLS. It is the same for all targets, but some connectors cannot open every target.
    fn connector_for(&self, target: &Target) -> Result<Arc<dyn DynConnector>, BuildError> {
        match &self.connector {
            #[cfg(feature = "tls")]
            ConnectorKind::Plain(connector) => tls::wrap(self.tls.clone(), connector.clone(), target),
            #[cfg(not(feature = "tls"))]
            ConnectorKind::Plain(connector) => no_tls::wrap(connector.clone(), target),
            ConnectorKind::Secure(connector) => Ok(connector.clone()),
        }
    }

    fn plan(&self, endpoint: Endpoint, connector: Arc<dyn DynConnector>) -> Result<ConnectPlan, BuildError> {
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
            endpoint,
            headers,
            protocols: self.protocols.clone(),
            compression: self.options.compression,
            max_redirects: self.max_redirects,
            connect_timeout: self.connect_timeout,
        })
    }
}

impl Prepared {
    /// Returns the protocols that the application has set.
    pub(super) fn protocols(&self) -> &Arc<[Arc<str>]> {
        &self.plan.protocols
    }

    /// Returns the plan of an attempt at the endpoint at this place of the list.
    pub(super) fn plan(&self, place: usize) -> ConnectPlan {
        let mut plan = self.plan.clone();
        if let Some(endpoint) = place.checked_sub(1).and_then(|place| self.fallbacks.get(place)) {
            plan.endpoint = endpoint.clone();
        }
        plan
    }
}

/// Returns a URL without the parts that may be secret: a user and the query.
fn redact(url: &str) -> &str {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    if bare.contains('@') { "<redacted>" } else { bare }
}

/// Returns whether a header belongs to the handshake or to the framing of the message.
fn is_reserved(name: &HeaderName) -> bool {
    [header::CONNECTION, header::HOST, header::UPGRADE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
        .contains(name)
        || name.as_str().starts_with("sec-websocket-")
}

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Omits the password, the headers and the query, which may be secret.
impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("endpoints", &self.endpoints.iter().map(|url| redact(url)).collect::<Vec<_>>())
            .field("identity", &self.identity)
            .field("protocols", &self.protocols)
            .field("password", &self.password.is_some())
            .field("options", &self.options)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}
