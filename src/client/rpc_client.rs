//! The client: a handle that owns its connection.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{SetOnce, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    action::{Action, SendAction},
    call::Call,
    client::{
        error::ConnectError,
        life::{ClientState, Life, Shared},
        settings::ClientSettings,
        supervisor::Supervisor,
    },
    close::{info::CloseInfo, intent::Close},
    connection::{
        driver::Driver,
        info::About,
        link::{Command, Link},
    },
    error::BuildError,
    event::Events,
    handler::router::RpcRouter,
    options::Options,
    session::Session,
    telemetry::Telemetry,
};

/// A client of OCPP-J: a charging station, or a test of a server.
///
/// It dials, keeps the connection alive, and dials again when it is lost. Calls that are made meanwhile wait, and
/// go out in order once there is a connection; handlers live on.
///
/// ```no_run
/// use ocpp_rpc::{CallError, RpcClient, RpcRouter, extract::Params};
/// use serde_json::{Value, json};
///
/// async fn reset(Params(reset): Params<Value>) -> Result<Value, CallError> {
///     println!("asked for a {} reset", reset["type"]);
///     Ok(json!({"status": "Accepted"}))
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = RpcClient::builder("ws://csms.example/ocpp", "CP-0001")
///     .protocols(["ocpp2.0.1", "ocpp1.6"])
///     .password("secret")
///     .router(RpcRouter::new().on("Reset", reset))
///     .connect()
///     .await?;
/// let boot: Value = client.call("BootNotification", &json!({"chargePointVendor": "ACME", "chargePointModel": "1"})).await?;
/// # Ok(())
/// # }
/// ```
///
#[doc = include_str!("../docs/states.md")]
///
/// Cheap to clone; when the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub struct RpcClient {
    owner: Arc<Owner>,
}

/// What the handles own: dropped with the last of them.
struct Owner {
    shared: Arc<Shared>,
    current: Mutex<Current>,
    tasks: TaskTracker,
}

struct Current {
    settings: ClientSettings,
    /// From one connect to the close; `None` before the first.
    life: Option<Arc<Life>>,
}

impl RpcClient {
    pub(super) fn new(settings: ClientSettings) -> Self {
        let shared = Arc::new(Shared { state: watch::Sender::new(ClientState::Closed), telemetry: Telemetry::new() });
        let current = Mutex::new(Current { settings, life: None });
        Self { owner: Arc::new(Owner { shared, current, tasks: TaskTracker::new() }) }
    }

    /// Connects. Joins an attempt that is under way, and does nothing where there is a connection.
    ///
    /// # Errors
    /// The first attempt fails for good unless [`Reconnect::retry_first_connect`] is set; an attempt to reconnect
    /// that is joined fails when the client gives up or is closed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the attempt to go on: [`close`](Self::close) ends it, and so does dropping the
    /// client.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        let mut states = self.states();
        let (life, is_new) = {
            let mut current = self.owner.current();
            match (self.state(), &current.life) {
                (ClientState::Closed, _) | (_, None) => (self.begin(&mut current)?, true),
                (_, Some(life)) if life.link.is_open() => (life.clone(), false),
                // Asked to close, whether the supervisor has heard of it or not.
                (_, Some(_)) => return Err(ConnectError::Closing),
            }
        };
        life.first.wait().await.clone()?;
        if is_new {
            return Ok(());
        }
        match states.wait_for(|state| *state != ClientState::Connecting).await.as_deref() {
            Ok(ClientState::Open) => Ok(()),
            _ => Err(ConnectError::Aborted),
        }
    }

    /// Begins a new life.
    fn begin(&self, current: &mut Current) -> Result<Arc<Life>, ConnectError> {
        let ClientSettings { identity, dialects, options, dispatch, reconnect, .. } = current.settings.clone();
        let plan = current.settings.plan().map_err(ConnectError::Settings)?;
        let about = About {
            identity: identity.into(),
            remote_address: None,
            opened_at: SystemTime::now(),
            extensions: Extensions::new(),
        };
        let shared = self.owner.shared.clone();
        let link = Link::new(about, options.call_queue, reconnect.meanwhile, shared.telemetry.clone());
        let mut driver = Driver::new(link.clone(), dispatch, Arc::new(options));
        if reconnect.keep_responses {
            driver.keep_responses();
        }
        driver.when_closing({
            let shared = shared.clone();
            move || _ = shared.state.send_if_modified(ClientState::close)
        });
        let life = Arc::new(Life { link, first: SetOnce::new() });
        shared.state.send_replace(ClientState::Connecting);
        let span = tracing::info_span!(
            "connection",
            identity = &*life.link.about.identity,
            target = %plan.target,
            protocol = tracing::field::Empty,
        );
        let supervisor =
            Supervisor { life: life.clone(), shared, driver, plan, dialects, reconnect, failures: 0, waits: 0 };
        self.owner.tasks.spawn(supervisor.run().instrument(span));
        current.life = Some(life.clone());
        Ok(life)
    }

    /// Calls an action of the server; see [`Session::call`]. While the client connects, the call waits; its timeout
    /// runs from the moment it is written, a deadline given with [`Call::within`] from now.
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        match self.session() {
            Some(peer) => peer.call(action, params),
            None => self.closed_call(),
        }
    }

    /// Calls an action of the server by its type; see [`Session::request`].
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        match self.session() {
            Some(peer) => peer.request(request),
            None => self.closed_call(),
        }
    }

    /// Sends a message that is never answered; see [`Session::send`].
    pub fn send(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<()> {
        match self.session() {
            Some(peer) => peer.send(action, params),
            None => self.closed_call(),
        }
    }

    /// Sends a message that is never answered by its type; see [`Session::send_action`].
    pub fn send_action<A: SendAction>(&self, message: A) -> Call<()> {
        match self.session() {
            Some(peer) => peer.send_action(message),
            None => self.closed_call(),
        }
    }

    /// A call that nobody is there for.
    fn closed_call<R>(&self) -> Call<R> {
        Call::closed(self.owner.shared.telemetry.call())
    }

    /// Closes the connection, or ends the attempt to get one, and waits for the end. See [`Session::close`]; without a
    /// connection there is nothing to wait for. The client can [`connect`](Self::connect) again afterwards.
    pub async fn close(&self, close: Close) -> CloseInfo {
        let life = self.owner.current().life.clone();
        let Some(life) = life else { return close.outcome() };
        life.link.close(close);
        life.link.closed().await
    }

    /// Waits until the client is closed for good, by whomever. `None` where it was never connected.
    pub async fn closed(&self) -> Option<CloseInfo> {
        let life = self.owner.current().life.clone();
        Some(life?.link.closed().await)
    }

    /// The handle that knows both ends alike, from one [`connect`](Self::connect) to the close; none before the
    /// first.
    pub fn session(&self) -> Option<Session> {
        self.owner.current().life.as_ref().map(|life| Session::new(life.link.clone()))
    }

    /// The subprotocol that was agreed on at the first connect.
    pub fn protocol(&self) -> Option<String> {
        self.session()?.protocol().map(str::to_owned)
    }

    /// Where the client stands.
    pub fn state(&self) -> ClientState {
        *self.owner.shared.state.borrow()
    }

    /// Where the client stands, to be watched.
    pub fn states(&self) -> watch::Receiver<ClientState> {
        self.owner.shared.state.subscribe()
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        self.owner.shared.telemetry.subscribe()
    }

    /// Connects to another endpoint, under another identity, from the next [`connect`](Self::connect) after a close
    /// on.
    ///
    /// # Errors
    /// When there can be no such endpoint or identity; nothing is changed then.
    pub fn set_target(&self, endpoint: impl Into<String>, identity: impl Into<String>) -> Result<(), BuildError> {
        let mut current = self.owner.current();
        let mut settings = current.settings.clone();
        settings.endpoint = endpoint.into();
        settings.identity = identity.into();
        settings.plan()?;
        current.settings = settings;
        Ok(())
    }

    /// Changes times and limits, of the connection there is as [`Session::set_options`] says, and of all later ones.
    ///
    /// # Errors
    /// When they could never work; nothing is changed then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        let mut current = self.owner.current();
        options.check_for(&current.settings.protocols)?;
        if let Some(life) = &current.life {
            Session::new(life.link.clone()).set_options(options.clone())?;
        }
        current.settings.options = options;
        Ok(())
    }

    /// Swaps the handlers, now and for later connections.
    pub fn set_router<S: Send + Sync + 'static>(&self, router: RpcRouter<S>) {
        let mut current = self.owner.current();
        current.settings.dispatch = router.into_dispatch();
        if let Some(life) = &current.life {
            life.link.order(Command::Dispatch(current.settings.dispatch.clone()));
        }
    }
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcClient")
            .field("settings", &self.owner.current().settings)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Owner {
    fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing that runs under the lock can leave it half done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(life) = &self.current().life {
            life.link.close(Close::normal());
        }
    }
}
