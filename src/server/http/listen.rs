//! The built-in listener: hyper on a port, with the limits that a server on the open network needs.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{
    close::intent::Close,
    info::{ConnectionInfo, TlsInfo},
    io::Io,
    server::{
        http::{body::BodyError, connection},
        rpc_server::{CloseReport, RpcServer},
    },
};

/// How many clients may wait to be accepted, as far as the system has it: all of a large site may come at once, and who
/// finds no place tries again a second later.
const BACKLOG: u32 = 4096;

/// How long the listener rests when the system gives it no more sockets.
const REST: Duration = Duration::from_millis(100);

/// The time that `run_until` gives pending calls.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

impl RpcServer {
    /// Listens by itself, for charging stations and nobody else: any path that ends in an identity, and 404 for
    /// requests that want no WebSocket.
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcRouter, RpcServer};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    /// let listener = server.listen("0.0.0.0:9220").await?;
    /// println!("listening on {}", listener.local_addr());
    /// listener.run_until(async { _ = tokio::signal::ctrl_c().await }).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> io::Result<Listener> {
        self.listen_with(address, self.for_stations_only()).await
    }

    /// Serves a whole application, such as an axum router that this server is mounted on, with what `axum::serve`
    /// does not have:
    ///
    /// | | |
    /// |---|---|
    /// | the head of a request | must be there within [`handshake_timeout`](super::RpcServerBuilder::handshake_timeout), else the connection is closed |
    /// | its size | at most [`max_head_size`](super::RpcServerBuilder::max_head_size) and [`max_headers`](super::RpcServerBuilder::max_headers), else 431 |
    /// | open connections | at most [`max_connections`](super::RpcServerBuilder::max_connections), the others wait |
    /// | clients that come at once | 4096 of them wait to be accepted where the system lets them, in place of 128 |
    /// | sockets run out | the listener rests and goes on |
    /// | [`Handshake::remote_address`](super::Handshake::remote_address) | is known |
    ///
    #[cfg_attr(feature = "http2", doc = include_str!("../../docs/http2.md"))]
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen_with<H, B>(&self, address: impl ToSocketAddrs, http: H) -> io::Result<Listener>
    where
        H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        H::Future: Send,
        B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
    {
        self.open(address, Plain, http).await
    }

    /// Listens for whatever the streams turn into.
    pub(crate) async fn open<T, H, B>(&self, address: impl ToSocketAddrs, transport: T, http: H) -> io::Result<Listener>
    where
        T: Transport,
        H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        H::Future: Send,
        B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
    {
        let socket = bind(address).await?;
        let local_addr = socket.local_addr()?;
        // A server that closes takes its listeners with it.
        let stop = self.inner.closing.child_token();
        let tasks = TaskTracker::new();
        let kill = CancellationToken::new();
        let serve = {
            let (server, stop, kill) = (self.clone(), stop.clone(), kill.clone());
            move |stream: TcpStream, remote, place| {
                let (server, stop) = (server.clone(), stop.clone());
                let (transport, http) = (transport.clone(), http.clone());
                let serving = async move {
                    let _place: OwnedSemaphorePermit = place;
                    let began = Instant::now();
                    let accepted = stop.run_until_cancelled(server.secure(stream, remote, began, &transport)).await;
                    let Some(Some((io, facts))) = accepted else { return };
                    connection::serve(&server, io, facts, began, http, &stop).await;
                };
                kill.clone().run_until_cancelled_owned(serving)
            }
        };
        let places = Arc::new(Semaphore::new(self.inner.http.max_connections));
        tasks.spawn(accept(socket, serve, places, stop.clone(), tasks.clone()));
        Ok(Listener { server: self.clone(), local_addr, stop, kill, tasks })
    }

    /// Turns a socket into what is served, in the time that a client has.
    async fn secure<T: Transport>(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
        began: Instant,
        transport: &T,
    ) -> Option<(T::Stream, ConnectionInfo)> {
        let refused = |reason: &str| self.inner.emit_refused(None, Some(remote), None, reason);
        let accepting = async {
            // Answers are small and wanted now.
            socket.set_nodelay(true)?;
            transport.accept(socket).await
        };
        match timeout_at(began + self.inner.http.handshake_timeout, accepting).await {
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
}

/// Binds the first of the addresses that can be.
async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "there is no such address");
    for address in lookup_host(address).await? {
        match listen_on(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A server that restarts has sockets of its former self about; on Windows it would share the port with others.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What a listener makes of a socket.
pub(crate) trait Transport: Clone + Send + Sync + 'static {
    type Stream: Io;

    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<(Self::Stream, Option<TlsInfo>)>> + Send;
}

/// Nothing: the socket is served as it is.
#[derive(Clone)]
struct Plain;

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
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl Listener {
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
        let patience = self.server.patience(&close);
        let connections = async {
            if timeout(patience, self.tasks.wait()).await.is_err() {
                self.kill.cancel();
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

async fn accept<F: Future<Output: Send> + Send + 'static>(
    socket: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let next = async || {
        // Never closed, so there is an end to the waiting.
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, remote) = socket.accept().await?;
        Ok((stream, remote, place))
    };
    while let Some(accepted) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, remote, place)) => {
                tasks.spawn(serve(stream, remote, place));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!(%error, "cannot accept connections");
                stop.run_until_cancelled(sleep(REST)).await;
            }
        }
    }
}

/// Whether a client left before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
