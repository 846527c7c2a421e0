//! Async functions as layers around calls.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use tower::{BoxError, Layer, Service, ServiceExt};

use crate::{
    error::Error,
    outgoing::{CallResponse, CallService, OutgoingCall, into_error},
};

/// Creates a layer of an async function from a call and [`Next`] to the response.
///
/// The function decides if and how often the call is made, by [`Next::run`]. A closure can capture state:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use ocpp_rpc::{RpcClient, outgoing};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let failed = Arc::new(AtomicU64::new(0));
/// let count = {
///     let failed = failed.clone();
///     outgoing::from_fn(move |call, next: outgoing::Next| {
///         let failed = failed.clone();
///         async move { next.run(call).await.inspect_err(|_| _ = failed.fetch_add(1, Ordering::Relaxed)) }
///     })
/// };
/// let client = RpcClient::builder("ws://csms.example/ocpp", "CP-0001").call_layer(count).build()?;
/// # Ok(())
/// # }
/// ```
pub fn from_fn<F, O>(function: F) -> FunctionLayer<F>
where
    F: Fn(OutgoingCall, Next) -> O + Clone + Send + Sync + 'static,
    O: Future<Output = Result<CallResponse, Error>> + Send + 'static,
{
    FunctionLayer(function)
}

/// The service behind a function, with the layers between them.
#[derive(Debug, Clone)]
pub struct Next(CallService);

impl Next {
    /// Passes the call on, and returns its response. A clone can make another attempt.
    ///
    /// # Errors
    ///
    /// Returns the error of the call.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the attempt is cancelled.
    pub async fn run(self, call: OutgoingCall) -> Result<CallResponse, Error> {
        self.0.oneshot(call).await
    }
}

/// A tower layer that runs a function, created by [`from_fn`].
#[derive(Clone)]
pub struct FunctionLayer<F>(F);

/// The service of a [`FunctionLayer`].
#[derive(Clone)]
pub struct FunctionService<F, S> {
    function: F,
    service: S,
}

impl<F: Clone, S> Layer<S> for FunctionLayer<F> {
    type Service = FunctionService<F, S>;

    fn layer(&self, service: S) -> Self::Service {
        FunctionService { function: self.0.clone(), service }
    }
}

impl<F, O, S> Service<OutgoingCall> for FunctionService<F, S>
where
    F: Fn(OutgoingCall, Next) -> O,
    O: Future<Output = Result<CallResponse, Error>>,
    S: Service<OutgoingCall, Response = CallResponse> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = CallResponse;
    type Error = Error;
    type Future = O;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx).map_err(into_error)
    }

    fn call(&mut self, call: OutgoingCall) -> O {
        let next = self.service.clone();
        // The function gets the service that is ready.
        let ready = mem::replace(&mut self.service, next);
        (self.function)(call, Next(CallService::new(ready)))
    }
}

impl<F> fmt::Debug for FunctionLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionLayer").finish_non_exhaustive()
    }
}

impl<F, S> fmt::Debug for FunctionService<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionService").finish_non_exhaustive()
    }
}
