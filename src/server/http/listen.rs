//! The entry points of the built-in listener.

use std::{fmt, io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

#[cfg(feature = "tls")]
use crate::server::http::tls::ServerTls;
use crate::{
    error::BuildError,
    server::{
        http::{
            app::{HttpApp, StationsOnly},
            listener::{Listener, Plain},
            networks::Networks,
        },
        rpc_server::RpcServer,
    },
};

/// The backlog of a socket that this module binds, as far as the system allows it.
///
/// A large site may connect all at once, and a client that finds the backlog full retries only a second later.
const BACKLOG: u32 = 4096;

impl RpcServer {
    /// Binds the address and serves charging stations only.
    ///
    /// This is the short form of `bind(address).serve()`: WebSockets at any path that ends with an identity, 404 for
    /// other requests, no TLS. The limits are in the documentation of [`ListenerBuilder`].
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcRouter, RpcServer};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    /// let listener = server.listen("0.0.0.0:9220").await?;
    /// println!("listening on {}", listener.local_addr());
    /// // Ctrl-C or SIGTERM. The guide's page "First steps" has the function.
    /// listener.run_until(shutdown_signal()).await;
    /// # async fn shutdown_signal() {}
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the address does not resolve or cannot be bound.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> io::Result<Listener> {
        self.bind(address).serve().await
    }

    /// Returns a builder of a listener on this address.
    ///
    /// If a name resolves to several addresses, the listener binds the first that is free. Nothing happens until
    /// [`serve`](ListenerBuilder::serve).
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcRouter, RpcServer};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    /// let app = axum::Router::new()
    ///     .route("/health", axum::routing::get(|| async { "ok" }))
    ///     .route_service("/ocpp/{*identity}", server.clone());
    /// let listener = server.bind("0.0.0.0:9220").app(app).serve().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind<A: ToSocketAddrs>(&self, address: A) -> ListenerBuilder<A> {
        ListenerBuilder::new(self, Source::Address(address))
    }

    /// Returns a builder of a listener over a TCP socket that listens already.
    ///
    /// Use it for socket activation, for socket options of your own, or in tests. The socket keeps its own backlog.
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcRouter, RpcServer};
    /// use tokio::net::TcpListener;
    ///
    /// # async fn example(inherited: std::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    /// inherited.set_nonblocking(true)?;
    /// let listener = server.with_listener(TcpListener::from_std(inherited)?).serve().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_listener(&self, socket: TcpListener) -> ListenerBuilder {
        ListenerBuilder::new(self, Source::Socket(socket))
    }
}

/// Configures a listener, then starts it.
///
/// [`RpcServer::bind`] and [`RpcServer::with_listener`] create the builder. By default the listener serves charging stations
/// only, without TLS.
///
/// The listener applies limits that `axum::serve` does not have:
///
/// | Subject | Limit |
/// |---|---|
/// | first request | must arrive within [`handshake_timeout`](crate::server::RpcServerBuilder::handshake_timeout), else the connection is closed |
/// | next request | must arrive within the same time or 60 s, whichever is shorter, else the connection is closed |
/// | body of a request or a response | must make progress within [`body_timeout`](crate::server::RpcServerBuilder::body_timeout), else the connection is closed |
/// | size of the head | at most [`max_head_size`](crate::server::RpcServerBuilder::max_head_size) and [`max_headers`](crate::server::RpcServerBuilder::max_headers), else 431 |
/// | open connections | at most [`max_connections`](crate::server::RpcServerBuilder::max_connections); the longest idle one is closed for a newcomer |
/// | connections of one address | at most [`max_connections_per_address`](crate::server::RpcServerBuilder::max_connections_per_address); more are closed at once |
/// | request without exactly one `Host` | 400 |
/// | backlog | 4096 instead of 128, if the system allows it |
/// | no more sockets | the listener pauses for 100 ms, then continues |
/// | [`Handshake::remote_address`](crate::Handshake::remote_address) | always set |
///
#[cfg_attr(feature = "http2", doc = include_str!("../../docs/http2.md"))]
#[must_use = "a listener builder does nothing until `serve` is called"]
pub struct ListenerBuilder<A = SocketAddr, H = StationsOnly> {
    server: RpcServer,
    source: Source<A>,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
    proxies: Option<Networks>,
    app: H,
}

/// The origin of the listening socket.
enum Source<A> {
    Address(A),
    Socket(TcpListener),
}

impl<A> ListenerBuilder<A> {
    fn new(server: &RpcServer, source: Source<A>) -> Self {
        let app = StationsOnly::new(server.clone());
        Self {
            server: server.clone(),
            source,
            #[cfg(feature = "tls")]
            tls: None,
            proxies: None,
            app,
        }
    }
}

impl<A, H> ListenerBuilder<A, H> {
    /// Sets TLS, for `wss://` endpoints. Default `None`: plain TCP.
    ///
    /// The TLS handshake counts toward the
    /// [`handshake_timeout`](crate::server::RpcServerBuilder::handshake_timeout). If it fails, the server emits an
    /// event.
    #[cfg(feature = "tls")]
    pub fn tls(self, tls: impl Into<Option<ServerTls>>) -> Self {
        Self { tls: tls.into(), ..self }
    }

    /// Expects a PROXY header, in version 1 or 2, in front of each connection from these proxies. Default: none.
    ///
    /// A proxy is an address such as `10.0.7.1`, or a network such as `10.0.0.0/8`. The header comes first, before TLS
    /// or HTTP. The address in it becomes the client's address in handshakes, events and limits. If the header has no
    /// address (`LOCAL`, `UNKNOWN`), the client's address is that of the proxy. The header counts toward the
    /// [`handshake_timeout`](crate::server::RpcServerBuilder::handshake_timeout).
    ///
    /// The server refuses a connection from any other address, and one without a valid header, and emits an event. A
    /// version 2 header may have at most 4 KiB; its extensions are ignored.
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcRouter, RpcServer};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    /// let listener = server.bind("0.0.0.0:9220").proxy_protocol(["10.0.7.1", "10.0.8.0/24"])?.serve().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if a text is neither an address nor a network, or if there is none.
    pub fn proxy_protocol<N: AsRef<str>>(self, proxies: impl IntoIterator<Item = N>) -> Result<Self, BuildError> {
        let proxies = Networks::parse(proxies)?;
        if proxies.is_empty() {
            return Err(BuildError::settings("proxy_protocol names no proxy: every connection would be refused"));
        }
        Ok(Self { proxies: Some(proxies), ..self })
    }

    /// Sets the application that is served, for example an axum router that this server is mounted on.
    ///
    /// Default: [`StationsOnly`].
    pub fn app<N: HttpApp>(self, app: N) -> ListenerBuilder<A, N> {
        ListenerBuilder {
            server: self.server,
            source: self.source,
            #[cfg(feature = "tls")]
            tls: self.tls,
            proxies: self.proxies,
            app,
        }
    }
}

impl<A: ToSocketAddrs, H: HttpApp> ListenerBuilder<A, H> {
    /// Starts the listener.
    ///
    /// # Errors
    ///
    /// Fails if the address does not resolve or cannot be bound, for example with
    /// [`AddrInUse`](io::ErrorKind::AddrInUse).
    pub async fn serve(self) -> io::Result<Listener> {
        let socket = match self.source {
            Source::Address(address) => bind(address).await?,
            Source::Socket(socket) => socket,
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            return Listener::start(self.server, socket, tls, self.proxies, self.app);
        }
        Listener::start(self.server, socket, Plain, self.proxies, self.app)
    }
}

impl<A, H> fmt::Debug for ListenerBuilder<A, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerBuilder").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Binds the first address that is available.
async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the address resolves to no socket address");
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
    // Sockets of a previous process may be in TIME_WAIT. On Windows the option would share the port with others.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
