//! The handle on a connection.

use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    action::{Action, SendAction},
    call::Call,
    close::{info::CloseInfo, intent::Close},
    connection::{
        calls_out::Kind,
        link::{Command, Link},
    },
    error::{BuildError, Error},
    info::TlsInfo,
    message::payload::Payload,
    options::Options,
};

/// The other end of a connection: call it, close it, wait for its end.
///
/// Cheap to clone, and of no weight: a connection ends when it is closed or lost, not when its handles are dropped.
#[derive(Clone)]
pub struct Session {
    link: Arc<Link>,
}

impl Session {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Calls an action of the peer.
    ///
    /// The call is made when the returned future is first polled; it then waits for its turn
    /// ([`Options::call_concurrency`](crate::Options::call_concurrency)), is written, and waits for its answer.
    /// Parameters must serialize to a JSON object; `&()` is the empty one. The answer is read as `R`:
    /// `serde_json::Value` takes any, [`Payload`] leaves it unread.
    ///
    /// ```no_run
    /// # async fn example(peer: ocpp_rpc::Session) -> Result<(), ocpp_rpc::Error> {
    /// use std::time::Duration;
    /// use serde_json::{Value, json};
    ///
    /// let answer: Value = peer.call("Reset", &json!({"type": "Soft"})).timeout(Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Error`] lists them.
    ///
    /// # Cancel safety
    /// Dropping the future takes the call back, wherever it stands. One that was not written yet never will be.
    pub fn call<R: DeserializeOwned + 'static>(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<R> {
        Call::new(&self.link, Kind::Call, action, Payload::encode(params))
    }

    /// Calls the action that `request` is a request of, and reads the answer as the response of that action: see
    /// [`Action`]. Else it is as [`call`](Self::call).
    pub fn request<A: Action>(&self, request: A) -> Call<A::Response> {
        self.call(A::NAME, request.params())
    }

    /// Sends a message that is never answered: OCPP 2.1's SEND. The future is done when the message has been
    /// written; it does not wait for calls that are in line.
    ///
    /// # Errors
    /// [`Error::SendNotSupported`] where the connection's [`Dialect`](crate::message::Dialect) has no SEND, or a client has not been
    /// connected yet; else as for a call that is not written.
    pub fn send(&self, action: &str, params: &(impl Serialize + ?Sized)) -> Call<()> {
        let call = Call::<Payload>::new(&self.link, Kind::Send, action, Payload::encode(params)).ignore_result();
        if self.link.agreed().is_some_and(|agreed| agreed.dialect.has_send()) {
            call
        } else {
            call.fail(Error::SendNotSupported)
        }
    }

    /// Sends a message that is never answered, under the name of its action: see [`SendAction`]. Else it is as
    /// [`send`](Self::send).
    pub fn send_action<A: SendAction>(&self, message: A) -> Call<()> {
        self.send(A::NAME, message.params())
    }

    /// Changes the times and limits of this connection, all of them: what is not set is as by default. As they were
    /// stay [`max_message_size`](Options::max_message_size), [`max_unsent`](Options::max_unsent),
    /// [`call_queue`](Options::call_queue), [`tolerance`](Options::tolerance) and
    /// [`validation`](Options::validation), and calls that were written keep the timeout that they had.
    ///
    /// # Errors
    /// When they could never work; nothing is changed then.
    pub fn set_options(&self, options: Options) -> Result<(), BuildError> {
        options.check()?;
        self.link.order(Command::Options(Box::new(options)));
        Ok(())
    }

    /// Closes the connection and waits for its end. The first wish to close decides how; later ones get the same
    /// outcome.
    ///
    /// Nothing takes longer than the time given for calls under way, plus
    /// [`Options::close_timeout`](crate::Options::close_timeout), plus one second.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close(&self, close: Close) -> CloseInfo {
        self.link.close(close);
        self.link.closed().await
    }

    /// Waits for the end of the connection.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn closed(&self) -> CloseInfo {
        self.link.closed().await
    }

    /// Whether calls may be made.
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// How many of our calls in a row ran into their timeout: some charging stations send their own calls and ignore
    /// ours. An answer in time sets it back to zero.
    pub fn consecutive_timeouts(&self) -> u32 {
        self.link.consecutive_timeouts()
    }

    /// The identity of the charging station on this connection.
    pub fn identity(&self) -> &str {
        &self.link.about.identity
    }

    /// The subprotocol that was agreed on; none before a client has been connected for the first time.
    pub fn protocol(&self) -> Option<&str> {
        self.link.agreed()?.protocol.as_deref()
    }

    /// The address at the other end, where it is known.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.link.about.remote_address
    }

    /// What is known of the TLS below: version, and the client's certificates.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.extension()
    }

    /// When the connection was opened.
    pub fn connected_at(&self) -> SystemTime {
        self.link.about.opened_at
    }

    /// When something was last received, pings and pongs included.
    pub fn last_seen_at(&self) -> SystemTime {
        self.link.last_seen()
    }

    /// What the application said of this session when it accepted it.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions().get()
    }

    /// What the application said of this connection when it was accepted.
    pub fn extensions(&self) -> &Extensions {
        &self.link.about.extensions
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("identity", &self.identity())
            .field("protocol", &self.protocol())
            .finish_non_exhaustive()
    }
}
