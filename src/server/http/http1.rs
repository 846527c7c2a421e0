//! Serves an HTTP/1.1 connection.

use std::{convert::Infallible, pin::pin, sync::Arc};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{
    io::Io,
    server::http::{activity::Activity, body::BodyError, settings::HttpSettings, tracked::Tracked},
};

/// Serves a connection until it ends or has waited for its client for too long. Shuts down when `stop` is cancelled, and
/// ends when `abort` is cancelled later.
pub(crate) async fn serve<T, S, B>(
    settings: &HttpSettings,
    io: T,
    activity: &Arc<Activity>,
    service: S,
    stop: &CancellationToken,
    abort: &CancellationToken,
) -> Result<(), BodyError>
where
    T: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Error: Into<BodyError>> + 'static,
{
    // hyper's timeout for heads needs a timer. It does not cover a client that sends nothing, or reads no response.
    let connection = http1::Builder::new()
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_head_size)
        .max_buf_size(settings.max_head_size)
        .serve_connection(TokioIo::new(Tracked::new(io, activity.clone())), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut expired = pin!(activity.expired());
    select! {
        biased;
        ended = connection.as_mut() => return Ok(ended?),
        expired = expired.as_mut() => return Ok(expired.into_result()?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    select! {
        biased;
        ended = connection => Ok(ended?),
        expired = expired => Ok(expired.into_result()?),
        () = abort.cancelled() => Ok(()),
    }
}
