//! Serves one HTTP connection, accepted by the built-in listener or by the application.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

#[cfg(not(feature = "http2"))]
use crate::server::http::http1;
#[cfg(feature = "http2")]
use crate::server::http::http2;
use crate::{
    connection::shared::next_session_id,
    info::ConnectionInfo,
    server::{
        handshake::upgrade::IoDowncast,
        http::{
            app::{HttpApp, StationsOnly},
            info::{Arrival, HandshakeStarted, RemoteAddress},
        },
        rpc_server::RpcServer,
    },
};

impl RpcServer {
    /// Serves one connection that the application accepted, over any stream.
    ///
    /// The limits are those of the [listener](crate::server::ListenerBuilder). `info` describes the client.
    ///
    /// Use this for TLS that rustls does not support. The 1.6 security whitepaper names two cipher suites without
    /// forward secrecy: `TLS_RSA_WITH_AES_128_GCM_SHA256` and `TLS_RSA_WITH_AES_256_GCM_SHA384`. Some stations support
    /// no other suite. OpenSSL and most proxies support both.
    ///
    /// The future completes when the HTTP connection ends: after the upgrade, or when the server closes. After an
    /// upgrade, the session is a task of its own. With the feature `http2`, it also serves HTTP/2. The sessions of an
    /// HTTP/2 connection are its streams and end with the future.
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcServer, server::ConnectionInfo, tls::{TlsInfo, TlsVersion}};
    /// # use tokio::net::TcpStream;
    /// # async fn handshake(stream: TcpStream) -> std::io::Result<(TcpStream, Vec<u8>)> { Ok((stream, Vec::new())) }
    ///
    /// # async fn example(server: RpcServer) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = tokio::net::TcpListener::bind("0.0.0.0:9221").await?;
    /// loop {
    ///     let (stream, address) = listener.accept().await?;
    ///     let server = server.clone();
    ///     tokio::spawn(async move {
    ///         // Your own TLS. Set a timeout here.
    ///         let Ok((stream, certificate)) = handshake(stream).await else { return };
    ///         let tls = TlsInfo::new().with_version(TlsVersion::Tls12).with_peer_chain([certificate]);
    ///         server.serve_connection(stream, ConnectionInfo::new().remote_address(address).tls(tls)).await;
    ///     });
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future drops the HTTP connection. A session that began with an upgrade continues.
    pub async fn serve_connection<T>(&self, io: T, info: ConnectionInfo)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.serve_connection_with(io, info, StationsOnly::new(self.clone())).await;
    }

    /// Serves a whole application on one connection that the application accepted.
    ///
    /// Everything else is as in [`serve_connection`](Self::serve_connection).
    ///
    /// # Cancel safety
    /// Dropping the future drops the HTTP connection. A session that began with an upgrade continues.
    pub async fn serve_connection_with<T, H>(&self, io: T, info: ConnectionInfo, app: H)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        H: HttpApp,
    {
        serve(self, io, info, Instant::now(), app, &self.state.closing).await;
    }
}

/// The stream of an upgraded connection, if a `T` is served.
#[cfg(feature = "http2")]
type ServedIo<T> = crate::server::http::preface::Rewind<T>;
#[cfg(not(feature = "http2"))]
type ServedIo<T> = T;

/// The protocols that TLS offers by ALPN, the preferred one first (RFC 7301).
#[cfg(feature = "tls")]
pub(crate) const ALPN: &[&str] = if cfg!(feature = "http2") { &["h2", "http/1.1"] } else { &["http/1.1"] };

/// Serves a connection. Its handshake timeout runs from `started_at`. Shuts down when `stop` is cancelled.
pub(crate) async fn serve<T, H>(
    server: &RpcServer,
    io: T,
    info: ConnectionInfo,
    started_at: Instant,
    application: H,
    stop: &CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: HttpApp,
{
    let state = &server.state;
    let remote_address = info.remote_address;
    let is_first_request = Arc::new(AtomicBool::new(true));
    let is_unused = is_first_request.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        let extensions = &mut parts.extensions;
        extensions.insert(IoDowncast::of::<ServedIo<T>>());
        extensions.insert(Arrival(next_session_id()));
        if let Some(address) = info.remote_address {
            extensions.insert(RemoteAddress(address));
        }
        if let Some(tls) = &info.tls {
            extensions.insert(tls.clone());
        }
        if is_first_request.swap(false, Ordering::Relaxed) {
            extensions.insert(HandshakeStarted(started_at));
        }
        if let Some(proxies) = &state.proxies {
            proxies.apply(&parts.headers, extensions);
        }
        application.clone().oneshot(Request::from_parts(parts, body))
    });
    #[cfg(feature = "http2")]
    let served = http2::serve(&state.http, &state.tasks, &state.abort, io, started_at, service, stop).await;
    #[cfg(not(feature = "http2"))]
    let served = http1::serve(&state.http, io, started_at, service, stop).await;
    if let Err(error) = served {
        if is_unused.load(Ordering::Relaxed) {
            // Without a request, no response can report the refusal.
            state.emit_refused(None, remote_address, None, &format!("no request received: {error}"));
        } else {
            tracing::debug!(?remote_address, %error, "HTTP connection failed");
        }
    }
}
