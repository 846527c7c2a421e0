//! The one task of a client: it connects, drives the connection, backs off, and repeats until it is closed.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tracing::{Instrument, Span};

use crate::{
    backoff::{Failure, MIN_WAIT, Waits},
    client::{
        connect::{ConnectPlan, Connected},
        error::ConnectError,
        failover::Failover,
        life::{ClientRun, ClientShared, ClientState},
        settings::Prepared,
    },
    close::{
        info::{CloseCause, CloseInfo},
        intent::Close,
    },
    connection::{driver::Driver, mailbox::AfterDisconnect, negotiated::Negotiated, socket::Socket},
    event::kind::EventKind,
    message::dialect::Dialect,
    random::random,
    telemetry::OpenConnection,
    websocket::head::Role,
};

/// A connection that lasted this long was a success, and the back-off starts anew.
const STABLE: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    run: Arc<ClientRun>,
    shared: Arc<ClientShared>,
    driver: Box<Driver>,
    /// The protocols that the application set at the last success, and what is offered in their place from then on.
    settled: Option<(Protocols, Protocols)>,
    /// The failed attempts in a row.
    failures: u32,
    waits: Waits,
    failover: Failover,
    /// The handles that wait for the next connection.
    reconnects: Vec<oneshot::Sender<()>>,
}

type Protocols = Arc<[Arc<str>]>;

/// The reason why a run ends.
enum End {
    CloseRequested(Close),
    Closed(CloseInfo),
    Failed(ConnectError),
}

/// Marks the client as closed, even if the task is dropped.
struct CloseOnDrop {
    run: Arc<ClientRun>,
    shared: Arc<ClientShared>,
    is_armed: bool,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if self.is_armed {
            self.shared.state.send_replace(ClientState::Closed);
            self.run.finish(ConnectError::Aborted);
        }
    }
}

impl Supervisor {
    pub(super) fn new(run: Arc<ClientRun>, shared: Arc<ClientShared>, driver: Box<Driver>) -> Self {
        let failover = Failover::new(run.prepared().endpoints.clone());
        let (waits, reconnects) = (Waits::default(), Vec::new());
        Self { run, shared, driver, settled: None, failures: 0, waits, failover, reconnects }
    }

    pub(super) async fn run(mut self) {
        let mut guard = CloseOnDrop { run: self.run.clone(), shared: self.shared.clone(), is_armed: true };
        let Err(end) = self.connect_loop().await;
        let was_connected = self.run.first.get().is_some_and(Result::is_ok);
        let (closed, error) = match end {
            End::Closed(closed) => (closed, ConnectError::Aborted),
            End::CloseRequested(close) if was_connected => (close.outcome(), ConnectError::Aborted),
            End::CloseRequested(_) => {
                (Close::going_away().reason("connection aborted").outcome(), ConnectError::Aborted)
            }
            End::Failed(error) => {
                let closed = CloseInfo { reason: error.to_string(), ..CloseInfo::abnormal(CloseCause::GaveUp) };
                (closed, error)
            }
        };
        let CloseInfo { code, reason, cause, .. } = &closed;
        tracing::info!(identity = &*self.run.run.identity, code, reason, %cause, "client closed");
        // Before the state changes, because the next run may start as soon as it does.
        self.driver.on_disconnect(AfterDisconnect::End);
        // Together, so that the next run's first event comes later, and a reader of this one can start that run.
        self.shared.state.send_modify(|state| {
            *state = ClientState::Closed;
            self.shared.session.report(EventKind::Closed(closed.clone()));
        });
        self.run.finish(error);
        drop(self.reconnects);
        // Handlers may take their time, and the next run may start before they have finished.
        guard.is_armed = false;
        drop(guard);
        drop(self.shared);
        self.driver.finish(closed).await;
    }

    /// Connects and reconnects until the run ends.
    async fn connect_loop(&mut self) -> Result<Infallible, End> {
        loop {
            self.shared.session.report(EventKind::Connecting);
            // Settings that change from now on are for the attempt after this one.
            let prepared = self.run.prepared();
            let plan = prepared.plan(self.failover.current(&prepared.endpoints));
            let span = tracing::info_span!(
                "connection",
                identity = &*self.run.run.identity,
                target = %plan.endpoint.target,
                protocol = tracing::field::Empty,
            );
            let outcome = self.connect(plan).instrument(span.clone()).await?;
            let earliest = Instant::now() + MIN_WAIT;
            let failure = match outcome {
                Some(Ok(connected)) => self.serve(connected, &prepared).instrument(span).await?,
                Some(Err(error)) => Some(span.in_scope(|| self.on_failure(error))?),
                None => None,
            };
            let Some(failure) = failure else {
                self.wait_until(earliest, earliest).await?;
                continue;
            };
            let prepared = self.run.prepared();
            if self.is_out_of_attempts(&prepared) {
                let gave_up =
                    CloseInfo { reason: "no attempts left".into(), ..CloseInfo::abnormal(CloseCause::GaveUp) };
                return Err(End::Closed(gave_up));
            }
            let wait = self.waits.next(&prepared.reconnect.backoff, failure, random());
            tracing::debug!(identity = &*self.run.run.identity, ?wait, self.failures, "backing off");
            self.wait_until(Instant::now() + wait, earliest).await?;
        }
    }

    /// Dials once. Returns `None` if a handle asks for another attempt meanwhile.
    async fn connect(&mut self, mut plan: ConnectPlan) -> Result<Option<Result<Connected, ConnectError>>, End> {
        if let Some((set, offered)) = &self.settled
            && Arc::ptr_eq(set, &plan.protocols)
        {
            plan.protocols = offered.clone();
        }
        // It stays as it was when the run started.
        plan.compression = self.driver.options().compression;
        self.run_offline(Box::pin(async move { plan.connect().await })).await
    }

    /// Waits until `until`, or until `earliest` if a handle asks for another attempt.
    async fn wait_until(&mut self, until: Instant, earliest: Instant) -> Result<(), End> {
        let mut until = until;
        while self.run_offline(sleep_until(until)).await?.is_none() {
            until = earliest;
        }
        Ok(())
    }

    /// Waits for `future` without a connection. Returns `None` if a handle asks for another one.
    async fn run_offline<T>(&mut self, future: impl Future<Output = T>) -> Result<Option<T>, End> {
        let output = self.driver.run_offline(future).await.map_err(End::CloseRequested)?;
        if output.is_none() {
            self.take_reconnects();
        }
        Ok(output)
    }

    fn take_reconnects(&mut self) {
        self.reconnects.retain(|sender| !sender.is_closed());
        self.reconnects.append(&mut self.run.take_reconnects(&self.shared.session));
    }

    fn is_out_of_attempts(&self, prepared: &Prepared) -> bool {
        prepared.reconnect.attempts.is_some_and(|attempts| self.failures > attempts)
    }

    /// Counts a failed attempt. Returns an error if no other one follows.
    fn on_failure(&mut self, error: ConnectError) -> Result<Failure, End> {
        let failure = error.failure(SystemTime::now());
        match failure {
            Failure::Unreachable => tracing::info!(%error, "cannot connect"),
            Failure::Refused { .. } => tracing::warn!(%error, "refused"),
        }
        self.shared.session.report(EventKind::ConnectFailed {
            status: error.status().map(|status| status.as_u16()),
            error: error.to_string(),
        });
        let prepared = self.run.prepared();
        let is_first = self.run.first.get().is_none();
        self.failures = self.failures.saturating_add(1);
        let round = self.failover.on_failure(failure);
        let is_first_over = is_first && round.is_some() && !prepared.reconnect.retry_first_connect;
        let is_final = is_first_over || prepared.reconnect.gives_up(&error);
        if is_final || self.is_out_of_attempts(&prepared) {
            Err(End::Failed(error))
        } else {
            Ok(round.unwrap_or(Failure::Unreachable))
        }
    }

    /// Serves a connection to its end. Returns `None` if a handle has asked for another one.
    async fn serve(&mut self, connected: Connected, prepared: &Prepared) -> Result<Option<Failure>, End> {
        let Connected { io, read_buf, protocol, deflate } = connected;
        let own = prepared.dialects.iter().find(|(name, _)| Some(name) == protocol.as_ref());
        let dialect = own.map_or_else(|| Dialect::for_protocol(protocol.as_deref()), |(_, dialect)| *dialect);
        let negotiated = Negotiated { protocol, dialect };
        // Until the application sets other protocols, no other will do: queued calls are encoded for this one.
        self.settled = Some((prepared.protocols().clone(), negotiated.protocol.iter().cloned().collect()));
        self.run.run.negotiate(negotiated.clone());
        self.driver.negotiate(negotiated.clone());
        self.driver.set_limits(prepared.max_message_size, prepared.max_unsent);
        Span::current().record("protocol", negotiated.protocol.as_deref());
        let mut socket = Socket::new(io, &read_buf, Role::Client, deflate, self.driver.options());
        drop(read_buf);

        // A task that sees the client open may call at once.
        self.run.run.set_compression(deflate.map(|params| params.info(Role::Client)));
        self.shared.session.connected();
        self.shared.state.send_if_modified(ClientState::open);
        tracing::info!("connected");
        self.shared.session.report(EventKind::Opened { protocol: negotiated.protocol });
        let open = OpenConnection::new();
        let _ = self.run.first.set(Ok(()));
        for opened in self.reconnects.drain(..) {
            // The handle may have been dropped.
            let _ = opened.send(());
        }
        let opened = Instant::now();
        let disconnect = self.driver.run(&mut socket).await;

        self.take_reconnects();
        // A close that was requested in this moment wants no other connection.
        let reconnects = self.shared.session.is_open()
            && (!self.reconnects.is_empty()
                || (self.run.prepared().reconnect.attempts != Some(0) && !disconnect.is_local()));
        let mut closing = Box::pin(socket.close(disconnect, self.driver.options().close_timeout));
        if !reconnects {
            self.driver.on_disconnect(AfterDisconnect::End);
            let closed = self.driver.run_closing(closing).await;
            log_disconnect(&closed);
            open.closed(&closed);
            return Err(End::Closed(closed));
        }
        self.shared.state.send_if_modified(ClientState::disconnect);
        self.driver.on_disconnect(AfterDisconnect::Reconnect);
        let closed = loop {
            match self.run_offline(&mut closing).await {
                Ok(Some(closed)) => break closed,
                Ok(None) => {}
                Err(end) => {
                    if let End::CloseRequested(close) = &end {
                        log_disconnect(&close.outcome());
                        open.closed(&close.outcome());
                    }
                    return Err(end);
                }
            }
        };
        log_disconnect(&closed);
        open.closed(&closed);
        self.shared.session.report(EventKind::Disconnected(closed));
        let is_stable = opened.elapsed() >= STABLE;
        if is_stable {
            (self.failures, self.waits) = (0, Waits::default());
            self.failover.on_success();
        }
        if !self.reconnects.is_empty() {
            return Ok(None);
        }
        if !is_stable {
            self.failures = self.failures.saturating_add(1);
            let round = self.failover.on_failure(Failure::Unreachable);
            return Ok(Some(round.unwrap_or(Failure::Unreachable)));
        }
        Ok(Some(Failure::Unreachable))
    }
}

/// Logs the end of a connection with the fields that the end of a server's session has.
fn log_disconnect(closed: &CloseInfo) {
    tracing::info!(code = closed.code, reason = closed.reason, cause = %closed.cause, "disconnected");
}
