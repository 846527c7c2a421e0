//! `POST api/stations/{key}/calls/{action}` and `POST api/stations/{key}/close`: what the page can do to a station.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
};
use http::StatusCode;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    close::{info::CloseInfo, intent::Close},
    console::{
        api::{error::ApiError, json::Json, stations::StationPath},
        state::ConsoleState,
    },
    error::Error,
    mask::{Mask, secrets::Secrets},
    message::payload::Payload,
};

/// The outcome of a call.
#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    Result {
        result: Box<RawValue>,
        seconds: f64,
    },
    /// The station rejected the call.
    Error {
        code: String,
        description: String,
        details: Option<Box<RawValue>>,
        seconds: f64,
    },
}

/// The action of a path.
#[derive(Deserialize)]
pub(super) struct ActionPath {
    #[serde(rename = "console_action")]
    action: Box<str>,
}

/// Calls a station. The call is cancelled if the browser goes away.
pub(super) async fn call(
    Path(StationPath { key }): Path<StationPath>,
    Path(ActionPath { action }): Path<ActionPath>,
    State(console): State<Arc<ConsoleState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Outcome>, ApiError> {
    if !console.allowed.calls {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "the console may not call stations: see Console::allow_calls",
        ));
    }
    let params: Payload = read(body)?;
    let mask = console.server.state.telemetry.mask();
    let start = Instant::now();
    let result = make(&console, &key, &action, &params).await;
    let seconds = start.elapsed().as_secs_f64();
    match result {
        Ok(result) => Ok(Json(Outcome::Result { result: masked(&result, mask)?, seconds })),
        Err(Error::Rejected(error)) => {
            // The error may repeat a parameter.
            let mut secrets = Secrets::default();
            secrets.find(mask, params.as_str());
            let details = error.details().map(|details| {
                let details = mask.apply(details.as_str());
                RawValue::from_string(secrets.hide_in_json(&details).into_owned()).map_err(ApiError::internal)
            });
            Ok(Json(Outcome::Error {
                code: error.code().to_string(),
                description: secrets.hide_in_text(error.description()).into_owned(),
                details: details.transpose()?,
                seconds,
            }))
        }
        // The text of an error may repeat a parameter.
        Err(error) => Err(ApiError::of_call(&error, |text| mask.apply_to_text(text, params.as_str()).into_owned())),
    }
}

async fn make(console: &ConsoleState, key: &str, action: &str, params: &Payload) -> Result<Payload, Error> {
    let station = console.server.station(key);
    let params = &Payload::encode(params)?;
    #[cfg(feature = "ocpp-schemas")]
    validate(&station, action, params).await?;
    station.call(action, params).await
}

/// Checks the parameters of an action that the protocol of the station has.
///
/// The server may do so as well. This check holds for all servers, and gives the error before the call is queued.
#[cfg(feature = "ocpp-schemas")]
async fn validate(station: &crate::station::Station, action: &str, params: &Payload) -> Result<(), Error> {
    use crate::{
        error::ErrorCode,
        validate::{
            OcppSchemas,
            validator::{PayloadContext, PayloadKind, Validator},
        },
    };

    let info = station.info().await?.ok_or(Error::NotConnected)?;
    let protocol = info.protocol.as_deref().unwrap_or_default();
    match OcppSchemas.validate(&PayloadContext::new(protocol, action, PayloadKind::Request, params)) {
        // Stations may have actions of their own.
        Err(violation) if *violation.code() != ErrorCode::NOT_IMPLEMENTED => Err(violation.into()),
        _ => Ok(()),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CloseRequest {
    reason: String,
}

/// Closes the connection of a station.
pub(super) async fn close(
    Path(StationPath { key }): Path<StationPath>,
    State(console): State<Arc<ConsoleState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<CloseInfo>, ApiError> {
    if !console.allowed.close {
        let error = "the console may not close connections: see Console::allow_close";
        return Err(ApiError::new(StatusCode::FORBIDDEN, error));
    }
    let CloseRequest { reason } = read(body)?;
    let close = Close::normal().reason(reason);
    let closed = console.server.station(key).close(close).await;
    closed.map(Json).map_err(|error| ApiError::of_call(&error, str::to_owned))
}

/// Reads a body of JSON.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| ApiError::new(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("cannot read the body: {error}")))
}

/// Returns a payload without tokens and secrets.
fn masked(payload: &Payload, mask: &Mask) -> Result<Box<RawValue>, ApiError> {
    let json = match mask.apply(payload.as_str()) {
        Cow::Borrowed(json) => json.to_owned(),
        Cow::Owned(masked) => masked,
    };
    RawValue::from_string(json).map_err(ApiError::internal)
}
