//! TLS at the built-in listener: which certificate is shown, whether the client has to show one, and what is then known
//! of it.

use std::{
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ProtocolVersion, ServerConfig,
        crypto::ring::Ticketer,
        server::{
            ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
            danger::ClientCertVerifier,
        },
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use crate::{
    certificate::{Certificate, RootCerts, provider, wrong},
    error::BuildError,
    info::{TlsInfo, TlsVersion},
    server::http::{connection::ALPN, listener::Transport},
};

/// The server's side of TLS: versions 1.2 and 1.3, with the certificates of a listener (OCPP security profiles 2 and 3).
///
/// Cheap to clone; the clones are one, so that a clone that is kept aside can [`replace`](Self::replace) what the
/// listener uses.
///
/// ```no_run
/// use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer, tls::{Certificate, RootCerts, ServerTls}};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = ServerTls::builder()
///     .certificate(Certificate::from_pem_files("ecdsa.pem", "ecdsa.key")?)
///     .certificate(Certificate::from_pem_files("rsa.pem", "rsa.key")?)
///     .required_client_certificates(RootCerts::from_pem_file("stations-ca.pem")?)
///     .build()?;
/// let server = RpcServer::builder(RpcRouter::new())
///     .protocols(["ocpp2.0.1", "ocpp1.6"])
///     .auth(async |handshake: Handshake| match handshake.tls().and_then(|tls| tls.peer_chain().first()) {
///         Some(_certificate) => Ok(Accept::new()),
///         None => Err(Reject::unauthorized()),
///     })
///     .build()?;
/// let listener = server.bind("0.0.0.0:9221").tls(tls.clone()).serve().await?;
///
/// // Months later; nobody is disconnected.
/// let renewed = Certificate::from_pem_files("ecdsa.pem", "ecdsa.key")?;
/// tls.replace(&ServerTls::builder().certificate(renewed).build()?);
/// # Ok(())
/// # }
/// ```
///
/// Sessions of TLS are resumed by tickets, which take no memory here; where client certificates are asked for they are
/// not, so that each connection's is verified. Two suites that the 1.6 security whitepaper names are not in rustls; see
/// [`RpcServer::serve_connection`](crate::RpcServer::serve_connection) for those.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl ServerTls {
    /// Puts one together.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder { certificates: Vec::new(), client_auth: ClientAuth::None }
    }

    /// Takes a configuration of rustls as it is. To serve HTTP, it names no protocol by ALPN but `http/1.1`, and
    /// `h2` where there is the feature `http2`.
    pub fn from_config(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self { config: Arc::new(RwLock::new(config.into())) }
    }

    /// Takes over what another one has, from the next handshake on. Connections that there are stay as they are.
    pub fn replace(&self, other: &ServerTls) {
        let new = other.config();
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Does the handshake on a stream that was accepted elsewhere, and gives what came of it, for
    /// [`RpcServer::serve_connection`](crate::RpcServer::serve_connection). There is no deadline here.
    ///
    /// # Errors
    /// When the client leaves or is refused.
    pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(&self, io: T) -> io::Result<(TlsStream<T>, TlsInfo)> {
        let stream = TlsAcceptor::from(self.config()).accept(io).await?;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        let info = TlsInfo::new().with_peer_chain(chain.iter().map(|der| Bytes::copy_from_slice(der)));
        let info = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => info.with_version(TlsVersion::Tls12),
            Some(ProtocolVersion::TLSv1_3) => info.with_version(TlsVersion::Tls13),
            _ => info,
        };
        Ok((stream, info))
    }

    fn config(&self) -> Arc<ServerConfig> {
        // Nothing that runs under the lock can leave it half done.
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Puts a [`ServerTls`] together.
#[must_use]
#[derive(Debug)]
pub struct ServerTlsBuilder {
    certificates: Vec<Certificate>,
    client_auth: ClientAuth,
}

#[derive(Debug)]
enum ClientAuth {
    None,
    Optional(RootCerts),
    Required(RootCerts),
    Custom(Arc<dyn ClientCertVerifier>),
}

impl ServerTlsBuilder {
    /// Adds a certificate. Of several, a client gets the first that it can verify: with an ECDSA and an RSA one, as a
    /// CSMS has to have them (1.6 security whitepaper §2.4, 2.0.1 part 2 A00.FR.318), old stations get the latter.
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificates.push(certificate);
        self
    }

    /// Asks for a client certificate of these authorities. Clients without one may come in; the
    /// [hook](crate::Authenticate) sees who they are.
    pub fn optional_client_certificates(self, roots: RootCerts) -> Self {
        Self { client_auth: ClientAuth::Optional(roots), ..self }
    }

    /// Wants a client certificate of these authorities: without one there is no handshake (OCPP security profile 3).
    pub fn required_client_certificates(self, roots: RootCerts) -> Self {
        Self { client_auth: ClientAuth::Required(roots), ..self }
    }

    /// Has client certificates judged by a verifier of one's own, which may be of another mind about one that has
    /// expired or was revoked.
    pub fn client_verifier(self, verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self { client_auth: ClientAuth::Custom(verifier), ..self }
    }

    /// The server's side of TLS.
    ///
    /// # Errors
    /// When there is no certificate.
    pub fn build(self) -> Result<ServerTls, BuildError> {
        if self.certificates.is_empty() {
            return Err(BuildError("a server of TLS needs a certificate".into()));
        }
        let verify = |roots: RootCerts| WebPkiClientVerifier::builder_with_provider(roots.0, provider());
        let invalid = |error| wrong("client certificates", &error);
        let verifier = match self.client_auth {
            ClientAuth::None => None,
            ClientAuth::Optional(roots) => Some(verify(roots).allow_unauthenticated().build().map_err(invalid)?),
            ClientAuth::Required(roots) => Some(verify(roots).build().map_err(invalid)?),
            ClientAuth::Custom(verifier) => Some(verifier),
        };
        let requests_certificates = verifier.is_some();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("TLS", &error))?
            .with_client_cert_verifier(verifier.unwrap_or_else(|| Arc::new(NoClientAuth)))
            .with_cert_resolver(Arc::new(Resolver(self.certificates)));
        config.alpn_protocols = ALPN.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Nothing is kept between connections.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if !requests_certificates {
            config.ticketer = Ticketer::new().map_err(|error| wrong("TLS tickets", &error))?;
            config.send_tls13_tickets = 1;
        }
        Ok(ServerTls::from_config(config))
    }
}

/// Shows the first certificate that the client can verify.
#[derive(Debug)]
struct Resolver(Vec<Certificate>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |certificate: &&Certificate| certificate.0.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).map(|certificate| certificate.0.clone())
    }
}

impl Transport for ServerTls {
    type Stream = TlsStream<TcpStream>;

    async fn accept(&self, stream: TcpStream) -> io::Result<(Self::Stream, Option<TlsInfo>)> {
        let (stream, info) = self.accept(stream).await?;
        Ok((stream, Some(info)))
    }
}
