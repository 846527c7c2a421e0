//! The one task of a client: dial, drive, back off, and so on until it is closed.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::{Instant, sleep};

use crate::{
    client::{
        connect::{Dialled, Plan},
        error::ConnectError,
        life::{ClientState, Life, Shared},
        reconnect::Reconnect,
    },
    close::{
        info::{CloseCause, CloseInfo},
        intent::Close,
    },
    connection::{driver::Driver, info::Agreed, link::Next, socket::Socket},
    event::EventKind,
    message::dialect::Dialect,
    telemetry::OpenConnection,
};

/// A connection that lived so long was a success: the back-off begins anew.
const STABLE: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    pub(super) life: Arc<Life>,
    pub(super) shared: Arc<Shared>,
    pub(super) driver: Box<Driver>,
    pub(super) plan: Plan,
    pub(super) dialects: Vec<(Arc<str>, Dialect)>,
    pub(super) reconnect: Reconnect,
    /// Failed attempts in a row.
    pub(super) failures: u32,
    /// Waits since the last success.
    pub(super) waits: u32,
}

/// Why a client's life is over.
enum End {
    Wished(Close),
    Closed(CloseInfo),
    Failed(ConnectError),
}

/// However the task ends, nobody waits for it in vain.
struct Ending {
    life: Arc<Life>,
    shared: Arc<Shared>,
    is_due: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.is_due {
            self.shared.state.send_replace(ClientState::Closed);
            let _ = self.life.first.set(Err(ConnectError::Aborted));
        }
    }
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        let mut ending = Ending { life: self.life.clone(), shared: self.shared.clone(), is_due: true };
        let Err(end) = self.live().await;
        let was_connected = self.life.first.get().is_some_and(Result::is_ok);
        let (closed, error) = match end {
            End::Closed(closed) => (closed, ConnectError::Aborted),
            End::Wished(close) if was_connected => (close.outcome(), ConnectError::Aborted),
            End::Wished(_) => (Close::going_away().reason("connection aborted").outcome(), ConnectError::Aborted),
            End::Failed(error) => {
                let closed = CloseInfo { reason: error.to_string(), ..CloseInfo::abnormal(CloseCause::GaveUp) };
                (closed, error)
            }
        };
        tracing::debug!(%closed, "closed");
        self.shared.state.send_replace(ClientState::Closed);
        // Set already where there has been a connection.
        let _ = self.life.first.set(Err(error));
        self.life.link.report(EventKind::Closed(closed.clone()));
        // Handlers may take their time: by then there may be another life.
        ending.is_due = false;
        drop(ending);
        drop(self.shared);
        self.driver.finish(closed).await;
    }

    /// Connects, again and again.
    async fn live(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.life.link.report(EventKind::Connecting);
            match self.driver.offline(Box::pin(self.plan.dial())).await.map_err(End::Wished)? {
                Ok(dialled) => self.serve(dialled).await?,
                Err(error) => self.judge(error)?,
            }
            if self.failures > self.reconnect.attempts {
                let gave_up =
                    CloseInfo { reason: "no attempts left".into(), ..CloseInfo::abnormal(CloseCause::GaveUp) };
                return Err(End::Closed(gave_up));
            }
            let wait = self.reconnect.backoff.wait(self.waits, rand::random());
            self.waits = self.waits.saturating_add(1);
            tracing::debug!(?wait, self.failures, "backing off");
            self.driver.offline(sleep(wait)).await.map_err(End::Wished)?;
        }
    }

    /// Whether an attempt that failed is the end.
    fn judge(&mut self, error: ConnectError) -> Result<(), End> {
        tracing::debug!(%error, "cannot connect");
        let is_first = self.life.first.get().is_none();
        let is_final = match &error {
            ConnectError::Handshake(_) | ConnectError::Protocol { .. } => true,
            ConnectError::Refused { status, .. } => {
                const HOPELESS: [StatusCode; 3] =
                    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
                !self.reconnect.retry_if_refused && HOPELESS.contains(status)
            }
            _ => false,
        };
        self.failures = self.failures.saturating_add(1);
        let is_last = self.failures > self.reconnect.attempts;
        match is_final || is_last || (is_first && !self.reconnect.first_connect) {
            true => Err(End::Failed(error)),
            false => Ok(()),
        }
    }

    /// Serves a connection to its end.
    async fn serve(&mut self, dialled: Dialled) -> Result<(), End> {
        let Dialled { io, early, protocol } = dialled;
        let own = self.dialects.iter().find(|(name, _)| Some(name) == protocol.as_ref());
        let dialect = own.map_or_else(|| Dialect::of(protocol.as_deref()), |(_, dialect)| *dialect);
        let agreed = Agreed { protocol, dialect };
        // From now on nothing else will do: what waits for a connection was written in this protocol.
        self.plan.protocols = agreed.protocol.iter().cloned().collect();
        self.life.link.agree(agreed.clone());
        self.driver.agree(agreed.clone());
        tracing::Span::current().record("protocol", agreed.protocol.as_deref());
        let mut socket = Socket::client(io, &early, self.driver.options());
        drop(early);

        let is_connecting = |state: &mut ClientState| {
            let is_connecting = *state == ClientState::Connecting;
            if is_connecting {
                *state = ClientState::Open;
            }
            is_connecting
        };
        // Whoever sees it open may call at once.
        self.life.link.found();
        self.shared.state.send_if_modified(is_connecting);
        self.life.link.report(EventKind::Opened { protocol: agreed.protocol.clone() });
        let open = OpenConnection::new();
        let _ = self.life.first.set(Ok(()));
        let opened = Instant::now();
        let farewell = self.driver.run(&mut socket).await;

        // Whoever waits for a close wants no other connection.
        let reconnects = self.reconnect.attempts > 0 && !farewell.is_wished_for() && self.life.link.is_open();
        let parting = Box::pin(socket.part(farewell, self.driver.options().close_timeout));
        if !reconnects {
            self.driver.lose(Next::End);
            let closed = self.driver.alongside(parting).await;
            open.closed(&closed);
            return Err(End::Closed(closed));
        }
        self.shared.state.send_if_modified(ClientState::lose);
        self.driver.lose(Next::Reconnect);
        let closed = match self.driver.offline(parting).await {
            Ok(closed) => closed,
            Err(close) => {
                open.closed(&close.outcome());
                return Err(End::Wished(close));
            }
        };
        open.closed(&closed);
        self.life.link.report(EventKind::Disconnected(closed));
        match opened.elapsed() >= STABLE {
            true => (self.failures, self.waits) = (0, 0),
            false => self.failures = self.failures.saturating_add(1),
        }
        Ok(())
    }
}
