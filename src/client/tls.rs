//! The TLS of a client: trusted root certificates or pinned certificates, and the certificate of the client.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, client::Resumption, pki_types::ServerName, sign::SingleCertAndKey},
};

use crate::{
    certificate::{Certificate, RootCerts, provider},
    client::{
        connector::{Connector, DynConnector, Target},
        pin::{CertificatePin, PinVerifier},
    },
    error::BuildError,
    io::Io,
    tls_error::{self, End},
};

/// The TLS settings of a client: versions 1.2 and 1.3, and certificates (OCPP security profiles 2 and 3).
///
/// A client without these settings trusts the root certificates of the [operating system](RootCerts::native) and has no
/// certificate.
///
/// Cheap to clone. All clones share one configuration, so clients with the same settings resume each other's TLS
/// sessions.
///
/// ```no_run
/// use ocpp_rpc::{RpcClient, tls::{Certificate, ClientTls, RootCerts}};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = ClientTls::builder()
///     .authorities(RootCerts::from_pem_file("csms-ca.pem")?)
///     .certificate(Certificate::from_pem_files("station.pem", "station.key")?)
///     .build()?;
/// let client = RpcClient::builder("wss://csms.example/ocpp", "CP-0001").protocols(["ocpp2.0.1"]).tls(tls).connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Returns a builder with the default settings.
    pub fn builder() -> ClientTlsBuilder {
        ClientTlsBuilder { authorities: None, pins: Vec::new(), certificate: None, server_name: None }
    }

    /// Creates TLS settings from a rustls configuration, without changes.
    ///
    /// The ALPN protocols must be `http/1.1` or none.
    pub fn from_config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self { config: config.into(), server_name: None }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Configures a [`ClientTls`], then creates it.
#[must_use]
#[derive(Debug)]
pub struct ClientTlsBuilder {
    authorities: Option<RootCerts>,
    pins: Vec<CertificatePin>,
    certificate: Option<Certificate>,
    server_name: Option<String>,
}

impl ClientTlsBuilder {
    /// Sets the root certificates that the client trusts. Default [`RootCerts::native`].
    pub fn authorities(self, authorities: RootCerts) -> Self {
        Self { authorities: Some(authorities), ..self }
    }

    /// Accepts this certificate of the server, and no other that is not pinned as well.
    ///
    /// Use it for a self-signed certificate, or if no authority may speak for the server. Pin the next certificate as
    /// well before the server changes to it.
    ///
    /// A pin replaces all checks of the certificate: authority, name, validity and purpose. The server must still prove
    /// that it has the key. With another certificate, the connect fails with [`ConnectError::Io`], and the text has the
    /// SHA-256 of that certificate. Authorities cannot be set as well.
    ///
    /// ```
    /// use ocpp_rpc::tls::{CertificatePin, ClientTls};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let key = rcgen::KeyPair::generate()?;
    /// # let self_signed = rcgen::CertificateParams::new(["csms".to_owned()])?.self_signed(&key)?.pem();
    /// let tls = ClientTls::builder().pin(CertificatePin::from_pem(self_signed.as_bytes())?).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`ConnectError::Io`]: crate::client::ConnectError::Io
    pub fn pin(mut self, certificate: CertificatePin) -> Self {
        self.pins.push(certificate);
        self
    }

    /// Sets the certificate that the client presents if the server requests one. Default none.
    pub fn certificate(self, certificate: Certificate) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// Sets the name that the server's certificate must be valid for. Default: the host of the endpoint.
    ///
    /// The client also sends it as the server name of the TLS handshake (SNI).
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// Creates the TLS settings.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system has no root certificates, if the server name is invalid, or if
    /// authorities and pins are both set.
    pub fn build(self) -> Result<ClientTls, BuildError> {
        let server_name = self.server_name.map(ServerName::try_from).transpose();
        let server_name = server_name.map_err(|error| BuildError::tls("the server name", error))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| BuildError::tls("TLS", error))?;
        let config = match self.authorities {
            Some(_) if !self.pins.is_empty() => {
                return Err(BuildError::settings("a pinned certificate needs no authorities: set one of the two"));
            }
            None if !self.pins.is_empty() => {
                config.dangerous().with_custom_certificate_verifier(Arc::new(PinVerifier(self.pins)))
            }
            authorities => {
                let RootCerts(roots) = authorities.map_or_else(RootCerts::native, Ok)?;
                config.with_root_certificates(roots)
            }
        };
        let mut config = match self.certificate {
            Some(Certificate(key)) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A client has one server, or a few after redirects.
        config.resumption = Resumption::in_memory_sessions(8);
        Ok(ClientTls { config: Arc::new(config), server_name })
    }
}

/// Returns a connector that adds TLS to the streams of another one.
///
/// Returns an error if `target` needs the default settings and they cannot be created. A `ws` target gets the
/// connector as well, because a redirect may lead to `wss`.
pub(super) fn wrap(
    tls: Option<ClientTls>,
    connector: Arc<dyn DynConnector>,
    target: &Target,
) -> Result<Arc<dyn DynConnector>, BuildError> {
    if tls.is_none() && target.is_secure() {
        native()?;
    }
    Ok(Arc::new(WithTls { tls, connector }))
}

/// Returns the default TLS settings, which are created once per process.
fn native() -> Result<ClientTls, BuildError> {
    static NATIVE: OnceLock<ClientTls> = OnceLock::new();
    if let Some(tls) = NATIVE.get() {
        return Ok(tls.clone());
    }
    let tls = ClientTls::builder().build()?;
    Ok(NATIVE.get_or_init(|| tls).clone())
}

/// A connector that adds TLS to the streams of another one, if the target is secure.
struct WithTls {
    tls: Option<ClientTls>,
    connector: Arc<dyn DynConnector>,
}

impl Connector for WithTls {
    type Stream = Box<dyn Io>;

    async fn connect(&self, target: Target) -> io::Result<Self::Stream> {
        if !target.is_secure() {
            return self.connector.open(target).await;
        }
        let tls = self.tls.clone().map_or_else(native, Ok).map_err(io::Error::other)?;
        let name = match tls.server_name {
            Some(name) => name,
            None => ServerName::try_from(target.host().to_owned()).map_err(io::Error::other)?,
        };
        // The inner connector must not add TLS as well.
        let stream = self.connector.open(Target { secure: false, ..target }).await?;
        let stream = TlsConnector::from(tls.config).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| tls_error::explain(error, End::Client))?))
    }
}
