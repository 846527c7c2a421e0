//! The builder of a client.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tower::{BoxError, Layer, Service};

#[cfg(feature = "tls")]
use crate::client::tls::ClientTls;
use crate::{
    call,
    client::{
        connector::Connector,
        error::ConnectError,
        reconnect::Reconnect,
        rpc_client::RpcClient,
        settings::{ClientSettings, ConnectorKind},
    },
    error::BuildError,
    handler::router::RpcRouter,
    mask::Mask,
    message::dialect::Dialect,
    options::Options,
    outgoing::{CallResponse, CallService, OutgoingCall},
};

/// Configures an [`RpcClient`], then creates or connects it. [`RpcClient::update`] changes the same settings later.
///
/// | Setting | Default |
/// |---|---|
/// | [`endpoints`](Self::endpoints) | the endpoint of [`RpcClient::builder`] alone |
/// | [`protocols`](Self::protocols) | none: the client offers no protocol |
/// | [`password`](Self::password) | none: the client sends no credentials |
/// | [`options`](Self::options) | [`Options::client`] |
/// | [`call_layer`](Self::call_layer) | none: calls to the server pass no layers |
/// | [`mask`](Self::mask) | [`Mask::new`] |
/// | [`router`](Self::router) | every call is rejected with `NotImplemented` |
/// | [`reconnect`](Self::reconnect) | [`Reconnect::always`] |
/// | [`connect_timeout`](Self::connect_timeout) | 30 s |
/// | [`max_redirects`](Self::max_redirects) | 0: a redirect is an error |
/// | [`connector`](Self::connector) | TCP, with TLS for `wss://` endpoints if the feature `tls` is on |
#[derive(Clone, Debug)]
#[must_use]
pub struct RpcClientBuilder {
    pub(super) settings: ClientSettings,
}

impl RpcClient {
    /// Returns a builder of a client for the server at `endpoint`, a `ws://` or `wss://` URL.
    ///
    /// The client appends the identity to the path as its last segment, percent-encoded (OCPP-J 1.6 §3.1.1).
    pub fn builder(endpoint: impl Into<String>, identity: impl Into<String>) -> RpcClientBuilder {
        RpcClientBuilder { settings: ClientSettings::new(endpoint.into(), identity.into()) }
    }

    /// Changes settings of the client, whether it is connected or not. All others stay as they are.
    ///
    /// | Settings | In effect |
    /// |---|---|
    /// | router, [options](crate::Session::set_options) | at once |
    /// | back-off, attempts, final errors | from the next failed attempt |
    /// | endpoints, password, headers, query, protocols, connector, TLS, connect timeout, redirects; maximum message size and unsent bytes | from the next connection |
    /// | identity; whether calls are refused and responses dropped between two connections; the options that stay as they are | from the next [`connect`](Self::connect) after a close |
    ///
    /// [`reconnect`](Self::reconnect) starts the next connection now. A new list of protocols is offered as a whole;
    /// until then, the client offers only the protocol of its first connection. Queued calls are checked again if
    /// another protocol is agreed on.
    ///
    /// `change` must not change or connect this client itself, which would wait forever.
    ///
    /// ```no_run
    /// use ocpp_rpc::RpcClient;
    ///
    /// /// Changes the password, as a server demands with `AuthorizationKey` or `BasicAuthPassword`.
    /// async fn change_password(client: &RpcClient, password: &str) -> Result<(), Box<dyn std::error::Error>> {
    ///     client.update(|settings| settings.password(password))?;
    ///     client.reconnect().await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if settings contradict each other or can never work. Nothing changes then.
    pub fn update(&self, change: impl FnOnce(RpcClientBuilder) -> RpcClientBuilder) -> Result<(), BuildError> {
        self.change(|settings| change(RpcClientBuilder { settings }).settings)
    }
}

impl RpcClientBuilder {
    /// Replaces the endpoint or [`endpoints`](Self::endpoints), a `ws://` or `wss://` URL.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.settings.endpoints = [endpoint.into()].into();
        self
    }

    /// Replaces the endpoint by several, the preferred one first, such as the servers of a cluster without a load
    /// balancer. An empty list is an error of [`build`](Self::build).
    ///
    /// After each failed attempt, the client dials the next endpoint of the list, and the first one after the last. It
    /// stays with an endpoint that accepts it, and returns there when a connection is lost. The waits of the
    /// [back-off](Reconnect::backoff) are between all attempts. If endpoints refuse the client, their longer waits and
    /// `Retry-After` begin when each has been dialled once. The first connect fails when it has failed at each endpoint.
    /// [`Reconnect::attempts`] counts the attempts at all of them together.
    ///
    /// All endpoints get the same identity, password and headers. To change those as well, as the profiles of OCPP 2.1
    /// do, call [`RpcClient::update`] on the event [`ConnectFailed`](crate::event::EventKind::ConnectFailed).
    ///
    /// ```
    /// use ocpp_rpc::RpcClient;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoints = ["ws://a.csms.example/ocpp", "ws://b.csms.example/ocpp"];
    /// let client = RpcClient::builder(endpoints[0], "CP-0001").endpoints(endpoints).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.settings.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Replaces the identity.
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.settings.identity = identity.into();
        self
    }

    /// Sets the subprotocols that the client offers, the preferred one first.
    ///
    /// If the client offers protocols and the server selects none of them, the connect fails with
    /// [`ConnectError::Protocol`]. Default none.
    pub fn protocols<P: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.settings.protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        self
    }

    /// Sets the dialect of a protocol, for a protocol with rules of its own.
    ///
    /// The protocol must be one of [`protocols`](Self::protocols).
    pub fn dialect(mut self, protocol: &str, dialect: Dialect) -> Self {
        self.settings.dialects.push((protocol.into(), dialect));
        self
    }

    /// Sets the password of Basic credentials. The user name is the identity (OCPP security profiles 1 and 2).
    ///
    /// The password may be text or any bytes. Default none: the client sends no credentials.
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.settings.password = Some(password.into());
        self
    }

    /// Removes the password: the client sends no credentials.
    pub fn without_password(mut self) -> Self {
        self.settings.password = None;
        self
    }

    /// Replaces all further headers of the handshake request, see [`header`](Self::header). Default none.
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.settings.headers = headers;
        self
    }

    /// Adds a header to the handshake request.
    ///
    /// `User-Agent` replaces the default, `ocpp-rpc/` and the version. Headers of the WebSocket handshake itself and of
    /// message framing, such as `Host`, `Upgrade` or `Content-Length`, are an error of [`build`](Self::build).
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.settings.headers.append(name, value);
        self
    }

    /// Adds a pair to the query of the handshake request. Name and value are percent-encoded.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let separator = if self.settings.query.is_empty() { "" } else { "&" };
        self.settings.query.push_str(&format!("{separator}{}={}", encode(name), encode(value)));
        self
    }

    /// Replaces the whole query of the handshake request by this text, which must be percent-encoded. Default empty.
    ///
    /// The query of the endpoint stays in front of it.
    pub fn raw_query(mut self, query: impl Into<String>) -> Self {
        self.settings.query = query.into();
        self
    }

    /// Sets the options of all connections. Default [`Options::client`].
    pub fn options(mut self, options: Options) -> Self {
        self.settings.options = options;
        self
    }

    /// Wraps a tower layer around all calls to the server, those in handlers included.
    ///
    /// The layer that was added last runs first. An error of its service is the error of the call. See the module
    /// [`outgoing`](crate::outgoing), which also has layers of async functions and retries.
    ///
    /// [`RpcClient::update`] does not change the layers.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ocpp_rpc::RpcClient;
    /// use tower::timeout::TimeoutLayer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // No call takes longer than this, the wait for a connection included.
    /// let limit = TimeoutLayer::new(Duration::from_secs(300));
    /// let client = RpcClient::builder("ws://csms.example/ocpp", "CP-0001").call_layer(limit).build()?;
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
        let service = self.settings.call_service.take().unwrap_or_else(call::service);
        self.settings.call_service = Some(service.layered(&layer));
        self
    }

    /// Sets the tokens and secrets that are hidden in the TRACE log and in serialized events. Default [`Mask::new`].
    ///
    /// [`RpcClient::update`] does not change it.
    pub fn mask(mut self, mask: Mask) -> Self {
        self.settings.mask = mask;
        self
    }

    /// Sets the router that handles the calls of the server. By default, every call is rejected with `NotImplemented`.
    ///
    /// Handlers continue while the client reconnects.
    pub fn router<S: Send + Sync + 'static>(mut self, router: RpcRouter<S>) -> Self {
        self.settings.dispatch = router.into_dispatch();
        self
    }

    /// Sets the policy for connections that are lost. Default [`Reconnect::always`].
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.settings.reconnect = reconnect;
        self
    }

    /// Sets the timeout of one attempt to connect. Default 30 s.
    ///
    /// It runs from the start of the attempt to the end of the handshake, and includes DNS, TLS and redirects. An
    /// attempt that takes longer fails with [`ConnectError::Timeout`]. Zero is an error of [`build`](Self::build).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Sets how many redirects one attempt follows.
    ///
    /// At most `redirects`; one more fails the attempt with [`ConnectError::Refused`]. Default 0.
    ///
    /// The client never follows a redirect from `wss` to `ws`. If a redirect leads to another host or port, the client
    /// sends neither the password nor further headers except `User-Agent`. From `ws` to `wss`, the port may differ. The
    /// next attempt starts at the endpoint again.
    pub fn max_redirects(mut self, redirects: u32) -> Self {
        self.settings.max_redirects = redirects;
        self
    }

    /// Sets the connector that opens the streams, in place of TCP.
    ///
    /// For `wss://` endpoints, the client adds TLS to the streams.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.settings.connector = ConnectorKind::Plain(Arc::new(connector));
        self
    }

    /// Sets a connector with TLS of its own, in place of TCP.
    ///
    /// If [`Target::is_secure`](super::Target::is_secure) returns `true`, the connector must return a TLS stream.
    pub fn secure_connector(mut self, connector: impl Connector) -> Self {
        self.settings.connector = ConnectorKind::Secure(Arc::new(connector));
        self
    }

    /// Sets the TLS settings of `wss://` endpoints.
    ///
    /// They hold for TCP and for a [`connector`](Self::connector), not for a
    /// [`secure_connector`](Self::secure_connector). By default, the client trusts the root certificates of the
    /// [operating system](crate::tls::RootCerts::native) and has no certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// Creates a client that is closed until [`RpcClient::connect`].
    ///
    /// # Errors
    ///
    /// Returns an error if settings contradict each other or can never work.
    pub fn build(self) -> Result<RpcClient, BuildError> {
        self.settings.prepare()?;
        Ok(RpcClient::new(self.settings))
    }

    /// Creates a client and connects it.
    ///
    /// # Errors
    ///
    /// Returns an error if settings contradict each other, if the client cannot reach the server, or if the server
    /// refuses the connection.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the client is dropped and the attempt ends.
    pub async fn connect(self) -> Result<RpcClient, ConnectError> {
        let client = self.build()?;
        client.connect().await?;
        Ok(client)
    }
}
