//! The errors of the API: a status, and a JSON object with the text.

use axum::{
    extract::rejection::QueryRejection,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Serialize;

use crate::{console::api::json::Json, error::Error};

#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    /// The place of an invalid parameter, as a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// Set by calls and closes. False if the station cannot have received the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    maybe_delivered: Option<bool>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: Body { error: error.into(), pointer: None, maybe_delivered: None } }
    }

    pub(crate) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// Returns the response to a failed call or close. `mask` hides tokens in its text.
    pub(crate) fn of_call(error: &Error, mask: impl Fn(&str) -> String) -> Self {
        let pointer = if let Error::Invalid(violation) = error { Some(violation.pointer().to_owned()) } else { None };
        // For the page, a station that is not connected does not exist.
        let status = if let Error::NotConnected = error { StatusCode::NOT_FOUND } else { error.http_status() };
        let error_text = mask(&error.to_string());
        Self { status, body: Body { error: error_text, pointer, maybe_delivered: Some(error.maybe_delivered()) } }
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "cannot make a response of the console");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::new(error.http_status(), error.to_string())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
