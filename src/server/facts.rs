//! What is known of a request besides its bytes: who knows it puts it into the request's extensions, and a
//! [`Handshake`](super::Handshake) finds it there.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use tokio::time::Instant;

/// The address of a request's client, for a [`Handshake`](super::Handshake) to find in its extensions.
///
/// The built-in listener puts it there. Where another server accepts connections, a layer can do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

/// The identity of a request's charging station, where it is not the last segment of the path: a layer puts it into
/// the request's extensions, after a look at the query, a header, or the client's certificate.
///
/// The [endpoint](super::Handshake::endpoint) is then the whole path. The user name of Basic credentials has to be
/// this identity. One that is empty or has control characters is answered with 404, as it is in a path.
///
/// ```
/// use http::Request;
/// use ocpp_rpc::{Identity, RpcRouter, RpcServer};
/// use tower::util::MapRequestLayer;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// /// Old stations of ours say who they are in a header.
/// fn identify(mut request: Request<axum::body::Body>) -> Request<axum::body::Body> {
///     let serial = request.headers().get("x-serial").and_then(|serial| serial.to_str().ok());
///     if let Some(identity) = serial.map(|serial| Identity(format!("old-{serial}"))) {
///         request.extensions_mut().insert(identity);
///     }
///     request
/// }
///
/// let server = RpcServer::builder(RpcRouter::new()).build()?;
/// let app: axum::Router = axum::Router::new()
///     .route_service("/ocpp", server.clone())
///     .route_service("/ocpp/{*identity}", server)
///     .layer(MapRequestLayer::new(identify));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(pub String);

/// What is known of the TLS below a request.
///
/// The built-in listener knows it when it speaks TLS itself, and behind a [proxy](super::TrustedProxies) as far as the
/// proxy tells. Who terminates TLS in another way, with OpenSSL for one, says it in
/// [`ConnectionFacts`], or puts this into the extensions of each request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsFacts {
    version: Option<TlsVersion>,
    peer_chain: Box<[Bytes]>,
}

impl TlsFacts {
    /// TLS of a version that is not known, without a certificate of the client's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the version that was negotiated.
    #[must_use]
    pub fn with_version(self, version: TlsVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Sets the client's certificates in DER: its own first, then those that lead to an authority. They have been
    /// verified by whoever says so.
    #[must_use]
    pub fn with_peer_chain<C: Into<Bytes>>(self, chain: impl IntoIterator<Item = C>) -> Self {
        Self { peer_chain: chain.into_iter().map(Into::into).collect(), ..self }
    }

    /// The version that was negotiated, where it is known.
    pub fn version(&self) -> Option<TlsVersion> {
        self.version
    }

    /// The client's certificates in DER, its own first; none where it showed none.
    ///
    /// OCPP has the serial number of the charging station in the common name of its certificate, which is not
    /// necessarily its identity (1.6 security whitepaper §2.6, 2.0.1 part 2 A00).
    pub fn peer_chain(&self) -> &[Bytes] {
        &self.peer_chain
    }
}

/// Counts the certificates, which are long.
impl fmt::Debug for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self.peer_chain.len();
        f.debug_struct("TlsFacts").field("version", &self.version).field("peer_certificates", &certificates).finish()
    }
}

/// A version of TLS that OCPP allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// What is known of a connection that somebody else accepted, for
/// [`RpcServer::serve_connection`](super::RpcServer::serve_connection).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ConnectionFacts {
    pub(super) remote_address: Option<SocketAddr>,
    pub(super) tls: Option<TlsFacts>,
}

impl ConnectionFacts {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address at the other end.
    pub fn remote_address(self, address: SocketAddr) -> Self {
        Self { remote_address: Some(address), ..self }
    }

    /// The connection is TLS.
    pub fn tls(self, tls: TlsFacts) -> Self {
        Self { tls: Some(tls), ..self }
    }
}

/// When a client's time for its handshake began: in the extensions of a connection's first request, because what came
/// before it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began(pub(super) Instant);
