//! A listening socket: accepts connections, and serves each in a task of its own.

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

/// What a listener makes of a socket.
pub(crate) trait Transport: Clone + Send + Sync + 'static {
    type Stream: Io;

    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<(Self::Stream, Option<TlsInfo>)>> + Send;
}

/// Nothing: the socket is served as it is.
#[derive(Clone)]
pub(crate) struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;

    async fn accept(&self, socket: TcpStream) -> io::Result<(TcpStream, Option<TlsInfo>)> {
        Ok((socket, None))
    }
}

/// A port that is listened on, until this is closed or dropped. Sessions live on when it is dropped.
#[derive(Debug)]
#[must_use = "dropping a listener closes it"]
pub struct Listener {
    server: RpcServer,
    local_addr: SocketAddr,
    stop: CancellationToken,
    /// Fires when a close has run out of time.
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

    /// The address that it listens on; tells the port where it was given as 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Closes the listener and its server: no new connections, HTTP requests under way get their answers, and
    /// [`RpcServer::close`] does the rest. HTTP connections have as long as sessions have.
    ///
    /// # Cancel safety
    /// Once polled, closing goes on even if the future is dropped; only the last resort is not taken.
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

    /// Listens until `signal` is there, then [closes](Self::close) with 1001 and lets calls under way end.
    ///
    /// # Cancel safety
    /// Dropping the future before the signal drops the listener, and its sessions live on; after it, see
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

/// Turns a socket into what is served, in the time that a client has.
async fn accept_transport<T: Transport>(
    server: &RpcServer,
    socket: TcpStream,
    remote: SocketAddr,
    started_at: Instant,
    transport: &T,
) -> Option<(T::Stream, ConnectionInfo)> {
    let refused = |reason: &str| server.state.emit_refused(None, Some(remote), None, reason);
    let accepting = async {
        // Answers are small and wanted now.
        socket.set_nodelay(true)?;
        transport.accept(socket).await
    };
    match timeout_at(started_at + server.state.http.handshake_timeout, accepting).await {
        Ok(Ok((io, tls))) => Some((io, ConnectionInfo { remote_address: Some(remote), tls })),
        Ok(Err(error)) => {
            refused(&format!("no connection: {error}"));
            None
        }
        Err(_) => {
            refused("the TLS handshake took too long");
            None
        }
    }
}

async fn accept<F: Future<Output: Send> + Send + 'static>(
    socket: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let next = async || {
        // Never closed, so there is an end to the waiting.
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
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!(%error, "cannot accept connections");
                stop.run_until_cancelled(sleep(ACCEPT_BACKOFF)).await;
            }
        }
    }
}

/// Whether a client left before it was accepted.
fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
