//! A charging station in memory.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    call::Call,
    client::{ConnectError, Reconnect, RpcClientBuilder, rpc_client::RpcClient},
    close::{info::CloseInfo, intent::Close},
    error::Error,
    event::{bus::Events, kind::EventKind},
    handler::router::RpcRouter,
    options::Options,
    server::rpc_server::RpcServer,
    session::Session,
    testing::{
        events::expect_silence,
        link::{Link, Reading},
        received::{CallSender, ReceivedCall, ReceivedCalls, receive, wait_for},
    },
};

/// A charging station that is connected to a server in memory. It does not reconnect.
///
/// Dropping it cuts the connection, without a close frame.
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, RpcServer, testing::Station};
///
/// async fn heartbeat() -> Result<(), Infallible> {
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let router = RpcRouter::new().on("Heartbeat", heartbeat);
/// let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build()?;
/// let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
/// // A text that the server reads as a call, and the text of its response.
/// station.send_text(r#"[2,"1","Heartbeat",{}]"#).await?;
/// assert_eq!(station.next_text().await, r#"[3,"1",{}]"#);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Station {
    client: RpcClient,
    calls: ReceivedCalls,
    events: Events,
    link: Link,
    _serving: AbortOnDropHandle<()>,
}

/// The settings of a [`Station`].
///
/// ```
/// use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer, testing::Station};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = RpcServer::builder(RpcRouter::new()).auth(async |handshake: Handshake| {
///     if handshake.password_is(b"secret") { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
/// });
/// let server = server.build()?;
/// assert!(Station::builder(&server, "CP-1").connect().await.is_err());
/// let station = Station::builder(&server, "CP-1").password("secret").connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct StationBuilder {
    client: RpcClientBuilder,
    server: RpcServer,
}

impl Station {
    /// Connects to a server as `identity`, and offers one subprotocol. See [`builder`](Self::builder) for the rest.
    ///
    /// # Panics
    ///
    /// Panics if the server refuses the handshake.
    pub async fn connect(server: &RpcServer, identity: &str, protocol: &str) -> Self {
        match Self::builder(server, identity).protocols([protocol]).connect().await {
            Ok(station) => station,
            Err(error) => panic!("the server refused {identity}: {error}"),
        }
    }

    /// Returns the settings of a station. It connects to the path `/ocpp/<identity>`.
    pub fn builder(server: &RpcServer, identity: &str) -> StationBuilder {
        StationBuilder { client: RpcClient::builder("ws://server.test/ocpp", identity), server: server.clone() }
    }

    /// Calls an action of the server. See [`Session::call`].
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        self.client.call(action, params)
    }

    /// Returns the session of the station, for typed calls and the negotiated subprotocol.
    pub fn session(&self) -> Session {
        self.client.session()
    }

    /// Waits for the next call of the server.
    ///
    /// # Panics
    ///
    /// Panics if none comes within 60 s, or if the connection ends.
    pub async fn next_call(&mut self) -> ReceivedCall {
        self.calls.next(&self.client.session()).await
    }

    /// Waits for the next call of the server, which must be of this action.
    ///
    /// # Panics
    ///
    /// Panics if another call comes, if none comes within 60 s, or if the connection ends.
    pub async fn expect_call(&mut self, action: &str) -> ReceivedCall {
        self.calls.expect(&self.client.session(), action).await
    }

    /// Sends a text as it is, such as an invalid message.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Session::send_raw`].
    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), Error> {
        self.session().send_raw(text).await
    }

    /// Waits for the next text that the server sends, whatever it is: each CALL and each response, from the connect on.
    ///
    /// # Panics
    ///
    /// Panics if none comes within 60 s, or if the connection ends.
    pub async fn next_text(&mut self) -> String {
        let events = &mut self.events;
        wait_for("a text of the server", async {
            loop {
                match events.next().await.map(|event| event.kind) {
                    Some(EventKind::Received(text)) => return text.to_string(),
                    Some(EventKind::Closed(closed)) => panic!("the connection has ended without a text: {closed}"),
                    Some(_) => {}
                    None => panic!("the connection has ended without a text"),
                }
            }
        })
        .await
    }

    /// Asserts that the server sends no message within `time`, and that the connection stays open. Pings may come.
    ///
    /// A message that has come before counts if the test has not received it: a call by
    /// [`next_call`](Self::next_call), another text by [`next_text`](Self::next_text). A response to a
    /// [`call`](Self::call) counts if it comes within `time`.
    ///
    /// # Panics
    ///
    /// Panics if a message comes, or if the connection ends.
    pub async fn expect_silence(&mut self, time: Duration) {
        expect_silence(&mut self.events, &mut self.calls, &self.client.session(), time).await;
    }

    /// Stops reading. The connection stays open until a limit or a timeout of the server ends it.
    pub fn stop_reading(&self) {
        self.link.set_reading(Reading::Stopped);
    }

    /// Reads at most `bytes` bytes after each `interval` from now on, as on a slow link.
    ///
    /// # Panics
    ///
    /// Panics if `bytes` is zero.
    pub fn read_slowly(&self, bytes: usize, interval: Duration) {
        assert!(bytes > 0, "a station that reads slowly reads at least one byte");
        self.link.set_reading(Reading::Limited { bytes, interval });
    }

    /// Reads without a limit again, after [`stop_reading`](Self::stop_reading) or [`read_slowly`](Self::read_slowly).
    pub fn resume_reading(&self) {
        self.link.set_reading(Reading::Unlimited);
    }

    /// Loses the connection, without a close frame.
    pub fn disconnect(&self) {
        self.link.cut();
    }

    /// Closes the connection.
    pub async fn close(&self, close: Close) -> CloseInfo {
        self.client.close(close).await
    }

    /// Waits for the end of the connection.
    ///
    /// # Panics
    ///
    /// Panics if it does not end within 60 s.
    pub async fn closed(&self) -> CloseInfo {
        wait_for("an end of the connection", self.session().closed()).await
    }
}

impl StationBuilder {
    /// Sets the subprotocols that the station offers.
    pub fn protocols<P: AsRef<str>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        Self { client: self.client.protocols(protocols), ..self }
    }

    /// Sets the password of HTTP Basic authentication.
    pub fn password(self, password: impl Into<Vec<u8>>) -> Self {
        Self { client: self.client.password(password), ..self }
    }

    /// Adds a header to the handshake.
    pub fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { client: self.client.header(name, value), ..self }
    }

    /// Sets the path that the identity is appended to. Default `/ocpp`.
    pub fn path(self, path: &str) -> Self {
        Self { client: self.client.endpoint(format!("ws://server.test{path}")), ..self }
    }

    /// Sets the options of the station, such as pings and the number of calls that may be in flight.
    pub fn options(self, options: Options) -> Self {
        Self { client: self.client.options(options), ..self }
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is invalid or the server refuses the handshake.
    pub async fn connect(self) -> Result<Station, ConnectError> {
        let (stream, link, serving) = Link::open(&self.server);
        let (sender, calls) = ReceivedCalls::new();
        let stream = std::sync::Mutex::new(Some(stream));
        let client = self
            .client
            .reconnect(Reconnect::never())
            .router(RpcRouter::<CallSender>::with_state(sender).fallback(receive))
            .connector(move |_| {
                let stream = stream.lock().ok().and_then(|mut stream| stream.take());
                std::future::ready(stream.ok_or(std::io::ErrorKind::ConnectionRefused.into()))
            })
            .build()?;
        let events = client.events();
        client.connect().await?;
        Ok(Station { client, calls, events, link, _serving: serving })
    }
}
