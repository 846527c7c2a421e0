//! A server in memory, for the tests of charging stations.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    call::Call,
    client::{Connector, Target},
    close::{info::CloseInfo, intent::Close},
    error::Error,
    event::{bus::Events, kind::EventKind},
    handler::router::RpcRouter,
    options::Options,
    server::{
        handshake::auth::{Accept, Handshake, Reject},
        rpc_server::RpcServer,
    },
    session::Session,
    testing::{
        events::expect_silence,
        link::{Link, LinkStream},
        received::{ReceivedCall, ReceivedCalls, receive_of_session, wait_for},
    },
};

/// A server for charging stations (CSMS) in memory. Each station that connects is a [`CsmsSession`].
///
/// ```
/// use ocpp_rpc::{RpcClient, testing::Csms};
/// use serde_json::{Value, json};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut csms = Csms::new("ocpp1.6");
/// let client = RpcClient::builder("ws://csms.test/ocpp", "CP-1").protocols(["ocpp1.6"]).connector(csms.connector());
/// let client = client.connect().await?;
/// let mut session = csms.next_session().await;
///
/// let boot = tokio::spawn(async move { client.call::<Value>("BootNotification", &json!({})).await });
/// session.expect_call("BootNotification").await.respond(&json!({"status": "Pending"})).await;
/// assert_eq!(boot.await??["status"], "Pending");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Csms {
    server: RpcServer,
    events: Events,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    refused_with: Option<StatusCode>,
    is_unreachable: bool,
    /// The tasks of the connections, which end with the server.
    serving: Vec<AbortOnDropHandle<()>>,
    links: Vec<Link>,
}

/// A station that is connected to a [`Csms`].
///
/// ```
/// use ocpp_rpc::{RpcClient, testing::{Csms, CsmsSession}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut csms = Csms::new("ocpp1.6");
/// let client = RpcClient::builder("ws://csms.test/ocpp", "CP-1").protocols(["ocpp1.6"]).password("secret");
/// let client = client.connector(csms.connector()).connect().await?;
///
/// let session: CsmsSession = csms.next_session().await;
/// assert!(session.handshake().password_is(b"secret"));
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CsmsSession {
    session: Session,
    handshake: Handshake,
    calls: ReceivedCalls,
    /// The events of the server, from the moment at which the test took the session.
    events: Events,
}

/// The parts of a [`CsmsSession`] until the test takes them from the session.
type Parts = Arc<Mutex<Option<(Handshake, ReceivedCalls)>>>;

impl Csms {
    /// Creates a server for one subprotocol.
    pub fn new(protocol: &str) -> Self {
        Self::with([protocol], Options::server())
    }

    /// Creates a server for these subprotocols, with these options.
    ///
    /// # Panics
    ///
    /// Panics if an option is invalid.
    pub fn with<P: AsRef<str>>(protocols: impl IntoIterator<Item = P>, options: Options) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let refusing = state.clone();
        let authenticate = move |handshake: Handshake| {
            let refused_with = lock(&refusing).refused_with;
            async move {
                if let Some(status) = refused_with {
                    return Err(Reject::new(status));
                }
                let (sender, calls) = ReceivedCalls::new();
                let parts: Parts = Arc::new(Mutex::new(Some((handshake, calls))));
                Ok(Accept::new().extension(sender).extension(parts))
            }
        };
        let router = RpcRouter::new().fallback(receive_of_session);
        let server = RpcServer::builder(router).protocols(protocols).options(options).auth(authenticate).build();
        let server = server.unwrap_or_else(|error| panic!("the server of the test: {error}"));
        let events = server.events();
        Self { server, events, state }
    }

    /// Returns a connector that leads a client to this server, whatever its endpoint is.
    pub fn connector(&self) -> impl Connector + use<> {
        let (server, state) = (self.server.clone(), self.state.clone());
        move |_: Target| std::future::ready(open(&server, &mut lock(&state)))
    }

    /// Waits for the next session that opens.
    ///
    /// # Panics
    ///
    /// Panics if none opens within 60 s.
    pub async fn next_session(&mut self) -> CsmsSession {
        let (session, handshake, calls) = self
            .events
            .expect(|event| {
                let EventKind::Opened { .. } = event.kind else { return None };
                // It may have ended already.
                let session = event.session()?;
                let (handshake, calls) = lock(&*session.extension::<Parts>()?).take()?;
                Some((session, handshake, calls))
            })
            .await;
        CsmsSession { session, handshake, calls, events: self.server.events() }
    }

    /// Refuses handshakes with this status from now on; `None` accepts them again.
    pub fn refuse_handshakes(&self, status: impl Into<Option<StatusCode>>) {
        lock(&self.state).refused_with = status.into();
    }

    /// Refuses connections from now on, as if the server were down, or accepts them again.
    pub fn set_unreachable(&self, is_unreachable: bool) {
        lock(&self.state).is_unreachable = is_unreachable;
    }

    /// Cuts all connections, without a close frame.
    pub fn disconnect_all(&self) {
        let links = std::mem::take(&mut lock(&self.state).links);
        links.iter().for_each(Link::cut);
    }

    /// Returns the server, for everything else.
    pub fn server(&self) -> &RpcServer {
        &self.server
    }
}

impl CsmsSession {
    /// Returns the handshake of the station: its identity, headers and password.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// Returns the session, for typed calls and the negotiated subprotocol.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Calls an action of the station. See [`Session::call`].
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        self.session.call(action, params)
    }

    /// Waits for the next call of the station.
    ///
    /// # Panics
    ///
    /// Panics if none comes within 60 s, or if the connection ends.
    pub async fn next_call(&mut self) -> ReceivedCall {
        self.calls.next(&self.session).await
    }

    /// Waits for the next call of the station, which must be of this action.
    ///
    /// # Panics
    ///
    /// Panics if another call comes, if none comes within 60 s, or if the connection ends.
    pub async fn expect_call(&mut self, action: &str) -> ReceivedCall {
        self.calls.expect(&self.session, action).await
    }

    /// Asserts that the station sends no message within `time`, and that the connection stays open. Pings may come.
    ///
    /// A call that has come before counts if [`next_call`](Self::next_call) has not returned it. A response to a
    /// [`call`](Self::call) counts if it comes within `time`.
    ///
    /// # Panics
    ///
    /// Panics if a message comes, or if the connection ends.
    pub async fn expect_silence(&mut self, time: Duration) {
        expect_silence(&mut self.events, &mut self.calls, &self.session, time).await;
    }

    /// Sends a text as it is, such as an invalid message.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Session::send_raw`].
    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), Error> {
        self.session.send_raw(text).await
    }

    /// Closes the connection.
    pub async fn close(&self, close: Close) -> CloseInfo {
        self.session.close(close).await
    }

    /// Waits for the end of the connection.
    ///
    /// # Panics
    ///
    /// Panics if it does not end within 60 s.
    pub async fn closed(&self) -> CloseInfo {
        wait_for("an end of the connection", self.session.closed()).await
    }
}

fn open(server: &RpcServer, state: &mut State) -> io::Result<LinkStream> {
    if state.is_unreachable {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let (stream, link, serving) = Link::open(server);
    state.links.retain(|link| !link.is_unused());
    state.links.push(link);
    state.serving.retain(|serving| !serving.is_finished());
    state.serving.push(serving);
    Ok(stream)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that runs under the lock can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
