//! Serves one HTTP connection, accepted by the built-in listener or by the application.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, StatusCode, Version, request::Parts};
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

#[cfg(not(feature = "http2"))]
use crate::server::http::http1;
#[cfg(feature = "http2")]
use crate::server::http::http2;
use crate::{
    connection::shared::next_session_id,
    header_case::header_case,
    info::ConnectionInfo,
    io::Io,
    server::{
        handshake::{
            request::lacks_single_host,
            upgrade::{IoDowncast, downcast_io, is_websocket_request},
        },
        http::{
            activity::Activity,
            app::{HttpApp, StationsOnly},
            body::{RequestBody, ResponseBody},
            info::{Arrival, HandshakeStarted, RemoteAddress},
            settings::HttpSettings,
            tracked::Tracked,
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
    /// The future completes when the HTTP connection ends: after the upgrade, or when the server
    /// [closes](Self::close) and the responses in flight are complete. After an upgrade, the session is a task of its own.
    /// With the feature `http2`, it also serves HTTP/2. The sessions of an HTTP/2 connection are its streams and end with
    /// the future.
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
    ///
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
    ///
    /// Dropping the future drops the HTTP connection. A session that began with an upgrade continues.
    pub async fn serve_connection_with<T, H>(&self, io: T, info: ConnectionInfo, app: H)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        H: HttpApp,
    {
        let activity = Activity::new(&self.state.http, Instant::now());
        serve(self, io, info, &activity, app, &self.state.closing, &TaskTracker::new()).await;
    }
}

/// Returns the downcast of a connection that serves a `T`. A session needs none of the layers above it.
fn io_downcast<T: Io>() -> IoDowncast {
    #[cfg(feature = "http2")]
    let downcast = |upgraded| {
        let (io, read_buf) = downcast_io::<Tracked<crate::server::http::preface::Rewind<T>>>(upgraded)?;
        Ok((io.into_inner().into_io(), read_buf))
    };
    #[cfg(not(feature = "http2"))]
    let downcast = |upgraded| {
        let (io, read_buf) = downcast_io::<Tracked<T>>(upgraded)?;
        let io: Box<dyn Io> = Box::new(io.into_inner());
        Ok((io, read_buf))
    };
    IoDowncast::new(downcast)
}

/// The protocols that TLS offers by ALPN, the preferred one first (RFC 7301).
#[cfg(feature = "tls")]
pub(crate) const ALPN: &[&str] = if cfg!(feature = "http2") { &["h2", "http/1.1"] } else { &["http/1.1"] };

/// Serves a connection until it ends or has waited for its client for too long. Shuts down when `stop` is cancelled.
///
/// Requests of HTTP/2 are tasks of their own, which end with the connection. `tasks` tracks them.
#[cfg_attr(not(feature = "http2"), expect(unused_variables, reason = "requests of HTTP/1.1 are no tasks"))]
pub(crate) async fn serve<T, H>(
    server: &RpcServer,
    io: T,
    info: ConnectionInfo,
    activity: &Arc<Activity>,
    application: H,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) where
    T: Io,
    H: HttpApp,
{
    let state = &server.state;
    let _connection = state.connections.token();
    let remote_address = info.remote_address;
    let tracked = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        let extensions = &mut parts.extensions;
        extensions.insert(io_downcast::<T>());
        extensions.insert(Arrival(next_session_id()));
        if let Some(address) = info.remote_address {
            extensions.insert(RemoteAddress(address));
        }
        if let Some(tls) = &info.tls {
            extensions.insert(tls.clone());
        }
        if tracked.note_request() {
            extensions.insert(HandshakeStarted(tracked.started_at()));
        }
        if let Some(proxies) = &state.proxies {
            proxies.apply(&parts.headers, extensions);
        }
        let exchange = tracked.begin(parts.version);
        let response = match refusal(&state.http, &parts) {
            Some(status) => Err(status),
            None => {
                let body = RequestBody::new(body, exchange.clone());
                Ok(application.clone().oneshot(Request::from_parts(parts, body)))
            }
        };
        async move {
            let response = match response {
                Ok(response) => response.await?.map(Some),
                Err(status) => {
                    let mut response = Response::new(None);
                    *response.extensions_mut() = header_case();
                    *response.status_mut() = status;
                    response
                }
            };
            Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, exchange)))
        }
    });
    #[cfg(feature = "http2")]
    let served = {
        let (requests, upgraded, abort) = (tasks.clone(), state.tasks.clone(), state.abort.clone());
        let tasks = http2::StreamTasks { requests, upgraded, abort };
        http2::serve(&state.http, tasks, io, activity, service, stop, &state.abort_connections).await
    };
    #[cfg(not(feature = "http2"))]
    let served = http1::serve(&state.http, io, activity, service, stop, &state.abort_connections).await;
    if let Err(error) = served {
        if activity.has_request() {
            tracing::debug!(?remote_address, %error, "HTTP connection failed");
        } else {
            // Without a request, no response can report the refusal.
            state.emit_refused(None, remote_address, None, &format!("no request received: {error}"), || None);
        }
    }
}

/// Returns the status of a request that does not reach the application.
fn refusal(settings: &HttpSettings, parts: &Parts) -> Option<StatusCode> {
    // hyper limits only the size of the headers over HTTP/2.
    if parts.version == Version::HTTP_2 && parts.headers.len() > settings.max_headers {
        return Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    // A handshake is refused by the server, with a reason and an event.
    let is_handshake = || is_websocket_request(&parts.headers, &parts.extensions);
    (lacks_single_host(parts) && !is_handshake()).then_some(StatusCode::BAD_REQUEST)
}
