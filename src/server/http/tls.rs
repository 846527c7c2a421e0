//! TLS of the built-in listener: certificates of the server, and verification of client certificates.

use std::{
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    LazyConfigAcceptor, StartHandshake,
    rustls::{
        ProtocolVersion, ServerConfig,
        crypto::ring::Ticketer,
        server::{
            Acceptor, ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
            danger::ClientCertVerifier,
        },
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use crate::{
    certificate::{Certificate, RootCerts, provider},
    error::BuildError,
    info::{TlsInfo, TlsVersion},
    server::http::{
        client_hello::{self, HelloReader},
        connection::ALPN,
        first_bytes::{self, FirstBytes, SetupError},
        listener::Transport,
    },
    tls_error::{self, End},
};

/// The number of bytes that are read before the handshake, to tell TLS from other protocols.
///
/// rustls reads all of them at once. Bytes that it left in the reader of the ClientHello would be lost.
const FIRST_READ: usize = 512;

/// The TLS settings of a listener: versions 1.2 and 1.3, and certificates (OCPP security profiles 2 and 3).
///
/// Cheap to clone. All clones share one configuration. Keep a clone to [`replace`](Self::replace) the configuration
/// that a listener uses.
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
/// // Later, without disconnecting stations:
/// let renewed = Certificate::from_pem_files("ecdsa.pem", "ecdsa.key")?;
/// tls.replace(&ServerTls::builder().certificate(renewed).build()?);
/// # Ok(())
/// # }
/// ```
///
/// Clients resume TLS sessions by tickets, which need no memory at the server. If client certificates are requested,
/// sessions are not resumed, so that the certificate of each connection is verified.
///
/// rustls does not support two cipher suites of the 1.6 security whitepaper. For those, see
/// [`RpcServer::serve_connection`](crate::RpcServer::serve_connection).
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl ServerTls {
    /// Returns a builder without certificates.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder { certificates: Vec::new(), client_auth: ClientAuth::None }
    }

    /// Creates TLS settings from a rustls configuration, without changes.
    ///
    /// The ALPN protocols must be `http/1.1`, `h2` (with the feature `http2`), or none.
    pub fn from_config(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self { config: Arc::new(RwLock::new(config.into())) }
    }

    /// Replaces the configuration by that of `other`, from the next handshake on. Open connections continue.
    pub fn replace(&self, other: &ServerTls) {
        let new = other.config();
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Performs the TLS handshake on a stream that the application accepted. There is no timeout.
    ///
    /// Pass the result to [`RpcServer::serve_connection`](crate::RpcServer::serve_connection).
    ///
    /// # Errors
    ///
    /// Fails if the client disconnects, or if the handshake fails. The text says what the client offered, if both ends
    /// have no version, cipher suite or kind of certificate in common. The error of rustls is the source. A client that
    /// speaks HTTP without TLS gets a response with status 400.
    pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(&self, io: T) -> io::Result<(TlsStream<T>, TlsInfo)> {
        let stream = match self.handshake(io).await {
            Ok(stream) => stream,
            Err(SetupError { error, response }) => {
                if let Some(response) = response {
                    response.send().await;
                }
                return Err(error);
            }
        };
        let info = info(&stream);
        Ok((stream, info))
    }

    /// Performs the TLS handshake, and explains its failure.
    async fn handshake<T>(&self, mut io: T) -> Result<TlsStream<T>, SetupError<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut first = vec![0; FIRST_READ];
        let length = io.read(&mut first).await?;
        first.truncate(length);
        match FirstBytes::of(&first) {
            FirstBytes::Http => {
                let reason = "the client speaks HTTP without TLS: use a wss:// or https:// URL";
                let text = "this port uses TLS, use a wss:// or https:// URL";
                return Err(SetupError::wrong_protocol(io, reason, text));
            }
            FirstBytes::ProxyHeader => {
                let text = "this port expects no PROXY header";
                return Err(SetupError::wrong_protocol(io, first_bytes::UNEXPECTED_PROXY_HEADER, text));
            }
            FirstBytes::Tls | FirstBytes::Other => {}
        }
        let config = self.config();
        let explain = |error: io::Error, hello: &[u8]| {
            let offer = tls_error::rustls_error(&error)
                .and_then(|cause| client_hello::explain(hello, config.crypto_provider(), cause));
            match offer {
                Some(text) => tls_error::with_text(error, text),
                None => tls_error::explain(error, End::Server),
            }
        };
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), HelloReader::new(first, io));
        let start = match (&mut acceptor).await {
            Ok(start) => start,
            Err(error) => {
                let hello = acceptor.take_io().map(|io| io.into_parts().1);
                return Err(explain(error, &hello.unwrap_or_default()).into());
            }
        };
        let StartHandshake { accepted, io, .. } = start;
        let (io, hello) = io.into_parts();
        let handshake = StartHandshake::from_parts(accepted, io).into_stream(config.clone());
        Ok(handshake.await.map_err(|error| explain(error, &hello))?)
    }

    fn config(&self) -> Arc<ServerConfig> {
        // A panic under the lock cannot leave the configuration half written.
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Configures a [`ServerTls`], then creates it.
///
/// ```no_run
/// use ocpp_rpc::tls::{Certificate, RootCerts, ServerTls, ServerTlsBuilder};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Security profile 3: each station has a certificate.
/// let builder: ServerTlsBuilder = ServerTls::builder()
///     .certificate(Certificate::from_pem_files("chain.pem", "key.pem")?)
///     .required_client_certificates(RootCerts::from_pem_file("stations-root.pem")?);
/// let tls = builder.build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
#[derive(Debug)]
pub struct ServerTlsBuilder {
    certificates: Vec<Certificate>,
    client_auth: ClientAuth,
}

/// The verification of client certificates.
#[derive(Debug)]
enum ClientAuth {
    None,
    Optional(RootCerts),
    Required(RootCerts),
    Custom(Arc<dyn ClientCertVerifier>),
}

impl ServerTlsBuilder {
    /// Adds a certificate. If there are several, each client receives the first that it can verify.
    ///
    /// A CSMS must have an ECDSA and an RSA certificate (1.6 security whitepaper §2.4, 2.0.1 part 2 A00.FR.318). Add
    /// the ECDSA certificate first. Old stations then receive the RSA certificate.
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificates.push(certificate);
        self
    }

    /// Requests a client certificate of these authorities. Clients without a certificate may connect.
    ///
    /// The [authenticator](crate::Authenticate) receives the certificate in [`Handshake::tls`](crate::Handshake::tls).
    pub fn optional_client_certificates(self, roots: RootCerts) -> Self {
        Self { client_auth: ClientAuth::Optional(roots), ..self }
    }

    /// Requires a client certificate of these authorities (OCPP security profile 3).
    ///
    /// Without one, the TLS handshake fails.
    pub fn required_client_certificates(self, roots: RootCerts) -> Self {
        Self { client_auth: ClientAuth::Required(roots), ..self }
    }

    /// Verifies client certificates by a custom verifier, for example to check revocation.
    pub fn client_verifier(self, verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self { client_auth: ClientAuth::Custom(verifier), ..self }
    }

    /// Creates the TLS settings.
    ///
    /// # Errors
    ///
    /// Fails if there is no certificate, or if the authorities of clients are not valid.
    pub fn build(self) -> Result<ServerTls, BuildError> {
        if self.certificates.is_empty() {
            return Err(BuildError::settings("server TLS needs a certificate"));
        }
        let verify = |roots: RootCerts| WebPkiClientVerifier::builder_with_provider(roots.0, provider());
        let invalid = |error| BuildError::tls("client certificates", error);
        let verifier = match self.client_auth {
            ClientAuth::None => None,
            ClientAuth::Optional(roots) => Some(verify(roots).allow_unauthenticated().build().map_err(invalid)?),
            ClientAuth::Required(roots) => Some(verify(roots).build().map_err(invalid)?),
            ClientAuth::Custom(verifier) => Some(verifier),
        };
        let requests_certificates = verifier.is_some();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| BuildError::tls("TLS", error))?
            .with_client_cert_verifier(verifier.unwrap_or_else(|| Arc::new(NoClientAuth)))
            .with_cert_resolver(Arc::new(Resolver(self.certificates)));
        config.alpn_protocols = ALPN.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Session state is in the tickets, so that idle stations need no memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if !requests_certificates {
            config.ticketer = Ticketer::new().map_err(|error| BuildError::tls("TLS tickets", error))?;
            config.send_tls13_tickets = 1;
        }
        Ok(ServerTls::from_config(config))
    }
}

/// Selects the first certificate that the client can verify.
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

    const TIMED_OUT: &'static str = "the TLS handshake timed out";

    async fn accept(
        &self,
        socket: TcpStream,
        _first: &[u8],
    ) -> Result<(Self::Stream, Option<TlsInfo>), SetupError<TcpStream>> {
        let stream = self.handshake(socket).await?;
        let info = info(&stream);
        Ok((stream, Some(info)))
    }
}

/// Returns information about the TLS of a stream.
fn info<T>(stream: &TlsStream<T>) -> TlsInfo {
    let connection = stream.get_ref().1;
    let chain = connection.peer_certificates().unwrap_or_default();
    let info = TlsInfo::new().with_peer_chain(chain.iter().map(|der| Bytes::copy_from_slice(der)));
    match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => info.with_version(TlsVersion::Tls12),
        Some(ProtocolVersion::TLSv1_3) => info.with_version(TlsVersion::Tls13),
        _ => info,
    }
}
