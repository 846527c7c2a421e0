//! The errors of REST requests.

use axum::{
    Json,
    extract::rejection::JsonRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ocpp_rpc::Error;
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoResponses, ToSchema};

/// The body of an error.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ErrorBody {
    #[serde(skip)]
    status: StatusCode,
    /// The kind of error, such as `not_connected`, `rejected` or `timeout`.
    error: &'static str,
    /// The code of the station's CALLERROR.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The details of the station's CALLERROR.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    /// The JSON pointer to an invalid value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// True if the station may have carried out the call although there is no response.
    #[serde(skip_serializing_if = "Option::is_none")]
    maybe_delivered: Option<bool>,
}

/// The error of a REST request.
#[derive(IntoResponses)]
#[response(status = "default", description = "an error")]
pub(crate) struct ApiError(Box<ErrorBody>);

impl ApiError {
    fn new(status: StatusCode, error: &'static str) -> Self {
        Self(Box::new(ErrorBody { status, error, ..ErrorBody::default() }))
    }

    fn describe(mut self, description: impl Into<String>) -> Self {
        self.0.description = Some(description.into());
        self
    }

    pub(crate) fn not_json() -> Self {
        let description = "send the header content-type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json").describe(description)
    }

    pub(crate) fn unknown_host() -> Self {
        let description = "the backend does not serve the host that the request names";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host").describe(description)
    }

    pub(crate) fn bad_body(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_body").describe(error)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found")
    }

    pub(crate) fn exists() -> Self {
        Self::new(StatusCode::CONFLICT, "exists")
    }

    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping")
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let mut response = match &error {
            Error::NotConnected => Self::new(StatusCode::NOT_FOUND, "not_connected"),
            Error::Rejected(e) => {
                let mut response = Self::new(error.http_status(), "rejected").describe(e.description());
                response.0.code = Some(e.code().to_string());
                response.0.details = serde_json::to_value(e.details().cloned().unwrap_or_default()).ok();
                response
            }
            Error::Encode(e) => Self::bad_body(e.to_string()),
            Error::Decode(e) => Self::new(error.http_status(), "bad_answer").describe(e.to_string()),
            Error::Invalid(violation) => {
                let mut response = Self::new(error.http_status(), "invalid").describe(violation.reason());
                response.0.pointer = Some(violation.pointer().to_owned());
                response
            }
            Error::Unreachable => Self::new(error.http_status(), "unreachable"),
            Error::TooLarge { .. } => Self::new(error.http_status(), "too_large"),
            Error::QueueFull => Self::new(error.http_status(), "busy"),
            error if error.is_timeout() => Self::new(error.http_status(), "timeout"),
            error => Self::new(error.http_status(), "disconnected"),
        };
        // Of interest if there is no response that tells it.
        let has_response =
            matches!(response.0.error, "rejected" | "invalid" | "bad_body" | "bad_answer" | "not_connected");
        response.0.maybe_delivered = (!has_response).then(|| error.maybe_delivered());
        response
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "the database failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "database")
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::bad_body(rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0.status, Json(self.0)).into_response()
    }
}
