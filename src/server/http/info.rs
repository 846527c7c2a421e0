//! Information about a request in its extensions, which a [`Handshake`](crate::Handshake) reads.

use std::net::SocketAddr;

use http::{Extensions, Uri};
use tokio::time::Instant;

/// The address of a request's client, in the request's extensions.
///
/// The built-in listener inserts it. With another HTTP server, a layer can insert it.
/// [`Handshake::remote_address`](crate::Handshake::remote_address) returns it.
///
/// ```
/// use std::net::SocketAddr;
/// use http::Request;
/// use ocpp_rpc::server::RemoteAddress;
///
/// /// Tells the server the address of a connection that another HTTP server has accepted.
/// fn with_address<B>(mut request: Request<B>, address: SocketAddr) -> Request<B> {
///     request.extensions_mut().insert(RemoteAddress(address));
///     request
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

/// The identity of a request's charging station, in the request's extensions.
///
/// Insert it in a layer if the identity is not the last segment of the path. The layer can read it from the query, a
/// header, or the client's certificate.
///
/// The [endpoint](crate::Handshake::endpoint) is then the whole path. The user name of Basic credentials must be this
/// identity. If the identity is empty or has control characters, the handshake is refused with 404.
///
/// ```
/// use http::Request;
/// use ocpp_rpc::{RpcRouter, RpcServer, server::Identity};
/// use tower::util::MapRequestLayer;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// /// Reads the identity of old stations from a header.
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

/// The start of the handshake timeout, in the extensions of a connection's first request.
///
/// The time before that request counts toward the timeout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandshakeStarted(pub(crate) Instant);

/// The place of a request in the order of arrival, in the extensions of the request.
///
/// It becomes the id of the request's session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival(pub(crate) u64);

/// Returns the URI of the whole request, if an axum router has shortened the path of a nested service.
pub(crate) fn original_uri(_extensions: &Extensions) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    {
        use axum::extract::OriginalUri;
        _extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
    }
    #[cfg(not(feature = "axum"))]
    None
}

/// Returns the address of the client, if `axum::serve` has set it.
pub(crate) fn connect_info(_extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    {
        use axum::extract::ConnectInfo;
        _extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address)
    }
    #[cfg(not(feature = "axum"))]
    None
}

/// Returns the `:protocol` of an extended CONNECT (RFC 8441 §4).
pub(crate) fn connect_protocol(_extensions: &Extensions) -> Option<&str> {
    #[cfg(feature = "http2")]
    {
        _extensions.get().map(hyper::ext::Protocol::as_str)
    }
    #[cfg(not(feature = "http2"))]
    None
}
