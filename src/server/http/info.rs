//! What is known of a request besides its bytes: who knows it puts it into the request's extensions, and a
//! [`Handshake`](super::Handshake) finds it there.

use std::net::SocketAddr;

use http::{Extensions, Uri};
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
/// use ocpp_rpc::{RpcRouter, RpcServer, server::Identity};
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

/// When a client's time for its handshake began: in the extensions of a connection's first request, because what came
/// before it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandshakeStarted(pub(crate) Instant);

/// The URI of the whole request, where axum has cut the path of a nested one.
pub(crate) fn original_uri(_extensions: &Extensions) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    {
        use axum::extract::OriginalUri;
        _extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
    }
    #[cfg(not(feature = "axum"))]
    None
}

/// The address at the other end, where `axum::serve` knows it.
pub(crate) fn connect_info(_extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    {
        use axum::extract::ConnectInfo;
        _extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address)
    }
    #[cfg(not(feature = "axum"))]
    None
}

/// The protocol that a CONNECT asks for (RFC 8441 §4).
pub(crate) fn connect_protocol(_extensions: &Extensions) -> Option<&str> {
    #[cfg(feature = "http2")]
    {
        _extensions.get().map(hyper::ext::Protocol::as_str)
    }
    #[cfg(not(feature = "http2"))]
    None
}
