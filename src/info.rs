//! What is known of a connection from the layers below it.

use std::fmt;
#[cfg(feature = "server")]
use std::net::SocketAddr;

use bytes::Bytes;

/// What is known of the TLS below a request.
///
/// The built-in listener knows it when it speaks TLS itself, and behind a [proxy](super::TrustedProxies) as far as the
/// proxy tells. Who terminates TLS in another way, with OpenSSL for one, says it in
/// [`ConnectionInfo`], or puts this into the extensions of each request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    version: Option<TlsVersion>,
    peer_chain: Box<[Bytes]>,
}

impl TlsInfo {
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
impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self.peer_chain.len();
        f.debug_struct("TlsInfo").field("version", &self.version).field("peer_certificates", &certificates).finish()
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
#[cfg(feature = "server")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ConnectionInfo {
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) tls: Option<TlsInfo>,
}

#[cfg(feature = "server")]
impl ConnectionInfo {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address at the other end.
    pub fn remote_address(self, address: SocketAddr) -> Self {
        Self { remote_address: Some(address), ..self }
    }

    /// The connection is TLS.
    pub fn tls(self, tls: TlsInfo) -> Self {
        Self { tls: Some(tls), ..self }
    }
}
