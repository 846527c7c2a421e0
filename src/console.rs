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
/// # Safety
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
/// # Memory
///
/// Until [`router`](Self::router) is called, nothing is recorded and nothing costs. After that, the console records the
/// latest messages of each station, up to the bounds that are set here. If events come faster than the console records
/// them, the page shows how many were lost. Connections never wait for it.
#[derive(Debug, Clone)]
#[must_use]
pub struct Console {
    server: RpcServer,
    allowed: Allowed,
    limits: Limits,
}

impl Console {
    /// Creates a console that only reads. It records nothing before [`router`](Self::router).
    pub fn new(server: &RpcServer) -> Self {
        let limits =
            Limits { max_messages_per_station: 200, max_bytes_per_station: 64 * 1024, max_bytes: 64 * 1024 * 1024 };
        Self { server: server.clone(), allowed: Allowed::default(), limits }
    }

    /// Sets if the page may call stations. Default `false`.
    pub fn allow_calls(mut self, is_allowed: bool) -> Self {
        self.allowed.calls = is_allowed;
        self
    }

    /// Sets if the page may close the connections of stations. Default `false`.
    pub fn allow_close(mut self, is_allowed: bool) -> Self {
        self.allowed.close = is_allowed;
        self
    }

    /// Sets the most messages that are recorded for a station; the oldest are dropped. Default 200. With zero, none are
    /// recorded.
    pub fn max_messages_per_station(mut self, messages: usize) -> Self {
        self.limits.max_messages_per_station = messages;
        self
    }

    /// Sets the most bytes that the messages of a station take in memory; the oldest are dropped. Default 64 KiB. With
    /// less than 16 KiB, none are recorded.
    ///
    /// Of a message that is larger, the console records the head alone.
    pub fn max_bytes_per_station(mut self, bytes: usize) -> Self {
        self.limits.max_bytes_per_station = bytes;
        self
    }

    /// Sets the most bytes that the messages of all stations take in memory. Default 64 MiB.
    ///
    /// Above that, the station that has been silent for the longest time loses its messages.
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
        page::router().nest("/api", api::router()).layer(middleware::from_fn(guard::headers)).with_state(state)
    }
}
