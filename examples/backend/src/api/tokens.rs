//! Id tokens.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Api, MAX_LIMIT, error::ApiError};
use crate::database;

/// An id token: an `idTag` of OCPP 1.6, or an `idToken` of 2.x. Case does not matter.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Token {
    token: String,
    #[serde(default)]
    status: Status,
}

/// The response to a station that asks for the token.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub(super) enum Status {
    #[default]
    Accepted,
    Blocked,
    Expired,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Blocked => "Blocked",
            Self::Expired => "Expired",
        }
    }
}

#[derive(Deserialize, IntoParams)]
pub(super) struct After {
    /// Returns the tokens behind this one.
    #[serde(default)]
    after: String,
}

/// Returns the tokens in alphabetical order, at most 1000.
#[utoipa::path(
    get,
    path = "/api/tokens",
    params(After),
    responses((status = 200, description = "the tokens", body = Vec<Token>), ApiError)
)]
pub(super) async fn tokens(
    State(api): State<Api>,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<Token>>, ApiError> {
    let rows = sqlx::query(
        "SELECT token, status FROM id_tokens WHERE lower(token) > lower($1) ORDER BY lower(token) LIMIT $2",
    )
    .bind(after)
    .bind(MAX_LIMIT)
    .fetch_all(&api.database)
    .await?;
    Ok(Json(database::read(&rows)?))
}

/// Adds a token.
#[utoipa::path(
    post,
    path = "/api/tokens",
    request_body = Token,
    responses((status = 201, description = "added", body = Token), ApiError)
)]
pub(super) async fn add_token(
    State(api): State<Api>,
    token: Result<Json<Token>, JsonRejection>,
) -> Result<(StatusCode, Json<Token>), ApiError> {
    let Json(token) = token?;
    if !(1..=255).contains(&token.token.chars().count()) || token.token.contains(char::is_control) {
        return Err(ApiError::bad_body("a token has 1 to 255 characters, and no control characters"));
    }
    let added = sqlx::query("INSERT INTO id_tokens (token, status) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(&token.token)
        .bind(token.status.as_str())
        .execute(&api.database)
        .await?;
    if added.rows_affected() == 0 { Err(ApiError::exists()) } else { Ok((StatusCode::CREATED, Json(token))) }
}

/// Deletes a token. Stations may keep it in their cache of authorisations.
#[utoipa::path(delete, path = "/api/tokens/{token}", responses((status = 204, description = "deleted"), ApiError))]
pub(super) async fn delete_token(State(api): State<Api>, Path(token): Path<String>) -> Result<StatusCode, ApiError> {
    let deleted = sqlx::query("DELETE FROM id_tokens WHERE lower(token) = lower($1)");
    let deleted = deleted.bind(token).execute(&api.database).await?;
    if deleted.rows_affected() == 0 { Err(ApiError::not_found()) } else { Ok(StatusCode::NO_CONTENT) }
}
