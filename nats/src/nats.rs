//! The connection to NATS as a cluster.

use std::{
    fmt, future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ToServerAddrs};
use bytes::Bytes;
use ocpp_rpc::{
    Station,
    cluster::{
        Cluster, ClusterEvents, ClusterFuture, Destination, EventFilter, JoinError, Node, Observer, SendError,
        Stations, Topic,
    },
};
use percent_encoding::percent_decode_str;
use tokio::sync::broadcast;

use crate::{
    link::{MAX_SIGNALS, Signal},
    membership::Membership,
    subject::Subjects,
};

/// The default of [`Nats::namespace`].
const NAMESPACE: &str = "ocpp.v1";

/// A connection that is dead is found after three times this.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The time that one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(250);

/// A cluster over NATS, for [`RpcServerBuilder::cluster`](ocpp_rpc::server::RpcServerBuilder::cluster).
///
/// It is also a handle on the stations of the cluster for a process without a server. That process then takes part as an
/// observer, under the same name.
///
/// Clones share the connection. Each of them can join with a server.
///
/// The connection closes when the server and all clones are dropped.
pub struct Nats {
    client: Client,
    /// Absent for a client of the application.
    signals: Option<broadcast::Sender<Signal>>,
    subjects: Subjects,
    name: Arc<str>,
    tenant: Option<Arc<str>>,
    membership: OnceLock<Membership>,
    observer: Arc<OnceLock<Observer>>,
}

impl Nats {
    /// Connects to one or several servers of NATS, with the default [`options`](Self::options).
    ///
    /// The first URL that has a name and a password, as in `nats://name:password@10.0.0.5:4222`, sets them for all. The
    /// scheme `tls` requires TLS.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use ocpp_rpc_nats::Nats;
    ///
    /// let nats = Nats::connect(["nats://10.0.0.5", "nats://10.0.0.6"].as_slice()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if no server can be reached. Later it reconnects for ever.
    pub async fn connect(servers: impl ToServerAddrs) -> Result<Self, ConnectError> {
        Self::connect_with(Self::options(), servers).await
    }

    /// Connects with options, such as credentials.
    ///
    /// The options' event callback is replaced, and `no_echo` must not be set. Begin with [`options`](Self::options),
    /// because the defaults of `async-nats` take minutes to find a dead connection.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use ocpp_rpc_nats::Nats;
    ///
    /// let options = Nats::options().credentials_file("node.creds").await?;
    /// let nats = Nats::connect_with(options, "tls://nats.example.com").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if no server can be reached, unless the options say `retry_on_initial_connect`.
    pub async fn connect_with(options: ConnectOptions, servers: impl ToServerAddrs) -> Result<Self, ConnectError> {
        let servers: Vec<ServerAddr> = match servers.to_server_addrs() {
            Ok(servers) => servers.collect(),
            Err(error) => return Err(ConnectError::with_source(ConnectErrorKind::ServerParse, error)),
        };
        let options = match servers.iter().find(|server| server.has_user_pass()) {
            Some(server) => options.user_and_password(
                decode(server.username().unwrap_or_default()),
                decode(server.password().unwrap_or_default()),
            ),
            None => options,
        };
        let signals = broadcast::Sender::new(MAX_SIGNALS);
        let sender = signals.clone();
        let options = options.event_callback(move |event: Event| {
            if let Some(signal) = Signal::of(&event) {
                // Fails before the first node joins.
                let _ = sender.send(signal);
            }
            future::ready(())
        });
        Ok(Self::new(options.connect(servers).await?, Some(signals)))
    }

    /// Uses a client of the application.
    ///
    /// The events of the client go to the application. This value therefore looks at the state of the connection every
    /// 100 ms. It does not notice that NATS refuses a call or that messages are lost, so that such a call fails after 2 s.
    pub fn with_client(client: Client) -> Self {
        Self::new(client, None)
    }

    /// Returns the default options of a connection.
    ///
    /// A connection is found dead after 6 s without a response. An attempt to connect takes 2 s at most, and another one
    /// follows after 250 ms at most.
    pub fn options() -> ConnectOptions {
        ConnectOptions::new()
            .name("ocpp-rpc")
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .reconnect_delay_callback(reconnect_delay)
    }

    fn new(client: Client, signals: Option<broadcast::Sender<Signal>>) -> Self {
        let host = gethostname::gethostname();
        let name = format!("{}-{:08x}", host.to_string_lossy(), rand::random::<u32>());
        Self {
            client,
            signals,
            subjects: Subjects::new(NAMESPACE),
            name: name.into(),
            tenant: None,
            membership: OnceLock::new(),
            observer: Arc::default(),
        }
    }

    /// Sets the words that all subjects begin with. Default `ocpp.v1`.
    ///
    /// Nodes of different namespaces are different clusters.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { subjects: Subjects::new(namespace), ..self.unjoined() }
    }

    /// Sets the name of this node, which lists and events show. Default: the name of the host and a random number.
    ///
    /// Each node must have a name of its own. Nodes of one name count as one in lists, in the console, and if newcomers
    /// [are rejected](ocpp_rpc::server::DuplicateIdentity::RejectNew).
    #[must_use]
    pub fn node_name(self, name: &str) -> Self {
        Self { name: name.into(), ..self.unjoined() }
    }

    /// Limits this process to the stations of a tenant: those whose keys begin with the name and a `/`.
    ///
    /// For a process without a server, if NATS permits it no more than this. It can call these stations, close them, and
    /// read their events. Its lists are empty, and it does not learn that a station has moved to another node.
    #[must_use]
    pub fn tenant(self, name: &str) -> Self {
        Self { tenant: Some(name.into()), ..self.unjoined() }
    }

    /// Returns the handle on the station with this key, for a process without a server.
    ///
    /// The first use joins the cluster. The process leaves when all clones of this value and all its [`Station`]s are
    /// dropped.
    ///
    /// # Panics
    ///
    /// The first use panics outside of a tokio runtime.
    pub fn station(&self, key: impl Into<Arc<str>>) -> Station {
        self.observer().station(key)
    }

    /// Returns the stations of all nodes. See [`station`](Self::station).
    pub fn stations(&self) -> Stations {
        self.observer().stations()
    }

    /// Subscribes to the events of all nodes. They end when all clones of this value are dropped. See
    /// [`station`](Self::station).
    pub fn events(&self, filter: EventFilter) -> ClusterEvents {
        self.observer().events(filter)
    }

    fn observer(&self) -> &Observer {
        self.observer.get_or_init(|| {
            // A fresh value has not joined.
            Observer::join(self.clone().unjoined()).expect("the first to join")
        })
    }

    /// Returns a value of the same connection, with an observer of its own.
    fn unjoined(&self) -> Self {
        Self { observer: Arc::default(), ..self.clone() }
    }
}

/// Decodes a part of a URL.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Returns the time before an attempt to connect. The first comes at once, and others at random times, so that nodes do
/// not all come at the same moment.
fn reconnect_delay(attempts: usize) -> Duration {
    match attempts {
        0 | 1 => Duration::ZERO,
        _ => MAX_RECONNECT_DELAY.mul_f64(rand::random::<f64>()),
    }
}

impl Clone for Nats {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            signals: self.signals.clone(),
            subjects: self.subjects.clone(),
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            membership: OnceLock::new(),
            observer: self.observer.clone(),
        }
    }
}

impl Cluster for Nats {
    fn join(&self, node: Node) -> Result<(), JoinError> {
        let mut node = Some(node);
        self.membership.get_or_init(|| {
            let signals = self.signals.as_ref().map(broadcast::Sender::subscribe);
            let node = node.take().expect("used once");
            Membership::new(self.client.clone(), signals, self.subjects.clone(), self.tenant.clone(), node)
        });
        match node {
            None => Ok(()),
            Some(_) => Err(JoinError),
        }
    }

    fn name(&self) -> Option<Arc<str>> {
        Some(self.name.clone())
    }

    fn is_connected(&self) -> bool {
        self.membership.get().is_some_and(Membership::is_connected)
    }

    fn max_message_size(&self) -> usize {
        self.client.max_payload()
    }

    fn subscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        Box::pin(async move { self.joined()?.subscribe(topic).await })
    }

    fn unsubscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        Box::pin(async move { self.joined()?.unsubscribe(topic).await })
    }

    fn send<'a>(
        &'a self,
        to: Destination<'a>,
        request: Option<u64>,
        message: Bytes,
    ) -> ClusterFuture<'a, Result<(), SendError>> {
        Box::pin(async move { self.joined()?.send(to, request, message).await })
    }

    fn leave(&self) -> ClusterFuture<'_, ()> {
        Box::pin(async move {
            if let Some(membership) = self.membership.get() {
                membership.leave().await;
            }
        })
    }
}

impl Nats {
    fn joined(&self) -> Result<&Membership, SendError> {
        self.membership.get().ok_or(SendError::Disconnected)
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("name", &self.name).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}
