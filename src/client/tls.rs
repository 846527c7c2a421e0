//! TLS of a client: whom it believes, and the certificate that it shows.

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
    client::connector::{AnyConnector, Connector, Target},
    error::BuildError,
    io::Io,
};

/// The client's side of TLS: versions 1.2 and 1.3 (OCPP security profiles 2 and 3).
///
/// A client of a `wss://` endpoint without one believes the [system's authorities](RootCerts::native) and shows no
/// certificate. Cheap to clone; clients that share one resume each other's sessions.
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
    /// Puts one together.
    pub fn builder() -> ClientTlsBuilder {
        ClientTlsBuilder { authorities: None, certificate: None, server_name: None }
    }

    /// Takes a configuration of rustls as it is. It names no protocol by ALPN but `http/1.1`.
    pub fn from_config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self { config: config.into(), server_name: None }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Puts a [`ClientTls`] together.
#[must_use]
#[derive(Debug)]
pub struct ClientTlsBuilder {
    authorities: Option<RootCerts>,
    certificate: Option<Certificate>,
    server_name: Option<String>,
}

impl ClientTlsBuilder {
    /// Whom to believe; the [system's authorities](RootCerts::native) by default.
    pub fn authorities(self, authorities: RootCerts) -> Self {
        Self { authorities: Some(authorities), ..self }
    }

    /// The certificate to show where the server asks for one.
    pub fn certificate(self, certificate: Certificate) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// The name that the server's certificate has to have, where it is not the host of the endpoint.
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// The client's side of TLS.
    ///
    /// # Errors
    /// When there is nobody to believe, or the name is none.
    pub fn build(self) -> Result<ClientTls, BuildError> {
        let RootCerts(roots) = self.authorities.map_or_else(RootCerts::native, Ok)?;
        let server_name = self.server_name.map(ServerName::try_from).transpose();
        let server_name = server_name.map_err(|error| BuildError::tls("the server name", error))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| BuildError::tls("TLS", error))?
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            Some(Certificate(key)) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A station has one server.
        config.resumption = Resumption::in_memory_sessions(8);
        Ok(ClientTls { config: Arc::new(config), server_name })
    }
}

/// A connector that speaks TLS over the streams of another where the target wants it, be it the endpoint or where a
/// redirect leads.
pub(super) fn over(
    tls: Option<ClientTls>,
    connector: Arc<dyn AnyConnector>,
    target: &Target,
) -> Result<Arc<dyn AnyConnector>, BuildError> {
    if tls.is_none() && target.is_secure() {
        native()?;
    }
    Ok(Arc::new(Over { tls, connector }))
}

/// Returns the TLS of clients without settings for it, set up once in the life of a process.
fn native() -> Result<ClientTls, BuildError> {
    static NATIVE: OnceLock<ClientTls> = OnceLock::new();
    if let Some(tls) = NATIVE.get() {
        return Ok(tls.clone());
    }
    let tls = ClientTls::builder().build()?;
    Ok(NATIVE.get_or_init(|| tls).clone())
}

struct Over {
    tls: Option<ClientTls>,
    connector: Arc<dyn AnyConnector>,
}

impl Connector for Over {
    type Stream = Box<dyn Io>;

    async fn connect(&self, target: Target) -> io::Result<Self::Stream> {
        if !target.is_secure() {
            return self.connector.dial(target).await;
        }
        let tls = self.tls.clone().map_or_else(native, Ok).map_err(io::Error::other)?;
        let name = match tls.server_name {
            Some(name) => name,
            None => ServerName::try_from(target.host().to_owned()).map_err(io::Error::other)?,
        };
        // Whoever dials has no TLS to care for.
        let stream = self.connector.dial(Target { secure: false, ..target }).await?;
        Ok(Box::new(TlsConnector::from(tls.config).connect(name, stream).await?))
    }
}
