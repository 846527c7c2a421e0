//! The calls that an end in memory receives.

use std::{convert::Infallible, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    error::{CallError, Error},
    handler::{
        extract::{Extension, FromCall, Responder, State},
        function::NoResponse,
        incoming::IncomingCall,
    },
    message::payload::{MessageId, Payload},
    session::Session,
};

/// The time after which a test that waits for the peer fails.
pub(super) const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A call of the peer, which the test responds to.
///
/// If it is dropped, the call gets no response.
///
/// ```
/// use ocpp_rpc::testing::{ReceivedCall, Station};
/// use serde_json::{Value, json};
///
/// /// Accepts the reset that the server must ask for.
/// async fn accept_reset(station: &mut Station) -> Result<(), serde_json::Error> {
///     let reset: ReceivedCall = station.expect_call("Reset").await;
///     assert_eq!(reset.params::<Value>()?["type"], "Soft");
///     reset.respond(&json!({"status": "Accepted"})).await;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct ReceivedCall {
    action: Box<str>,
    id: MessageId,
    params: Payload,
    expects_response: bool,
    responder: Responder,
    /// The handler of the call ends when this is dropped.
    _handler: oneshot::Sender<Infallible>,
}

impl ReceivedCall {
    /// Returns the action.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// Returns the message id.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// Deserializes the parameters.
    ///
    /// # Errors
    ///
    /// Returns an error if the parameters are no `T`.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        self.params.decode()
    }

    /// Returns the parameters, unread.
    pub fn payload(&self) -> &Payload {
        &self.params
    }

    /// Returns whether the peer waits for a response. A CALL expects one, a SEND (OCPP 2.1) does not.
    pub fn expects_response(&self) -> bool {
        self.expects_response
    }

    /// Responds with a result, and waits until it is written.
    ///
    /// # Panics
    ///
    /// Panics if the response cannot be written, such as after a disconnect.
    pub async fn respond(self, result: &impl Serialize) {
        let written = self.responder.send(result);
        Self::written(&self.action, written.await);
    }

    /// Rejects the call with an error, and waits until it is written.
    ///
    /// # Panics
    ///
    /// Panics if the response cannot be written, such as after a disconnect.
    pub async fn reject(self, error: impl Into<CallError>) {
        let written = self.responder.reject(error);
        Self::written(&self.action, written.await);
    }

    fn written(action: &str, written: Result<(), Error>) {
        if let Err(error) = written {
            panic!("the response to {action} was not written: {error}");
        }
    }
}

/// The calls of one connection, in order.
#[derive(Debug)]
pub(super) struct ReceivedCalls(mpsc::UnboundedReceiver<ReceivedCall>);

/// The way of calls from the handler to the test. Each call in it has a running handler, whose number is limited.
#[derive(Debug, Clone)]
pub(super) struct CallSender(mpsc::UnboundedSender<ReceivedCall>);

impl ReceivedCalls {
    pub(super) fn new() -> (CallSender, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (CallSender(sender), Self(receiver))
    }

    /// Waits for the next call on a session.
    pub(super) async fn next(&mut self, session: &Session) -> ReceivedCall {
        wait_for("a call of the peer", async {
            tokio::select! {
                biased;
                Some(call) = self.0.recv() => call,
                closed = session.closed() => panic!("the connection has ended without another call: {closed}"),
            }
        })
        .await
    }

    /// Waits for the next call on a session, which must be of this action.
    pub(super) async fn expect(&mut self, session: &Session, action: &str) -> ReceivedCall {
        let call = self.next(session).await;
        assert_eq!(call.action(), action, "a call of another action: {}", call.payload().as_str());
        call
    }

    /// Returns a call that has come already.
    pub(super) fn next_now(&mut self) -> Option<ReceivedCall> {
        self.0.try_recv().ok()
    }
}

impl CallSender {
    /// Passes a call to the test, and waits until the test has responded to it or has dropped it.
    async fn pass(self, call: ReceivedParts) -> Result<NoResponse, Infallible> {
        let ReceivedParts { action, id, params, expects_response, responder } = call;
        let (handler, done) = oneshot::channel();
        // Fails if the test has dropped its end.
        let _ = self.0.send(ReceivedCall { action, id, params, expects_response, responder, _handler: handler });
        let _ = done.await;
        Ok(NoResponse)
    }
}

/// The handler of all calls at an end whose router has the sender as its state.
pub(super) async fn receive(State(sender): State<CallSender>, call: ReceivedParts) -> Result<NoResponse, Infallible> {
    sender.pass(call).await
}

/// The handler of all calls at an end whose sessions have the sender as an extension.
pub(super) async fn receive_of_session(
    Extension(sender): Extension<CallSender>,
    call: ReceivedParts,
) -> Result<NoResponse, Infallible> {
    sender.pass(call).await
}

/// The parts of a received call that come from the connection.
pub(super) struct ReceivedParts {
    action: Box<str>,
    id: MessageId,
    params: Payload,
    expects_response: bool,
    responder: Responder,
}

impl<S: Sync> FromCall<S> for ReceivedParts {
    async fn from_call(call: &IncomingCall, state: &S) -> Result<Self, CallError> {
        Ok(Self {
            action: call.action().into(),
            id: call.id().clone(),
            params: call.params().clone(),
            expects_response: call.expects_response(),
            responder: Responder::from_call(call, state).await?,
        })
    }
}

/// Waits for an event of the peer, and panics if it does not come.
pub(super) async fn wait_for<T>(name: &str, event: impl Future<Output = T>) -> T {
    match timeout(RECEIVE_TIMEOUT, event).await {
        Ok(event) => event,
        Err(_) => panic!("no {} within {} s", name.trim_start_matches("a "), RECEIVE_TIMEOUT.as_secs()),
    }
}
