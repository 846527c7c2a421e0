//! Reads a handshake from a request, and takes the stream out of the upgraded connection.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use headers::{HeaderMapExt, SecWebsocketAccept};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use tokio::net::TcpStream;

use crate::{
    connection::shared::next_session_id,
    event::refused::RefusedRequest,
    handshake::has_websocket_upgrade,
    info::TlsInfo,
    io::Io,
    message::tolerance::Deviations,
    server::{
        handshake::{
            auth::{Handshake, HandshakeRequest, Reject},
            request::{self, Refusal},
        },
        http::{
            info::{self, Arrival, Identity, RemoteAddress},
            proxies::TrustedProxies,
        },
    },
};

/// A valid WebSocket handshake that is neither accepted nor refused yet.
///
/// To open a session, pass it to [`RpcServer::accept`](crate::RpcServer::accept). To refuse the client, return another
/// response. The server does not see that one, and emits no event.
///
/// It is an axum extractor. For other HTTP servers, `TryFrom` creates it from a request.
///
/// If the request is not a valid handshake, the extractor responds with an [`UpgradeError`] and emits no event. For an
/// event, take `Result<RpcUpgrade, UpgradeError>` and pass the error to
/// [`RpcServer::refuse`](crate::RpcServer::refuse).
///
/// ```
/// use axum::{extract::State, http::StatusCode, response::{IntoResponse, Response}};
/// use ocpp_rpc::{Accept, RpcServer, RpcUpgrade};
///
/// async fn connect(upgrade: RpcUpgrade, State(server): State<RpcServer>) -> Response {
///     if upgrade.handshake().identity().starts_with("test-") {
///         return StatusCode::FORBIDDEN.into_response();
///     }
///     server.accept(upgrade, Accept::new())
/// }
/// # let _: axum::Router<RpcServer> = axum::Router::new().route("/ocpp/{*identity}", axum::routing::any(connect));
/// ```
pub struct RpcUpgrade {
    pub(crate) handshake: Handshake,
    pub(crate) deviations: Deviations,
    /// The id of the session, taken when the request arrived.
    pub(crate) session_id: u64,
    kind: UpgradeKind,
    on_upgrade: OnUpgrade,
}

impl RpcUpgrade {
    /// Reads the handshake from the head of a request.
    pub(crate) fn from_parts(parts: Parts, on_upgrade: Option<OnUpgrade>) -> Result<Self, UpgradeError> {
        let session_id = parts.extensions.get().map_or_else(next_session_id, |&Arrival(id)| id);
        let known = parts.extensions.get().map(|&RemoteAddress(address)| address);
        let remote_address = known.or_else(|| info::connect_info(&parts.extensions));
        let (on_upgrade, head) = match Head::read(&parts, on_upgrade) {
            Ok(read) => read,
            Err(refusal) => {
                let path = whole_path(&parts).to_owned();
                let (tls, headers) = (parts.extensions.get().cloned(), parts.headers);
                return Err(UpgradeError {
                    refusal,
                    remote_address,
                    request: Box::new(InvalidRequest { path, headers, tls }),
                });
            }
        };
        let Head { kind, deviations, path, endpoint_len, identity, protocols } = head;
        let handshake =
            Handshake::new(HandshakeRequest { parts, identity, path, endpoint_len, protocols }, remote_address);
        Ok(Self { handshake, deviations, session_id, kind, on_upgrade })
    }

    /// Returns the handshake.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Returns `true` if the WebSocket will be a stream of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.kind, UpgradeKind::Http2)
    }

    /// Returns the status of the response that accepts the handshake.
    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            UpgradeKind::Http1(_) => StatusCode::SWITCHING_PROTOCOLS,
            UpgradeKind::Http2 => StatusCode::OK,
        }
    }

    /// Sets the headers of that response, except the protocol (RFC 6455 §4.2.2).
    pub(crate) fn write_headers(&self, headers: &mut HeaderMap) {
        if let UpgradeKind::Http1(accept) = &self.kind {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.typed_insert(accept.clone());
        }
    }

    pub(crate) fn into_on_upgrade(self) -> OnUpgrade {
        self.on_upgrade
    }
}

/// The kind of upgrade, which depends on the HTTP version.
enum UpgradeKind {
    /// An upgraded HTTP/1.1 connection, with the response to the client's key.
    Http1(SecWebsocketAccept),
    /// A stream of HTTP/2, opened by CONNECT (RFC 8441).
    Http2,
}

/// The parts of a valid handshake.
struct Head {
    kind: UpgradeKind,
    deviations: Deviations,
    path: String,
    endpoint_len: usize,
    identity: Arc<str>,
    protocols: Vec<String>,
}

impl Head {
    fn read(parts: &Parts, on_upgrade: Option<OnUpgrade>) -> Result<(OnUpgrade, Self), Refusal> {
        const NO_UPGRADE: Refusal =
            Refusal { status: StatusCode::BAD_REQUEST, reason: "the connection cannot be upgraded" };
        let mut deviations = Deviations::default();
        let kind = match info::connect_protocol(&parts.extensions) {
            Some(protocol) => request::check_http2(parts, protocol).map(|()| UpgradeKind::Http2)?,
            None => request::check_http1(parts, &mut deviations).map(UpgradeKind::Http1)?,
        };
        let on_upgrade = on_upgrade.ok_or(NO_UPGRADE)?;
        let path = whole_path(parts);
        let (before, identity) = match parts.extensions.get() {
            Some(Identity(identity)) => {
                request::check_identity(identity)?;
                (path, identity.clone())
            }
            None => {
                request::note_extra_slashes(path, &mut deviations);
                request::split_identity(path)?
            }
        };
        let endpoint_len = before.trim_end_matches('/').len();
        let protocols = request::offered_protocols(&parts.headers, &mut deviations)?;
        let (path, identity) = (path.to_owned(), identity.into());
        Ok((on_upgrade, Self { kind, deviations, path, endpoint_len, identity, protocols }))
    }
}

/// Returns the path of the whole request, even if the server is nested in a router.
fn whole_path(parts: &Parts) -> &str {
    info::original_uri(&parts.extensions).unwrap_or(&parts.uri).path()
}

/// Returns `true` if a request asks for a WebSocket, or for another protocol by CONNECT.
pub(crate) fn is_websocket_request(headers: &HeaderMap, extensions: &Extensions) -> bool {
    has_websocket_upgrade(headers) || info::connect_protocol(extensions).is_some()
}

/// Reads the handshake from a request with any body type.
impl<B> TryFrom<Request<B>> for RpcUpgrade {
    type Error = UpgradeError;

    fn try_from(request: Request<B>) -> Result<Self, UpgradeError> {
        let (mut parts, _) = request.into_parts();
        let on_upgrade = parts.extensions.remove();
        Self::from_parts(parts, on_upgrade)
    }
}

impl fmt::Debug for RpcUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcUpgrade").field("handshake", &self.handshake).finish_non_exhaustive()
    }
}

/// The error of a request that is not a valid WebSocket handshake.
///
/// ```
/// use axum::response::Response;
/// use ocpp_rpc::{Accept, RpcServer, RpcUpgrade, server::UpgradeError};
///
/// /// Emits an event about each request that is no handshake.
/// fn connect(server: &RpcServer, upgrade: Result<RpcUpgrade, UpgradeError>) -> Response {
///     match upgrade {
///         Ok(upgrade) => server.accept(upgrade, Accept::new()),
///         Err(error) => server.refuse(error),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .refusal.reason)]
pub struct UpgradeError {
    refusal: Refusal,
    remote_address: Option<SocketAddr>,
    request: Box<InvalidRequest>,
}

/// The parts of an invalid handshake that its event may need.
#[derive(Clone, PartialEq, Eq)]
struct InvalidRequest {
    path: String,
    headers: HeaderMap,
    tls: Option<TlsInfo>,
}

/// Shows the path alone, because headers may contain credentials.
impl fmt::Debug for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidRequest").field("path", &self.path).finish_non_exhaustive()
    }
}

impl UpgradeError {
    /// Returns the HTTP status of the response.
    pub fn status(&self) -> StatusCode {
        self.refusal.status
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.refusal.reason
    }

    pub(crate) fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_address
    }

    /// Replaces the address and TLS of a trusted proxy by those of its client.
    pub(crate) fn apply_proxies(&mut self, proxies: &TrustedProxies) {
        let InvalidRequest { headers, tls, .. } = &mut *self.request;
        (self.remote_address, *tls) = proxies.client(headers, self.remote_address, tls.take());
    }

    /// Returns the request as its event shows it.
    pub(crate) fn request(&self) -> RefusedRequest {
        let InvalidRequest { path, headers, tls } = &*self.request;
        RefusedRequest::new(path, headers, tls.as_ref())
    }

    /// Returns the response, with the reason as its body.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let reject = Reject::new(self.refusal.status).body(self.refusal.reason);
        let reject = match self.refusal.status {
            StatusCode::UPGRADE_REQUIRED => reject
                .header(header::UPGRADE, HeaderValue::from_static("websocket"))
                .header(header::CONNECTION, HeaderValue::from_static("Upgrade"))
                .header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            _ if self.refusal == request::UNSUPPORTED_VERSION => {
                reject.header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            }
            _ => reject,
        };
        reject.into_response()
    }
}

/// Returns the stream of an upgraded connection, and the bytes that were already read from it.
///
/// If `io_downcast` knows the stream's type, the stream is taken out of hyper's wrappers. An idle connection then keeps
/// no memory for them. Works with both of hyper's servers.
pub(crate) fn into_io(upgraded: Upgraded, io_downcast: IoDowncast) -> UpgradedIo {
    let IoDowncast(downcast_io) = io_downcast;
    downcast_io(upgraded).unwrap_or_else(|upgraded| (Box::new(TokioIo::new(upgraded)), Bytes::new()))
}

/// Takes the stream out of an upgraded connection, if the stream is of the expected type.
///
/// The code that serves a connection inserts this into the extensions of its requests.
#[derive(Clone, Copy)]
pub(crate) struct IoDowncast(fn(Upgraded) -> Result<UpgradedIo, Upgraded>);

pub(crate) type UpgradedIo = (Box<dyn Io>, Bytes);

impl IoDowncast {
    pub(crate) fn of<T: Io>() -> Self {
        Self(|upgraded| {
            let (io, read_buf) = downcast_io::<T>(upgraded)?;
            Ok((Box::new(io), read_buf))
        })
    }

    /// Creates a downcast to another stream, which is inside of the one that is served.
    pub(crate) fn new(downcast: fn(Upgraded) -> Result<UpgradedIo, Upgraded>) -> Self {
        Self(downcast)
    }
}

/// Expects a `TcpStream`, which most other listeners accept.
impl Default for IoDowncast {
    fn default() -> Self {
        Self::of::<TcpStream>()
    }
}

pub(crate) fn downcast_io<T: Io>(upgraded: Upgraded) -> Result<(T, Bytes), Upgraded> {
    let upgraded = match downcast::<TokioIo<T>>(upgraded) {
        Ok(parts) => return Ok((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = upgraded.downcast::<TokioIo<T>>()?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Empty;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::{rt::TokioExecutor, server::conn::auto};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::server::http::body::RequestBody;

    #[tokio::test]
    async fn tcp_socket_is_taken_out_of_both_servers_of_hyper() {
        for auto_server in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a socket");
            let (tx, mut rx) = mpsc::unbounded_channel();
            let service = service_fn(move |request: Request<Incoming>| {
                let tx = tx.clone();
                tokio::spawn(async move {
                    tx.send(downcast_io::<TcpStream>(hyper::upgrade::on(request).await.expect("upgraded")))
                });
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                async { Ok::<_, Infallible>(response) }
            });
            let io = TokioIo::new(listener.accept().await.expect("a client").0);
            tokio::spawn(async move {
                if auto_server {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection_with_upgrades(io, service).await;
                } else {
                    let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
                }
            });
            let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
            client.write_all(request).await.expect("open");
            let (mut socket, read_buf) = rx.recv().await.expect("an upgrade").expect("the very socket");
            assert_eq!(&read_buf[..], b"early");
            socket.write_all(b"!").await.expect("open");
            let mut head = Vec::new();
            while !head.ends_with(b"!") {
                head.push(client.read_u8().await.expect("open"));
            }
        }
    }

    #[tokio::test]
    async fn served_stream_is_taken_out_again() {
        let server = crate::RpcServer::builder(crate::RpcRouter::new()).build().expect("sound");
        let (mut client, io) = tokio::io::duplex(4096);
        let (tx, mut rx) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |mut request: Request<RequestBody>| {
            let io_downcast = request.extensions_mut().remove::<IoDowncast>().expect("inserted by the server");
            let tx = tx.clone();
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.expect("upgraded");
                tx.send((io_downcast.0)(upgraded).map(|(_, read_buf)| read_buf)).expect("a test");
            });
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            async { Ok::<_, Infallible>(response) }
        });
        let serving = server.serve_connection_with(io, crate::info::ConnectionInfo::new(), service);
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
        let asking = async { client.write_all(request).await.expect("open") };
        tokio::join!(serving, asking);
        let read_buf = rx.recv().await.expect("an upgrade").expect("the very stream");
        assert_eq!(&read_buf[..], b"early");
    }
}
