//! A charging station that is connected, and the task that serves it.

use std::sync::{Arc, atomic::Ordering};

use http::Extensions;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use crate::{
    close::{info::CloseCause, intent::Close},
    connection::{
        driver::Driver,
        mailbox::{OfflineCalls, QueueRules},
        negotiated::Negotiated,
        shared::{Run, Shared},
        socket::{Disconnect, Socket},
    },
    event::EventKind,
    message::tolerance::Deviations,
    options::Options,
    server::{
        handshake::{
            protocol::{Agreement, NONE},
            upgrade::{self, RpcUpgrade},
        },
        rpc_server::Inner,
        session::registry::Place,
    },
    session::Session,
    telemetry::OpenConnection,
};

/// What a session is to be, once the client's socket is there.
pub(crate) struct Plan {
    pub(crate) place: Place,
    pub(crate) agreement: Agreement,
    pub(crate) options: Arc<Options>,
    pub(crate) extensions: Extensions,
    pub(crate) deviations: Deviations,
}

/// A session whose client's socket is there.
struct Opened {
    active: Active,
    shared: Arc<Shared>,
    driver: Box<Driver>,
    socket: Box<Socket>,
    place: Place,
}

/// Waits for the client's socket and serves it.
pub(crate) fn run(server: Arc<Inner>, upgrade: RpcUpgrade, plan: Plan) -> impl Future<Output = ()> + Send {
    // Boxed, so that this task is as large as a session needs and no larger: what the handshake took is given back.
    let opening = Box::pin(open(server, upgrade, plan));
    async move {
        if let Some((opened, span)) = opening.await {
            opened.serve().instrument(span).await;
        }
    }
}

async fn open(server: Arc<Inner>, upgrade: RpcUpgrade, plan: Plan) -> Option<(Opened, Span)> {
    let active = Active { server };
    let server = &active.server;
    let Plan { place, agreement, options, extensions, deviations } = plan;
    let (handshake, status) = (upgrade.handshake.clone(), upgrade.status());
    let refused = |status, reason: &str| server.refused(&handshake, status, reason);
    let upgraded = match timeout(server.http.handshake_timeout, upgrade.into_socket()).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => {
            refused(None, &format!("the client left: {error}"));
            return None;
        }
        Err(_) => {
            refused(None, "the response could not be sent");
            return None;
        }
    };
    let below = handshake.parts().extensions.get().copied().unwrap_or_default();
    let (io, early) = upgrade::stream(upgraded, below);
    let socket = Socket::server(io, &early, &options);
    drop(early);
    let protocol = match agreement {
        Agreement::Named(protocol) => Some(protocol),
        Agreement::Silent(protocol) => protocol,
        Agreement::None => {
            refused(Some(status), NONE);
            let close = Close::new(1002).reason(NONE).with_cause(CloseCause::ProtocolError);
            socket.close(Disconnect::close(&close), options.close_timeout).await;
            // Until then it has taken a place.
            drop(place);
            return None;
        }
    };
    let mut run = Run::new(handshake.shared_identity());
    run.remote_address = handshake.remote_address();
    run.extensions = extensions;
    if let Some(tls) = handshake.tls() {
        run.extensions.insert(tls.clone());
    }
    run.negotiate(Negotiated { dialect: server.dialect(protocol.as_deref()), protocol });
    let shared = Shared::new(run.identity.clone(), server.telemetry.clone());
    let rules = QueueRules { max_queued: options.call_queue, offline_calls: OfflineCalls::Queue };
    let run = shared.start_run(run, rules);
    shared.connected();
    let protocol = run.negotiated().and_then(|negotiated| negotiated.protocol.clone());
    let span = tracing::info_span!(
        "connection",
        identity = &*run.identity,
        protocol = protocol.as_deref(),
        remote_address = run.remote_address.map(tracing::field::display),
    );
    let driver = Driver::new(shared.clone(), run, server.dispatch.clone(), options, false);
    span.in_scope(|| {
        server.running.open();
        place.enter(Session::new(shared.clone()));
        tracing::debug!("session opened");
        shared.report(EventKind::Opened { protocol });
        for deviation in deviations.iter() {
            shared.report(EventKind::Deviation { deviation, text: None });
        }
    });
    Some((Opened { active, shared, driver, socket, place }, span))
}

impl Opened {
    // No `async fn`, which would keep room for its arguments twice.
    fn serve(self) -> impl Future<Output = ()> + Send {
        let Self { active, shared, mut driver, socket, place } = self;
        let open = OpenConnection::new();
        async move {
            // Where the task is dropped, it has left the registry before anybody hears of its end.
            let place = place;
            let closed = driver.serve(socket).await;
            drop(place);
            let server_closes = active.server.closing.is_cancelled();
            tracing::debug!(%closed, "session closed");
            open.closed(&closed);
            shared.report(EventKind::Closed(closed.clone()));
            driver.finish(closed).await;
            if server_closes {
                active.server.clean.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Has a session's task leave the server's list when it ends. Made when it is polled: one that never is may be dropped
/// while the list is locked.
struct Active {
    server: Arc<Inner>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.server.running.leave();
    }
}
