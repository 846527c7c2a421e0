//! The HTTP application that a listener serves.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

use crate::server::{
    handshake::{service::HandshakeFuture, upgrade},
    http::body::{BodyError, RequestBody},
    rpc_server::RpcServer,
};

/// An HTTP application that a [`ListenerBuilder`](crate::server::ListenerBuilder) can serve, such as `axum::Router`.
///
/// Every tower service of HTTP requests that never fails implements this trait.
///
/// ```
/// use ocpp_rpc::{RpcServer, server::{HttpApp, Listener}};
///
/// /// Serves stations and any application on one port.
/// async fn serve(server: &RpcServer, app: impl HttpApp) -> std::io::Result<Listener> {
///     server.bind("0.0.0.0:9220").app(app).serve().await
/// }
/// # let _ = |server: RpcServer| async move { serve(&server, axum::Router::new()).await };
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP application",
    note = "an application is an `axum::Router`, or a tower `Service<http::Request<ocpp_rpc::server::RequestBody>>` with the error `Infallible` that is `Clone` and `Send`"
)]
pub trait HttpApp:
    Service<
        Request<RequestBody>,
        Response = Response<<Self as HttpApp>::ResponseBody>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of the application's responses.
    type ResponseBody: Body<Data: Send, Error: Into<BodyError>> + Send + 'static;
}

impl<S, B> HttpApp for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<BodyError>> + Send + 'static,
{
    type ResponseBody = B;
}

/// The application that a [`ListenerBuilder`](crate::server::ListenerBuilder) serves by default.
///
/// It passes WebSocket requests to the server, at any path that ends with an identity. It responds to all other
/// requests with 404.
#[derive(Debug, Clone)]
pub struct StationsOnly(RpcServer);

impl StationsOnly {
    pub(crate) fn new(server: RpcServer) -> Self {
        Self(server)
    }
}

impl<B> Service<Request<B>> for StationsOnly {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = HandshakeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> HandshakeFuture {
        if upgrade::is_websocket_request(request.headers(), request.extensions()) {
            self.0.call(request)
        } else {
            HandshakeFuture::not_found()
        }
    }
}
