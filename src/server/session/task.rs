//! The task of a session, from the upgrade to the end of the last handler.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use http::Extensions;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use crate::{
    close::{
        info::{CloseCause, CloseInfo},
        intent::Close,
    },
    cluster::member::Member,
    connection::{
        driver::Driver,
        mailbox::{OfflineCalls, QueueRules},
        negotiated::Negotiated,
        shared::{Dispatch, OwnKey, Run, Shared},
        socket::{Disconnect, Socket},
    },
    event::kind::{Event, EventKind},
    message::tolerance::Deviations,
    options::Options,
    server::{
        handshake::{
            auth::OnOpen,
            protocol::{NO_COMMON_PROTOCOL, Selection},
            upgrade::{self, RpcUpgrade},
        },
        rpc_server::ServerState,
        session::registry::{Reservation, report_conflict},
    },
    session::Session,
    telemetry::OpenConnection,
    websocket::{extension::DeflateParams, head::Role},
};

/// The settings of a session that opens after the upgrade.
pub(crate) struct NewSession {
    pub(crate) reservation: Reservation,
    pub(crate) selection: Selection,
    pub(crate) options: Arc<Options>,
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) extensions: Extensions,
    pub(crate) deviations: Deviations,
    /// The compression, if the handshake agreed on it.
    pub(crate) deflate: Option<DeflateParams>,
    pub(crate) on_open: Option<OnOpen>,
}

/// A session after the upgrade.
struct OpenSession {
    guard: TaskGuard,
    shared: Arc<Shared>,
    driver: Box<Driver>,
    socket: Box<Socket>,
    reservation: Reservation,
}

/// Waits for the upgrade, then serves the session.
pub(crate) fn run(server: Arc<ServerState>, upgrade: RpcUpgrade, plan: NewSession) -> impl Future<Output = ()> + Send {
    // Boxed, so that the memory of the handshake is released when the session opens.
    let opening = Box::pin(open(server, upgrade, plan));
    async move {
        // Not `if let`, whose value would stay in the future as long as the session.
        let Some((opened, span)) = opening.await else { return };
        opened.serve().instrument(span).await;
    }
}

/// Waits for the upgrade and registers the session.
async fn open(server: Arc<ServerState>, upgrade: RpcUpgrade, plan: NewSession) -> Option<(OpenSession, Span)> {
    let guard = TaskGuard { server };
    let server = &guard.server;
    let NewSession { reservation, selection, options, dispatch, extensions, deviations, deflate, on_open } = plan;
    let (handshake, status) = (upgrade.handshake.clone(), upgrade.status());
    let report = |status, reason: &str| server.report_refused(&handshake, status, reason);
    let upgraded = match timeout(server.http.handshake_timeout, upgrade.into_on_upgrade()).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => {
            report(None, &format!("the client disconnected: {error}"));
            return None;
        }
        Err(_) => {
            report(None, "sending the response timed out");
            return None;
        }
    };
    let io_downcast = handshake.parts().extensions.get().copied().unwrap_or_default();
    let (io, read_buf) = upgrade::into_io(upgraded, io_downcast);
    let socket = Socket::new(io, &read_buf, Role::Server, deflate, &options);
    drop(read_buf);
    let protocol = match selection {
        Selection::Offered(protocol) => Some(protocol),
        Selection::Unnamed(protocol) => protocol,
        Selection::NoCommon => {
            report(Some(status), NO_COMMON_PROTOCOL);
            let close = Close::new(1002).reason(NO_COMMON_PROTOCOL).with_cause(CloseCause::ProtocolError);
            // Boxed, because the future is large and rarely needed.
            Box::pin(socket.close(Disconnect::close(&close), options.close_timeout)).await;
            // The connection counts as a session until it is closed.
            drop(reservation);
            return None;
        }
    };
    let mut run = Run::new(handshake.shared_identity());
    run.remote_address = handshake.remote_address();
    run.extensions = extensions;
    // Most sessions need no room for a key of their own.
    if let Some(key) = reservation.key().filter(|key| **key != run.identity) {
        run.extensions.insert(OwnKey(key.clone()));
    }
    if let Some(tls) = handshake.tls() {
        run.extensions.insert(tls.clone());
    }
    if let Some(params) = deflate {
        run.allow_compression();
        run.set_compression(Some(params.info(Role::Server)));
    }
    run.negotiate(Negotiated { dialect: server.dialect(protocol.as_deref()), protocol });
    let rules = QueueRules { max_queued: options.call_queue, offline_calls: OfflineCalls::Queue };
    let shared = Shared::started(reservation.id(), run, rules, server.telemetry.clone());
    let run = shared.run();
    shared.connected();
    let protocol = run.negotiated().and_then(|negotiated| negotiated.protocol);
    let span = tracing::info_span!(
        "connection",
        identity = &*run.identity,
        key = run.own_key().map(|key| &**key),
        protocol = protocol.as_deref(),
        remote_address = run.remote_address.map(tracing::field::display),
    );
    let driver = Driver::new(shared.clone(), run, dispatch, options, server.outliving.clone(), false);
    span.in_scope(|| {
        server.session_tasks.mark_session();
        let is_conflict = reservation.activate(Session::new(shared.clone()), Instant::now().into_std());
        tracing::info!("session opened");
        report_event(server.cluster.as_ref(), &shared, EventKind::Opened { protocol });
        if is_conflict {
            report_conflict(&shared);
        }
        for deviation in deviations.iter() {
            shared.report(EventKind::Deviation { deviation, text: None });
        }
        if let Some(on_open) = on_open {
            let session = Session::new(shared.clone());
            if catch_unwind(AssertUnwindSafe(|| on_open(session))).is_err() {
                tracing::error!("the function for a session that opens panicked");
            }
        }
    });
    Some((OpenSession { guard, shared, driver, socket, reservation }, span))
}

impl OpenSession {
    // Not an `async fn`, which would store its arguments twice.
    fn serve(self) -> impl Future<Output = ()> + Send {
        let Self { guard, shared, mut driver, socket, reservation } = self;
        let mut report = EndReport { open: Some((shared, OpenConnection::new())), guard };
        async move {
            // Moved into the future, so that a dropped task leaves the registry before its end is reported.
            let reservation = reservation;
            let closed = driver.serve(socket).await;
            drop(reservation);
            let server_closes = report.guard.server.closing.is_cancelled();
            report.report(&closed);
            driver.finish(closed).await;
            if server_closes {
                report.guard.server.clean.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Reports an event of a session to the readers of this server, and to those of the cluster.
fn report_event(cluster: Option<&Arc<Member>>, shared: &Arc<Shared>, kind: EventKind) {
    if let Some(cluster) = cluster {
        cluster.publish(&Event::new(shared.origin(), kind.clone(), shared.telemetry.mask().clone()));
    }
    shared.report(kind);
}

/// Reports the end of a session, even if its task is dropped. Empty after the report.
struct EndReport {
    open: Option<(Arc<Shared>, OpenConnection)>,
    guard: TaskGuard,
}

impl EndReport {
    fn report(&mut self, closed: &CloseInfo) {
        let Some((shared, open)) = self.open.take() else { return };
        tracing::info!(code = closed.code, reason = closed.reason, cause = %closed.cause, "session closed");
        open.closed(closed);
        report_event(self.guard.server.cluster.as_ref(), &shared, EventKind::Closed(closed.clone()));
    }
}

impl Drop for EndReport {
    fn drop(&mut self) {
        self.report(&CloseInfo::abnormal(CloseCause::Local));
    }
}

/// Removes a session's task from the server's list when dropped.
///
/// Must be created when the task is first polled. A task that was never polled may be dropped while the list is locked.
struct TaskGuard {
    server: Arc<ServerState>,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.server.session_tasks.remove();
    }
}
