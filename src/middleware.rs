//! Middleware: async functions around handlers, which see each call and its response.
//!
//! A middleware is a tower layer made of a function. Wrap it around all handlers with
//! [`RpcRouter::layer`](crate::RpcRouter::layer), around those of actions with
//! [`route_layer`](crate::RpcRouter::route_layer), or around one handler with
//! [`layer_on`](crate::RpcRouter::layer_on). The layer that was added last runs first.
//!
//! Like a handler, a function takes [extractors](crate::extract) first. A value that it puts into the
//! [extensions](IncomingCall::extensions_mut) of the call is an [`Extension`](crate::extract::Extension) for the handler.
//!
//! ```
//! use std::time::Instant;
//! use ocpp_rpc::{CallError, ErrorCode, RpcRouter, Session, handler::{IncomingCall, Response}};
//! use ocpp_rpc::extract::Extension;
//! use ocpp_rpc::middleware::{self, Next};
//! use serde_json::{Value, json};
//!
//! /// The tenant of a station.
//! #[derive(Clone)]
//! struct Tenant(String);
//!
//! /// Logs the time of each call.
//! async fn log(call: IncomingCall, next: Next) -> Response {
//!     let (start, action) = (Instant::now(), call.action().to_owned());
//!     let response = next.run(call).await;
//!     println!("{action} took {:?}", start.elapsed());
//!     response
//! }
//!
//! /// Rejects the calls of stations without a tenant.
//! async fn find_tenant(session: Session, mut call: IncomingCall) -> Result<IncomingCall, CallError> {
//!     let identity = session.identity();
//!     let (tenant, _) = identity.split_once('-').ok_or(CallError::new(ErrorCode::SECURITY_ERROR, "no tenant"))?;
//!     call.extensions_mut().insert(Tenant(tenant.to_owned()));
//!     Ok(call)
//! }
//!
//! async fn boot(Extension(tenant): Extension<Tenant>) -> Result<Value, CallError> {
//!     println!("a station of {} boots", tenant.0);
//!     Ok(json!({"status": "Accepted"}))
//! }
//!
//! let router = RpcRouter::new()
//!     .on("BootNotification", boot)
//!     .layer(middleware::map_request(find_tenant))
//!     .layer(middleware::from_fn(log));
//! ```

use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tower::{Layer, Service, ServiceExt};

use crate::{
    error::CallError,
    handler::{
        extract::FromCall,
        function::{Handler, HandlerOutput},
        incoming::IncomingCall,
        router::Route,
    },
    response::Response,
};

/// Creates a layer of an async function from a call and [`Next`] to a [`Response`], or to a `Result` as a handler
/// returns it.
///
/// The function may take up to eight extractors before them. It decides if the call goes on, by [`Next::run`].
pub fn from_fn<F, A>(function: F) -> FunctionLayer<F, (), AroundHandler<A>>
where
    F: Handler<A, Output: HandlerOutput, Future: Send>,
    A: Arguments<(), Input = (IncomingCall, Next)>,
{
    from_fn_with_state((), function)
}

/// Does the same as [`from_fn`], for a function that takes [`State`](crate::extract::State).
///
/// ```
/// use ocpp_rpc::{RpcRouter, extract::State, handler::{IncomingCall, Response}, middleware::{self, Next}};
///
/// async fn log(State(prefix): State<&'static str>, call: IncomingCall, next: Next) -> Response {
///     println!("{prefix}: {}", call.action());
///     next.run(call).await
/// }
///
/// let router: RpcRouter = RpcRouter::new().layer(middleware::from_fn_with_state("calls", log));
/// ```
pub fn from_fn_with_state<F, A, S>(state: S, function: F) -> FunctionLayer<F, S, AroundHandler<A>>
where
    F: Handler<A, Output: HandlerOutput, Future: Send>,
    A: Arguments<S, Input = (IncomingCall, Next)>,
{
    FunctionLayer::new(state, function)
}

/// Creates a layer of an async function from a call to the call that the handler gets, or to a `Result` of it. An error
/// rejects the call.
///
/// The function may take up to eight extractors before the call.
pub fn map_request<F, A>(function: F) -> FunctionLayer<F, (), BeforeHandler<A>>
where
    F: Handler<A, Output: MappedCall, Future: Send>,
    A: Arguments<(), Input = (IncomingCall,)>,
{
    map_request_with_state((), function)
}

/// Does the same as [`map_request`], for a function that takes [`State`](crate::extract::State).
///
/// ```
/// use ocpp_rpc::{CallError, ErrorCode, RpcRouter, extract::State, handler::IncomingCall, middleware};
///
/// /// The actions that are allowed.
/// type Allowed = Vec<&'static str>;
///
/// async fn filter(State(allowed): State<Allowed>, call: IncomingCall) -> Result<IncomingCall, CallError> {
///     if allowed.contains(&call.action()) { Ok(call) } else { Err(ErrorCode::SECURITY_ERROR.into()) }
/// }
///
/// let allowed: Allowed = vec!["BootNotification", "Heartbeat"];
/// let router: RpcRouter = RpcRouter::new().layer(middleware::map_request_with_state(allowed, filter));
/// ```
pub fn map_request_with_state<F, A, S>(state: S, function: F) -> FunctionLayer<F, S, BeforeHandler<A>>
where
    F: Handler<A, Output: MappedCall, Future: Send>,
    A: Arguments<S, Input = (IncomingCall,)>,
{
    FunctionLayer::new(state, function)
}

/// Creates a layer of an async function from the response of a handler to the response that the peer gets, or to a
/// `Result` as a handler returns it.
///
/// The function may take up to eight extractors before the response. They are taken from the call before it is handled.
///
/// ```
/// use ocpp_rpc::{RpcRouter, Session, handler::Response, middleware};
///
/// /// Logs each rejected call.
/// async fn log(session: Session, response: Response) -> Response {
///     if let Response::Error(error) = &response {
///         println!("a call of {} was rejected: {error}", session.identity());
///     }
///     response
/// }
///
/// let router: RpcRouter = RpcRouter::new().layer(middleware::map_response(log));
/// ```
pub fn map_response<F, A>(function: F) -> FunctionLayer<F, (), AfterHandler<A>>
where
    F: Handler<A, Output: HandlerOutput, Future: Send>,
    A: Arguments<(), Input = (Response,)>,
{
    map_response_with_state((), function)
}

/// Does the same as [`map_response`], for a function that takes [`State`](crate::extract::State).
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use ocpp_rpc::{RpcRouter, extract::State, handler::Response, middleware};
///
/// /// Counts responses.
/// async fn count(State(count): State<Arc<AtomicU64>>, response: Response) -> Response {
///     count.fetch_add(1, Ordering::Relaxed);
///     response
/// }
///
/// let responses = Arc::<AtomicU64>::default();
/// let router: RpcRouter = RpcRouter::new().layer(middleware::map_response_with_state(responses.clone(), count));
/// ```
pub fn map_response_with_state<F, A, S>(state: S, function: F) -> FunctionLayer<F, S, AfterHandler<A>>
where
    F: Handler<A, Output: HandlerOutput, Future: Send>,
    A: Arguments<S, Input = (Response,)>,
{
    FunctionLayer::new(state, function)
}

/// The handler behind a middleware, with the layers between them.
#[derive(Debug, Clone)]
pub struct Next(Route);

impl Next {
    /// Handles the call.
    pub async fn run(self, call: IncomingCall) -> Response {
        match self.0.oneshot(call).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The output of a function for [`map_request`]: an [`IncomingCall`], or a `Result` of it.
///
/// The trait is sealed.
pub trait MappedCall: sealed::MappedCall {}

impl MappedCall for IncomingCall {}

impl<E: Into<CallError>> MappedCall for Result<IncomingCall, E> {}

/// The arguments of a middleware: extractors, then its input.
///
/// The trait is implemented for tuples, and is sealed.
pub trait Arguments<S>: sealed::Arguments<S> {}

/// A tower layer that runs a function.
pub struct FunctionLayer<F, S, K> {
    function: F,
    state: Arc<S>,
    kind: PhantomData<fn() -> K>,
}

/// A handler behind a function.
pub struct FunctionService<F, S, K> {
    layer: FunctionLayer<F, S, K>,
    handler: Route,
}

/// The kind of [`FunctionLayer`] that [`from_fn`] creates.
#[derive(Debug)]
pub struct AroundHandler<A>(PhantomData<fn() -> A>);

/// The kind of [`FunctionLayer`] that [`map_request`] creates.
#[derive(Debug)]
pub struct BeforeHandler<A>(PhantomData<fn() -> A>);

/// The kind of [`FunctionLayer`] that [`map_response`] creates.
#[derive(Debug)]
pub struct AfterHandler<A>(PhantomData<fn() -> A>);

impl<F, S, K> FunctionLayer<F, S, K> {
    fn new(state: S, function: F) -> Self {
        Self { function, state: Arc::new(state), kind: PhantomData }
    }
}

impl<F: Clone, S, K> Clone for FunctionLayer<F, S, K> {
    fn clone(&self) -> Self {
        Self { function: self.function.clone(), state: self.state.clone(), kind: PhantomData }
    }
}

impl<F, S, K> fmt::Debug for FunctionLayer<F, S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionLayer").finish_non_exhaustive()
    }
}

impl<F: Clone, S, K> Layer<Route> for FunctionLayer<F, S, K> {
    type Service = FunctionService<F, S, K>;

    fn layer(&self, handler: Route) -> Self::Service {
        FunctionService { layer: self.clone(), handler }
    }
}

impl<F: Clone, S, K> Clone for FunctionService<F, S, K> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), handler: self.handler.clone() }
    }
}

impl<F, S, K> fmt::Debug for FunctionService<F, S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionService").finish_non_exhaustive()
    }
}

impl<F, S, K> Service<IncomingCall> for FunctionService<F, S, K>
where
    F: Clone + Send + 'static,
    S: Send + Sync + 'static,
    K: sealed::Run<F, S> + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        let Self { layer: FunctionLayer { function, state, .. }, handler } = self.clone();
        Box::pin(async move { Ok(K::run(function, &state, call, Next(handler)).await.unwrap_or_else(Response::Error)) })
    }
}

/// Traits that only this crate can implement.
mod sealed {
    use crate::{error::CallError, handler::incoming::IncomingCall, middleware::Next, response::Response};

    pub trait MappedCall {
        fn into_result(self) -> Result<IncomingCall, CallError>;
    }

    pub trait Arguments<S>: Sized + Send + 'static {
        /// The arguments that are no extractors.
        type Input: Send;
        /// The extractors.
        type Extracted: Send;

        fn extract(call: &IncomingCall, state: &S) -> impl Future<Output = Result<Self::Extracted, CallError>> + Send;

        fn join(extracted: Self::Extracted, input: Self::Input) -> Self;
    }

    /// Runs a function in its place before, after or around a handler.
    pub trait Run<F, S> {
        fn run(
            function: F,
            state: &S,
            call: IncomingCall,
            next: Next,
        ) -> impl Future<Output = Result<Response, CallError>> + Send;
    }
}

impl sealed::MappedCall for IncomingCall {
    fn into_result(self) -> Result<IncomingCall, CallError> {
        Ok(self)
    }
}

impl<E: Into<CallError>> sealed::MappedCall for Result<IncomingCall, E> {
    fn into_result(self) -> Result<IncomingCall, CallError> {
        self.map_err(Into::into)
    }
}

impl<F, S, A> sealed::Run<F, S> for AroundHandler<A>
where
    F: Handler<A, Output: HandlerOutput, Future: Send>,
    S: Sync,
    A: Arguments<S, Input = (IncomingCall, Next)>,
{
    async fn run(function: F, state: &S, call: IncomingCall, next: Next) -> Result<Response, CallError> {
        let extracted = A::extract(&call, state).await?;
        Ok(function.call(A::join(extracted, (call, next))).await.into_response())
    }
}

impl<F, S, A> sealed::Run<F, S> for BeforeHandler<A>
where
    F: Handler<A, Output: MappedCall, Future: Send>,
    S: Sync,
    A: Arguments<S, Input = (IncomingCall,)>,
{
    async fn run(function: F, state: &S, call: IncomingCall, next: Next) -> Result<Response, CallError> {
        let extracted = A::extract(&call, state).await?;
        let call = sealed::MappedCall::into_result(function.call(A::join(extracted, (call,))).await)?;
        Ok(next.run(call).await)
    }
}

impl<F, S, A> sealed::Run<F, S> for AfterHandler<A>
where
    F: Handler<A, Output: HandlerOutput, Future: Send>,
    S: Sync,
    A: Arguments<S, Input = (Response,)>,
{
    async fn run(function: F, state: &S, call: IncomingCall, next: Next) -> Result<Response, CallError> {
        let extracted = A::extract(&call, state).await?;
        let response = next.run(call).await;
        Ok(function.call(A::join(extracted, (response,))).await.into_response())
    }
}

/// Implements the arguments of middleware with these extractors and these inputs.
macro_rules! arguments {
    ([$($extractor:ident)*] $($input:ident: $Input:ty),+) => {
        impl<S: Sync, $($extractor: FromCall<S> + Send + 'static,)*> Arguments<S> for ($($extractor,)* $($Input,)+) {}

        impl<S: Sync, $($extractor: FromCall<S> + Send + 'static,)*> sealed::Arguments<S>
            for ($($extractor,)* $($Input,)+)
        {
            type Input = ($($Input,)+);
            type Extracted = ($($extractor,)*);

            fn extract(
                call: &IncomingCall,
                state: &S,
            ) -> impl Future<Output = Result<Self::Extracted, CallError>> + Send {
                <($($extractor,)*)>::from_call(call, state)
            }

            #[allow(non_snake_case, reason = "type parameters name the arguments")]
            fn join(($($extractor,)*): Self::Extracted, ($($input,)+): Self::Input) -> Self {
                ($($extractor,)* $($input,)+)
            }
        }
    };
}

macro_rules! all_arguments {
    ($([$($extractor:ident)*])*) => {
        $(
            arguments!([$($extractor)*] call: IncomingCall, next: Next);
            arguments!([$($extractor)*] call: IncomingCall);
            arguments!([$($extractor)*] response: Response);
        )*
    };
}

all_arguments! {
    []
    [A]
    [A B]
    [A B C]
    [A B C D]
    [A B C D E]
    [A B C D E G]
    [A B C D E G H]
    [A B C D E G H I]
}
