//! The response of an axum handler after a failed call.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde::Serialize;

use crate::{error::Error, message::payload::Payload};

/// Responds with the status of [`Error::http_status`] and a JSON object, so that an axum handler can return
/// `Result<_, ocpp_rpc::Error>`.
///
/// | Member | Value |
/// |---|---|
/// | `error` | the name of the variant: `rejected`, `timeout`, `never_sent`, `disconnected`, `not_connected`, `unreachable`, `too_large`, `closing`, `closed`, `cancelled`, `queue_full`, `send_not_supported`, `invalid_message_id`, `encode`, `decode`, `invalid` or `layer` |
/// | `message` | the text of the error |
/// | `maybe_delivered` | [`Error::maybe_delivered`] |
/// | `code`, `description`, `details` | of `rejected`: the CALLERROR |
/// | `code`, `description`, `pointer` | of `invalid`: the violation |
///
/// The response contains what the peer sent in its CALLERROR. To keep that private, map the error yourself.
///
/// ```
/// use axum::{Json, extract::{Path, State}};
/// use ocpp_rpc::{Error, RpcServer};
/// use serde_json::{Value, json};
///
/// async fn reset(State(server): State<RpcServer>, Path(id): Path<String>) -> Result<Json<Value>, Error> {
///     Ok(Json(server.station(id).call("Reset", &json!({"type": "Soft"})).await?))
/// }
/// ```
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut body = ErrorBody {
            error: self.name(),
            message: self.to_string(),
            maybe_delivered: self.maybe_delivered(),
            code: None,
            description: None,
            details: None,
            pointer: None,
        };
        match &self {
            Self::Rejected(error) => {
                body.code = Some(error.code().as_str());
                body.description = Some(error.description());
                body.details = error.details();
            }
            Self::Invalid(violation) => {
                body.code = Some(violation.code().as_str());
                body.description = Some(violation.reason());
                body.pointer = Some(violation.pointer());
            }
            _ => {}
        }
        let mut response = Response::new(Body::from(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = self.http_status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'static str,
    message: String,
    maybe_delivered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use axum::body;
    use futures_util::FutureExt;
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::error::{CallError, ErrorCode, Violation};

    fn response(error: Error) -> (StatusCode, Value) {
        let response = error.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let status = response.status();
        let body = body::to_bytes(response.into_body(), usize::MAX).now_or_never().expect("no wait").expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn errors_become_json_with_their_status() {
        let rejected = CallError::new(ErrorCode::NOT_SUPPORTED, "no").with_details(&json!({"a": 1}));
        let expected = json!({
            "error": "rejected", "message": "rejected by the peer: NotSupported: no", "maybe_delivered": false,
            "code": "NotSupported", "description": "no", "details": {"a": 1},
        });
        assert_eq!(response(Error::Rejected(rejected)), (StatusCode::BAD_GATEWAY, expected));

        let violation = Violation::new(ErrorCode::TYPE_CONSTRAINT_VIOLATION, "/a", "is a string");
        let expected = json!({
            "error": "invalid", "message": "invalid payload: /a: is a string", "maybe_delivered": false,
            "code": "TypeConstraintViolation", "description": "is a string", "pointer": "/a",
        });
        assert_eq!(response(violation.into()), (StatusCode::UNPROCESSABLE_ENTITY, expected));

        let message = Error::Timeout.to_string();
        let expected = json!({"error": "timeout", "message": message, "maybe_delivered": true});
        assert_eq!(response(Error::Timeout), (StatusCode::GATEWAY_TIMEOUT, expected));
    }
}
