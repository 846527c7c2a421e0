//! The tower service of a server.

use std::{
    convert::Infallible,
    fmt,
    future::ready,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;

use crate::{
    header_case::header_case,
    server::{handshake::upgrade::RpcUpgrade, rpc_server::RpcServer},
};

/// Upgrades requests with any body type. Fits axum's `route_service`, `nest_service` and `fallback_service`, and hyper.
impl<B> Service<Request<B>> for RpcServer {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = HandshakeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> HandshakeFuture {
        let server = self.clone();
        let (mut parts, _) = request.into_parts();
        if let Some(proxies) = &self.state.proxies {
            proxies.apply(&parts.headers, &mut parts.extensions);
        }
        let upgrade = RpcUpgrade::try_from(Request::from_parts(parts, ()));
        HandshakeFuture(Box::pin(async move { server.handshake(upgrade).await }))
    }
}

/// The future of the response to a handshake. Dropping it cancels the authenticator.
pub struct HandshakeFuture(Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>);

impl HandshakeFuture {
    /// Returns the future of a response with status 404 and no body.
    pub(crate) fn not_found() -> Self {
        let mut response = Response::new(Full::default());
        *response.extensions_mut() = header_case();
        *response.status_mut() = StatusCode::NOT_FOUND;
        Self(Box::pin(ready(response)))
    }
}

impl Future for HandshakeFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for HandshakeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeFuture").finish_non_exhaustive()
    }
}
