//! The handle on a connection.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    action::{Action, SendAction},
    call::{self, Call},
    close::{info::CloseInfo, intent::Close},
    connection::{
        calls_out::Kind,
        handler_set::{self, AwaitedClose},
        shared::{Command, Run, Shared},
    },
    error::{BuildError, Error},
    event::kind::Event,
    info::{StationInfo, TlsInfo},
    message::payload::Payload,
    options::Options,
    outgoing::{OutgoingCall, Target},
    websocket::compression::CompressionInfo,
};

/// The handle on a connection, the same at both ends: calls the peer, closes the connection, waits for its end.
///
/// At a server, a session is one connection of a charging station: [`RpcServer::session`](crate::RpcServer::session)
/// returns it, and handlers take it as an argument. At a client, one session lasts as long as the client, over all of
/// its connections: see [`RpcClient::session`](crate::RpcClient::session).
///
/// A handle is cheap to clone. A connection ends when it is closed or lost, not when its handles are dropped; after
/// that, calls fail with [`Error::Closed`].
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Calls an action of the peer.
    ///
    /// The call is made when the returned future is first polled. It waits for its turn
    /// ([`Options::call_concurrency`]), is written, and waits for its response. Parameters must serialize to a JSON
    /// object; `&()` is the empty one. The response is decoded as `R`.
    /// `serde_json::Value` decodes any response, and [`Payload`] keeps its text.
    ///
    /// ```no_run
    /// # async fn example(session: ocpp_rpc::Session) -> Result<(), ocpp_rpc::Error> {
    /// use std::time::Duration;
    /// use serde_json::{Value, json};
    ///
    /// let response: Value = session.call("Reset", &json!({"type": "Soft"})).timeout(Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an [`Error`], which says whether the peer may have received the call.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the call is cancelled. If it was not written yet, it never will be.
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        Call::new(&self.shared, Kind::Call, action, Payload::encode(params))
    }

    /// Calls the action of a typed request, and returns the typed response.
    ///
    /// See [`Action`] for requests that know their action. Everything else is as for [`call`](Self::call).
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        self.call(A::NAME, request.params())
    }

    /// Sends a message that has no response, OCPP 2.1's SEND.
    ///
    /// The future resolves when the message is written. It does not wait for queued calls.
    ///
    /// # Errors
    ///
    /// Returns [`Error::SendNotSupported`] if the [`Dialect`](crate::message::Dialect) of the connection has no SEND, or
    /// if a client was never connected. Otherwise returns an error if the message cannot be
    /// encoded or written.
    pub fn send(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<()> {
        Call::<Payload>::new(&self.shared, Kind::Send, action, Payload::encode(params)).ignore_result()
    }

    /// Sends a message that has no response, under the name of its action.
    ///
    /// See [`SendAction`] for messages that know their action. Everything else is as for [`send`](Self::send).
    pub fn send_action<A: SendAction>(&self, message: A) -> Call<()> {
        self.send(A::NAME, message.params())
    }

    /// Sends a text as it is, for tests, for relays, and for private extensions of the protocol.
    ///
    /// The text is neither read nor validated, and no response is awaited: what the peer sends in return is handled by
    /// the rules for its messages, or goes to the handler of [`RpcRouter::raw`](crate::RpcRouter::raw). The future
    /// resolves when the text is written. It does not wait for queued calls, but counts toward [`Options::call_queue`]
    /// until then.
    ///
    /// ```no_run
    /// # async fn example(session: ocpp_rpc::Session) -> Result<(), ocpp_rpc::Error> {
    /// session.send_raw(r#"[2,"17","Heartbeat",{},"an extension"]"#).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Error::Disconnected`] if the text cannot be written, [`Error::QueueFull`] if too much is queued, and
    /// [`Error::NotConnected`], [`Error::Closing`] or [`Error::Closed`] as [`call`](Self::call) does.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the text is written, it never will be. The future does nothing until it is
    /// polled.
    pub async fn send_raw(&self, text: impl Into<String>) -> Result<(), Error> {
        call::send_raw(&self.shared, text.into()).await
    }

    /// Replaces all options of this connection.
    ///
    /// An option that `options` does not set gets its default; it does not keep its value.
    ///
    /// [`max_message_size`](Options::max_message_size), [`max_unsent`](Options::max_unsent),
    /// [`call_queue`](Options::call_queue), [`tolerance`](Options::tolerance), [`validation`](Options::validation) and
    /// [`compression`](Options::compression) stay as they are. Calls in flight keep their timeout.
    ///
    /// At a client, this holds over all connections until the client is closed; `RpcClient::update` sets options for
    /// longer.
    ///
    /// # Errors
    ///
    /// Returns an error if an option can never work. Nothing changes then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        options.check()?;
        self.shared.send(Command::SetOptions(Box::new(options)));
        Ok(())
    }

    /// Closes the connection and waits for its end. The first close decides how; later ones return its outcome.
    ///
    /// A close takes at most the time given to [`Close::drain`], plus [`Options::close_timeout`], plus one second. It
    /// waits for no handler that itself awaits the close of its session, and the response of such a handler is dropped.
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, the connection closes even if it is dropped.
    pub async fn close(&self, close: Close) -> CloseInfo {
        self.shared.close(close);
        handler_set::await_close(AwaitedClose::Session(self.shared.id), self.shared.closed()).await
    }

    /// Waits for the end of the connection. At a client, this waits until the client is closed or gives up to reconnect.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped and created again.
    pub async fn closed(&self) -> CloseInfo {
        self.shared.closed().await
    }

    /// Returns whether calls are accepted: the session has neither ended nor begun to close.
    ///
    /// A client's session stays open while the client reconnects. Calls then wait for the next connection, or fail if
    /// `Reconnect::refuse_calls` is set.
    pub fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// Returns how many calls in a row have timed out. A response in time sets it to zero.
    ///
    /// Some charging stations send their own calls and ignore those of the server.
    pub fn consecutive_timeouts(&self) -> u32 {
        self.shared.consecutive_timeouts()
    }

    /// Returns the round-trip time of the latest ping that the peer has answered. `None` before the first pong of the
    /// connection.
    ///
    /// [`Options::ping_interval`] sets how often pings are sent.
    pub fn ping(&self) -> Option<Duration> {
        self.shared.ping()
    }

    /// Returns the number of calls to the peer that are not written yet.
    pub fn queued(&self) -> usize {
        self.shared.queued()
    }

    /// Returns the number of calls to the peer that are written and wait for their response.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// Returns the number of errors of the session: each CALLERROR and CALLRESULTERROR in either direction, and each bad
    /// message.
    ///
    /// A bad message and the CALLERROR for it count once. At a client, errors of earlier connections count until the client
    /// is closed.
    pub fn errors(&self) -> u64 {
        self.shared.run().errors()
    }

    /// Returns the id of the session, a number that no other session of this process has.
    ///
    /// A server numbers requests when they arrive, so of two sessions the newer one has the higher id. Events carry
    /// the id of their session.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Returns the key by which a server [finds](crate::RpcServer::session) the session: the identity, unless the
    /// application accepted the connection with another key. At a client, it is the identity.
    pub fn key(&self) -> Arc<str> {
        self.shared.run().key().clone()
    }

    /// Returns the identity of the charging station.
    pub fn identity(&self) -> Arc<str> {
        self.shared.run().identity.clone()
    }

    /// Returns the subprotocol of the connection.
    ///
    /// It is `None` if the handshake agreed on none, and at a client before the first connection.
    pub fn protocol(&self) -> Option<Arc<str>> {
        self.shared.run().negotiated()?.protocol
    }

    /// Returns the address of the peer. A client does not know it.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.shared.run().remote_address
    }

    /// Returns the TLS version and the peer's certificates. `None` if there is no TLS, or if nothing is known of it.
    pub fn tls(&self) -> Option<TlsInfo> {
        self.extension()
    }

    /// Returns the time of the latest connect. At a client it is `None` before the first one.
    pub fn connected_at(&self) -> Option<SystemTime> {
        self.shared.connected_at()
    }

    /// Returns the time of the latest input, including pings and pongs.
    pub fn last_seen_at(&self) -> Option<SystemTime> {
        self.shared.last_seen_at()
    }

    /// Returns a copy of the value of this type that the application attached when it accepted the connection.
    pub fn extension<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.shared.run().extensions.get().cloned()
    }

    /// Returns the information on the station of a server's session. `node` is the name of the server in its cluster.
    pub(crate) fn station_info(&self, node: Option<&Arc<str>>) -> StationInfo {
        let connected_at = self.connected_at().unwrap_or(SystemTime::UNIX_EPOCH);
        StationInfo {
            key: (&*self.key()).into(),
            identity: (&*self.identity()).into(),
            node: node.map(|node| (&**node).into()),
            protocol: self.protocol().map(|protocol| (&*protocol).into()),
            remote_address: self.remote_address(),
            connected_at,
            last_seen_at: self.last_seen_at().unwrap_or(connected_at),
            ping: self.ping(),
            queued: self.queued(),
            in_flight: self.in_flight(),
            errors: self.errors(),
        }
    }

    /// Returns information on the connection: identity, subprotocol, address, TLS, compression, extensions.
    pub fn info(&self) -> SessionInfo {
        let run = self.shared.run();
        let protocol = run.negotiated().and_then(|negotiated| negotiated.protocol);
        SessionInfo { protocol, compression: run.compression(), run }
    }
}

impl OutgoingCall {
    /// Returns the session that the call goes to. `None` if the station has no session at this node.
    ///
    /// A call to a [`Station`](crate::Station) goes to the session that the station has when the call is made.
    pub fn session(&self) -> Option<Session> {
        match &self.target {
            Target::Session(shared) => Some(shared.clone()),
            Target::Station(route, key) => route.find(key),
        }
        .map(Session::new)
    }
}

impl Event {
    /// Returns the session of the event. `None` if the event belongs to none, such as a refused handshake.
    ///
    /// The session may have ended since. Events do not keep it: if it has ended and no other handle exists, this returns
    /// `None`.
    ///
    /// ```no_run
    /// use ocpp_rpc::{RpcServer, event::EventKind};
    /// use serde_json::{Value, json};
    ///
    /// async fn configure(server: RpcServer) {
    ///     let mut events = server.events();
    ///     while let Some(event) = events.next().await {
    ///         if let (EventKind::Opened { .. }, Some(session)) = (&event.kind, event.session()) {
    ///             tokio::spawn(session.call::<Value>("GetConfiguration", &json!({})));
    ///         }
    ///     }
    /// }
    /// ```
    pub fn session(&self) -> Option<Session> {
        let shared = self.session.as_ref()?.upgrade()?.downcast().ok()?;
        Some(Session { shared })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt_as("Session", f)
    }
}

/// Information on a session, returned by [`Session::info`].
///
/// ```
/// use ocpp_rpc::{Session, SessionInfo};
///
/// fn describe(session: &Session) -> String {
///     let info: SessionInfo = session.info();
///     format!("{} speaks {}", info.identity(), info.protocol().unwrap_or("an unknown protocol"))
/// }
/// ```
#[derive(Clone)]
pub struct SessionInfo {
    run: Arc<Run>,
    protocol: Option<Arc<str>>,
    compression: Option<CompressionInfo>,
}

impl SessionInfo {
    /// Returns the identity of the charging station.
    pub fn identity(&self) -> &str {
        &self.run.identity
    }

    /// Returns the subprotocol of the connection, as [`Session::protocol`] does.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Returns the address of the peer. A client does not know it.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.run.remote_address
    }

    /// Returns the TLS version and the peer's certificates. `None` if there is no TLS, or if nothing is known of it.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.run.extensions.get()
    }

    /// Returns the compression of the connection, with the bytes that it had saved when [`Session::info`] was called.
    /// `None` if the handshake did not agree on it.
    ///
    /// At a client, the bytes are those of the current connection, or of the last one while it reconnects.
    pub fn compression(&self) -> Option<&CompressionInfo> {
        self.compression.as_ref()
    }

    /// Returns the values that the application attached when it accepted the connection.
    pub fn extensions(&self) -> &Extensions {
        &self.run.extensions
    }

    fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("identity", &self.identity())
            .field("protocol", &self.protocol())
            .field("remote_address", &self.remote_address())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("SessionInfo", f)
    }
}
