//! The handle on a charging station, connected or not.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    action::{Action, SendAction},
    call::Call,
    close::{info::CloseInfo, intent::Close},
    connection::calls_out::Kind,
    error::Error,
    info::StationInfo,
    message::payload::Payload,
    options,
    route::Route,
    session::Session,
};

/// The handle on a charging station, connected or not, returned by [`RpcServer::station`](crate::RpcServer::station).
///
/// A [`Session`] is one connection and ends with it. A station is a key: each call goes to the session that the station
/// has when the call is made. The key is the identity, unless [`Accept::key`](crate::Accept::key) set another.
///
/// A handle is cheap to create and to clone.
///
/// ```no_run
/// # async fn example(server: ocpp_rpc::RpcServer) -> Result<(), ocpp_rpc::Error> {
/// use std::time::Duration;
/// use serde_json::{Value, json};
///
/// let station = server.station("CP-1");
/// station.connected(Duration::from_secs(60)).await?;
/// let response: Value = station.call("Reset", &json!({"type": "Soft"})).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Station {
    route: Arc<dyn Route>,
    key: Arc<str>,
}

impl Station {
    pub(crate) fn new(route: Arc<dyn Route>, key: Arc<str>) -> Self {
        Self { route, key }
    }

    /// Returns the key of the station.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the session of the station at this node. `None` if it is not connected, or connected to another node of a
    /// [cluster](crate::cluster).
    ///
    /// If it has several sessions, this returns the newest that accepts calls.
    pub fn session(&self) -> Option<Session> {
        self.route.find(&self.key).map(Session::new)
    }

    /// Returns the information on the station. `None` if it is not connected.
    ///
    /// # Errors
    ///
    /// Without a [cluster](crate::cluster) this cannot fail. Otherwise the station may be connected to another node, and
    /// this returns [`Error::Unreachable`] if the cluster is away, [`Error::Disconnected`] if that node is lost, or
    /// [`Error::Timeout`] if it does not answer within 2 s.
    pub async fn info(&self) -> Result<Option<StationInfo>, Error> {
        self.route.info(&self.key).await
    }

    /// Waits until the station is connected, to this node or another one of the [cluster](crate::cluster).
    ///
    /// `timeout` counts from the first poll; `None` waits for ever.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotConnected`] if the timeout passes, or if the server closes.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped and created again.
    pub async fn connected(&self, timeout: impl Into<Option<Duration>>) -> Result<StationInfo, Error> {
        let connected = self.route.connected(&self.key);
        let info = match timeout.into() {
            Some(limit) => tokio::time::timeout(options::finite(limit), connected).await.unwrap_or(None),
            None => connected.await,
        };
        info.ok_or(Error::NotConnected)
    }

    /// Calls an action of the station.
    ///
    /// The call is made when the returned future is first polled. Everything else is as for [`Session::call`].
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotConnected`] if the station has no session at that moment, on any node. The call does not wait
    /// for one.
    ///
    /// If the station is connected to another node of a [cluster](crate::cluster), the errors are those of that node's
    /// session, and:
    ///
    /// - [`Error::Unreachable`] if the cluster is away.
    /// - [`Error::Disconnected`] with `maybe_delivered` if that node is lost, does not begin the call within 2 s, or
    ///   the cluster is lost meanwhile.
    /// - [`Error::TooLarge`] if the call or its response is larger than the cluster can carry.
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        Call::to_station(&self.route, &self.key, Kind::Call, action, Payload::encode(params))
    }

    /// Calls the action of a typed request, and returns the typed response. See [`Session::request`].
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        self.call(A::NAME, request.params())
    }

    /// Sends a message that has no response, OCPP 2.1's SEND. See [`Session::send`].
    pub fn send(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<()> {
        let params = Payload::encode(params);
        Call::<Payload>::to_station(&self.route, &self.key, Kind::Send, action, params).ignore_result()
    }

    /// Sends a message that has no response, under the name of its action. See [`Session::send_action`].
    pub fn send_action<A: SendAction>(&self, message: A) -> Call<()> {
        self.send(A::NAME, message.params())
    }

    /// Closes the session of the station, as [`Session::close`] does.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotConnected`] if the station has no session. If it is connected to another node, the errors of
    /// [`call`](Self::call) apply as well.
    pub async fn close(&self, close: Close) -> Result<CloseInfo, Error> {
        self.route.close(&self.key, &close).await
    }
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Station").field("key", &self.key).finish_non_exhaustive()
    }
}
