//! Information about a connection from the layers below HTTP.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{der, unix_time};

/// Information about the TLS of a connection: its version, and the client's certificates.
///
/// The built-in listener sets it if it uses TLS. Behind a [proxy](crate::server::TrustedProxies), it contains the
/// values that the proxy sends.
///
/// If you terminate TLS in another way, for example with OpenSSL, pass it in a [`ConnectionInfo`]. With another HTTP
/// server, insert it into the extensions of each request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    version: Option<TlsVersion>,
    peer_chain: Box<[Bytes]>,
}

impl TlsInfo {
    /// Creates information without a version and without client certificates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the negotiated version.
    #[must_use]
    pub fn with_version(self, version: TlsVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Sets the client's certificates in DER: its own first, then the chain to an authority.
    ///
    /// The caller must have verified them.
    #[must_use]
    pub fn with_peer_chain<C: Into<Bytes>>(self, chain: impl IntoIterator<Item = C>) -> Self {
        Self { peer_chain: chain.into_iter().map(Into::into).collect(), ..self }
    }

    /// Returns the negotiated version. `None` if unknown.
    pub fn version(&self) -> Option<TlsVersion> {
        self.version
    }

    /// Returns the client's certificates in DER, its own first. Empty if the client sent none.
    ///
    /// In OCPP, the common name of a station's certificate is its serial number. This is not always its identity (1.6
    /// security whitepaper §2.6, 2.0.1 part 2 A00).
    pub fn peer_chain(&self) -> &[Bytes] {
        &self.peer_chain
    }

    /// Returns the common name of the subject of the client's certificate, the last one if there are several.
    ///
    /// Returns `None` if there is no certificate or no common name. Each call reads the certificate again.
    ///
    /// In OCPP, this is the serial number of the station.
    ///
    /// ```
    /// use ocpp_rpc::{Accept, Handshake, Reject};
    ///
    /// /// Accepts stations whose certificate is for their identity.
    /// async fn authenticate(handshake: Handshake) -> Result<Accept, Reject> {
    ///     match handshake.tls().and_then(|tls| tls.common_name()) {
    ///         Some(name) if name == handshake.identity() => Ok(Accept::new()),
    ///         _ => Err(Reject::unauthorized()),
    ///     }
    /// }
    /// ```
    pub fn common_name(&self) -> Option<String> {
        der::common_name(self.peer_chain.first()?)
    }

    /// Returns the serial number of the client's certificate: hexadecimal digits in upper case without leading zeros.
    ///
    /// Returns `None` if there is no certificate. Lists of revoked certificates contain this number. OCPP 2.x uses the
    /// same form in `CertificateHashDataType`.
    pub fn serial_number(&self) -> Option<String> {
        der::serial_number(self.peer_chain.first()?)
    }
}

/// Writes only the number of certificates, because they are long.
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

/// Information about a connection that the application accepted.
///
/// [`RpcServer::serve_connection`](crate::RpcServer::serve_connection) takes it.
///
/// ```
/// use ocpp_rpc::{server::ConnectionInfo, tls::{TlsInfo, TlsVersion}};
///
/// let info = ConnectionInfo::new()
///     .remote_address(([192, 0, 2, 1], 40_000).into())
///     .tls(TlsInfo::new().with_version(TlsVersion::Tls13));
/// ```
#[cfg(feature = "server")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ConnectionInfo {
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) tls: Option<TlsInfo>,
}

#[cfg(feature = "server")]
impl ConnectionInfo {
    /// Creates empty information.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the address of the client.
    pub fn remote_address(self, address: SocketAddr) -> Self {
        Self { remote_address: Some(address), ..self }
    }

    /// Sets information about TLS. Without it, the connection counts as not encrypted.
    pub fn tls(self, tls: TlsInfo) -> Self {
        Self { tls: Some(tls), ..self }
    }
}

/// Information on a connected station, returned by [`Station::info`](crate::Station::info) and
/// [`RpcServer::stations`](crate::RpcServer::stations).
///
/// It serializes to a JSON object with the fields as named here. Times are milliseconds since the Unix epoch, and `ping`
/// is a number of seconds. In a cluster, nodes of an older release leave the last four fields out: they are then `None`
/// and 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StationInfo {
    /// The key of the station: its identity, unless [`Accept::key`](crate::Accept::key) set another.
    pub key: String,
    /// The identity of the station.
    pub identity: String,
    /// The name of the node that the station is connected to. `None` without a cluster.
    pub node: Option<String>,
    /// The subprotocol of the connection.
    pub protocol: Option<String>,
    /// The address of the station, if known.
    pub remote_address: Option<SocketAddr>,
    /// The time at which the station connected.
    #[serde(with = "unix_time")]
    pub connected_at: SystemTime,
    /// The time of the latest input from the station.
    #[serde(with = "unix_time")]
    pub last_seen_at: SystemTime,
    /// The round-trip time of the latest ping that the station has answered. `None` before the first pong.
    #[serde(default, with = "seconds")]
    pub ping: Option<Duration>,
    /// The number of calls to the station that are not written yet.
    #[serde(default)]
    pub queued: usize,
    /// The number of calls to the station that are written and wait for their response.
    #[serde(default)]
    pub in_flight: usize,
    /// The number of errors of the session, see [`Session::errors`](crate::Session::errors).
    #[serde(default)]
    pub errors: u64,
}

/// A duration as a number of seconds, or `null`.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
    }
}
