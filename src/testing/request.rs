//! A call for one handler, without a connection.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    connection::{
        negotiated::Negotiated,
        request::IncomingRequest,
        shared::{OwnKey, Run, Shared},
    },
    error::CallError,
    handler::router::RpcRouter,
    mask::Mask,
    message::{
        dialect::Dialect,
        payload::{MessageId, Payload},
    },
    response::Response,
    telemetry::Telemetry,
};

/// A call for a handler of an [`RpcRouter`], without a connection.
///
/// The handler gets a [`Session`](crate::Session) that is closed: its calls fail with [`Error::Closed`](crate::Error), and
/// an early response is not sent. To test these, use a [`Station`](super::Station).
///
/// ```
/// use ocpp_rpc::{CallError, ErrorCode, RpcRouter, extract::Params, testing::Request};
/// use serde_json::{Value, json};
///
/// async fn authorize(Params(request): Params<Value>) -> Result<Value, CallError> {
///     match request["idTag"].as_str() {
///         Some("C0FFEE") => Ok(json!({"idTagInfo": {"status": "Accepted"}})),
///         Some(_) => Ok(json!({"idTagInfo": {"status": "Invalid"}})),
///         None => Err(CallError::new(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION, "no idTag")),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), CallError> {
/// let router = RpcRouter::new().on("Authorize", authorize);
/// let response: Value = router.oneshot(Request::new("Authorize", &json!({"idTag": "C0FFEE"}))).await?;
/// assert_eq!(response["idTagInfo"]["status"], "Accepted");
/// let error = router.oneshot::<Value>(Request::new("Authorize", &json!({}))).await.unwrap_err();
/// assert_eq!(error.code(), &ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Request {
    action: Box<str>,
    params: Payload,
    id: MessageId,
    run: Run,
    protocol: Option<Box<str>>,
}

impl Request {
    /// Creates a CALL of a station named `CP-1`, without a subprotocol.
    ///
    /// # Panics
    ///
    /// Panics if the parameters do not serialize to a JSON object.
    #[track_caller]
    pub fn new(action: &str, params: &(impl Serialize + ?Sized)) -> Self {
        let params = Payload::encode(params).unwrap_or_else(|error| panic!("the parameters of {action}: {error}"));
        Self { action: action.into(), params, id: MessageId::new("1"), run: Run::new("CP-1".into()), protocol: None }
    }

    /// Sets the identity of the station.
    pub fn identity(mut self, identity: &str) -> Self {
        self.run.identity = identity.into();
        self
    }

    /// Sets the [key](crate::Accept::key) of the session. Default: the identity.
    pub fn key(mut self, key: &str) -> Self {
        self.run.extensions.insert(OwnKey(key.into()));
        self
    }

    /// Sets the subprotocol of the session.
    pub fn protocol(self, protocol: &str) -> Self {
        Self { protocol: Some(protocol.into()), ..self }
    }

    /// Sets the message id. Default `1`.
    pub fn id(self, id: &str) -> Self {
        Self { id: MessageId::new(id.to_owned()), ..self }
    }

    /// Attaches a value to the session, as [`Accept::extension`](crate::Accept::extension) does.
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.run.extensions.insert(value);
        self
    }
}

impl<S: Send + Sync + 'static> RpcRouter<S> {
    /// Runs the handler of one call, with its layers, and returns its response. For tests.
    ///
    /// # Errors
    ///
    /// Returns the error that rejects the call: of an extractor, a layer or the handler, or
    /// [`ErrorCode::NOT_IMPLEMENTED`](crate::ErrorCode::NOT_IMPLEMENTED). A result that is no `R` is an internal error.
    ///
    /// # Panics
    ///
    /// Panics if the handler gives no response, or does so early.
    pub async fn oneshot<R: DeserializeOwned>(&self, request: Request) -> Result<R, CallError> {
        let Request { action, params, id, run, protocol } = request;
        let protocol: Option<Arc<str>> = protocol.map(Into::into);
        let dialect = Dialect::for_protocol(protocol.as_deref());
        run.negotiate(Negotiated { protocol: protocol.clone(), dialect });
        let shared = Shared::closed_after(run, Telemetry::new(Mask::new()));
        let message_len = params.as_str().len();
        let request = IncomingRequest::new(id, (&*action).into(), params, true, message_len);
        match self.clone().into_dispatch().dispatch(request, protocol.as_deref(), &shared).await {
            Response::Result(result) => result.decode().map_err(CallError::internal),
            Response::Error(error) => Err(error),
            Response::Nothing | Response::Given => panic!("the handler of {action} returned no response"),
        }
    }
}
