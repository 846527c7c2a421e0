//! One HTTP connection of the built-in listener, or of whoever accepts connections himself, and its limits.

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
    info::ConnectionInfo,
    server::{
        handshake::upgrade::IoDowncast,
        http::{
            app::{HttpApp, StationsOnly},
            info::{HandshakeStarted, RemoteAddress},
        },
        rpc_server::RpcServer,
    },
};

impl RpcServer {
    /// Serves one connection that was accepted elsewhere, over any stream: HTTP/1.1 up to the upgrade, with the limits
    /// of the [listener](super::ListenerBuilder). What is known of the client is said here.
    ///
    /// This is the way to TLS that rustls does not speak. The security whitepaper of 1.6 names two cipher suites
    /// without forward secrecy, `TLS_RSA_WITH_AES_128_GCM_SHA256` and `TLS_RSA_WITH_AES_256_GCM_SHA384`, and some
    /// stations know no other: OpenSSL does, and so do most proxies.
    ///
    /// The future ends with the HTTP connection, be it by an upgrade, after which the session is a task of its own, or
    /// because the server closes. With the feature `http2` it speaks HTTP/2 as well, which is not upgraded: sessions
    /// that are streams of a connection last no longer than the future.
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
    ///         // A TLS of your own; mind a deadline.
    ///         let Ok((stream, certificate)) = handshake(stream).await else { return };
    ///         let tls = TlsInfo::new().with_version(TlsVersion::Tls12).with_peer_chain([certificate]);
    ///         server.serve_connection(stream, ConnectionInfo::new().remote_address(address).tls(tls)).await;
    ///     });
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future drops the HTTP connection; a session that has come of an upgrade lives on.
    pub async fn serve_connection<T>(&self, io: T, info: ConnectionInfo)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.serve_connection_with(io, info, StationsOnly::new(self.clone())).await;
    }

    /// Serves a whole application on one connection that was accepted elsewhere.
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

/// The stream that an upgraded connection has, in place of the `T` that was served.
#[cfg(feature = "http2")]
type ServedIo<T> = crate::server::http::preface::Rewind<T>;
#[cfg(not(feature = "http2"))]
type ServedIo<T> = T;

/// The protocols that TLS offers, the preferred one first (RFC 7301).
#[cfg(feature = "tls")]
pub(crate) const ALPN: &[&str] = if cfg!(feature = "http2") { &["h2", "http/1.1"] } else { &["http/1.1"] };

/// Serves a connection whose client's time began at `began`, and lets it end when `stop` fires.
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
        match is_unused.load(Ordering::Relaxed) {
            // It never came to a request that the server could have refused.
            true => state.emit_refused(None, remote_address, None, &format!("no request came in: {error}")),
            false => tracing::debug!(?remote_address, %error, "an HTTP connection failed"),
        }
    }
}
