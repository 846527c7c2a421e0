//! The built-in listener: hyper on a port, with the limits that a server on the open network needs.

use std::{convert::Infallible, error::Error as StdError, io, net::SocketAddr, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt};

use super::{CloseReport, RemoteAddress, RpcServer};
use crate::{close::Close, handshake};

/// The largest head of a request; a larger one is answered with 431.
const MAX_HEAD: usize = 64 << 10;

/// How long the listener rests when the system gives it no more sockets.
const REST: Duration = Duration::from_millis(100);

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
    /// listener.until(async { _ = tokio::signal::ctrl_c().await }).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> io::Result<Listener> {
        let server = self.clone();
        let only_stations = tower::service_fn(move |request: Request<Incoming>| {
            let server = server.clone();
            async move {
                if handshake::wants_upgrade(request.headers()) {
                    return server.oneshot(request).await;
                }
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::NOT_FOUND;
                Ok(response)
            }
        });
        self.listen_with(address, only_stations).await
    }

    /// Serves a whole application, such as an axum router that this server is mounted on, with what `axum::serve`
    /// does not have:
    ///
    /// | | |
    /// |---|---|
    /// | the head of a request | must be there within [`handshake_deadline`](super::RpcServerBuilder::handshake_deadline), else the connection is closed |
    /// | its size | at most 64 KiB, else 431 |
    /// | sockets run out | the listener rests and goes on |
    /// | [`Handshake::remote_address`](super::Handshake::remote_address) | is known |
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen_with<H, B>(&self, address: impl ToSocketAddrs, http: H) -> io::Result<Listener>
    where
        H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        H::Future: Send,
        B: Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        let socket = TcpListener::bind(address).await?;
        let local_addr = socket.local_addr()?;
        // A server that closes takes its listeners with it.
        let stop = self.inner.closing.child_token();
        let tasks = TaskTracker::new();
        let kill = CancellationToken::new();
        let head_deadline = self.inner.handshake_deadline;
        let serve = {
            let (stop, kill) = (stop.clone(), kill.clone());
            move |stream, remote| {
                let serving = serve(stream, remote, http.clone(), head_deadline, stop.clone());
                kill.clone().run_until_cancelled_owned(serving)
            }
        };
        tasks.spawn(accept(socket, serve, stop.clone(), tasks.clone()));
        Ok(Listener { server: self.clone(), local_addr, stop, kill, tasks })
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
    pub async fn until(self, signal: impl Future<Output = ()>) -> CloseReport {
        signal.await;
        self.close(Close::going_away().after_pending()).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept<F: Future<Output: Send> + Send + 'static>(
    socket: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(accepted) = stop.run_until_cancelled(socket.accept()).await {
        match accepted {
            Ok((stream, remote)) => {
                tasks.spawn(serve(stream, remote));
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

async fn serve<H, B>(stream: TcpStream, remote: SocketAddr, http: H, head_deadline: Duration, stop: CancellationToken)
where
    H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    H::Future: Send,
    B: Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    // Answers are small and wanted now.
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%error, "the client left");
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(RemoteAddress(remote));
        http.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_deadline)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = match stop.run_until_cancelled(connection.as_mut()).await {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%remote, %error, "an HTTP connection failed");
    }
}
