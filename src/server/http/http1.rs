//! Serves an HTTP/1.1 connection.

use std::{convert::Infallible, pin::pin, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    io::Io,
    server::http::{body::BodyError, settings::HttpSettings},
};

/// Serves a connection. Its handshake timeout runs from `started_at`. Shuts down when `stop` is cancelled.
pub(crate) async fn serve<T, S, B>(
    settings: &HttpSettings,
    io: T,
    started_at: Instant,
    service: S,
    stop: &CancellationToken,
) -> Result<(), BodyError>
where
    T: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Error: Into<BodyError>> + 'static,
{
    let left = (started_at + settings.handshake_timeout).saturating_duration_since(Instant::now());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(left.max(Duration::from_millis(1)))
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_head_size)
        .max_buf_size(settings.max_head_size)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = match stop.run_until_cancelled(connection.as_mut()).await {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    Ok(ended?)
}
