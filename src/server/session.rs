//! A charging station that is connected, and the task that serves it.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::{Inner, NONE, RpcUpgrade, TlsFacts, negotiation::Agreement, registry::Place, upgrade};
use crate::{
    action::{Action, SendAction},
    close::{Cause, Close, Closed},
    connection::{
        About, Agreed, Link, Side,
        driver::Driver,
        link::Meanwhile,
        socket::{Farewell, Socket},
    },
    error::CallError,
    event::EventKind,
    meter,
    options::Options,
    peer::{Call, Peer},
    rpc::{IncomingCall, extract::FromCall},
    tolerance::Deviations,
};

/// The handle on a charging station that is connected. Cheap to clone; it stays valid when the connection has
/// ended, and says so.
#[derive(Debug, Clone)]
pub struct Session {
    peer: Peer,
}

impl Session {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { peer: Peer::new(link) }
    }

    /// Calls an action of the charging station; see [`Peer::call`].
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        self.peer.call(action, params)
    }

    /// Calls an action of the charging station by its type; see [`Peer::request`].
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        self.peer.request(request)
    }

    /// Sends a message that is never answered; see [`Peer::send`].
    pub fn send(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<()> {
        self.peer.send(action, params)
    }

    /// Sends a message that is never answered by its type; see [`Peer::send_action`].
    pub fn send_action<A: SendAction>(&self, message: A) -> Call<()> {
        self.peer.send_action(message)
    }

    /// Closes the session and waits for its end; see [`Peer::close`]. It has left the server's registry by then.
    pub async fn close(&self, close: Close) -> Closed {
        self.peer.close(close).await
    }

    /// Waits for the end of the session; see [`Peer::closed`].
    pub async fn closed(&self) -> Closed {
        self.peer.closed().await
    }

    /// The handle that knows both ends alike.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The identity of the charging station.
    pub fn identity(&self) -> &str {
        self.peer.identity()
    }

    /// The subprotocol that was agreed on; none where the server has none.
    pub fn protocol(&self) -> Option<&str> {
        self.peer.protocol()
    }

    /// The address at the other end, where it is known.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.link().about.remote_address
    }

    /// What is known of the TLS below: version, and the client's certificates.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.extension()
    }

    /// When the connection was opened.
    pub fn connected_at(&self) -> SystemTime {
        self.link().about.opened_at
    }

    /// When something was last received, pings and pongs included.
    pub fn last_seen_at(&self) -> SystemTime {
        self.link().last_seen()
    }

    /// What the application said of this session when it accepted it.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.peer.extensions().get()
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        self.peer.link()
    }
}

/// The session that the call came in on. A client's router has none: its handlers ask for a [`Peer`].
impl<S: Sync> FromCall<S> for Session {
    async fn from_call(call: &IncomingCall, _: &S) -> Result<Self, CallError> {
        match call.peer().link().about.side {
            Side::Server => Ok(Self { peer: call.peer().clone() }),
            Side::Client => Err(CallError::internal("a client has no sessions: ask for the `Peer`")),
        }
    }
}

/// What a session is to be, once the client's socket is there.
pub(super) struct Plan {
    pub(super) place: Place,
    pub(super) agreement: Agreement,
    pub(super) options: Arc<Options>,
    pub(super) extensions: Extensions,
    pub(super) deviations: Deviations,
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
pub(super) fn run(server: Arc<Inner>, upgrade: RpcUpgrade, plan: Plan) -> impl Future<Output = ()> + Send {
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
    let upgraded = match timeout(server.handshake_deadline, upgrade.into_socket()).await {
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
            let close = Close::new(1002).reason(NONE).because(Cause::ProtocolError);
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
        side: Side::Server,
        extensions,
    };
    let agreed = Agreed { dialect: server.dialect(protocol.as_deref()), protocol };
    let span = tracing::info_span!(
        "connection",
        identity = &*about.identity,
        protocol = agreed.protocol.as_deref(),
        remote_address = about.remote_address.map(tracing::field::display),
    );
    let link = Link::new(about, options.call_queue, Meanwhile::Wait, server.hub.clone(), server.meter.clone());
    link.agree(agreed);
    let driver = Driver::new(link.clone(), server.dispatch.clone(), options);
    span.in_scope(|| {
        server.running.open();
        place.enter(Session::new(link.clone()));
        tracing::debug!("session opened");
        link.emit(|| EventKind::Opened { protocol: link.agreed().and_then(|agreed| agreed.protocol.clone()) });
        for deviation in deviations.iter() {
            let news = EventKind::Deviation { deviation, text: None };
            meter::news(&news);
            link.emit(|| news);
        }
    });
    Some((Opened { active, link, driver, socket, place }, span))
}

impl Opened {
    // No `async fn`, which would keep room for its arguments twice.
    fn serve(self) -> impl Future<Output = ()> + Send {
        let Self { active, link, mut driver, socket, place } = self;
        let open = meter::Connection::opened();
        async move {
            // Where the task is dropped, it has left the registry before anybody hears of its end.
            let place = place;
            let closed = driver.serve(socket).await;
            drop(place);
            let server_closes = active.server.closing.is_cancelled();
            tracing::debug!(%closed, "session closed");
            open.closed(&closed);
            link.emit(|| EventKind::Closed(closed.clone()));
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
