//! A charging station that is connected, and the task that serves it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use http::Extensions;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use crate::{
    close::{info::CloseCause, intent::Close},
    connection::{
        driver::Driver,
        info::{About, Agreed},
        link::{Link, Meanwhile},
        socket::{Farewell, Socket},
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
    link: Arc<Link>,
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
    let Plan { place, agreement, options, mut extensions, deviations } = plan;
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
            socket.part(Farewell::close(&close), options.close_timeout).await;
            // Until then it has taken a place.
            drop(place);
            return None;
        }
    };
    if let Some(tls) = handshake.tls() {
        extensions.insert(tls.clone());
    }
    let about = About {
        identity: handshake.shared_identity(),
        remote_address: handshake.remote_address(),
        opened_at: SystemTime::now(),
        extensions,
    };
    let agreed = Agreed { dialect: server.dialect(protocol.as_deref()), protocol };
    let span = tracing::info_span!(
        "connection",
        identity = &*about.identity,
        protocol = agreed.protocol.as_deref(),
        remote_address = about.remote_address.map(tracing::field::display),
    );
    let link = Link::new(about, options.call_queue, Meanwhile::Wait, server.telemetry.clone());
    link.agree(agreed);
    let driver = Driver::new(link.clone(), server.dispatch.clone(), options);
    span.in_scope(|| {
        server.running.open();
        place.enter(Session::new(link.clone()));
        tracing::debug!("session opened");
        link.report(EventKind::Opened { protocol: link.agreed().and_then(|agreed| agreed.protocol.clone()) });
        for deviation in deviations.iter() {
            link.report(EventKind::Deviation { deviation, text: None });
        }
    });
    Some((Opened { active, link, driver, socket, place }, span))
}

impl Opened {
    // No `async fn`, which would keep room for its arguments twice.
    fn serve(self) -> impl Future<Output = ()> + Send {
        let Self { active, link, mut driver, socket, place } = self;
        let open = OpenConnection::new();
        async move {
            // Where the task is dropped, it has left the registry before anybody hears of its end.
            let place = place;
            let closed = driver.serve(socket).await;
            drop(place);
            let server_closes = active.server.closing.is_cancelled();
            tracing::debug!(%closed, "session closed");
            open.closed(&closed);
            link.report(EventKind::Closed(closed.clone()));
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
