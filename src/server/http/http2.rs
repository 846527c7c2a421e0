//! Serves HTTP/2 and HTTP/1.1 on one port. The first bytes of a connection decide, over TLS too (RFC 9113 §3.4).

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{select, time::timeout_at};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    io::Io,
    server::http::{
        activity::{Activity, Expired},
        body::BodyError,
        http1, preface,
        settings::HttpSettings,
    },
};

/// The number of streams that a connection may have at once, including WebSockets.
///
/// RFC 9113 §6.5.2 recommends at least 100.
const MAX_STREAMS: u32 = 100;

/// The number of bytes that are buffered per stream, in each direction.
///
/// All streams of a connection share 1 MiB, so that one stream cannot block the others.
const STREAM_BUFFER: u32 = 64 << 10;

/// The interval of pings. The client must respond within 20 s.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// The tasks of streams.
#[derive(Clone)]
pub(crate) struct StreamTasks {
    /// The tasks of requests, for which a server that closes does not wait.
    pub(crate) requests: TaskTracker,
    /// The tasks that write what sessions send, for which it waits.
    pub(crate) upgraded: TaskTracker,
    /// Ends the latter.
    pub(crate) abort: CancellationToken,
}

/// Serves a connection until it ends or has waited for its client for too long. Shuts down when `stop` is cancelled, and
/// ends when `abort` is cancelled later.
pub(crate) async fn serve<T, S, B>(
    settings: &HttpSettings,
    tasks: StreamTasks,
    io: T,
    activity: &Arc<Activity>,
    service: S,
    stop: &CancellationToken,
    abort: &CancellationToken,
) -> Result<(), BodyError>
where
    T: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>,
    B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
{
    let reading = timeout_at(activity.started_at() + settings.handshake_timeout, preface::read_preface(io));
    match stop.run_until_cancelled(reading).await {
        None => Ok(()),
        Some(Err(_)) => Ok(Expired::NoRequest.into_result()?),
        Some(Ok(io)) => match io? {
            io if io.is_http2() => serve_streams(settings, tasks, io, activity, service, stop, abort).await,
            io => http1::serve(settings, io, activity, service, stop, abort).await,
        },
    }
}

/// Serves HTTP/2.
///
/// A connection without a stream is shut down after its idle timeout. The shutdown has the same timeout.
async fn serve_streams<T, S, B>(
    settings: &HttpSettings,
    tasks: StreamTasks,
    io: T,
    activity: &Arc<Activity>,
    service: S,
    stop: &CancellationToken,
    abort: &CancellationToken,
) -> Result<(), BodyError>
where
    T: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>,
    B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
{
    let (streams, _end) = StreamExecutor::new(tasks, activity.clone());
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(settings.max_head_size.try_into().unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_BUFFER)
        .max_send_buf_size(STREAM_BUFFER as usize);
    if settings.websockets_over_http2 {
        builder.enable_connect_protocol();
    }
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    select! {
        biased;
        ended = connection.as_mut() => return Ok(ended?),
        expired = activity.expired() => expired.into_result()?,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    activity.go_away();
    select! {
        biased;
        ended = connection => Ok(ended?),
        expired = activity.expired() => Ok(expired.into_result()?),
        () = abort.cancelled() => Ok(()),
    }
}

/// Runs the streams of one connection as tasks, which end with the connection.
#[derive(Clone)]
struct StreamExecutor {
    tasks: StreamTasks,
    end: CancellationToken,
    activity: Arc<Activity>,
}

impl StreamExecutor {
    /// Creates an executor. Also returns a guard that ends all streams when dropped.
    fn new(tasks: StreamTasks, activity: Arc<Activity>) -> (Self, DropGuard) {
        let end = CancellationToken::new();
        (Self { tasks, end: end.clone(), activity }, end.drop_guard())
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let (open, exchange) = self.activity.open_stream();
        let (end, activity) = (self.end.clone(), self.activity.clone());
        let Some(exchange) = exchange else {
            let abort = self.tasks.abort.clone();
            self.tasks.upgraded.spawn(async move {
                let _open = open;
                select! {
                    biased;
                    () = end.cancelled() => {}
                    () = abort.cancelled() => {}
                    _ = stream => {}
                }
            });
            return;
        };
        self.tasks.requests.spawn(async move {
            let _open = open;
            select! {
                biased;
                () = end.cancelled() => {}
                _ = stream => {}
                () = exchange.stalled() => {
                    // Other streams of the connection may be sessions, so they continue.
                    tracing::debug!("a body over HTTP/2 made no progress");
                    activity.retire();
                }
            }
        });
    }
}
