//! Serves HTTP/2 and HTTP/1.1 on one port. The first bytes of a connection decide, over TLS too (RFC 9113 §3.4).

use std::{convert::Infallible, pin::pin, time::Duration};

use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Empty};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::http2,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    select,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    io::Io,
    server::http::{body::BodyError, http1, preface, settings::HttpSettings},
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

/// Serves a connection. Its handshake timeout runs from `started_at`. Shuts down when `stop` is cancelled.
pub(crate) async fn serve<T, S, B>(
    settings: &HttpSettings,
    tasks: &TaskTracker,
    abort: &CancellationToken,
    io: T,
    started_at: Instant,
    service: S,
    stop: &CancellationToken,
) -> Result<(), BodyError>
where
    T: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>,
    B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
{
    let reading = timeout_at(started_at + settings.handshake_timeout, preface::read_preface(io));
    match stop.run_until_cancelled(reading).await {
        None => Ok(()),
        Some(io) => match io?? {
            io if io.is_http2() => serve_streams(settings, tasks, abort, io, started_at, service, stop).await,
            io => http1::serve(settings, io, started_at, service, stop).await,
        },
    }
}

/// Serves HTTP/2.
///
/// A connection without a stream is shut down after the handshake timeout. The shutdown has the same timeout.
async fn serve_streams<T, S, B>(
    settings: &HttpSettings,
    tasks: &TaskTracker,
    abort: &CancellationToken,
    io: T,
    started_at: Instant,
    service: S,
    stop: &CancellationToken,
) -> Result<(), BodyError>
where
    T: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>,
    B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
{
    let (streams, mut open, _end) = StreamExecutor::new(tasks, abort);
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
    let max_headers = settings.max_headers;
    // hyper limits only the size of the headers.
    let service = service_fn(move |request: Request<Incoming>| {
        let response = (request.headers().len() <= max_headers).then(|| service.call(request));
        async move {
            let Some(response) = response else {
                let mut response = Response::new(Either::Right(Empty::new()));
                *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok::<_, Infallible>(response);
            };
            Ok(response.await?.map(Either::Left))
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let idle_timeout = settings.handshake_timeout;
    let left = (started_at + idle_timeout).saturating_duration_since(Instant::now());
    select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => {}
        () = idle(&mut open, left, idle_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    select! {
        ended = connection => Ok(ended?),
        () = idle(&mut open, idle_timeout, idle_timeout) => Ok(()),
    }
}

/// Completes when a connection has had no stream for `limit`, or for `first` before its first stream.
async fn idle(open: &mut watch::Receiver<usize>, first: Duration, limit: Duration) {
    let mut limit_now = first;
    loop {
        // Cannot fail: the connection keeps a sender.
        let _ = open.wait_for(|open| *open == 0).await;
        if timeout(limit_now, open.changed()).await.is_err() {
            return;
        }
        limit_now = limit;
    }
}

/// Runs the streams of one connection as tasks of the server, which end with the server or with the connection.
#[derive(Clone)]
struct StreamExecutor {
    tasks: TaskTracker,
    end: CancellationToken,
    /// The number of open streams.
    open: watch::Sender<usize>,
}

impl StreamExecutor {
    /// Creates an executor. Also returns the number of open streams, and a guard that ends all streams when dropped.
    fn new(tasks: &TaskTracker, abort: &CancellationToken) -> (Self, watch::Receiver<usize>, DropGuard) {
        let (open, count) = watch::channel(0);
        let end = abort.child_token();
        (Self { tasks: tasks.clone(), end: end.clone(), open }, count, end.drop_guard())
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let open = OpenStream::new(self.open.clone());
        let end = self.end.clone();
        self.tasks.spawn(async move {
            let _open = open;
            end.run_until_cancelled(stream).await
        });
    }
}

/// Counts a stream as open until dropped.
struct OpenStream(watch::Sender<usize>);

impl OpenStream {
    fn new(streams: watch::Sender<usize>) -> Self {
        streams.send_modify(|open| *open += 1);
        Self(streams)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
