//! A relay between charging stations and their server, to log, filter or change what they send. Each station that connects
//! gets a connection to the server with its own identity, credentials and subprotocols, and the server decides if it is
//! accepted. Every message passes as it is, unless the filter changes it. The end of one connection ends the other.
//!
//!     cargo run --example server
//!     cargo run --example relay -- ws://127.0.0.1:9220

use std::{borrow::Cow, convert::Infallible, env, error::Error, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, header};
use ocpp_rpc::{
    Accept, Authenticate, Close, Handshake, Reject, RpcClient, RpcRouter, RpcServer, Session,
    client::{ConnectError, Reconnect, RpcClientBuilder},
    close::CloseInfo,
    extract::{RawMessage, State},
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Gets the identity of the station and a message of one end. Returns the text to pass on, or `None` to drop the message.
pub(crate) type Filter = Arc<dyn for<'a> Fn(&str, Sender, &'a str) -> Option<Cow<'a, str>> + Send + Sync>;

/// The sender of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Station,
    Server,
}

/// The authenticator of the relay's server.
#[derive(Clone)]
pub(crate) struct Relay {
    /// The settings of all connections to the server. The rest comes from the handshake of each station.
    pub(crate) upstream: RpcClientBuilder,
    pub(crate) filter: Filter,
    /// One task for each station that is connected.
    pub(crate) tasks: TaskTracker,
}

impl Authenticate for Relay {
    /// Connects to the server in the name of the station.
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        let (station, opened) = watch::channel(None);
        let mut client = self.upstream.clone();
        for name in [header::AUTHORIZATION, header::USER_AGENT] {
            if let Some(value) = handshake.headers().get(&name) {
                client = client.header(name, value.clone());
            }
        }
        let client = client
            .identity(handshake.identity())
            .protocols(handshake.protocols())
            .raw_query(handshake.query().unwrap_or_default())
            // The station connects again when its connection ends, and then so does the relay.
            .reconnect(Reconnect::never())
            .router(self.router(&handshake, Sender::Server, opened));
        let client = client.connect().await.map_err(refuse)?;

        let accept = match client.session().protocol() {
            Some(protocol) => Accept::new().protocol(&protocol),
            None => Accept::new().without_protocol(),
        };
        let server = watch::channel(Some(client.session())).1;
        let tasks = self.tasks.clone();
        Ok(accept.router(self.router(&handshake, Sender::Station, server)).on_open(move |session| {
            station.send_replace(Some(session.clone()));
            tasks.spawn(end_together(session, client.clone()));
        }))
    }
}

impl Relay {
    /// Returns the router of one end, which sends all messages to the other.
    fn router(&self, handshake: &Handshake, sender: Sender, to: watch::Receiver<Option<Session>>) -> RpcRouter<Way> {
        let identity = handshake.identity().into();
        RpcRouter::with_state(Way { identity, sender, filter: self.filter.clone(), to }).raw(pass)
    }
}

/// The way of the messages of one end.
#[derive(Clone)]
struct Way {
    identity: Arc<str>,
    sender: Sender,
    filter: Filter,
    to: watch::Receiver<Option<Session>>,
}

async fn pass(message: RawMessage, State(mut way): State<Way>) -> Result<(), Infallible> {
    let Some(text) = (way.filter)(&way.identity, way.sender, &message) else { return Ok(()) };
    // The server may send something before the session of the station is open.
    let to = way.to.wait_for(Option::is_some).await.ok().and_then(|to| to.clone());
    if let Some(to) = to {
        // If the other end is gone, this one ends soon.
        let _ = to.send_raw(text).await;
    }
    Ok(())
}

/// Closes each connection when the other one ends, with the same code and reason.
async fn end_together(station: Session, client: RpcClient) {
    let server = client.session();
    tokio::select! {
        closed = station.closed() => server.close(same(closed, "the station is gone")).await,
        closed = server.closed() => station.close(same(closed, "the server is gone")).await,
    };
}

/// Returns the close for the other connection. `lost` is the reason if there was no close frame.
fn same(closed: CloseInfo, lost: &str) -> Close {
    let close = match closed.code {
        1005 => Close::normal(),
        1006 => Close::going_away().reason(format!("{lost}: {}", closed.cause)),
        code => Close::new(code).reason(closed.reason),
    };
    // What has come from one end must still reach the other.
    close.drain(Duration::from_secs(5))
}

/// Returns the refusal of the server, for the station.
fn refuse(error: ConnectError) -> Reject {
    let reason = format!("the server: {error}");
    match error {
        ConnectError::Refused { status, headers, body, .. } => {
            let mut reject = Reject::new(status).body(String::from_utf8_lossy(&body).into_owned()).reason(reason);
            for name in [header::CONTENT_TYPE, header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
                if let Some(value) = headers.get(&name) {
                    reject = reject.header(name, value.clone());
                }
            }
            reject
        }
        ConnectError::Protocol { .. } => Reject::new(StatusCode::BAD_REQUEST).body("no common subprotocol"),
        _ => Reject::new(StatusCode::BAD_GATEWAY)
            .header(header::RETRY_AFTER, HeaderValue::from_static("10"))
            .reason(reason),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:9220".to_owned());
    let tasks = TaskTracker::new();
    // Shorter than the 10 s that the authenticator has.
    let upstream = RpcClient::builder(endpoint, "relay").connect_timeout(Duration::from_secs(8));
    let relay = Relay { upstream, filter: Arc::new(print), tasks: tasks.clone() };
    let server = RpcServer::builder(RpcRouter::new()).auth(relay).build()?;
    let listener = server.listen("127.0.0.1:9221").await?;
    println!("listening on ws://{}/<identity>", listener.local_addr());
    listener.run_until(shutdown_signal()).await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Prints each message, and passes it on.
fn print<'a>(identity: &str, sender: Sender, message: &'a str) -> Option<Cow<'a, str>> {
    println!("{identity}: {sender:?}: {message}");
    Some(message.into())
}

/// Completes on Ctrl-C, and on the SIGTERM of a container or a service manager.
async fn shutdown_signal() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).expect("a handler of SIGTERM").recv().await
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}
