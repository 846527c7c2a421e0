//! Accepts connections from a listening socket, and serves each in a task of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::intent::Close,
    info::{ConnectionInfo, TlsInfo},
    io::Io,
    server::{
        http::{app::HttpApp, connection},
        rpc_server::{CloseReport, RpcServer},
    },
};

/// The pause after the system refuses to accept a connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The drain time that [`Listener::run_until`] gives calls in flight.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The transport of a listener, which turns accepted sockets into streams.
pub(crate) trait Transport: Clone + Send + Sync + 'static {
    type Stream: Io;

    /// Turns a socket into a stream. Returns information about TLS if the stream uses it.
    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<(Self::Stream, Option<TlsInfo>)>> + Send;
}

/// Plain TCP.
#[derive(Clone)]
pub(crate) struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;

    async fn accept(&self, socket: TcpStream) -> io::Result<(TcpStream, Option<TlsInfo>)> {
        Ok((socket, None))
    }
}

/// A running listener.
///
/// [`RpcServer::listen`] and [`ListenerBuilder::serve`](crate::server::ListenerBuilder::serve) start it. Dropping it
/// closes the port, and sessions continue.
#[derive(Debug)]
#[must_use = "dropping a listener closes it"]
pub struct Listener {
    server: RpcServer,
    local_addr: SocketAddr,
    stop: CancellationToken,
    /// Cancelled when a close exceeds its timeout.
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Listener {
    /// Starts to accept connections from the socket.
    pub(crate) fn start<T: Transport, H: HttpApp>(
        server: RpcServer,
        socket: TcpListener,
        transport: T,
        app: H,
    ) -> io::Result<Self> {
        let local_addr = socket.local_addr()?;
        // A server that closes also stops its listeners.
        let stop = server.state.closing.child_token();
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let serve = {
            let (server, stop, abort) = (server.clone(), stop.clone(), abort.clone());
            move |stream: TcpStream, remote, permit| {
                let (server, stop) = (server.clone(), stop.clone());
                let (transport, app) = (transport.clone(), app.clone());
                let serving = async move {
                    let _permit: OwnedSemaphorePermit = permit;
                    let started_at = Instant::now();
                    let accepted = stop
                        .run_until_cancelled(accept_transport(&server, stream, remote, started_at, &transport))
                        .await;
                    let Some(Some((io, info))) = accepted else { return };
                    connection::serve(&server, io, info, started_at, app, &stop).await;
                };
                abort.clone().run_until_cancelled_owned(serving)
            }
        };
        let permits = Arc::new(Semaphore::new(server.state.http.max_connections));
        tasks.spawn(accept(socket, serve, permits, stop.clone(), tasks.clone()));
        Ok(Self { server, local_addr, stop, abort, tasks })
    }

    /// Returns the bound address. If the listener was bound to port 0, the address contains the actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Closes the listener and its server, and waits until all sessions have ended.
    ///
    /// The listener accepts no more connections. HTTP requests in flight complete, and [`RpcServer::close`] closes the
    /// sessions. HTTP connections have the same deadline as sessions.
    ///
    /// # Cancel safety
    /// Once polled, closing continues even if the future is dropped. Sessions and connections are then not dropped at
    /// the deadline.
    pub async fn close(self, close: Close) -> CloseReport {
        self.stop.cancel();
        self.tasks.close();
        let close_timeout = self.server.close_timeout(&close);
        let connections = async {
            if timeout(close_timeout, self.tasks.wait()).await.is_err() {
                self.abort.cancel();
                self.tasks.wait().await;
            }
        };
        let (report, ()) = tokio::join!(self.server.close(close), connections);
        report
    }

    /// Serves until `signal` completes, then [closes](Self::close) with 1001.
    ///
    /// Calls in flight may complete within 30 s after the signal.
    ///
    /// # Cancel safety
    /// Dropping the future before the signal drops the listener, and sessions continue. After the signal, see
    /// [`close`](Self::close).
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> CloseReport {
        signal.await;
        self.close(Close::going_away().drain(DRAIN_TIMEOUT)).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Turns a socket into a stream within the handshake timeout.
async fn accept_transport<T: Transport>(
    server: &RpcServer,
    socket: TcpStream,
    remote: SocketAddr,
    started_at: Instant,
    transport: &T,
) -> Option<(T::Stream, ConnectionInfo)> {
    let refused = |reason: &str| server.state.emit_refused(None, Some(remote), None, reason);
    let accepting = async {
        // OCPP messages are small, and Nagle's algorithm would delay them.
        socket.set_nodelay(true)?;
        transport.accept(socket).await
    };
    match timeout_at(started_at + server.state.http.handshake_timeout, accepting).await {
        Ok(Ok((io, tls))) => Some((io, ConnectionInfo { remote_address: Some(remote), tls })),
        Ok(Err(error)) => {
            refused(&format!("connection setup failed: {error}"));
            None
        }
        Err(_) => {
            refused("the TLS handshake timed out");
            None
        }
    }
}

/// Accepts connections until `stop` is cancelled, each with a permit of its own.
async fn accept<F: Future<Output: Send> + Send + 'static>(
    socket: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let next = async || {
        // Cannot fail: the semaphore is never closed.
        let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, remote) = socket.accept().await?;
        Ok((stream, remote, permit))
    };
    while let Some(accepted) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, remote, permit)) => {
                tasks.spawn(serve(stream, remote, permit));
            }
            Err(error) if is_client_error(&error) => {}
            Err(error) => {
                // Probably out of file descriptors. A pause avoids a busy loop until some are released.
                tracing::warn!(%error, "failed to accept a connection");
                stop.run_until_cancelled(sleep(ACCEPT_BACKOFF)).await;
            }
        }
    }
}

/// Returns `true` if the client disconnected before it was accepted.
fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
