//! The bodies of requests and responses, which note their progress.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use crate::server::http::activity::{Exchange, ResponseGuard};

/// The error of a response body.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;

/// The body of a request that a listener passes to an [application](crate::server::HttpApp).
///
/// If the application waits for the body and none of it arrives within the
/// [`body_timeout`](crate::server::RpcServerBuilder::body_timeout), the connection is closed.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use ocpp_rpc::{RpcServer, server::RequestBody};
///
/// /// Returns the length of the request's body. An axum router need not name this type.
/// async fn length(request: Request<RequestBody>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
///     let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
///     Ok(Response::new(body.len().to_string().into()))
/// }
///
/// async fn serve(server: RpcServer) -> std::io::Result<()> {
///     let _listener = server.bind("127.0.0.1:0").app(tower::service_fn(length)).serve().await?;
///     Ok(())
/// }
/// ```
pub struct RequestBody {
    body: Incoming,
    exchange: Arc<Exchange>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, exchange: Arc<Exchange>) -> Self {
        Self { body, exchange }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.exchange.request_progressed();
        } else {
            self.exchange.request_pending();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.exchange.request_progressed();
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBody").field(&self.body).finish()
    }
}

pin_project! {
    /// The body of a response, or no body.
    pub(crate) struct ResponseBody<B> {
        #[pin]
        body: Option<B>,
        guard: ResponseGuard,
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn new(body: Option<B>, exchange: Arc<Exchange>) -> Self {
        Self { body, guard: ResponseGuard::new(exchange) }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let frame = body.poll_frame(cx);
        if frame.is_ready() {
            this.guard.exchange().response_progressed();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
