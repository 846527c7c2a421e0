//! Accepts connections from a listening socket, and serves each in a task of its own.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    close::intent::Close,
    error::build::WithSources,
    info::{ConnectionInfo, TlsInfo},
    io::Io,
    server::{
        http::{
            activity::Activity,
            address::{AddressLimit, AddressPermit},
            app::HttpApp,
            connection,
            first_bytes::{self, FirstBytes, SetupError},
            networks::Networks,
            places::{Place, Places},
            proxy_protocol,
        },
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

    /// The reason for events if the client does not complete the set-up in time.
    const TIMED_OUT: &'static str;

    /// Turns a socket into a stream. Returns information about TLS if the stream uses it.
    ///
    /// `first` has the first bytes of the client, which are still to be read.
    fn accept(
        &self,
        socket: TcpStream,
        first: &[u8],
    ) -> impl Future<Output = Result<(Self::Stream, Option<TlsInfo>), SetupError<TcpStream>>> + Send;
}

/// Plain TCP.
#[derive(Clone)]
pub(crate) struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;

    const TIMED_OUT: &'static str = "no request received: the handshake timed out";

    async fn accept(
        &self,
        socket: TcpStream,
        first: &[u8],
    ) -> Result<(TcpStream, Option<TlsInfo>), SetupError<TcpStream>> {
        let (reason, text) = match FirstBytes::of(first) {
            FirstBytes::Tls => (
                "the client speaks TLS, but this port does not: use a ws:// endpoint, or set TLS on the listener",
                "this port does not use TLS, use a ws:// endpoint",
            ),
            FirstBytes::ProxyHeader => (first_bytes::UNEXPECTED_PROXY_HEADER, "this port expects no PROXY header"),
            FirstBytes::Http | FirstBytes::Other => return Ok((socket, None)),
        };
        Err(SetupError::wrong_protocol(socket, reason, text))
    }
}

/// A running listener.
///
/// [`RpcServer::listen`] and [`ListenerBuilder::serve`](crate::server::ListenerBuilder::serve) start it. Dropping it
/// closes the port, and sessions continue.
///
/// ```
/// use ocpp_rpc::{RpcRouter, RpcServer, server::Listener};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = RpcServer::builder(RpcRouter::new()).build()?;
/// let listener: Listener = server.listen("127.0.0.1:0").await?;
/// println!("stations connect to ws://{}", listener.local_addr());
/// # let signal = async {};
/// // Closes all sessions after a signal, such as that of Ctrl-C.
/// let report = listener.run_until(signal).await;
/// assert_eq!(report.forced, 0);
/// # Ok(())
/// # }
/// ```
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
        proxies: Option<Networks>,
        app: H,
    ) -> io::Result<Self> {
        let local_addr = socket.local_addr()?;
        // A server that closes also stops its listeners.
        let stop = server.state.closing.child_token();
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let gate = Arc::new(Gate {
            places: Places::new(server.state.http.max_connections),
            per_address: AddressLimit::new(server.state.http.max_connections_per_address),
            proxies,
            server: server.clone(),
        });
        let serve = {
            let (gate, stop, abort, tasks) = (gate.clone(), stop.clone(), abort.clone(), tasks.clone());
            move |accepted: Accepted| {
                let (gate, stop, tasks) = (gate.clone(), stop.clone(), tasks.clone());
                let (transport, app) = (transport.clone(), app.clone());
                let serving = async move {
                    let Accepted { socket, remote, activity, place: _place, mut share } = accepted;
                    let accepting = accept_transport(&gate, socket, remote, &activity, &transport, &mut share);
                    let Some(Some((io, info))) = stop.run_until_cancelled(pin!(accepting)).await else { return };
                    connection::serve(&gate.server, io, info, &activity, app, &stop, &tasks).await;
                };
                // Boxed, because the future is large, and tokio moves it several times before its first poll.
                abort.clone().run_until_cancelled_owned(Box::pin(serving))
            }
        };
        tasks.spawn(accept(socket, serve, gate, stop.clone(), tasks.clone()));
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
    /// A request of this listener that awaits the future would wait for itself until the deadline. Await
    /// [`RpcServer::close`] there, or spawn a task.
    ///
    /// # Cancel safety
    ///
    /// Once polled, closing continues even if the future is dropped, and ends by the same deadline.
    pub async fn close(self, close: Close) -> CloseReport {
        self.stop.cancel();
        self.tasks.close();
        let state = &self.server.state;
        let close_timeout = state.close_timeout(&close);
        let (tasks, abort) = (self.tasks.clone(), self.abort.clone());
        let connections = state.close_tasks.spawn(async move {
            if timeout(close_timeout, tasks.wait()).await.is_err() {
                abort.cancel();
                tasks.wait().await;
            }
        });
        let report = self.server.close(close).await;
        // Fails only if the runtime shuts down.
        let _ = connections.await;
        report
    }

    /// Serves until `signal` completes, then [closes](Self::close) with 1001.
    ///
    /// Calls in flight may complete within 30 s after the signal.
    ///
    /// # Cancel safety
    ///
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

/// The reason for events if a connection comes from no proxy of the listener.
const UNLISTED_PROXY: &str = "the address is not in `proxy_protocol`: connect through a proxy, or add the address";

/// Turns a socket into a stream within the handshake timeout.
///
/// With `proxies`, a PROXY header must come first, from one of these addresses.
///
/// `share` is what the connection takes of the share of its address, which a PROXY header may change.
async fn accept_transport<T: Transport>(
    gate: &Gate,
    mut socket: TcpStream,
    mut remote: SocketAddr,
    activity: &Activity,
    transport: &T,
    share: &mut AddressPermit,
) -> Option<(T::Stream, ConnectionInfo)> {
    let server = &gate.server.state;
    let mut timed_out = T::TIMED_OUT;
    let accepting = async {
        // OCPP messages are small, and Nagle's algorithm would delay them.
        socket.set_nodelay(true)?;
        if gate.proxies.as_ref().is_some_and(|proxies| !proxies.contain(remote.ip())) {
            // It is no client of a proxy, whatever it sends, and may send nothing.
            timed_out = UNLISTED_PROXY;
        }
        let mut first = [0; first_bytes::LENGTH];
        let Some(mut length) = peek(&socket, &mut first).await else { return Ok(None) };
        if let Some(proxies) = &gate.proxies {
            timed_out = "the PROXY header timed out";
            if let Some(client) = read_proxy_header(&mut socket, remote, proxies).await? {
                remote = client;
                *share = gate.share_of(client).ok_or_else(|| io::Error::other(NO_SHARE))?;
            }
            timed_out = T::TIMED_OUT;
            // A proxy that checks the server's health may send the header alone.
            let Some(after) = peek(&socket, &mut first).await else { return Ok(None) };
            length = after;
        }
        let (io, tls) = transport.accept(socket, &first[..length]).await?;
        Ok::<_, SetupError<TcpStream>>(Some((io, tls)))
    };
    let accepted = timeout_at(activity.started_at() + server.http.handshake_timeout, accepting).await;
    let refused = |reason: &str| server.emit_refused(None, Some(remote), None, reason, || None);
    match accepted {
        Ok(Ok(Some((io, tls)))) => return Some((io, ConnectionInfo { remote_address: Some(remote), tls })),
        Ok(Ok(None)) => tracing::trace!(%remote, "a connection without a byte was closed"),
        Ok(Err(SetupError { error, response })) => {
            refused(&format!("connection setup failed: {}", WithSources(&error)));
            if let Some(response) = response {
                response.send().await;
            }
        }
        Err(_) => refused(timed_out),
    }
    None
}

/// Waits for the first bytes of the client, and returns their number without reading them.
///
/// Returns `None` if the client closes the connection before. Load balancers do so to check if a port is open.
async fn peek(socket: &TcpStream, first: &mut [u8]) -> Option<usize> {
    socket.peek(first).await.ok().filter(|length| *length > 0)
}

/// Reads a PROXY header, and returns the client's address if the header has one.
async fn read_proxy_header(
    socket: &mut TcpStream,
    remote: SocketAddr,
    proxies: &Networks,
) -> io::Result<Option<SocketAddr>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    if !proxies.contain(remote.ip()) {
        return Err(invalid(UNLISTED_PROXY));
    }
    let mut header = Vec::new();
    loop {
        let parsed = proxy_protocol::parse(&header);
        match parsed.map_err(|fault| invalid(&format!("the proxy sent {fault}: enable the PROXY protocol there")))? {
            proxy_protocol::Header::Complete(client) => return Ok(client),
            proxy_protocol::Header::Partial { missing } => {
                let length = header.len();
                header.resize(length + missing, 0);
                if let Err(error) = socket.read_exact(&mut header[length..]).await {
                    return Err(io::Error::new(error.kind(), format!("the PROXY header broke off: {error}")));
                }
            }
        }
    }
}

/// Accepts connections until `stop` is cancelled, each with a place of its own.
async fn accept<F: Future<Output: Send> + Send + 'static>(
    socket: TcpListener,
    serve: impl Fn(Accepted) -> F,
    gate: Arc<Gate>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(accepted) = stop.run_until_cancelled(socket.accept()).await {
        match accepted {
            Ok((socket, remote)) => {
                let Some(accepted) = stop.run_until_cancelled(gate.admit(socket, remote)).await else { return };
                if let Some(accepted) = accepted {
                    let number = accepted.place.number();
                    let task = tasks.spawn(serve(accepted)).abort_handle();
                    gate.places.set_task(number, task);
                }
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

/// The limits of a listener's connections.
struct Gate {
    places: Arc<Places>,
    per_address: Arc<AddressLimit>,
    /// The proxies that send a PROXY header.
    proxies: Option<Networks>,
    server: RpcServer,
}

/// An accepted connection.
struct Accepted {
    socket: TcpStream,
    remote: SocketAddr,
    activity: Arc<Activity>,
    place: Place,
    share: AddressPermit,
}

/// The reason of a refusal if an address has too many connections.
const NO_SHARE: &str = "too many connections from this address";

impl Gate {
    /// Waits for a place for a connection. Refuses it if its address has too many already.
    async fn admit(&self, socket: TcpStream, remote: SocketAddr) -> Option<Accepted> {
        let refused = |remote, reason| self.server.state.emit_refused(None, Some(remote), None, reason, || None);
        let is_proxy = self.proxies.as_ref().is_some_and(|proxies| proxies.contain(remote.ip()));
        let share = if is_proxy { self.per_address.try_acquire(None) } else { self.share_of(remote) };
        let Some(share) = share else {
            refused(remote, NO_SHARE);
            return None;
        };
        let evicted = |remote| refused(remote, "no request received: closed for a newer connection");
        let (place, activity) = self.places.take(remote, &self.server.state.http, evicted).await;
        Some(Accepted { socket, remote, activity, place, share })
    }

    /// Returns a permit of the client's address, unless it has too many connections.
    fn share_of(&self, client: SocketAddr) -> Option<AddressPermit> {
        self.per_address.try_acquire(self.server.state.limited_address(Some(client)))
    }
}

/// Returns `true` if the client disconnected before it was accepted.
fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
