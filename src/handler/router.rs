//! The router, which maps actions to handlers.

use std::{collections::BTreeMap, convert::Infallible, fmt, marker::PhantomData, pin::Pin};
use std::{
    future,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tower::{Layer, Service, ServiceExt};
use tracing::{Instrument, Span, field};

use crate::{
    connection::{
        request::IncomingRequest,
        shared::{Command, Dispatch, Shared},
    },
    error::{CallError, ErrorCode},
    event::kind::{EventKind, Text},
    handler::{
        extract::FromCall,
        function::{Handler, HandlerOutput},
        incoming::IncomingCall,
    },
    response::Response,
    session::Session,
    telemetry,
};

type ResponseFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Maps actions to handlers, with the state that the handlers share.
///
/// ```
/// use jiff::Timestamp;
/// use ocpp_rpc::{CallError, RpcRouter, extract::{Params, State}};
/// use serde_json::{Value, json};
///
/// #[derive(Clone)]
/// struct App {
///     interval: u32,
/// }
///
/// async fn boot(Params(boot): Params<Value>, State(app): State<App>) -> Result<Value, CallError> {
///     println!("{} boots", boot["chargePointModel"]);
///     Ok(json!({"status": "Accepted", "interval": app.interval, "currentTime": format!("{:.3}", Timestamp::now())}))
/// }
///
/// let router = RpcRouter::with_state(App { interval: 300 }).on("BootNotification", boot);
/// ```
///
/// A call of an action without a handler goes to the [`fallback`](Self::fallback). If there is no fallback, it is
/// rejected with [`ErrorCode::NOT_IMPLEMENTED`]. A router is cheap to clone.
pub struct RpcRouter<S = ()> {
    state: Arc<S>,
    table: Arc<Table>,
}

impl<S> Clone for RpcRouter<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), table: self.table.clone() }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Table {
    // Ordered, because a few comparisons of short names cost less than a hash that resists attacks.
    routes: BTreeMap<Arc<str>, Route>,
    fallback: Option<Route>,
    protocols: BTreeMap<Arc<str>, Table>,
    /// The handler of all messages. It takes the place of all other handlers.
    raw: Option<Route>,
}

impl RpcRouter {
    /// Creates a router without state and without handlers.
    pub fn new() -> Self {
        Self::with_state(())
    }
}

impl Default for RpcRouter {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Send + Sync + 'static> RpcRouter<S> {
    /// Creates a router without handlers. Its handlers can take the state by [`State`](crate::extract::State).
    pub fn with_state(state: S) -> Self {
        Self { state: Arc::new(state), table: Arc::default() }
    }

    /// Adds the handler of an action: an async function whose arguments are [extractors](FromCall) and that returns a
    /// `Result<R, E>`.
    ///
    /// `R` serializes to a JSON object; `()` is the empty one. `E` converts into a [`CallError`], as any error does.
    ///
    /// # Panics
    ///
    /// Panics if the action already has a handler.
    #[must_use]
    #[track_caller]
    pub fn on<H, A>(mut self, action: &str, handler: H) -> Self
    where
        H: Handler<A, Output: HandlerOutput, Future: Send>,
        A: FromCall<S> + Send + 'static,
    {
        let route = self.route(handler);
        let earlier = Arc::make_mut(&mut self.table).routes.insert(action.into(), route);
        assert!(earlier.is_none(), "the action {action:?} has a handler already");
        self
    }

    /// Sets the handler of all actions without a handler of their own.
    ///
    /// # Panics
    ///
    /// Panics if the router already has a fallback.
    #[must_use]
    #[track_caller]
    pub fn fallback<H, A>(mut self, handler: H) -> Self
    where
        H: Handler<A, Output: HandlerOutput, Future: Send>,
        A: FromCall<S> + Send + 'static,
    {
        let route = self.route(handler);
        let earlier = Arc::make_mut(&mut self.table).fallback.replace(route);
        assert!(earlier.is_none(), "the router has a fallback already");
        self
    }

    /// Sets the handler of raw messages, which takes every message of the peer as a text, in place of all other handlers.
    ///
    /// This is for relays, and for protocols of your own. The handler gets calls, responses, SENDs and texts that are no
    /// messages at all, as [`RawMessage`](crate::extract::RawMessage). Nothing is checked, validated or responded to:
    /// [`Session::send_raw`] sends what the peer should get. The responses to calls that the application makes on the
    /// same session go to their callers.
    ///
    /// The handler runs for one message after the other. While it runs, nothing is read from the peer, which then has to
    /// wait, unless the application has a call in flight on the session. An error of the handler goes to the log only.
    /// Layers do not wrap the handler. The example `relay` in the repository connects two peers in this way.
    ///
    /// ```
    /// use ocpp_rpc::{Error, RpcRouter, Session, extract::{RawMessage, State}};
    ///
    /// /// Sends each message to another peer, such as a test bench.
    /// async fn forward(message: RawMessage, State(other): State<Session>) -> Result<(), Error> {
    ///     other.send_raw(message).await
    /// }
    ///
    /// fn router(other: Session) -> RpcRouter<Session> {
    ///     RpcRouter::with_state(other).raw(forward)
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the router already has a handler of raw messages.
    #[must_use]
    #[track_caller]
    pub fn raw<H, A>(mut self, handler: H) -> Self
    where
        H: Handler<A, Output: HandlerOutput, Future: Send>,
        A: FromCall<S> + Send + 'static,
    {
        let route = self.route(handler);
        let earlier = Arc::make_mut(&mut self.table).raw.replace(route);
        assert!(earlier.is_none(), "the router has a handler of raw messages already");
        self
    }

    /// Adds the handlers of one subprotocol.
    ///
    /// A call on a connection with this subprotocol goes to the handlers of `router`, then to its fallback. If `router`
    /// has neither for the action, the call goes to this router, like the calls of all other subprotocols. A fallback
    /// of `router` therefore hides all handlers of this router from the subprotocol.
    ///
    /// The handlers of `router` keep its state, which may be of another type.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use ocpp_rpc::RpcRouter;
    ///
    /// async fn boot_1_6() -> Result<(), Infallible> {
    ///     Ok(())
    /// }
    /// async fn boot_2_0_1() -> Result<(), Infallible> {
    ///     Ok(())
    /// }
    /// async fn heartbeat() -> Result<(), Infallible> {
    ///     Ok(())
    /// }
    ///
    /// let router = RpcRouter::new()
    ///     .protocol("ocpp1.6", RpcRouter::new().on("BootNotification", boot_1_6))
    ///     .protocol("ocpp2.0.1", RpcRouter::new().on("BootNotification", boot_2_0_1))
    ///     .on("Heartbeat", heartbeat);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the subprotocol already has a router, or if `router` has a handler of raw messages: that handler takes
    /// the messages of all subprotocols.
    #[must_use]
    #[track_caller]
    pub fn protocol<T>(mut self, protocol: &str, router: RpcRouter<T>) -> Self {
        assert!(router.table.raw.is_none(), "the router of {protocol:?} has a handler of raw messages");
        let table = Arc::unwrap_or_clone(router.table);
        let earlier = Arc::make_mut(&mut self.table).protocols.insert(protocol.into(), table);
        assert!(earlier.is_none(), "the protocol {protocol:?} has a router already");
        self
    }

    /// Adds all handlers of another router: those of its actions, its fallback, those of its subprotocols, and that of
    /// raw messages.
    ///
    /// The handlers of `router` keep its state, which may be of another type, and its layers.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use ocpp_rpc::RpcRouter;
    ///
    /// async fn heartbeat() -> Result<(), Infallible> {
    ///     Ok(())
    /// }
    /// async fn meter_values() -> Result<(), Infallible> {
    ///     Ok(())
    /// }
    ///
    /// let core = RpcRouter::new().on("Heartbeat", heartbeat);
    /// let metering = RpcRouter::with_state("kWh").on("MeterValues", meter_values);
    /// let router = RpcRouter::new().merge(core).merge(metering);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if both routers have a handler of the same action and subprotocol, if both have a fallback, or if both have
    /// a handler of raw messages.
    #[must_use]
    #[track_caller]
    pub fn merge<T>(mut self, router: RpcRouter<T>) -> Self {
        Arc::make_mut(&mut self.table).merge(Arc::unwrap_or_clone(router.table));
        self
    }

    /// Removes the handlers of an action, including those of single subprotocols.
    ///
    /// Fallbacks remain: if there is one, it handles the action from now on.
    #[must_use]
    pub fn without(mut self, action: &str) -> Self {
        Arc::make_mut(&mut self.table).remove(action);
        self
    }

    /// Wraps a tower layer around every handler that the router has so far, including fallbacks and the handlers of
    /// single subprotocols.
    ///
    /// Handlers that are added later are not wrapped. Neither is the rejection with [`ErrorCode::NOT_IMPLEMENTED`]. The
    /// layer is applied to each handler separately, and all connections share the resulting services.
    ///
    /// A layer that drops the handler's future, such as a timeout, stops the handler at its current await. Spawn work
    /// that must finish.
    ///
    /// The layer's service takes an [`IncomingCall`] and returns a [`Response`]. Layers that are generic over the
    /// request work, such as those of `tower` itself. An error of the service rejects the call: it converts into a
    /// [`CallError`], as `?` converts it in a handler.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use ocpp_rpc::RpcRouter;
    /// use tower::timeout::TimeoutLayer;
    ///
    /// async fn heartbeat() -> Result<(), Infallible> {
    ///     Ok(())
    /// }
    ///
    /// let router = RpcRouter::new().on("Heartbeat", heartbeat).layer(TimeoutLayer::new(Duration::from_secs(20)));
    /// ```
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route>,
        L::Service: Service<IncomingCall, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<IncomingCall>>::Error: Into<CallError>,
        <L::Service as Service<IncomingCall>>::Future: Send,
    {
        let table = Arc::make_mut(&mut self.table);
        table.for_each(&mut |route| *route = route.layered(&layer));
        table.for_each_fallback(&mut |route| *route = route.layered(&layer));
        self
    }

    /// Does the same as [`layer`](Self::layer) for the handlers of actions only: not for fallbacks.
    #[must_use]
    pub fn route_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route>,
        L::Service: Service<IncomingCall, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<IncomingCall>>::Error: Into<CallError>,
        <L::Service as Service<IncomingCall>>::Future: Send,
    {
        Arc::make_mut(&mut self.table).for_each(&mut |route| *route = route.layered(&layer));
        self
    }

    /// Does the same as [`layer`](Self::layer) for the handlers of one action only, including those of single
    /// subprotocols.
    ///
    /// # Panics
    ///
    /// Panics if the action has no handler.
    #[must_use]
    #[track_caller]
    pub fn layer_on<L>(mut self, action: &str, layer: L) -> Self
    where
        L: Layer<Route>,
        L::Service: Service<IncomingCall, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<IncomingCall>>::Error: Into<CallError>,
        <L::Service as Service<IncomingCall>>::Future: Send,
    {
        let mut is_found = false;
        Arc::make_mut(&mut self.table).for_each_of(action, &mut |route| {
            *route = route.layered(&layer);
            is_found = true;
        });
        assert!(is_found, "the action {action:?} has no handler");
        self
    }

    fn route<H, A>(&self, handler: H) -> Route
    where
        H: Handler<A, Output: HandlerOutput, Future: Send>,
        A: FromCall<S> + Send + 'static,
    {
        Route(Arc::new(HandlerEndpoint {
            handler: Arc::new(handler),
            state: self.state.clone(),
            arguments: PhantomData,
        }))
    }

    pub(crate) fn into_dispatch(self) -> Arc<dyn Dispatch> {
        self.table
    }
}

impl Session {
    /// Replaces the handlers of this connection.
    ///
    /// Running handlers finish. Calls that are still queued go to the new router.
    pub fn set_router<S: Send + Sync + 'static>(&self, router: RpcRouter<S>) {
        self.shared().send(Command::SetDispatch(router.into_dispatch()));
    }
}

impl<S> fmt::Debug for RpcRouter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcRouter")
            .field("actions", &self.table.routes.keys())
            .field("fallback", &self.table.fallback.is_some())
            .field("protocols", &self.table.protocols.keys())
            .field("raw", &self.table.raw.is_some())
            .finish()
    }
}

impl Table {
    fn find(&self, action: &str, protocol: Option<&str>) -> Option<&Route> {
        let of_protocol = protocol.and_then(|protocol| self.protocols.get(protocol)?.find(action, Some(protocol)));
        of_protocol.or_else(|| self.routes.get(action)).or(self.fallback.as_ref())
    }

    #[track_caller]
    fn merge(&mut self, other: Self) {
        for (action, route) in other.routes {
            assert!(!self.routes.contains_key(&action), "the action {action:?} has a handler already");
            self.routes.insert(action, route);
        }
        if let Some(fallback) = other.fallback {
            let earlier = self.fallback.replace(fallback);
            assert!(earlier.is_none(), "the router has a fallback already");
        }
        if let Some(raw) = other.raw {
            let earlier = self.raw.replace(raw);
            assert!(earlier.is_none(), "the router has a handler of raw messages already");
        }
        for (protocol, table) in other.protocols {
            self.protocols.entry(protocol).or_default().merge(table);
        }
    }

    fn remove(&mut self, action: &str) {
        self.routes.remove(action);
        self.protocols.values_mut().for_each(|table| table.remove(action));
    }

    /// Changes the handler of each action.
    fn for_each(&mut self, change: &mut impl FnMut(&mut Route)) {
        self.routes.values_mut().for_each(&mut *change);
        self.protocols.values_mut().for_each(|table| table.for_each(change));
    }

    fn for_each_fallback(&mut self, change: &mut impl FnMut(&mut Route)) {
        self.fallback.iter_mut().for_each(&mut *change);
        self.protocols.values_mut().for_each(|table| table.for_each_fallback(change));
    }

    /// Changes the handlers of an action.
    fn for_each_of(&mut self, action: &str, change: &mut impl FnMut(&mut Route)) {
        self.routes.get_mut(action).into_iter().for_each(&mut *change);
        self.protocols.values_mut().for_each(|table| table.for_each_of(action, change));
    }
}

impl Dispatch for Table {
    fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    fn dispatch(&self, request: IncomingRequest, protocol: Option<&str>, shared: &Arc<Shared>) -> ResponseFuture {
        if request.head.is_raw() {
            return match &self.raw {
                Some(route) => route.0.respond(IncomingCall::new(request, Session::new(shared.clone()))),
                // The router was replaced while the message was queued.
                None => Box::pin(future::ready(Response::Nothing)),
            };
        }
        let (action, id) = (&*request.head.action, request.head.id.as_str());
        let span = tracing::debug_span!(
            "call",
            direction = "in",
            action = telemetry::cut(action),
            id = telemetry::cut(id),
            outcome = field::Empty,
        );
        let responding: ResponseFuture = match self.find(action, protocol) {
            Some(route) => route.0.respond(IncomingCall::new(request, Session::new(shared.clone()))),
            None => {
                if !request.head.expects_response {
                    let (id, action) = (request.head.id.clone(), Text(request.head.action.clone()));
                    shared.report(EventKind::UnhandledSend { id, action });
                }
                let error = CallError::new(ErrorCode::NOT_IMPLEMENTED, format!("no handler for {action}"));
                Box::pin(future::ready(Response::Error(error)))
            }
        };
        if span.is_disabled() {
            return responding;
        }
        let recorded = async {
            let response = responding.await;
            Span::current().record("outcome", response.outcome());
            response
        };
        Box::pin(recorded.instrument(span))
    }
}

/// A handler as a tower service, which a layer wraps.
#[derive(Clone)]
pub struct Route(Arc<dyn Endpoint>);

impl Route {
    fn layered<L>(&self, layer: &L) -> Self
    where
        L: Layer<Self>,
        L::Service: Service<IncomingCall, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<IncomingCall>>::Error: Into<CallError>,
        <L::Service as Service<IncomingCall>>::Future: Send,
    {
        Self(Arc::new(Layered(Arc::new(layer.layer(self.clone())))))
    }
}

impl Service<IncomingCall> for Route {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: IncomingCall) -> RouteFuture {
        RouteFuture(self.0.respond(call))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// The future of a [`Route`].
pub struct RouteFuture(ResponseFuture);

impl Future for RouteFuture {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for RouteFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture").finish_non_exhaustive()
    }
}

/// A handler or a stack of layers as a trait object.
trait Endpoint: Send + Sync {
    fn respond(&self, call: IncomingCall) -> ResponseFuture;
}

struct HandlerEndpoint<H, A, S> {
    handler: Arc<H>,
    state: Arc<S>,
    arguments: PhantomData<fn() -> A>,
}

impl<H, A, S> Endpoint for HandlerEndpoint<H, A, S>
where
    H: Handler<A, Output: HandlerOutput, Future: Send>,
    A: FromCall<S> + Send + 'static,
    S: Send + Sync + 'static,
{
    fn respond(&self, call: IncomingCall) -> ResponseFuture {
        let (handler, state) = (self.handler.clone(), self.state.clone());
        Box::pin(async move {
            let arguments = match A::from_call(&call, &state).await {
                Ok(arguments) => arguments,
                Err(error) => return Response::Error(error),
            };
            // A handler that waits keeps no request that its arguments did not take.
            let given = call.given.into_inner();
            drop((call.request, call.session));
            let response = handler.call(arguments).await.into_response();
            match given {
                Some(given) if given.load(Ordering::Acquire) => Response::Given,
                _ => response,
            }
        })
    }
}

struct Layered<T>(Arc<T>);

impl<T> Endpoint for Layered<T>
where
    T: Service<IncomingCall, Response = Response> + Clone + Send + Sync + 'static,
    T::Error: Into<CallError>,
    T::Future: Send,
{
    fn respond(&self, call: IncomingCall) -> ResponseFuture {
        let service = self.0.clone();
        Box::pin(async move {
            // A clone of its own, as tower wants it; made here, where a panic is caught.
            match T::clone(&service).oneshot(call).await {
                Ok(response) => response,
                Err(error) => Response::Error(error.into()),
            }
        })
    }
}
