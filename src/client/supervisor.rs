//! The one task of a client: it connects, drives the connection, backs off, and repeats until it is closed.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};

use crate::{
    backoff::{Failure, Waits},
    client::{
        connect::{ConnectPlan, Connected},
        error::ConnectError,
        life::{ClientRun, ClientShared, ClientState},
        reconnect::Reconnect,
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
    pub(super) run: Arc<ClientRun>,
    pub(super) shared: Arc<ClientShared>,
    pub(super) driver: Box<Driver>,
    pub(super) plan: ConnectPlan,
    pub(super) dialects: Vec<(Arc<str>, Dialect)>,
    pub(super) reconnect: Reconnect,
    /// The failed attempts in a row.
    pub(super) failures: u32,
    pub(super) waits: Waits,
}

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
            let _ = self.run.first.set(Err(ConnectError::Aborted));
        }
    }
}

impl Supervisor {
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
        tracing::debug!(%closed, "closed");
        self.shared.state.send_replace(ClientState::Closed);
        // It is set already if there has been a connection.
        let _ = self.run.first.set(Err(error));
        self.shared.session.report(EventKind::Closed(closed.clone()));
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
            let failure = match self.driver.run_offline(Box::pin(self.plan.connect())).await {
                Ok(Ok(connected)) => {
                    self.serve(connected).await?;
                    Failure::Unreachable
                }
                Ok(Err(error)) => self.on_failure(error)?,
                Err(close) => return Err(End::CloseRequested(close)),
            };
            if self.is_out_of_attempts() {
                let gave_up =
                    CloseInfo { reason: "no attempts left".into(), ..CloseInfo::abnormal(CloseCause::GaveUp) };
                return Err(End::Closed(gave_up));
            }
            let wait = self.waits.next(&self.reconnect.backoff, failure, random());
            tracing::debug!(?wait, self.failures, "backing off");
            self.driver.run_offline(sleep(wait)).await.map_err(End::CloseRequested)?;
        }
    }

    fn is_out_of_attempts(&self) -> bool {
        self.reconnect.attempts.is_some_and(|attempts| self.failures > attempts)
    }

    /// Counts a failed attempt. Returns an error if no other one follows.
    fn on_failure(&mut self, error: ConnectError) -> Result<Failure, End> {
        tracing::debug!(%error, "cannot connect");
        let is_first = self.run.first.get().is_none();
        self.failures = self.failures.saturating_add(1);
        let is_final = (is_first && !self.reconnect.retry_first_connect) || self.reconnect.gives_up(&error);
        if is_final || self.is_out_of_attempts() {
            Err(End::Failed(error))
        } else {
            Ok(error.failure(SystemTime::now()))
        }
    }

    /// Serves a connection to its end.
    async fn serve(&mut self, connected: Connected) -> Result<(), End> {
        let Connected { io, read_buf, protocol, deflate } = connected;
        let own = self.dialects.iter().find(|(name, _)| Some(name) == protocol.as_ref());
        let dialect = own.map_or_else(|| Dialect::for_protocol(protocol.as_deref()), |(_, dialect)| *dialect);
        let negotiated = Negotiated { protocol, dialect };
        // From now on no other protocol will do: queued calls are encoded for this one.
        self.plan.protocols = negotiated.protocol.iter().cloned().collect();
        self.run.run.negotiate(negotiated.clone());
        self.driver.negotiate(negotiated.clone());
        tracing::Span::current().record("protocol", negotiated.protocol.as_deref());
        let mut socket = Socket::new(io, &read_buf, Role::Client, deflate, self.driver.options());
        drop(read_buf);

        // A task that sees the client open may call at once.
        self.run.run.set_compression(deflate.map(|params| params.info(Role::Client)));
        self.shared.session.connected();
        self.shared.state.send_if_modified(ClientState::open);
        self.shared.session.report(EventKind::Opened { protocol: negotiated.protocol });
        let open = OpenConnection::new();
        let _ = self.run.first.set(Ok(()));
        let opened = Instant::now();
        let disconnect = self.driver.run(&mut socket).await;

        // A close that was requested in this moment wants no other connection.
        let reconnects = self.reconnect.attempts != Some(0) && !disconnect.is_local() && self.shared.session.is_open();
        let closing = Box::pin(socket.close(disconnect, self.driver.options().close_timeout));
        if !reconnects {
            self.driver.on_disconnect(AfterDisconnect::End);
            let closed = self.driver.run_closing(closing).await;
            open.closed(&closed);
            return Err(End::Closed(closed));
        }
        self.shared.state.send_if_modified(ClientState::disconnect);
        self.driver.on_disconnect(AfterDisconnect::Reconnect);
        let closed = match self.driver.run_offline(closing).await {
            Ok(closed) => closed,
            Err(close) => {
                open.closed(&close.outcome());
                return Err(End::CloseRequested(close));
            }
        };
        open.closed(&closed);
        self.shared.session.report(EventKind::Disconnected(closed));
        if opened.elapsed() >= STABLE {
            (self.failures, self.waits) = (0, Waits::default());
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        Ok(())
    }
}
