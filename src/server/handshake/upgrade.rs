//! From a request to a stream: what was read of the handshake, and the socket that hyper hands over.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use headers::{HeaderMapExt, SecWebsocketAccept};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use tokio::net::TcpStream;

use crate::{
    handshake::wants_upgrade,
    io::Io,
    message::tolerance::Deviations,
    server::{
        handshake::{
            auth::{Handshake, HandshakeRequest, Reject},
            request::{self, Refusal},
        },
        http::info::{self, Identity, RemoteAddress},
    },
};

/// A WebSocket handshake that somebody else has still to decide about: give it to
/// [`RpcServer::accept`](super::RpcServer::accept), or answer the request in another way.
///
/// An axum extractor; for any other stack it is made from a request by `TryFrom`. A request that it cannot be made
/// from is answered with an [`UpgradeError`]. That is no event of any server, unless the handler takes
/// `Result<RpcUpgrade, UpgradeError>` and gives the error to [`RpcServer::refuse`](super::RpcServer::refuse).
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
    kind: UpgradeKind,
    on_upgrade: OnUpgrade,
}

impl RpcUpgrade {
    pub(crate) fn from_parts(parts: Parts, on_upgrade: Option<OnUpgrade>) -> Result<Self, UpgradeError> {
        const NO_UPGRADE: Refusal =
            Refusal { status: StatusCode::BAD_REQUEST, reason: "the connection cannot be upgraded" };
        let known = parts.extensions.get().map(|&RemoteAddress(address)| address);
        let remote_address = known.or_else(|| info::connect_info(&parts.extensions));
        let fail = |refusal| UpgradeError { refusal, remote_address };
        let kind = match info::connect_protocol(&parts.extensions) {
            Some(protocol) => request::check_http2(&parts, protocol).map(|()| UpgradeKind::Http2),
            None => request::check_http1(&parts).map(UpgradeKind::Http1),
        }
        .map_err(fail)?;
        let on_upgrade = on_upgrade.ok_or(fail(NO_UPGRADE))?;
        let path = info::original_uri(&parts.extensions).unwrap_or(&parts.uri).path();
        let mut deviations = Deviations::default();
        let (endpoint, identity) = match parts.extensions.get() {
            Some(Identity(identity)) => request::check_identity(identity).map(|()| (path, identity.clone())),
            None => {
                request::note_extra_slashes(path, &mut deviations);
                request::split_identity(path)
            }
        }
        .map_err(fail)?;
        let (endpoint, identity) = (endpoint.trim_end_matches('/').to_owned(), identity.into());
        let protocols = request::offered_protocols(&parts.headers, &mut deviations).map_err(fail)?;
        let handshake = Handshake::new(HandshakeRequest { parts, identity, endpoint, protocols }, remote_address);
        Ok(Self { handshake, deviations, kind, on_upgrade })
    }

    /// What the request says.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Whether the socket will be a stream of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.kind, UpgradeKind::Http2)
    }

    /// The status of the response that says yes.
    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            UpgradeKind::Http1(_) => StatusCode::SWITCHING_PROTOCOLS,
            UpgradeKind::Http2 => StatusCode::OK,
        }
    }

    /// Sets the headers of that response (RFC 6455 §4.2.2), but for the protocol.
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

/// How the socket comes to be.
enum UpgradeKind {
    /// The connection is upgraded; this proves that the key was understood.
    Http1(SecWebsocketAccept),
    /// A stream of HTTP/2 is connected (RFC 8441).
    Http2,
}

/// Whether a request asks for a WebSocket, or for something like it.
pub(crate) fn is_websocket_request(headers: &HeaderMap, extensions: &Extensions) -> bool {
    wants_upgrade(headers) || info::connect_protocol(extensions).is_some()
}

/// Reads the handshake out of a request of any body.
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

/// A request that is no handshake of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeError {
    refusal: Refusal,
    remote_address: Option<SocketAddr>,
}

impl UpgradeError {
    /// The HTTP status that says so.
    pub fn status(&self) -> StatusCode {
        self.refusal.status
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.refusal.reason
    }

    pub(crate) fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_address
    }

    /// The response that says so, with the reason as its body.
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

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refusal.reason)
    }
}

impl std::error::Error for UpgradeError {}

/// The stream below an upgraded connection, and what was read of it already.
///
/// It is taken out of hyper's wrappers where its type is known, whichever of hyper's two servers made them: an idle
/// connection then keeps nothing of them in memory.
pub(crate) fn into_io(upgraded: Upgraded, io_downcast: IoDowncast) -> UpgradedIo {
    let IoDowncast(downcast_io) = io_downcast;
    downcast_io(upgraded).unwrap_or_else(|upgraded| (Box::new(TokioIo::new(upgraded)), Bytes::new()))
}

/// Takes the stream out of an upgraded connection, if it is of the type that it is thought to be: in the extensions of
/// a request, from whoever serves the connection.
#[derive(Clone, Copy)]
pub(crate) struct IoDowncast(fn(Upgraded) -> Result<UpgradedIo, Upgraded>);

type UpgradedIo = (Box<dyn Io>, Bytes);

impl IoDowncast {
    pub(crate) fn of<T: Io>() -> Self {
        Self(|upgraded| {
            let (io, read_buf) = downcast_io::<T>(upgraded)?;
            Ok((Box::new(io), read_buf))
        })
    }
}

/// What other people's listeners accept, most likely.
impl Default for IoDowncast {
    fn default() -> Self {
        Self::of::<TcpStream>()
    }
}

fn downcast_io<T: Io>(upgraded: Upgraded) -> Result<(T, Bytes), Upgraded> {
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

    #[tokio::test]
    async fn a_tcp_socket_is_taken_out_of_both_of_hypers_servers() {
        for auto_server in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a socket");
            let (tell, mut told) = mpsc::unbounded_channel();
            let service = service_fn(move |request: Request<Incoming>| {
                let tell = tell.clone();
                tokio::spawn(async move {
                    tell.send(downcast_io::<TcpStream>(hyper::upgrade::on(request).await.expect("upgraded")))
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
            let (mut socket, read_buf) = told.recv().await.expect("an upgrade").expect("the very socket");
            assert_eq!(&read_buf[..], b"early");
            socket.write_all(b"!").await.expect("open");
            let mut head = Vec::new();
            while !head.ends_with(b"!") {
                head.push(client.read_u8().await.expect("open"));
            }
        }
    }

    #[tokio::test]
    async fn any_stream_that_is_served_is_taken_out_again() {
        let server = crate::RpcServer::builder(crate::RpcRouter::new()).build().expect("sound");
        let (mut client, io) = tokio::io::duplex(4096);
        let (tell, mut told) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |mut request: Request<Incoming>| {
            let io_downcast = request.extensions_mut().remove::<IoDowncast>().expect("whoever serves knows");
            let tell = tell.clone();
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.expect("upgraded");
                tell.send((io_downcast.0)(upgraded).map(|(_, read_buf)| read_buf)).expect("a test");
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
        let read_buf = told.recv().await.expect("an upgrade").expect("the very stream");
        assert_eq!(&read_buf[..], b"early");
    }
}
