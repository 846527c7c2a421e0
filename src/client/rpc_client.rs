//! The client: a handle that owns its connections.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    action::Action,
    call::Call,
    client::{
        error::ConnectError,
        life::{ClientRun, ClientShared, ClientState},
        settings::ClientSettings,
        supervisor::Supervisor,
    },
    close::{info::CloseInfo, intent::Close},
    connection::{
        driver::Driver,
        mailbox::QueueRules,
        outliving::Outliving,
        shared::{Command, Run, Shared},
    },
    error::BuildError,
    event::bus::Events,
    session::Session,
    telemetry::Telemetry,
};

/// A client of OCPP-J: a charging station, or a test of a server.
///
/// It connects, keeps the connection alive, and connects again when it is lost. Calls that are made meanwhile wait and
/// are sent in order once there is a connection. Handlers continue.
///
/// ```no_run
/// use ocpp_rpc::{CallError, RpcClient, RpcRouter, extract::Params};
/// use serde_json::{Value, json};
///
/// async fn reset(Params(reset): Params<Value>) -> Result<Value, CallError> {
///     println!("the server requests a {} reset", reset["type"]);
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
/// A client is cheap to clone. When the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub struct RpcClient {
    owner: Arc<Owner>,
}

/// The part of a client that its clones own together.
struct Owner {
    shared: Arc<ClientShared>,
    current: Mutex<Current>,
    tasks: TaskTracker,
}

struct Current {
    settings: ClientSettings,
    /// The current run or the last one; `None` before the first connect.
    run: Option<Arc<ClientRun>>,
}

impl RpcClient {
    pub(super) fn new(settings: ClientSettings) -> Self {
        let telemetry = Telemetry::with_call_layers(settings.mask.clone(), settings.call_service.clone());
        let session = Shared::new(settings.identity.as_str().into(), telemetry.clone());
        let state = watch::Sender::new(ClientState::Closed);
        let shared = Arc::new(ClientShared { state, session, telemetry, outliving: Outliving::new(usize::MAX) });
        let current = Mutex::new(Current { settings, run: None });
        Self { owner: Arc::new(Owner { shared, current, tasks: TaskTracker::new() }) }
    }

    /// Connects. Joins an attempt that is under way, and does nothing if there is a connection.
    ///
    /// # Errors
    ///
    /// The first attempt, or the first one at each of several endpoints, fails for good unless
    /// [`Reconnect::retry_first_connect`](super::Reconnect::retry_first_connect) is set. If this joins an attempt to reconnect, it fails when the client gives up or is closed. While the client
    /// is closing, it fails with [`ConnectError::Closing`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the attempt continues. [`close`](Self::close) ends it, and so does dropping the client.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        let mut states = self.states();
        let (run, is_new) = {
            let mut current = self.owner.current();
            match (self.state(), &current.run) {
                (ClientState::Closed, _) | (_, None) => (self.start_run(&mut current)?, true),
                (_, Some(run)) if self.owner.shared.session.is_open() => (run.clone(), false),
                // Asked to close, even if the supervisor has not noticed yet.
                (_, Some(_)) => return Err(ConnectError::Closing),
            }
        };
        run.first.wait().await.clone()?;
        if is_new {
            return Ok(());
        }
        match states.wait_for(|state| *state != ClientState::Connecting).await.as_deref() {
            Ok(ClientState::Open) => Ok(()),
            _ => Err(ConnectError::Aborted),
        }
    }

    /// Starts a new run with the current settings.
    fn start_run(&self, current: &mut Current) -> Result<Arc<ClientRun>, ConnectError> {
        let prepared = current.settings.prepare()?;
        let ClientSettings { identity, options, dispatch, reconnect, .. } = current.settings.clone();
        let shared = self.owner.shared.clone();
        let rules = QueueRules { max_queued: options.call_queue, offline_calls: reconnect.offline_calls };
        let mut run = Run::new(identity.into());
        if options.compression.is_some() {
            run.allow_compression();
        }
        let run = shared.session.start_run(run, rules);
        let mut driver = Driver::new(
            shared.session.clone(),
            run.clone(),
            dispatch,
            Arc::new(options),
            shared.outliving.clone(),
            reconnect.keep_responses,
        );
        driver.on_closing({
            let shared = shared.clone();
            move || _ = shared.state.send_if_modified(ClientState::close)
        });
        shared.state.send_replace(ClientState::Connecting);
        let run = ClientRun::new(run, prepared);
        self.owner.tasks.spawn(Supervisor::new(run.clone(), shared, driver).run());
        current.run = Some(run.clone());
        Ok(run)
    }

    /// Ends the current connection, and connects again with the current settings.
    ///
    /// The client closes an open connection with 1000 and then dials, without the wait of the back-off. A peer that does
    /// not reply to the close delays that by at most [`Options::close_timeout`](crate::Options::close_timeout). While it is
    /// connecting, it starts a new attempt in place of the current one or of the wait for the next. A closed client
    /// connects. Queued calls, handlers and readers of events stay; calls in flight fail. If they must end first,
    /// [`close`](Self::close) with [`Close::drain`] and [`connect`](Self::connect) again.
    ///
    /// If a handler asks for it, for example after it has changed the password, it should
    /// [respond first](crate::extract::Responder): the response belongs on the connection of its call.
    ///
    /// # Errors
    ///
    /// An attempt that fails is repeated as after a lost connection. The future then resolves when a later one
    /// succeeds. It fails when the client gives up or is closed, and with [`ConnectError::Closing`] if it is closing.
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, the client reconnects even if it is dropped.
    pub async fn reconnect(&self) -> Result<(), ConnectError> {
        let reconnect = {
            let current = self.owner.current();
            match &current.run {
                Some(run) if self.state() != ClientState::Closed => {
                    if !self.owner.shared.session.is_open() {
                        return Err(ConnectError::Closing);
                    }
                    Some((run.clone(), run.reconnect(&self.owner.shared.session)))
                }
                _ => None,
            }
        };
        let Some((run, opened)) = reconnect else { return self.connect().await };
        match opened.await {
            Ok(()) => Ok(()),
            // The first connect knows why the client has given up.
            Err(_) => Err(run.first.get().and_then(|first| first.clone().err()).unwrap_or(ConnectError::Aborted)),
        }
    }

    /// Calls an action of the server, as [`Session::call`] does.
    ///
    /// While the client connects, the call waits. Its timeout starts when it is written,
    /// [`Call::total_timeout`] when the future is first polled.
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        self.session().call(action, params)
    }

    /// Calls the action of a typed request, and returns the typed response. See [`Session::request`].
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        self.session().request(request)
    }

    /// Returns the session of the client: one handle for its life, over all connections.
    ///
    /// It makes every kind of call, and knows identity and subprotocol. Before the first connect and after a close, its
    /// calls fail with [`Error::Closed`](crate::Error::Closed).
    pub fn session(&self) -> Session {
        Session::new(self.owner.shared.session.clone())
    }

    /// Closes the connection, or ends the attempt to get one, and waits for the end, as [`Session::close`] does.
    ///
    /// If the client was never connected, this returns at once. The client can [`connect`](Self::connect) again
    /// afterwards.
    pub async fn close(&self, close: Close) -> CloseInfo {
        if self.owner.current().run.is_none() {
            return close.outcome();
        }
        self.session().close(close).await
    }

    /// Waits until the client is closed for good. Returns `None` if it was never connected.
    pub async fn closed(&self) -> Option<CloseInfo> {
        self.owner.current().run.as_ref()?;
        Some(self.session().closed().await)
    }

    /// Returns the state of the client.
    pub fn state(&self) -> ClientState {
        *self.owner.shared.state.borrow()
    }

    /// Returns a receiver of the client's states.
    pub fn states(&self) -> watch::Receiver<ClientState> {
        self.owner.shared.state.subscribe()
    }

    /// Returns a reader of all events from now on.
    pub fn events(&self) -> Events {
        self.owner.shared.telemetry.subscribe()
    }

    /// Changes the settings, and applies what can be applied at once.
    pub(super) fn change(&self, change: impl FnOnce(ClientSettings) -> ClientSettings) -> Result<(), BuildError> {
        let mut current = self.owner.current();
        let old = &current.settings;
        let mut new = change(old.clone());
        // An earlier dialect goes with its protocol, or makes room for one that was added now.
        let mut added = new.dialects.split_off(old.dialects.len().min(new.dialects.len()));
        let is_added = |name: &Arc<str>| added.iter().any(|(added, _)| added == name);
        new.dialects.retain(|(name, _)| new.protocols.contains(name) && !is_added(name));
        new.dialects.append(&mut added);
        let prepared = new.prepare()?;
        if let Some(run) = &current.run {
            // The identity stays until the client is closed.
            let identity = run.run.identity.to_string();
            let is_same = new.identity == identity;
            run.prepare(if is_same { prepared } else { ClientSettings { identity, ..new.clone() }.prepare()? });
        }
        let session = &self.owner.shared.session;
        if new.options != old.options {
            session.send(Command::SetOptions(Box::new(new.options.clone())));
        }
        if !Arc::ptr_eq(&new.dispatch, &old.dispatch) {
            session.send(Command::SetDispatch(new.dispatch.clone()));
        }
        current.settings = new;
        Ok(())
    }
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("RpcClient");
        // A change of the settings holds the lock.
        if let Ok(current) = self.owner.current.try_lock() {
            f.field("settings", &current.settings);
        }
        f.field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Owner {
    fn current(&self) -> MutexGuard<'_, Current> {
        // No code under the lock can panic half way.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.session.close(Close::normal());
    }
}
