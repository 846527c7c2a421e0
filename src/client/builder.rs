//! How a client is put together.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

#[cfg(feature = "tls")]
use crate::client::tls::ClientTls;
use crate::{
    client::{
        connector::Connector,
        error::ConnectError,
        reconnect::Reconnect,
        rpc_client::RpcClient,
        settings::{ClientSettings, Dialler},
    },
    error::BuildError,
    handler::router::RpcRouter,
    message::dialect::Dialect,
    options::Options,
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
/// | [`connect_timeout`](Self::connect_timeout) | 30 s |
/// | [`max_redirects`](Self::max_redirects) | 0: a redirect is an error |
/// | [`connector`](Self::connector) | TCP, and TLS for `wss://` endpoints with the feature `tls` |
#[derive(Clone, Debug)]
#[must_use]
pub struct RpcClientBuilder {
    pub(super) settings: ClientSettings,
}

impl RpcClient {
    /// A client of the server at `endpoint`, a `ws://` or `wss://` URL to which the identity is added as the last
    /// segment of the path, percent-encoded (OCPP-J 1.6 §3.1.1).
    pub fn builder(endpoint: impl Into<String>, identity: impl Into<String>) -> RpcClientBuilder {
        RpcClientBuilder { settings: ClientSettings::new(endpoint.into(), identity.into()) }
    }
}

impl RpcClientBuilder {
    /// The subprotocols to offer, the preferred one first.
    pub fn protocols<P: AsRef<str>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.settings.protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        self
    }

    /// The rules of a protocol that has rules of its own.
    pub fn dialect(mut self, protocol: &str, dialect: Dialect) -> Self {
        self.settings.dialects.push((protocol.into(), dialect));
        self
    }

    /// Basic credentials: the identity is the user name, and this the password, a text or any bytes (OCPP security
    /// profiles 1 and 2).
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.settings.password = Some(password.into());
        self
    }

    /// A further header of the handshake. `User-Agent` takes the place of the crate's own; those of the handshake
    /// itself cannot be set.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.settings.headers.append(name, value);
        self
    }

    /// A further pair of the query, encoded as it has to be.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let separator = if self.settings.query.is_empty() { "" } else { "&" };
        self.settings.query.push_str(&format!("{separator}{}={}", encode(name), encode(value)));
        self
    }

    /// Times, limits and habits of the connection.
    pub fn options(mut self, options: Options) -> Self {
        self.settings.options = options;
        self
    }

    /// Answers the calls of the server. Handlers live on while the client reconnects.
    pub fn router<S: Send + Sync + 'static>(mut self, router: RpcRouter<S>) -> Self {
        self.settings.dispatch = router.into_dispatch();
        self
    }

    /// What becomes of a connection that is lost.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.settings.reconnect = reconnect;
        self
    }

    /// How long one attempt may take, from the look-up of the name to the end of the handshake.
    pub fn connect_timeout(mut self, deadline: Duration) -> Self {
        self.settings.connect_timeout = deadline;
        self
    }

    /// How many redirects an attempt may follow; one more, or one that leads from `wss` to `ws`, is an error as any
    /// other refusal is. Another host is sent none of the headers and no password. A reconnect begins at the
    /// endpoint again.
    pub fn max_redirects(mut self, redirects: u32) -> Self {
        self.settings.max_redirects = redirects;
        self
    }

    /// Dials over something else than TCP. For `wss://` endpoints TLS is spoken over it.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.settings.connector = Dialler::Plain(Arc::new(connector));
        self
    }

    /// Dials over something else than TCP, which speaks TLS by itself where the
    /// [target](super::Target::is_secure) wants it.
    pub fn secure_connector(mut self, connector: impl Connector) -> Self {
        self.settings.connector = Dialler::Secure(Arc::new(connector));
        self
    }

    /// The TLS of `wss://` endpoints, over whatever is dialled; without this, one that believes the
    /// [system's authorities](RootCerts::native).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// A client that is closed for now.
    ///
    /// # Errors
    /// When settings contradict each other or could never work.
    pub fn build(self) -> Result<RpcClient, BuildError> {
        self.settings.options.check_for(&self.settings.protocols)?;
        if let Some(why) = self.settings.reconnect.backoff.contradiction() {
            return Err(BuildError::settings(why));
        }
        self.settings.plan()?;
        Ok(RpcClient::new(self.settings))
    }

    /// A client that is connected.
    ///
    /// # Errors
    /// When settings contradict each other, or the server cannot be reached or refuses.
    ///
    /// # Cancel safety
    /// Dropping the future drops the client.
    pub async fn connect(self) -> Result<RpcClient, ConnectError> {
        let client = self.build()?;
        client.connect().await?;
        Ok(client)
    }
}
