//! The console: a page that shows the stations of a server and their messages.
//!
//! Mount [`Console::router`] in an axum application, behind whatever protects the rest of it.
//!
//! The layout: the `recorder` task reads the events of the server into the `store` of messages and the `statistics`. The
//! handlers in `api` read both, and the files in `page` show them.

mod api;
mod guard;
mod handshakes;
mod history;
mod page;
mod record;
mod recorder;
mod state;
mod statistics;
mod store;

use axum::{Router, middleware};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    console::{
        guard::Hosts,
        recorder::Recording,
        state::{Allowed, ConsoleState},
        store::Limits,
    },
    server::rpc_server::RpcServer,
};

/// A page for engineers: the stations of a server, their messages as sequences, refused handshakes, and curves of the
/// last five minutes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ocpp_rpc::{RpcRouter, RpcServer, console::Console};
///
/// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp2.0.1", "ocpp1.6"]).build()?;
/// let app: axum::Router = axum::Router::new()
///     .nest_service("/console", Console::new(&server).router())
///     .route_service("/ocpp/{*identity}", server);
/// # Ok(())
/// # }
/// ```
///
/// The page is then at `/console/`. With `Router::nest` it is at `/console`, because axum's `nest` does not pass on the
/// path with a slash at the end.
///
/// # Security
///
/// The console has no login. Protect it by a layer, as the rest of your application:
///
/// ```
/// # fn example<L>(server: &ocpp_rpc::RpcServer, only_for_engineers: L) -> axum::Router
/// # where
/// #     L: tower::Layer<axum::routing::Route> + Clone + Send + Sync + 'static,
/// #     L::Service: tower::Service<axum::extract::Request> + Clone + Send + Sync + 'static,
/// #     <L::Service as tower::Service<axum::extract::Request>>::Response: axum::response::IntoResponse + 'static,
/// #     <L::Service as tower::Service<axum::extract::Request>>::Error: Into<std::convert::Infallible> + 'static,
/// #     <L::Service as tower::Service<axum::extract::Request>>::Future: Send + 'static,
/// # {
/// use ocpp_rpc::console::Console;
///
/// let console = Console::new(server).router().layer(only_for_engineers);
/// # console
/// # }
/// ```
///
/// By default, it only reads. [`allow_calls`](Self::allow_calls) and [`allow_close`](Self::allow_close) let it change
/// something. It refuses requests that another site causes in the browser of a visitor. The server's
/// [`mask`](crate::server::RpcServerBuilder::mask) hides tokens and secrets in everything that it shows.
///
/// A site can let its own name point to the address of your server (DNS rebinding). For a browser, the console then
/// belongs to that site, which can read it and use it. An address that only you can reach, such as `127.0.0.1`, is no
/// protection. A login is one, and so is [`hosts`](Self::hosts). Set it if the console has no login.
///
/// # Memory
///
/// Until [`router`](Self::router) is called, the console records nothing and costs nothing. After that, it records the
/// latest messages of each station, up to the bounds that are set here. If events come faster than the console records
/// them, the page shows how many were lost. Connections never wait for it.
#[derive(Debug, Clone)]
#[must_use]
pub struct Console {
    server: RpcServer,
    allowed: Allowed,
    hosts: Hosts,
    limits: Limits,
}

impl Console {
    /// Creates a console that only reads. It records nothing before [`router`](Self::router).
    pub fn new(server: &RpcServer) -> Self {
        let limits =
            Limits { max_messages_per_station: 200, max_bytes_per_station: 64 * 1024, max_bytes: 64 * 1024 * 1024 };
        Self { server: server.clone(), allowed: Allowed::default(), hosts: None, limits }
    }

    /// Sets whether the page may call stations. Default `false`.
    pub fn allow_calls(mut self, is_allowed: bool) -> Self {
        self.allowed.calls = is_allowed;
        self
    }

    /// Sets whether the page may close the connections of stations. Default `false`.
    pub fn allow_close(mut self, is_allowed: bool) -> Self {
        self.allowed.close = is_allowed;
        self
    }

    /// Sets the hosts that requests may name in their `Host` header, without ports, such as `console.example` or `::1`.
    /// Requests that name another one are refused with 421. By default, every host is accepted.
    ///
    /// This protects a console without a login from DNS rebinding, as described under *Security*. Behind a proxy, these
    /// are the hosts that the proxy passes on.
    ///
    /// ```
    /// # fn example(server: &ocpp_rpc::RpcServer) -> axum::Router {
    /// use ocpp_rpc::console::Console;
    ///
    /// Console::new(server).hosts(["console.example", "localhost"]).router()
    /// # }
    /// ```
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.hosts = Some(hosts.into_iter().map(|host| guard::normalize(host.as_ref())).collect());
        self
    }

    /// Sets a bound on the messages of a station. At most this number are recorded; the oldest are dropped. Default 200.
    /// With zero, none are recorded.
    pub fn max_messages_per_station(mut self, messages: usize) -> Self {
        self.limits.max_messages_per_station = messages;
        self
    }

    /// Sets a bound on the memory of a station's messages. They take at most this number of bytes; the oldest are dropped.
    /// Default 64 KiB. With less than 16 KiB, none are recorded.
    ///
    /// If a single message is larger, the console records it without its payload.
    pub fn max_bytes_per_station(mut self, bytes: usize) -> Self {
        self.limits.max_bytes_per_station = bytes;
        self
    }

    /// Sets a bound on the memory of all messages. They take at most this number of bytes; the station that has been silent
    /// for the longest time loses its messages. Default 64 MiB. With less than 16 KiB, none are recorded.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_bytes = bytes;
        self
    }

    /// Begins to record, and returns the router of the page.
    ///
    /// Recording ends when the last clone of the router is dropped, or when the server closes. Streams end when the
    /// server begins to close.
    ///
    /// # Panics
    ///
    /// Panics if there is no tokio runtime.
    #[track_caller]
    pub fn router(self) -> Router {
        let (recording, recorder) = Recording::begin(&self.server, self.limits);
        let recorder = AbortOnDropHandle::new(tokio::spawn(recorder));
        let state = ConsoleState::new(self.server, recording, recorder, self.allowed);
        let guard = middleware::from_fn_with_state(self.hosts, guard::all);
        page::router().nest("/api", api::router()).layer(guard).with_state(state)
    }
}
